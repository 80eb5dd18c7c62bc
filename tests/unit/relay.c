/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of relay: what one side does, the other must see, ends and resets
 * above all. Both sides are TCP connections over loopback; what a kernel does
 * only now and then is brought about by wrapped calls. */
#include "relay.h"

#include "support.h"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_worker_start(struct worker_job *job);
int __wrap_worker_start(struct worker_job *job);
ssize_t __real_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __real_send(int fd, const void *buffer, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t size, int flags);
int __real_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
int __real_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how);
ssize_t __real_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);
ssize_t __wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);

bool __real_stream_gone(int fd);
bool __wrap_stream_gone(int fd);
bool __real_stream_delivered(int fd);
bool __wrap_stream_delivered(int fd);
int __real_stream_error(int fd);
int __wrap_stream_error(int fd);

/* What goes wrong. Set before the relay starts. */
static struct {
	int create_error;                /* of the relay's worker_start() */
	int shutdown_error, shutdown_fd; /* of SHUT_WR */
	bool busy_while_waiting; /* disconnecting says so, as long as it is */
	int read_fd;             /* the first read of this descriptor: */
	int read_error;          /* fails, or, if 0, says end-of-file, */
	bool read_is_late;       /* after an error of the socket */
	int stolen_fd;           /* its error goes to the thread that writes */
	sem_t stolen, ended;     /* and after that, its reader sees the end */
	bool blind;              /* nobody watches for resets */
	_Atomic int send_fd, send_error; /* writing to this fails */
	_Atomic int failing_looks;       /* so many that don't wait fail */
	int socket_error; /* which one it is, if a socket has one */
	int alive_fd; /* of a vsock peer that has not closed, as far as it */
	atomic_bool asked, shut; /* can be known: first asked when shut down */
	int slow_fd;             /* shutdown(2) of it lasts until: */
	_Atomic int late_fd;     /* or watching it, which sees nothing */
	sem_t release;
} faults;
/* A vsock peer that has closed both ways, as far as the relay can see. */
static _Atomic int gone_fd;
/* There is no use in waiting for room any more. */
static atomic_bool deadline_passed;
/* What was sent on this has not arrived. */
static _Atomic int undelivered_fd;
/* It was asked so often whether that has arrived, and did so once. */
static _Atomic size_t questions;
static _Atomic int delivered_fd;
/* Pauses between that are no pause of 10 ms; resets without a record of why. */
static _Atomic int odd_pauses, pausing, unrecorded;
/* What the relay's clock shows; 0: the time. */
static _Atomic long relay_ms;
static _Atomic int reads_left;
/* Threads inside of calls that wait on a descriptor, but for poll(2). */
static _Atomic int waiting[256];
/* Threads in poll(2) that wait for room in a descriptor. */
static _Atomic int without_room[256];
/* Threads in poll(2) that watch for a reset after an end; all calls of it. */
static _Atomic int watching;
/* Looks at a descriptor by poll(2), without waiting. */
static _Atomic size_t looks[256];
static atomic_bool shut[256];
static _Atomic size_t polls;
/* The most that was written by one call. */
static _Atomic size_t largest[256];

static void
wait_in_time(sem_t *semaphore)
{
	struct timespec limit;

	(void)clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += DEADLINE_S;
	while (sem_timedwait(semaphore, &limit) == -1 && errno == EINTR)
		;
}

/* Whether this read is replaced; then *result is what it returns. */
static bool
read_is_faulty(int fd, ssize_t *result)
{
	if (fd != faults.read_fd || reads_left-- <= 0)
		return false;
	if (faults.read_is_late)
		(void)wait_for(fd, 0);
	errno = faults.read_error;
	*result = faults.read_error == 0 ? 0 : -1;
	return true;
}

/* Before a read, after one that can tell an end, and after a write, of the
 * descriptor whose error is stolen. */
static void
before_read(int fd)
{
	if (fd != faults.stolen_fd)
		return;
	wait_in_time(&faults.stolen);
	(void)sem_post(&faults.stolen); /* for the next one */
}

static void
after_read(int fd)
{
	if (fd == faults.stolen_fd)
		(void)sem_post(&faults.ended);
}

static void
after_write(int fd, ssize_t result)
{
	int saved = errno;

	if (fd == faults.stolen_fd && result == -1) {
		(void)sem_post(&faults.stolen);
		wait_in_time(&faults.ended);
	}
	errno = saved;
}

static void
note_size(int fd, size_t size)
{
	if (size > largest[fd])
		largest[fd] = size;
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int status = __real_clock_gettime(clock, now);
	long ms = relay_ms;

	if (ms != 0 && !pthread_equal(pthread_self(), main_thread))
		*now = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	return status;
}

bool
__wrap_stream_gone(int fd)
{
	if (fd == faults.alive_fd) {
		if (!atomic_exchange(&faults.asked, true))
			wait_in_time(&faults.release);
		return faults.shut;
	}
	return fd == gone_fd;
}

bool
__wrap_stream_delivered(int fd)
{
	questions++;
	if (fd == undelivered_fd || !__real_stream_delivered(fd))
		return false;
	delivered_fd = fd;
	return true;
}

int
__wrap_stream_error(int fd)
{
	int error = __real_stream_error(fd);

	return error != 0 && faults.socket_error != 0 ? faults.socket_error
						      : error;
}

static bool relay_has_failed(void);

int
__wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	unrecorded += address->sa_family == AF_UNSPEC && !relay_has_failed();
	if (address->sa_family == AF_UNSPEC && faults.busy_while_waiting &&
	    waiting[fd] > 0) {
		errno = EBUSY;
		return -1;
	}
	return __real_connect(fd, address, length);
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	bool watches = count == 1 && fds->events == 0 && timeout == 900;
	bool lacks_room =
	    count > 0 && timeout == 1000 && fds->events == POLLOUT;
	int status;

	if (timeout <= 1000) /* those of the test wait for longer */
		polls++;
	if (fds == NULL) {
		odd_pauses += timeout != 10;
		pausing++;
		status = __real_poll(NULL, 0, timeout);
		pausing--;
		return status;
	} else if (timeout == 0) {
		looks[fds->fd]++;
		if (faults.failing_looks > 0 && faults.failing_looks-- > 0) {
			errno = ENOMEM;
			return -1;
		}
	}
	if (faults.blind && count == 2)
		fds[--count].revents = 0;
	if (watches) {
		watching++;
		/* Nothing but an event may end this in time. */
		if (fds->fd == faults.late_fd) { /* its time is over */
			wait_in_time(&faults.release);
			faults.late_fd = -1;
			fds->revents = 0;
			status = 0;
		} else if (faults.blind)
			status = __real_poll(NULL, 0, 10);
		else if (faults.shutdown_error == EIO || gone_fd != -1)
			/* nothing happens that poll(2) could tell */
			status = __real_poll(fds, 1, timeout / 90);
		else
			status = __real_poll(fds, 1, 2 * DEADLINE_S * 1000);
		watching--;
		return status;
	}
	if (!lacks_room)
		return __real_poll(fds, count, timeout);
	without_room[fds->fd]++;
	do
		status = __real_poll(fds, count, 10);
	while (status == 0 && !deadline_passed && (timeout -= 10) > 0);
	without_room[fds->fd]--;
	return status;
}

static _Thread_local bool is_relay;

int
__wrap_worker_start(struct worker_job *job)
{
	return is_relay && faults.create_error != 0 ? faults.create_error
						    : __real_worker_start(job);
}

ssize_t
__wrap_recv(int fd, void *buffer, size_t size, int flags)
{
	ssize_t n;

	if (read_is_faulty(fd, &n))
		return n;
	before_read(fd);
	waiting[fd]++;
	n = __real_recv(fd, buffer, size, flags);
	waiting[fd]--;
	after_read(fd);
	return n;
}

ssize_t
__wrap_send(int fd, const void *buffer, size_t size, int flags)
{
	ssize_t n;

	note_size(fd, size);
	if (fd == faults.send_fd) {
		errno = faults.send_error;
		return -1;
	}
	waiting[fd]++;
	n = __real_send(fd, buffer, size, flags);
	waiting[fd]--;
	after_write(fd, n);
	return n;
}

/* The second for which a splice waits for room is a short one. */
int
__wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length)
{
	static const struct timeval second = {.tv_sec = 1},
				    brief = {.tv_usec = 100000};

	if (level == SOL_SOCKET && option == SO_SNDTIMEO &&
	    memcmp(value, &second, sizeof(second)) == 0)
		value = &brief;
	return __real_setsockopt(fd, level, option, value, length);
}

int
__wrap_shutdown(int fd, int how)
{
	int status;

	if (fd == faults.shutdown_fd && how == SHUT_WR) {
		errno = faults.shutdown_error;
		return -1;
	}
	status = __real_shutdown(fd, how);
	shut[fd] = true;
	if (fd == faults.alive_fd && how == SHUT_WR) {
		faults.shut = true;
		(void)sem_post(&faults.release);
	}
	if (fd == faults.slow_fd && how == SHUT_WR)
		wait_in_time(&faults.release);
	return status;
}

ssize_t
__wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size,
    unsigned flags)
{
	ssize_t n;

	if (read_is_faulty(in, &n)) {
		reads_left += n == 0; /* the end is told by recv(2) */
		return n;
	}
	before_read(in);
	note_size(out, size);
	if (out == faults.send_fd) {
		errno = faults.send_error;
		return -1;
	}
	waiting[in]++;
	waiting[out]++;
	n = __real_splice(in, in_offset, out, out_offset, size, flags);
	waiting[in]--;
	waiting[out]--;
	after_write(out, n);
	return n;
}

/* A relay that runs in a thread of its own. */
static struct {
	struct pair client, upstream;
	size_t ways; /* of copying, in `ways` */
	struct copy_way up, down;
	/* Whether both directions move bulk before a test begins. */
	bool bulk;
	size_t before; /* bytes that each has moved then */
	struct relay relay;
	int descriptors; /* before all else */
	struct job job;
} relay;

static void
run_relay(void *argument)
{
	(void)argument;
	is_relay = true;
	relay_run(&relay.relay, relay.up, relay.down);
}

static bool
relay_has_failed(void)
{
	return relay.relay.failure != 0;
}

/* How it ended. */
static enum relay_end
relay_end(void)
{
	return (enum relay_end)(relay.relay.failure >> 16);
}

static int
relay_error(void)
{
	return relay.relay.failure & 0xffff;
}

/* What the directions are given: as for --copy, with the client on TCP. */
static const struct {
	struct copy_way up, down;
} ways[] = {
    {{false, false, 0}, {true, false, 0}},
    {{true, true, 0}, {true, true, 0}},
    {{false, false, 0}, {false, false, 0}},
};

static void
prepare(size_t which)
{
	relay.descriptors = open_descriptors();
	relay.client = make_pair();
	relay.upstream = make_pair();
	reset_on_close(relay.client.ours);
	reset_on_close(relay.upstream.ours);
	memset(&relay.relay, 0, sizeof(relay.relay));
	relay.relay.client = relay.client.ours;
	relay.relay.upstream = relay.upstream.ours;
	relay.ways = which;
	relay.up = ways[which].up;
	relay.down = ways[which].down;
	relay.bulk = false;
	relay.before = 0;
	memset(&faults, 0, sizeof(faults));
	faults.read_fd = faults.shutdown_fd = faults.stolen_fd = -1;
	faults.alive_fd = faults.slow_fd = -1;
	faults.late_fd = -1;
	assert_int_equal(sem_init(&faults.release, 0, 0), 0);
	faults.send_fd = gone_fd = undelivered_fd = delivered_fd = -1;
	questions = 0;
	odd_pauses = unrecorded = 0;
	relay_ms = 0;
	deadline_passed = false;
	reads_left = 1;
	polls = 0;
	for (size_t i = 0; i < LENGTH(largest); i++) {
		largest[i] = looks[i] = 0;
		shut[i] = false;
	}
}

static void
start_cold(void)
{
	job_start(&relay.job, run_relay, NULL);
}

/* Waits until so many bytes have come. */
static void
await_bytes(int fd, int count)
{
	long limit = now_ms() + DEADLINE_S * 1000;
	int arrived = 0;

	while (arrived < count && now_ms() < limit) {
		assert_int_equal(ioctl(fd, FIONREAD, &arrived), 0);
		pause_ms(arrived < count);
	}
	assert_int_equal(arrived, count);
}

#define WARM_UP 10000

/* Starts; if asked to, after bulk for both directions, which lasts a second. */
static void
start(void)
{
	static char bytes[WARM_UP];

	if (!relay.bulk) {
		start_cold();
		return;
	}
	relay.before = WARM_UP;
	assert_int_equal(write_all(relay.client.peer, bytes, WARM_UP), 0);
	assert_int_equal(write_all(relay.upstream.peer, bytes, WARM_UP), 0);
	await_bytes(relay.client.ours, WARM_UP);
	await_bytes(relay.upstream.ours, WARM_UP);
	start_cold();
	assert_int_equal(read_all(relay.client.peer, bytes, WARM_UP), WARM_UP);
	assert_int_equal(
	    read_all(relay.upstream.peer, bytes, WARM_UP), WARM_UP);
}

/* Waits for the relay's end, which must be this one. */
static void
assert_ends(enum relay_end end, int error)
{
	job_end(&relay.job);
	assert_int_equal(relay_end(), end);
	assert_int_equal(relay_error(), error);
	assert_int_equal(relay.relay.deadline, end != RELAY_EOF);
	assert_int_equal(odd_pauses, 0);
	assert_int_equal(unrecorded, 0);
	assert_int_not_equal(fcntl(relay.client.ours, F_GETFD), -1);
	assert_int_not_equal(fcntl(relay.upstream.ours, F_GETFD), -1);
}

static void
assert_moved(size_t up, size_t down)
{
	assert_int_equal(relay.relay.up - relay.before, up);
	assert_int_equal(relay.relay.down - relay.before, down);
}

static void
finish(void)
{
	close_pair(relay.client);
	close_pair(relay.upstream);
	assert_int_equal(open_descriptors(), relay.descriptors);
}

/* The same test for each way of copying, and with the sides swapped. */
struct side {
	struct pair *pair, *opposite;
	enum relay_end error, opposite_error;
};
static const struct side sides[] = {
    {&relay.client, &relay.upstream, RELAY_CLIENT_ERROR, RELAY_UPSTREAM_ERROR},
    {&relay.upstream, &relay.client, RELAY_UPSTREAM_ERROR, RELAY_CLIENT_ERROR},
};

static void
for_each(void (*test)(const struct side *side))
{
	for (size_t i = 0; i < LENGTH(ways) * 2; i++) {
		for (size_t j = 0; j < LENGTH(sides); j++) {
			prepare(i / 2);
			relay.bulk = i % 2 == 0;
			test(&sides[j]);
			finish();
		}
	}
}

static void
assert_end(int fd)
{
	assert_int_equal(read_to_end(fd, NULL), 0);
}

static void
assert_reset(int fd)
{
	assert_int_equal(read_to_end(fd, NULL), ECONNRESET);
}

static void
half_close(int fd)
{
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
}

static void
check_half_close(const struct side *side)
{
	int first = side->pair->peer, second = side->opposite->peer;

	start();
	assert_passes(first, second, "request");
	half_close(first);
	assert_end(second);
	/* The other direction goes on. */
	for (int i = 0; i < 3; i++)
		assert_passes(second, first, "answer");
	half_close(second);
	assert_end(first);
	assert_ends(RELAY_EOF, 0);
	if (side->pair == &relay.client)
		assert_moved(7, 18);
	else
		assert_moved(18, 7);
}

static void
test_half_close(void **state)
{
	/* Fails if a side that has said all gets no answer, or the other one
	 * never learns that it has. */
	(void)state;
	for_each(check_half_close);
}

static void
check_nothing_said(const struct side *side)
{
	start();
	half_close(side->pair->peer);
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_ends(RELAY_EOF, 0);
	assert_moved(0, 0);
}

static void
test_nothing_said(void **state)
{
	/* Fails if a connection without data, as health checks make them, ends
	 * as an error or not at all. */
	(void)state;
	for_each(check_nothing_said);
}

static void
await_watching(int threads)
{
	long limit = now_ms() + DEADLINE_S * 1000;

	while (watching != threads && now_ms() < limit)
		pause_ms(1);
	assert_int_equal(watching, threads);
}

static void
check_ends_soon(const struct side *side)
{
	long begin;

	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	await_watching(1);
	begin = now_ms();
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	assert_ends(RELAY_EOF, 0);
	/* The watch looks up by itself after 60 s only, see __wrap_poll(). */
	assert_in_range(now_ms() - begin, 0, DEADLINE_S * 1000);
	assert_int_equal(watching, 0);
	/* When its end has come; the watch's look was the last of the first. */
	assert_int_equal(looks[relay.client.ours], 1);
	assert_int_equal(looks[relay.upstream.ours], 1);
}

static void
check_ends_while_passed_on(const struct side *side)
{
	faults.slow_fd = side->pair->ours;
	start();
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_int_equal(sem_post(&faults.release), 0);
	assert_ends(RELAY_EOF, 0);
}

static void
test_ends_while_passed_on(void **state)
{
	/* Fails if a side that answers an end with its own, before the thread
	 * that passed that on has returned from the kernel, counts as reset. */
	(void)state;
	for_each(check_ends_while_passed_on);
}

static void
test_ends_soon(void **state)
{
	/* Fails if a connection that has ended holds its place for as long as
	 * its first end is watched for a reset. */
	(void)state;
	for_each(check_ends_soon);
}

static void
test_chunks(void **state)
{
	/* Fails if vsock gets more at once than it may, or TCP less. */
	static char bytes[49152];

	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		relay.up.chunk = 5000;
		relay.down.chunk = 7000;
		assert_int_equal(
		    write_all(relay.client.peer, bytes, sizeof(bytes)), 0);
		assert_int_equal(
		    write_all(relay.upstream.peer, bytes, sizeof(bytes)), 0);
		await_bytes(relay.client.ours, sizeof(bytes));
		await_bytes(relay.upstream.ours, sizeof(bytes));
		half_close(relay.client.peer);
		half_close(relay.upstream.peer);
		start_cold();
		assert_end(relay.client.peer);
		assert_end(relay.upstream.peer);
		assert_ends(RELAY_EOF, 0);
		assert_moved(sizeof(bytes), sizeof(bytes));
		assert_int_equal(largest[relay.upstream.ours], 5000);
		assert_int_equal(largest[relay.client.ours], 7000);
		finish();
	}
}

static void
test_both_reset(void **state)
{
	/* Fails if a second failure spoils the record of the first one. */
	(void)state;
	for (size_t i = 0; i < 50; i++) {
		prepare(i % LENGTH(ways));
		relay.bulk = i % 4 < 2;
		start();
		reset_peer(i % 3 == 0 ? &relay.client : &relay.upstream);
		reset_peer(i % 3 == 0 ? &relay.upstream : &relay.client);
		job_end(&relay.job);
		assert_true(relay_end() == RELAY_CLIENT_ERROR ||
			    relay_end() == RELAY_UPSTREAM_ERROR);
		assert_int_equal(relay_error(), ECONNRESET);
		finish();
	}
}

/* Noise that is sent into one descriptor and read from another. */
struct flow {
	int into, from;
	size_t size;
	bool intact;
	struct job sender, reader;
};

static void
send_noise(void *argument)
{
	struct flow *flow = argument;
	struct noise noise = {(uint32_t)flow->size};
	uint8_t bytes[16384];

	for (size_t rest = flow->size, n; rest > 0; rest -= n) {
		n = rest < sizeof(bytes) ? rest : sizeof(bytes);
		noise_fill(&noise, bytes, n);
		if (write_all(flow->into, bytes, n) != 0)
			return;
	}
	(void)shutdown(flow->into, SHUT_WR);
}

static void
read_noise(void *argument)
{
	struct flow *flow = argument;
	struct noise noise = {(uint32_t)flow->size};
	uint8_t bytes[16384];
	size_t n;

	for (size_t rest = flow->size; rest > 0; rest -= n) {
		n = rest < sizeof(bytes) ? rest : sizeof(bytes);
		n = read_all(flow->from, bytes, n);
		if (n == 0 || !noise_is(&noise, bytes, n))
			return;
	}
	flow->intact = read_to_end(flow->from, &n) == 0 && n == 0;
}

static void
check_both_ways(size_t up, size_t down)
{
	static struct flow flows[2];

	flows[0] = (struct flow){
	    .into = relay.client.peer, .from = relay.upstream.peer, .size = up};
	flows[1] = (struct flow){.into = relay.upstream.peer,
	    .from = relay.client.peer,
	    .size = down};
	start();
	for (size_t i = 0; i < 2; i++) {
		job_start(&flows[i].sender, send_noise, &flows[i]);
		job_start(&flows[i].reader, read_noise, &flows[i]);
	}
	for (size_t i = 0; i < 2; i++) {
		job_end(&flows[i].sender);
		job_end(&flows[i].reader);
		assert_true(flows[i].intact);
	}
	assert_ends(RELAY_EOF, 0);
	assert_moved(up, down);
}

static void
test_both_ways_at_once(void **state)
{
	/* Fails if the directions get into each other's way, or are counted
	 * wrongly. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		check_both_ways(3000000, 2000000);
		finish();
		prepare(i);
		check_both_ways(0, 1000000);
		finish();
	}
}

static void
test_ends_at_once(void **state)
{
	/* Fails if two ends that come at the same time pass for a reset. */
	(void)state;
	for (size_t i = 0; i < 100; i++) {
		prepare(i % LENGTH(ways));
		check_both_ways(i % 7 * 1000, i % 5 * 1000);
		finish();
	}
}

static void
check_reset(const struct side *side)
{
	start();
	assert_passes(side->pair->peer, side->opposite->peer, "hello");
	assert_passes(side->opposite->peer, side->pair->peer, "hi");
	reset_peer(side->pair);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
	if (side->pair == &relay.client)
		assert_moved(5, 2);
	else
		assert_moved(2, 5);
}

static void
test_reset(void **state)
{
	/* Fails if data that was cut off looks complete to the other side. */
	(void)state;
	for_each(check_reset);
}

static void
check_reset_of_answer(const struct side *side)
{
	int asking = side->opposite->peer, answering = side->pair->peer;

	start();
	assert_passes(asking, answering, "request");
	half_close(asking);
	assert_end(answering);
	assert_passes(answering, asking, "half an an");
	reset_peer(side->pair);
	assert_reset(asking);
	assert_ends(side->error, ECONNRESET);
}

static void
test_reset_of_answer(void **state)
{
	/* Fails if half an answer looks whole to a side that has half-closed.
	 */
	(void)state;
	for_each(check_reset_of_answer);
}

static void
send_and_reset(void *argument)
{
	static const char zeros[100000];
	struct pair *pair = argument;

	(void)write_all(pair->peer, zeros, sizeof(zeros));
	reset_peer(pair);
}

static void
check_reset_in_flight(const struct side *side)
{
	static struct job job;
	bool bulk = relay.bulk;
	size_t count;

	for (int i = 0; i < 20; i++) {
		start();
		job_start(&job, send_and_reset, side->pair);
		assert_int_equal(
		    read_to_end(side->opposite->peer, &count), ECONNRESET);
		assert_in_range(count, 0, 100000);
		job_end(&job);
		assert_ends(side->error, ECONNRESET);
		finish();
		prepare(relay.ways);
		relay.bulk = bulk;
	}
}

static void
test_reset_in_flight(void **state)
{
	/* Fails if a reset that comes with data ends as if all had come. */
	(void)state;
	for_each(check_reset_in_flight);
}

/* Waits for the relay's end: a reset of this side, which Linux calls a broken
 * pipe if that side had ended before. */
static void
assert_ends_gone(const struct side *side)
{
	job_end(&relay.job);
	assert_int_equal(relay_end(), side->error);
	assert_true(relay_error() == ECONNRESET || relay_error() == EPIPE);
}

/* Sends from a side that is read until what is written to the other one has to
 * wait there, for as long as that one doesn't read. */
static void
fill_from(const struct pair *from, const struct pair *to)
{
	(void)fill_connection(from->peer, to->ours);
	AWAIT(without_room[to->ours] == 1);
}

static void
check_no_spin(const struct side *side)
{
	size_t before;
	long seconds;

	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	await_watching(1);
	before = polls;
	pause_ms(50);
	assert_int_equal(polls, before);
	assert_passes(side->opposite->peer, side->pair->peer, "answer");
	/* And while the other direction waits for room. */
	fill_from(side->opposite, side->pair);
	seconds = -now_ms();
	before = polls;
	pause_ms(50);
	before = polls - before;
	seconds = (seconds + now_ms()) / 1000;
	assert_in_range(before, 0, 4 + 2 * seconds);
	assert_int_equal(watching, 1);
	reset_peer(side->pair);
	assert_ends_gone(side);
}

static void
test_no_spin(void **state)
{
	/* Fails if a half-closed connection keeps a processor busy. */
	(void)state;
	for_each(check_no_spin);
}

static void
check_gone_after_request(const struct side *side)
{
	int error;

	start();
	assert_passes(side->pair->peer, side->opposite->peer, "request");
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	reset_peer(side->pair);
	/* Nobody reads from that side any more. If nothing else tells, the
	 * next write does. */
	do {
		error = write_all(side->opposite->peer, "x", 1);
	} while (error == 0);
	assert_true(error == ECONNRESET || error == EPIPE);
	assert_ends_gone(side);
}

static void
check_gone_unnoticed(const struct side *side)
{
	faults.blind = true;
	check_gone_after_request(side);
}

static void
check_ends_quietly(const struct side *side)
{
	size_t begin;

	faults.slow_fd = side->pair->ours;
	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	await_watching(1);
	begin = polls;
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	/* The watch has ended, while who ended it is still at it. */
	await_watching(0);
	pause_ms(20);
	assert_in_range(polls - begin, 1, 2);
	assert_int_equal(sem_post(&faults.release), 0);
	assert_ends(RELAY_EOF, 0);
}

static void
test_ends_quietly(void **state)
{
	/* Fails if the thread that ended first, woken by the other one's end,
	 * asks again and again until that one has ended, too, which it keeps
	 * from the processor by that. */
	(void)state;
	for_each(check_ends_quietly);
}

static void
check_gone_noticed(const struct side *side)
{
	start();
	assert_passes(side->pair->peer, side->opposite->peer, "request");
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	reset_peer(side->pair);
	assert_true(wait_for(side->opposite->peer, 0));
	/* By the watch, which knows what a broken pipe means here. */
	assert_ends(side->error,
	    faults.socket_error != 0 ? faults.socket_error : ECONNRESET);
}

static void
check_timeout_noticed(const struct side *side)
{
	/* As when no probe was answered. */
	faults.socket_error = ETIMEDOUT;
	check_gone_noticed(side);
}

/* More than a peer takes that doesn't read, less than the kernel takes. */
#define UNREAD 300000

static void
check_gone_at_the_end(const struct side *side)
{
	static const char zeros[UNREAD];
	_Atomic uint64_t *moved =
	    side->pair == &relay.client ? &relay.relay.down : &relay.relay.up;

	faults.late_fd = side->pair->ours;
	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	await_watching(1);
	assert_int_equal(write_all(side->opposite->peer, zeros, UNREAD), 0);
	half_close(side->opposite->peer);
	AWAIT(shut[side->pair->ours]); /* it is passed on */
	assert_int_equal(*moved - relay.before, UNREAD);
	reset_peer(side->pair);
	assert_true(wait_for(side->pair->ours, 0));
	assert_int_equal(sem_post(&faults.release), 0);
	assert_ends(side->error, ECONNRESET);
}

static void
test_gone_at_the_end(void **state)
{
	/* Fails if a side that goes without having read the end of an answer,
	 * just before the thread that watches it learns that all is sent,
	 * counts as served. */
	(void)state;
	for_each(check_gone_at_the_end);
}

static void
test_gone_after_request(void **state)
{
	/* Fails if a side that asks and runs keeps the other one writing, or
	 * thinking of an answer. */
	(void)state;
	for_each(check_gone_after_request);
	for_each(check_gone_unnoticed);
	for_each(check_gone_noticed);
	for_each(check_timeout_noticed);
}

/* What was on its way when a side failed has ten seconds. They pass now. */
static void
pass_last_seconds(void)
{
	uint64_t now;

	AWAIT(relay.relay.deadline != 0);
	now = (uint64_t)now_ms();
	assert_in_range(relay.relay.deadline, now + 5000, now + 10000);
	relay.relay.deadline = now;
	deadline_passed = true;
}

static void
check_blocked_writer(const struct side *side)
{
	start();
	/* Now the proxy waits to write to the opposite, which doesn't read. */
	fill_from(side->pair, side->opposite);
	reset_peer(side->pair);
	pass_last_seconds();
	assert_ends_gone(side);
	assert_reset(side->opposite->peer);
}

static void
check_blocked_target(const struct side *side)
{
	start();
	fill_from(side->opposite, side->pair);
	reset_peer(side->pair);
	assert_ends_gone(side);
	assert_reset(side->opposite->peer);
}

static void
check_both_blocked(const struct side *side)
{
	start();
	fill_from(side->opposite, side->pair);
	fill_from(side->pair, side->opposite);
	reset_peer(side->pair);
	pass_last_seconds();
	assert_ends_gone(side);
	assert_reset(side->opposite->peer);
}

static void
check_blocked_after_request(const struct side *side)
{
	start();
	assert_passes(side->pair->peer, side->opposite->peer, "request");
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	fill_from(side->opposite, side->pair);
	reset_peer(side->pair);
	assert_ends_gone(side);
	/* It has read an end, and now can't write. */
	assert_true(wait_for(side->opposite->peer, 0));
	assert_int_not_equal(write_all(side->opposite->peer, "x", 1), 0);
}

static void
test_blocked_writer(void **state)
{
	/* Fails if a thread that waits for a peer that doesn't read is never
	 * woken, and the connection's place is lost for good. */
	(void)state;
	for_each(check_blocked_writer);
	for_each(check_blocked_target);
	for_each(check_both_blocked);
	for_each(check_blocked_after_request);
}

/* What the proxy does last to a socket sends the reset at the latest. */
static void
assert_reset_by_close(struct pair *pair)
{
	close(pair->ours);
	pair->ours = -1;
	assert_reset(pair->peer);
}

static void
check_blocked_writer_busy(const struct side *side)
{
	faults.busy_while_waiting = true;
	faults.blind = true;
	start();
	fill_from(side->pair, side->opposite);
	reset_peer(side->pair);
	assert_true(wait_for(side->pair->ours, 0));
	assert_int_equal(write_all(side->opposite->peer, "x", 1), 0);
	pass_last_seconds();
	job_end(&relay.job);
	assert_int_equal(relay_end(), side->error);
	assert_reset_by_close(side->opposite);
}

static void
test_blocked_writer_busy(void **state)
{
	/* Fails if that happens on those 6.x kernels where a socket that
	 * somebody waits on can't be disconnected. */
	(void)state;
	for_each(check_blocked_writer_busy);
}

static void
check_error_reported_before(const struct side *side)
{
	int error = 0;
	socklen_t length = sizeof(error);

	reset_peer(side->pair);
	assert_true(wait_for(side->pair->ours, 0));
	assert_int_equal(
	    getsockopt(side->pair->ours, SOL_SOCKET, SO_ERROR, &error, &length),
	    0);
	assert_int_equal(error, ECONNRESET);
	/* All that is left to see now is an end-of-file. */
	start_cold();
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
}

static void
test_error_reported_before(void **state)
{
	/* Fails if a reset that somebody else was told of becomes a clean end:
	 * the kernel reports an error only once. */
	(void)state;
	for_each(check_error_reported_before);
}

static void
check_error_stolen(const struct side *side)
{
	assert_int_equal(sem_init(&faults.stolen, 0, 0), 0);
	assert_int_equal(sem_init(&faults.ended, 0, 0), 0);
	faults.stolen_fd = side->pair->ours;
	start_cold();
	reset_peer(side->pair);
	assert_true(wait_for(side->pair->ours, 0));
	/* The thread that writes this is told of the reset, and held until the
	 * reader has seen an end-of-file. */
	assert_int_equal(write_all(side->opposite->peer, "x", 1), 0);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
	assert_int_equal(sem_destroy(&faults.stolen), 0);
	assert_int_equal(sem_destroy(&faults.ended), 0);
}

static void
test_error_stolen(void **state)
{
	/* Fails if a reset becomes a clean end when the kernel tells the thread
	 * that writes, and that one isn't quick enough to say so. */
	(void)state;
	for_each(check_error_stolen);
}

static void
check_end_before_error(const struct side *side)
{
	faults.read_fd = side->pair->ours;
	faults.read_is_late = true;
	start_cold();
	reset_peer(side->pair);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
}

static void
check_end_before_error_after_end(const struct side *side)
{
	faults.read_fd = side->pair->ours;
	faults.read_is_late = true;
	start_cold();
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	reset_peer(side->pair);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
}

static void
check_end_before_error_gone(const struct side *side)
{
	/* Then nothing can be sent to it either. */
	gone_fd = side->pair->ours;
	relay.relay.paired = true;
	check_end_before_error(side);
}

static void
check_end_before_error_unseen(const struct side *side)
{
	/* A poll(2) that has no memory has seen nothing. */
	faults.failing_looks = 3;
	check_end_before_error(side);
}

static void
test_end_before_error(void **state)
{
	/* Fails if an end-of-file is believed while the socket has an error, as
	 * vsock sockets of dead machines do. */
	(void)state;
	for_each(check_end_before_error);
	for_each(check_end_before_error_after_end);
	for_each(check_end_before_error_gone);
	for_each(check_end_before_error_unseen);
}

static void
check_not_connected(const struct side *side)
{
	faults.read_fd = side->pair->ours;
	faults.read_error = ENOTCONN;
	start_cold();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_passes(side->opposite->peer, side->pair->peer, "answer");
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	assert_ends(RELAY_EOF, 0);
}

static void
test_not_connected(void **state)
{
	/* Fails if the end of a vsock stream, which Linux 4.14 calls ENOTCONN,
	 * resets the connection. */
	(void)state;
	for_each(check_not_connected);
}

/* One side sends this, and then resets. */
#define ANSWER 20000

static void
send_answer(const struct side *side)
{
	static const char zeros[ANSWER];

	assert_int_equal(write_all(side->pair->peer, zeros, ANSWER), 0);
}

/* What came before the reset comes, and then the reset. */
static void
assert_answer_and_reset(const struct side *side)
{
	size_t count;

	assert_int_equal(read_to_end(side->opposite->peer, &count), ECONNRESET);
	assert_int_equal(count, ANSWER);
}

static void
check_early_answer(const struct side *side)
{
	/* The other side sends, and this one doesn't read that. */
	start();
	fill_from(side->opposite, side->pair);
	send_answer(side);
	await_bytes(side->opposite->peer, ANSWER);
	reset_peer(side->pair);
	assert_answer_and_reset(side);
	assert_ends_gone(side);
}

static void
check_answer_to_slow(const struct side *side)
{
	size_t sent, count;
	int on_its_way;

	/* There is no room yet for the last that is sent. */
	start();
	sent = fill_connection(side->pair->peer, side->opposite->ours);
	AWAIT(without_room[side->opposite->ours] == 1);
	assert_int_equal(relay.relay.deadline, 0);
	/* What its own kernel holds back is lost, as without a proxy. */
	assert_int_equal(ioctl(side->pair->peer, TIOCOUTQ, &on_its_way), 0);
	reset_peer(side->pair);
	AWAIT(relay.relay.deadline != 0);
	assert_int_equal(read_to_end(side->opposite->peer, &count), ECONNRESET);
	assert_in_range(count, sent - (size_t)on_its_way, sent);
	assert_ends_gone(side);
}

static void
test_sent_before_reset(void **state)
{
	/* Fails if what a side sent before it failed doesn't reach the other
	 * one, as it does without a proxy: an answer to a request that is still
	 * being sent, and what a slow reader has not taken yet. */
	(void)state;
	for_each(check_early_answer);
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		check_answer_to_slow(&sides[i % 2]);
		finish();
	}
}

/* Starts; then writing to this side fails. */
static void
start_unwritable(const struct side *side, int error)
{
	start();
	assert_passes(side->opposite->peer, side->pair->peer, "hello");
	faults.send_fd = side->pair->ours;
	faults.send_error = error;
	assert_int_equal(write_all(side->opposite->peer, "x", 1), 0);
}

static void
check_reads_no_more(const struct side *side)
{
	/* As a vsock peer that has shut down reading: it may send on. */
	gone_fd = side->pair->ours;
	start_unwritable(side, EPIPE);
	AWAIT(relay.relay.failure != 0);
	for (int i = 0; i < 3; i++)
		assert_passes(side->pair->peer, side->opposite->peer, "yes");
	assert_int_equal(relay.relay.deadline, 0);
	half_close(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, EPIPE);
}

static void
check_reads_no_more_unread(const struct side *side)
{
	size_t before;
	long ms;

	/* What it has sent has ten seconds, once it has ended. */
	gone_fd = side->pair->ours;
	undelivered_fd = side->opposite->ours;
	start_unwritable(side, EPIPE);
	AWAIT(relay.relay.failure != 0);
	half_close(side->pair->peer);
	AWAIT(relay.relay.deadline != 0);
	ms = -now_ms();
	before = questions;
	pause_ms(50);
	before = questions - before;
	ms += now_ms();
	/* Two threads ask about two sockets, every 10 ms. */
	assert_in_range(before, 0, 4 * (ms / 10 + 2));
	pass_last_seconds();
	assert_reset(side->opposite->peer);
	assert_ends(side->error, EPIPE);
}

static void
check_broken_pipe(const struct side *side)
{
	/* TCP says so when the reset was told elsewhere: time runs. */
	start_unwritable(side, EPIPE);
	AWAIT(relay.relay.deadline != 0);
	half_close(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ECONNRESET);
}

static void
test_reads_no_more(void **state)
{
	/* Fails if a side that reads no more can't send what it has to say, or
	 * its end looks as if it had read all, or is kept for ever by a reader
	 * of what it sent. */
	(void)state;
	for_each(check_reads_no_more);
	for_each(check_reads_no_more_unread);
	for_each(check_broken_pipe);
}

static int write_error;

static void
check_write_error(const struct side *side)
{
	start_unwritable(side, write_error);
	assert_reset(side->opposite->peer);
	assert_reset(side->pair->peer);
	assert_ends(side->error, write_error);
}

static void
test_write_error(void **state)
{
	/* Fails if a connection that can't go on, though both sides are there,
	 * waits for them to end. */
	static const int errors[] = {ENOMEM, ENOBUFS, EIO};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors); i++) {
		write_error = errors[i];
		for_each(check_write_error);
	}
}

static void
check_end_after_failure(const struct side *side)
{
	/* It would be told of an end while the other side still reads. */
	faults.read_fd = side->pair->ours;
	faults.read_error = ETIMEDOUT;
	undelivered_fd = side->opposite->ours;
	start_cold();
	AWAIT(relay.relay.failure != 0);
	half_close(side->opposite->peer);
	AWAIT(pausing == 2); /* it was passed on by now, or not */
	undelivered_fd = -1;
	assert_reset(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, ETIMEDOUT);
}

static void
test_end_after_failure(void **state)
{
	/* Fails if a side that can't be read any more is told that the other
	 * one has said all, as if its own had come through. */
	(void)state;
	for_each(check_end_after_failure);
}

/* What a vsock peer sent has arrived, and it has closed both ways. */
static void
check_gave_up(const struct side *side)
{
	relay.relay.paired = true;
	start();
	send_answer(side);
	await_bytes(side->opposite->peer, ANSWER);
	gone_fd = side->pair->ours;
	half_close(side->pair->peer);
	assert_answer_and_reset(side);
	assert_ends(side->error, EPIPE);
}

static void
check_gave_up_later(const struct side *side)
{
	relay.relay.paired = true;
	gone_fd = -2;
	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_passes(side->opposite->peer, side->pair->peer, "answer");
	gone_fd = side->pair->ours;
	assert_true(wait_for(side->opposite->peer, 0));
	assert_ends(side->error, EPIPE);
}

static void
check_gave_up_before(const struct side *side)
{
	/* But we see its end only after our own was passed on to it, or not. */
	relay.relay.paired = true;
	gone_fd = side->pair->ours;
	start();
	half_close(side->opposite->peer);
	AWAIT(watching == 1);
	half_close(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(side->error, EPIPE);
}

static void
check_done(const struct side *side)
{
	/* Our own shutdown makes it look so. */
	relay.relay.paired = true;
	start();
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	gone_fd = side->pair->ours;
	assert_passes(side->pair->peer, side->opposite->peer, "answer");
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_ends(RELAY_EOF, 0);
}

static void
check_done_while_asked(const struct side *side)
{
	/* That happens between the question and what is made of the answer. */
	relay.relay.paired = true;
	faults.alive_fd = side->pair->ours;
	start();
	half_close(side->pair->peer);
	AWAIT(faults.asked);
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_ends(RELAY_EOF, 0);
}

static void
test_paired(void **state)
{
	/* Fails if data that the other program of a pair cut off looks
	 * complete, or what is complete is reset. */
	(void)state;
	for_each(check_gave_up);
	for_each(check_gave_up_later);
	for_each(check_gave_up_before);
	for_each(check_done);
	for_each(check_done_while_asked);
}

static void
check_gone(const struct side *side)
{
	size_t before;

	gone_fd = side->pair->ours;
	relay_ms = now_ms();
	start();
	assert_int_equal(write_all(side->pair->peer, "all", 3), 0);
	half_close(side->pair->peer);
	assert_int_equal(read_all(side->opposite->peer, (char[3]){0}, 3), 3);
	assert_end(side->opposite->peer);
	/* The watch looks, every 10 ms here. */
	AWAIT(delivered_fd == side->opposite->ours);
	before = polls;
	AWAIT(polls > before);
	relay_ms += 59999;
	before = polls;
	AWAIT(polls > before + 1);
	assert_int_equal(relay.relay.failure, 0);
	relay_ms++;
	assert_true(wait_for(side->opposite->peer, 0));
	assert_ends(side->error, EPIPE);
}

static void
check_gone_in_time(const struct side *side)
{
	/* Its end is seen only when the other one was passed on. */
	gone_fd = side->pair->ours;
	start();
	half_close(side->opposite->peer);
	assert_end(side->pair->peer);
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	assert_ends(RELAY_EOF, 0);
}

static void
check_gone_undelivered(const struct side *side)
{
	size_t before;

	gone_fd = side->pair->ours;
	undelivered_fd = side->opposite->ours;
	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	relay_ms = now_ms() + 100000;
	before = polls;
	AWAIT(polls > before + 1);
	assert_int_equal(relay.relay.failure, 0);
	undelivered_fd = -1;
	AWAIT(
	    atomic_fetch_add(&relay_ms, 30000) > 0 && relay.relay.failure != 0);
	assert_true(wait_for(side->opposite->peer, 0));
	assert_ends(side->error, EPIPE);
}

static void
test_gone(void **state)
{
	/* Fails if a vsock peer that has sent all and left loses some of it, or
	 * keeps its place for ever when the other side is silent. */
	(void)state;
	for_each(check_gone);
	for_each(check_gone_in_time);
	for_each(check_gone_undelivered);
}

static void
check_end_not_passed_on(const struct side *side)
{
	faults.shutdown_fd = side->opposite->ours;
	faults.shutdown_error = ENOTCONN;
	start();
	half_close(side->pair->peer);
	AWAIT(relay.relay.failure != 0);
	reset_peer(side->opposite);
	assert_reset(side->pair->peer);
	assert_ends(side->opposite_error, ECONNRESET);
}

static void
check_end_never_passed_on(const struct side *side)
{
	faults.shutdown_fd = side->opposite->ours;
	faults.shutdown_error = EIO;
	start();
	half_close(side->pair->peer);
	pass_last_seconds();
	assert_reset(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(side->opposite_error, EIO);
}

static void
test_end_not_passed_on(void **state)
{
	/* Fails if an end that couldn't be passed on, because that side was
	 * reset and nobody noticed, counts as a good end, or stays. */
	(void)state;
	for_each(check_end_not_passed_on);
	for_each(check_end_never_passed_on);
}

static void
test_read_error(void **state)
{
	/* Fails if the errno of what ended a connection isn't told. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		faults.read_fd = relay.upstream.ours;
		faults.read_error = ETIMEDOUT;
		assert_int_equal(write_all(relay.upstream.peer, "x", 1), 0);
		start();
		assert_reset(relay.client.peer);
		assert_reset(relay.upstream.peer);
		assert_ends(RELAY_UPSTREAM_ERROR, ETIMEDOUT);
		finish();
	}
}

static void
test_no_thread(void **state)
{
	/* Fails if a connection for which there is no thread hangs, or ends as
	 * if it had been served. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		faults.create_error = EAGAIN;
		faults.read_fd = relay.client.ours;
		faults.read_error = EIO;
		start();
		assert_reset(relay.client.peer);
		assert_reset(relay.upstream.peer);
		assert_ends(RELAY_NO_RESOURCES, EAGAIN);
		assert_moved(0, 0);
		assert_int_equal(reads_left, 1);
		finish();
	}
}

static void
check_disconnect_refused(const struct side *side)
{
	faults.busy_while_waiting = true;
	start();
	assert_passes(side->pair->peer, side->opposite->peer, "hello");
	reset_peer(side->pair);
	assert_ends(side->error, ECONNRESET);
	assert_reset_by_close(side->opposite);
}

static void
test_disconnect_refused(void **state)
{
	/* Fails if, on those 6.x kernels where a socket that somebody waits on
	 * can't be reset, a thread is not woken, or no reset is sent. */
	(void)state;
	for_each(check_disconnect_refused);
}

/* Ends a relay from outside, while both of its threads wait. */
static void
check_fail_from_outside(const struct side *side)
{
	start();
	assert_passes(side->pair->peer, side->opposite->peer, "hello");
	assert_passes(side->opposite->peer, side->pair->peer, "answer");
	relay_fail(&relay.relay, RELAY_IDLE, ETIMEDOUT);
	assert_reset(side->pair->peer);
	assert_reset(side->opposite->peer);
	assert_ends(RELAY_IDLE, ETIMEDOUT);
}

static void
check_fail_blocked(const struct side *side)
{
	start();
	fill_from(side->pair, side->opposite);
	relay_fail(&relay.relay, RELAY_IDLE, ETIMEDOUT);
	assert_reset(side->opposite->peer);
	assert_reset(side->pair->peer);
	assert_ends(RELAY_IDLE, ETIMEDOUT);
}

static void
check_fail_half_closed(const struct side *side)
{
	start();
	half_close(side->pair->peer);
	assert_end(side->opposite->peer);
	relay_fail(&relay.relay, RELAY_IDLE, ETIMEDOUT);
	assert_reset(side->pair->peer);
	assert_ends(RELAY_IDLE, ETIMEDOUT);
}

static void
test_fail_from_outside(void **state)
{
	/* Fails if an idle connection can't be ended: with nothing on its way,
	 * with a peer that takes nothing, or after one side has ended. */
	(void)state;
	for_each(check_fail_from_outside);
	for_each(check_fail_blocked);
	for_each(check_fail_half_closed);
}

static void
test_first_failure_counts(void **state)
{
	/* Fails if the log blames a side for what was done to it. */
	(void)state;
	prepare(0);
	assert_int_equal(relay.relay.failure, 0);
	assert_passes(relay.client.ours, relay.client.peer, "alive");
	relay_fail(&relay.relay, RELAY_UPSTREAM_ERROR, EPIPE);
	assert_reset(relay.client.peer);
	assert_reset(relay.upstream.peer);
	relay_fail(&relay.relay, RELAY_CLIENT_ERROR, ECONNRESET);
	assert_int_equal(relay_end(), RELAY_UPSTREAM_ERROR);
	assert_int_equal(relay_error(), EPIPE);
	finish();
}

static void
test_counts_at_once(void **state)
{
	/* Fails if others can't see that bytes move until the end: such a
	 * connection would pass for an idle one. */
	long limit = now_ms() + DEADLINE_S * 1000;

	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		start();
		assert_passes(relay.client.peer, relay.upstream.peer, "hello");
		assert_passes(relay.upstream.peer, relay.client.peer, "you");
		while ((relay.relay.up != 5 || relay.relay.down != 3) &&
		       now_ms() < limit)
			pause_ms(1);
		assert_moved(5, 3);
		assert_false(job_has_ended(&relay.job));
		relay_fail(&relay.relay, RELAY_IDLE, ETIMEDOUT);
		assert_ends(RELAY_IDLE, ETIMEDOUT);
		assert_moved(5, 3);
		finish();
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_half_close),
	    cmocka_unit_test(test_nothing_said),
	    cmocka_unit_test(test_both_ways_at_once),
	    cmocka_unit_test(test_ends_at_once),
	    cmocka_unit_test(test_ends_soon),
	    cmocka_unit_test(test_ends_quietly),
	    cmocka_unit_test(test_ends_while_passed_on),
	    cmocka_unit_test(test_no_spin),
	    cmocka_unit_test(test_chunks),
	    cmocka_unit_test(test_both_reset),
	    cmocka_unit_test(test_reset),
	    cmocka_unit_test(test_reset_of_answer),
	    cmocka_unit_test(test_reset_in_flight),
	    cmocka_unit_test(test_gone_after_request),
	    cmocka_unit_test(test_gone_at_the_end),
	    cmocka_unit_test(test_blocked_writer),
	    cmocka_unit_test(test_blocked_writer_busy),
	    cmocka_unit_test(test_error_reported_before),
	    cmocka_unit_test(test_error_stolen),
	    cmocka_unit_test(test_end_before_error),
	    cmocka_unit_test(test_not_connected),
	    cmocka_unit_test(test_sent_before_reset),
	    cmocka_unit_test(test_reads_no_more),
	    cmocka_unit_test(test_write_error),
	    cmocka_unit_test(test_end_after_failure),
	    cmocka_unit_test(test_paired),
	    cmocka_unit_test(test_gone),
	    cmocka_unit_test(test_end_not_passed_on),
	    cmocka_unit_test(test_read_error),
	    cmocka_unit_test(test_no_thread),
	    cmocka_unit_test(test_disconnect_refused),
	    cmocka_unit_test(test_fail_from_outside),
	    cmocka_unit_test(test_first_failure_counts),
	    cmocka_unit_test(test_counts_at_once),
	};

	limit_tests(tests, LENGTH(tests));
	(void)signal(SIGPIPE, SIG_IGN);
	(void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* memory in small pages */
	return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
