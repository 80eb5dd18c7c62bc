/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of copy: every way of moving bytes over real TCP connections, and
 * every fault that the kernel may answer with, through wrapped calls. EINVAL
 * of splice(2) is what a vsock socket says on Linux before 5.1. */
#include "copy.h"

#include "support.h"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

int __real_close(int fd);
int __wrap_close(int fd);
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
void *
__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *
__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size);
int __real_pipe2(int fds[2], int flags);
int __wrap_pipe2(int fds[2], int flags);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t __real_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __real_send(int fd, const void *buffer, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t size, int flags);
int __real_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
ssize_t __real_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);
ssize_t __wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);

#define SMALL 4096
#define LARGE 262144

/* What a call does; ALL_OF_IT is what it always does. */
#define FAIL(error) (-(error))
#define ALL_OF_IT 0
#define NOTHING INT_MIN /* of splice(2): returns 0 */
/* Anything above 0: so many bytes at most. */

/* A wrapped call: what it did, and what it does. */
struct call {
	/* The next calls, and how all that follow go. */
	int script[8], then;
	_Atomic size_t count;   /* of calls */
	_Atomic size_t largest; /* size that was asked for */
	_Atomic unsigned flags; /* all that were given */
};

/* Whether this thread copies: only its calls are wrapped. */
static _Thread_local bool is_copier;
static struct {
	int from, to;
	/* Scripts are set before the copy starts. */
	struct call splice_in, splice_out, recv, send, pipe2, mmap, poll;
	bool one_page;            /* is all that a pipe gets */
	int pipe_size_error;      /* of fcntl(2) with F_SETPIPE_SZ */
	_Atomic int pipe_size;    /* that was asked for */
	_Atomic size_t pipes;     /* that were made */
	_Atomic size_t mapped;    /* bytes */
	_Atomic int pause_s;      /* the limit of reading in force */
	_Atomic size_t pauses;    /* limits set, but for 0 */
	int pause_ms;             /* what it is in truth; 0: as set */
	_Atomic size_t limits;    /* of writing that were set, to a second */
	int limit_ms;             /* what they are in truth; 0: as set */
	bool blind;               /* poll(2) doesn't tell about `to` */
	bool patient;             /* its second ends by events only, or: */
	atomic_bool second_over;  /* by this */
	_Atomic size_t odd_waits; /* calls of it for another time, */
	_Atomic size_t to_only;   /* and for `to` alone */
	_Atomic int waiting;      /* in poll(2), and longer than that */
	_Atomic int splicing;     /* in splice(2) to `to` */
	_Atomic size_t mmap_size; /* of the last one */
} calls;

/* What this call is to do. */
static int
next(struct call *call, size_t size, unsigned flags)
{
	size_t i = call->count++;

	if (size > call->largest)
		call->largest = size;
	call->flags |= flags;
	return i < LENGTH(call->script) && call->script[i] != ALL_OF_IT
		   ? call->script[i]
		   : call->then;
}

/* Cuts *size, or sets errno; returns whether the call fails. */
static bool
obey(int what, size_t *size)
{
	if (what < 0) {
		errno = -what;
		return true;
	}
	if (what > 0 && *size > (size_t)what)
		*size = (size_t)what;
	return false;
}

int
__wrap_close(int fd)
{
	int status = __real_close(fd);

	if (is_copier)
		errno = ENOTTY; /* not what ended the copy */
	return status;
}

int
__wrap_fcntl(int fd, int command, ...)
{
	va_list arguments;
	int value;

	va_start(arguments, command);
	value = va_arg(arguments, int);
	va_end(arguments);
	if (is_copier && command == F_SETPIPE_SZ) {
		calls.pipe_size = value;
		if (calls.pipe_size_error != 0) {
			errno = calls.pipe_size_error;
			return -1;
		}
	}
	return __real_fcntl(fd, command, value);
}

void *
__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	size_t whole = size;

	if (is_copier) {
		if (obey(next(&calls.mmap, size, 0), &whole))
			return MAP_FAILED;
		calls.mapped += size;
		calls.mmap_size = size;
	}
	return __real_mmap(at, size, prot, flags, fd, offset);
}

int
__wrap_munmap(void *at, size_t size)
{
	int status = __real_munmap(at, size);

	if (is_copier) {
		calls.mapped -= size;
		errno = ENOTTY; /* not what ended the copy */
	}
	return status;
}

int
__wrap_pipe2(int fds[2], int flags)
{
	int status;

	if (!is_copier)
		return __real_pipe2(fds, flags);
	if (obey(next(&calls.pipe2, 0, (unsigned)flags), &(size_t){0}))
		return -1;
	status = __real_pipe2(fds, flags);
	calls.pipes += status == 0;
	if (calls.one_page)
		(void)__real_fcntl(fds[0], F_SETPIPE_SZ, SMALL);
	return status;
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	int status;

	if (!is_copier)
		return __real_poll(fds, count, timeout);
	calls.odd_waits += timeout != 1000;
	calls.to_only += count == 1;
	if (obey(next(&calls.poll, 0, 0), &(size_t){0}))
		return -1;
	if (calls.blind) {
		fds[0].revents = 0;
		return __real_poll(fds + 1, count - 1, timeout);
	}
	calls.waiting++;
	do
		status = __real_poll(fds, count, calls.patient ? 10 : timeout);
	while (calls.patient && status == 0 && !calls.second_over);
	calls.waiting--;
	return status;
}

ssize_t
__wrap_recv(int fd, void *buffer, size_t size, int flags)
{
	if (is_copier && obey(next(&calls.recv, size, (unsigned)flags), &size))
		return -1;
	return __real_recv(fd, buffer, size, flags);
}

ssize_t
__wrap_send(int fd, const void *buffer, size_t size, int flags)
{
	if (is_copier && obey(next(&calls.send, size, (unsigned)flags), &size))
		return -1;
	return __real_send(fd, buffer, size, flags);
}

/* Shortens a limit of time, but for 0, if ms is not 0. */
static void
shorten(struct timeval *limit, int ms)
{
	if (ms == 0 || limit->tv_sec == 0)
		return;
	limit->tv_sec = ms / 1000;
	limit->tv_usec = ms % 1000 * 1000;
}

int
__wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length)
{
	struct timeval limit = {0};
	int status, pause_s = calls.pause_s;

	if (!is_copier)
		return __real_setsockopt(fd, level, option, value, length);
	if (length == sizeof(limit))
		memcpy(&limit, value, sizeof(limit));
	if (level == SOL_SOCKET && fd == calls.from && option == SO_RCVTIMEO &&
	    limit.tv_usec == 0) {
		pause_s = (int)limit.tv_sec;
		calls.pauses += limit.tv_sec != 0;
		shorten(&limit, calls.pause_ms);
	} else if (level == SOL_SOCKET && fd == calls.to &&
		   option == SO_SNDTIMEO && limit.tv_sec == 1 &&
		   limit.tv_usec == 0) {
		calls.limits++;
		shorten(&limit, calls.limit_ms);
	} else {
		pause_s = INT_MIN; /* no test expects that */
		calls.limits += INT_MAX;
	}
	status = __real_setsockopt(fd, level, option, &limit, length);
	calls.pause_s = pause_s; /* not before it is so: tests wait for it */
	errno = ENOTTY;          /* not what ended the copy */
	return status;
}

ssize_t
__wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size,
    unsigned flags)
{
	struct call *call =
	    in == calls.from ? &calls.splice_in : &calls.splice_out;
	ssize_t n;
	int what;

	if (!is_copier)
		return __real_splice(
		    in, in_offset, out, out_offset, size, flags);
	what = next(call, size, flags);
	if (what == NOTHING)
		return 0;
	if (obey(what, &size))
		return -1;
	calls.splicing += out == calls.to;
	n = __real_splice(in, in_offset, out, out_offset, size, flags);
	calls.splicing -= out == calls.to;
	return n;
}

/* A copy that runs in a thread of its own, between two connections. */
static struct {
	struct pair from, to;
	struct copy_way way;
	_Atomic uint64_t moved;
	copy_deadline deadline;
	enum copy_end end;
	int error;
	int descriptors;      /* before all else */
	int idle_descriptors; /* before it started */
	struct job job;
} copy;

static void
run_copy(void *argument)
{
	(void)argument;
	errno = 0;
	is_copier = true;
	copy.end = copy_run(copy.from.ours, copy.to.ours, copy.way, &copy.moved,
	    &copy.deadline);
	copy.error = errno;
	is_copier = false;
}

/* How bytes are copied: all through buffers; messages through a pipe; all
 * through a pipe. */
#define BUFFER 0
#define MIXED 1
#define PIPE 2
static const struct copy_way ways[] = {
    [BUFFER] = {false, false, 0},
    [MIXED] = {true, false, 0},
    [PIPE] = {true, true, 0},
};

/* Makes the connections; then scripts may be set. */
static void
prepare(size_t way)
{
	memset(&calls, 0, sizeof(calls));
	copy.descriptors = open_descriptors();
	copy.from = make_pair();
	copy.to = make_pair();
	copy.way = ways[way];
	copy.moved = 0;
	copy.deadline = 0;
	copy.idle_descriptors = open_descriptors();
	calls.from = copy.from.ours;
	calls.to = copy.to.ours;
}

/* What this copy reads and writes with: in bulk, or messages. */
static struct call *
reader(bool bulk)
{
	return (bulk ? copy.way.bulk_splice : copy.way.splice)
		   ? &calls.splice_in
		   : &calls.recv;
}

static struct call *
writer(bool bulk)
{
	return reader(bulk) == &calls.recv ? &calls.send : &calls.splice_out;
}

static void
start(void)
{
	job_start(&copy.job, run_copy, NULL);
}

/* Waits for the end of the copy, which must have given back what it had. */
static void
end(void)
{
	job_end(&copy.job);
	assert_int_equal(calls.mapped, 0);
	assert_int_equal(calls.pause_s, 0);
	/* One pipe, or an attempt, and only then a limit. */
	assert_int_equal(calls.pipe2.count, copy.way.splice);
	assert_int_equal(calls.limits, calls.pipes);
	/* A vsock peer that has closed shows only in a write: try at times. */
	assert_int_equal(calls.odd_waits, 0);
	assert_int_equal(open_descriptors(), copy.idle_descriptors -
						 (copy.from.peer == -1) -
						 (copy.to.peer == -1));
}

static void
assert_ended(enum copy_end how, int error)
{
	end();
	assert_int_equal(copy.end, how);
	if (how != COPY_EOF)
		assert_int_equal(copy.error, error);
}

static void
finish(void)
{
	close_pair(copy.from);
	close_pair(copy.to);
	assert_int_equal(open_descriptors(), copy.descriptors);
}

/* Bytes that have come and wait to be read. */
static size_t
arrived(int fd)
{
	int count = 0;

	assert_int_equal(ioctl(fd, FIONREAD, &count), 0);
	return (size_t)count;
}

/* A thread that sends noise to the copy, and ends. */
static struct sender {
	int fd;
	size_t size;
	uint32_t seed;
	struct job job;
} sender;

static void
run_sender(void *argument)
{
	struct noise noise = {sender.seed};
	uint8_t bytes[16384];

	(void)argument;
	for (size_t rest = sender.size, n; rest > 0; rest -= n) {
		n = rest < sizeof(bytes) ? rest : sizeof(bytes);
		noise_fill(&noise, bytes, n);
		if (write_all(sender.fd, bytes, n) != 0)
			return;
	}
	(void)shutdown(sender.fd, SHUT_WR);
}

/* So many wait to be read, if there are so many, before a copy starts: so its
 * first read is full, and the next one gets more than 32,768. */
#define AHEAD 49152

/* Reads so many bytes, which must be the next ones of this noise. */
static void
read_noise(struct noise *noise, size_t size)
{
	static uint8_t bytes[65536];

	for (size_t n; size > 0; size -= n) {
		n = size < sizeof(bytes) ? size : sizeof(bytes);
		n = read_all(copy.to.peer, bytes, n);
		assert_true(n > 0);
		assert_true(noise_is(noise, bytes, n));
	}
}

/* Not a byte more, and no end: that is passed on by others. */
static void
assert_no_more(void)
{
	assert_int_equal(recv(copy.to.peer, &(char){0}, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

/* Passes that many random bytes through, and asserts that all arrive. */
static void
pass_noise(size_t size)
{
	struct noise noise = {(uint32_t)size + 7};

	sender.fd = copy.from.peer;
	sender.size = size;
	sender.seed = noise.state;
	job_start(&sender.job, run_sender, NULL);
	AWAIT(arrived(copy.from.ours) >= (size < AHEAD ? size : AHEAD));
	start();
	read_noise(&noise, size);
	end();
	job_end(&sender.job);
	assert_int_equal(copy.end, COPY_EOF);
	assert_int_equal(copy.moved, size);
	assert_no_more();
}

static const size_t sizes[] = {0, 1, 2, 4095, 4096, 4097, 32767, 32768, 32769,
    36863, 36864, 36865, 65536, 65537, 98304, 262143, 262144, 266240, 266241,
    1000000};
#define SEVERAL_MIB (5 * 1024 * 1024 + 3)

static void
test_intact(void **state)
{
	/* Fails if bytes are lost, doubled, changed or miscounted. */
	static const size_t chunks[] = {0, 4096, 32768};

	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * LENGTH(chunks); i++) {
		for (size_t j = 0; j <= LENGTH(sizes); j++) {
			prepare(i % LENGTH(ways));
			copy.way.chunk = chunks[i / LENGTH(ways)];
			pass_noise(j < LENGTH(sizes) ? sizes[j] : SEVERAL_MIB);
			finish();
		}
	}
}

static void
test_ways(void **state)
{
	/* Fails if the way that was asked for isn't the one that is taken. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		bool splice = i != BUFFER, bulk_splice = i == PIPE;

		prepare(i);
		pass_noise(100000);
		assert_int_equal(calls.pipes, splice);
		assert_int_equal(calls.pipe2.flags, splice ? O_CLOEXEC : 0);
		assert_int_equal(calls.pipe_size, bulk_splice ? LARGE : 0);
		assert_int_equal(calls.mmap.count, !bulk_splice);
		assert_int_equal(calls.mmap_size, bulk_splice ? 0 : LARGE);
		/* The end is told by recv(2). */
		assert_int_equal(
		    calls.recv.largest, bulk_splice ? SMALL : LARGE);
		if (bulk_splice)
			assert_int_equal(calls.recv.count, 1);
		assert_int_equal(calls.splice_in.largest, bulk_splice ? LARGE
							  : splice    ? SMALL
								      : 0);
		if (i == MIXED) /* the first one was full */
			assert_int_equal(calls.splice_in.count, 1);
		assert_true(reader(true)->count > 1);
		assert_int_equal(calls.splice_out.count > 0, splice);
		assert_int_equal(calls.send.count > 0, !bulk_splice);
		/* SPLICE_F_MORE delays small messages by 200 ms. */
		assert_int_equal(
		    calls.splice_in.flags | calls.splice_out.flags, 0);
		finish();
	}
}

static void
test_chunks(void **state)
{
	/* Fails if vsock gets more at once than some hypervisors can take, or a
	 * limit holds where there is none. */
	static const struct {
		size_t chunk, largest, buffer;
	} cases[] = {
	    {4096, 4096, LARGE},
	    {32768, 32768, LARGE},
	    {5000, 5000, LARGE},
	    {262144, 0, LARGE},
	    {1048576, 0, 1048576},
	    {0, 0, LARGE},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * LENGTH(cases); i++) {
		size_t most = cases[i / LENGTH(ways)].chunk, largest;
		size_t buffer = cases[i / LENGTH(ways)].buffer;

		prepare(i % LENGTH(ways));
		copy.way.chunk = most;
		pass_noise(SEVERAL_MIB);
		largest = calls.send.largest > calls.splice_out.largest
			      ? calls.send.largest
			      : calls.splice_out.largest;
		if (cases[i / LENGTH(ways)].largest != 0)
			assert_int_equal(largest, most);
		else
			assert_in_range(largest, 32769, buffer);
		assert_int_equal(reader(true)->largest, buffer);
		assert_int_equal(
		    calls.mmap_size, copy.way.bulk_splice ? 0 : buffer);
		assert_int_equal(
		    calls.pipe_size, copy.way.bulk_splice ? buffer : 0);
		finish();
	}
}

static void
test_messages(void **state)
{
	/* Fails if a message waits for more to come, is split, or is counted
	 * late; or if an idle connection, or one with small messages, holds
	 * more than a pipe. */
	static const size_t lengths[] = {1, 5, 1000, 4095, 17};
	static uint8_t bytes[SMALL];
	struct noise noise = {11}, again = noise;

	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * 2; i++) {
		size_t total = 0;

		prepare(i / 2);
		copy.way.chunk = i % 2 == 0 ? 0 : SMALL;
		start();
		for (size_t j = 0; j < LENGTH(lengths); j++) {
			noise_fill(&noise, bytes, lengths[j]);
			assert_int_equal(
			    write_all(copy.from.peer, bytes, lengths[j]), 0);
			read_noise(&again, lengths[j]);
			total += lengths[j];
			AWAIT(copy.moved == total);
			assert_int_equal(writer(false)->count, j + 1);
		}
		AWAIT(reader(false)->count == LENGTH(lengths) + 1);
		assert_int_equal(open_descriptors(),
		    copy.idle_descriptors + 2 * copy.way.splice);
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		assert_int_equal(reader(false)->largest, SMALL);
		assert_int_equal(reader(false)->flags, 0);
		assert_int_equal(writer(false)->flags,
		    copy.way.splice ? 0 : MSG_NOSIGNAL | MSG_DONTWAIT);
		if (copy.way.splice)
			assert_int_equal(
			    calls.recv.count + calls.send.count, 1);
		else
			assert_int_equal(
			    calls.splice_in.count + calls.splice_out.count, 0);
		assert_int_equal(calls.mmap.count, 0);
		assert_int_equal(calls.pipe_size, 0);
		assert_int_equal(calls.pauses, 0);
		assert_int_equal(calls.poll.count, 0);
		finish();
	}
}

/* Starts a copy that moves bulk, of which so much has passed. */
#define WARM_UP 10000

static void
start_bulk(void)
{
	static uint8_t bytes[WARM_UP];
	struct noise noise = {3}, again = noise;

	noise_fill(&noise, bytes, sizeof(bytes));
	assert_int_equal(write_all(copy.from.peer, bytes, sizeof(bytes)), 0);
	AWAIT(arrived(copy.from.ours) == sizeof(bytes));
	start();
	read_noise(&again, sizeof(bytes));
	AWAIT(copy.moved == WARM_UP);
}

/* Whether the copy holds what bulk needs, and nothing else. */
static bool
holds_bulk(void)
{
	return calls.mapped == (copy.way.bulk_splice ? 0 : LARGE) &&
	       calls.pipe_size == (copy.way.bulk_splice ? LARGE : 0) &&
	       calls.pause_s == 1 &&
	       open_descriptors() ==
		   copy.idle_descriptors + 2 * copy.way.splice;
}

static bool
holds_no_bulk(void)
{
	return calls.mapped == 0 && calls.pause_s == 0 &&
	       open_descriptors() ==
		   copy.idle_descriptors + 2 * copy.way.splice;
}

static void
test_messages_in_bulk(void **state)
{
	/* Fails if the end of a transfer waits for more to come. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		calls.pause_ms = 2 * DEADLINE_S * 1000;
		start_bulk();
		for (size_t round = 1; round <= 5; round++) {
			assert_passes(copy.from.peer, copy.to.peer, "ping");
			AWAIT(copy.moved == WARM_UP + 4 * round);
		}
		assert_true(holds_bulk());
		assert_int_equal(calls.pauses, 1);
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		finish();
	}
}

static void
test_pause_of_a_second(void **state)
{
	/* Fails if what bulk needs is held for longer than a second after it,
	 * or is given back while it is still needed. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		long begin;

		prepare(i);
		begin = now_ms();
		start_bulk();
		AWAIT(calls.pause_s == 1);
		AWAIT(holds_no_bulk());
		assert_in_range(now_ms() - begin, 990, DEADLINE_S * 1000);
		assert_int_equal(calls.mmap.count, !copy.way.bulk_splice);
		assert_int_equal(calls.pauses, 1);
		assert_time_limit(copy.from.ours, SO_RCVTIMEO, 0);
		assert_passes(copy.from.peer, copy.to.peer, "ping");
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		assert_int_equal(copy.moved, WARM_UP + 4);
		finish();
	}
}

static void
test_pauses(void **state)
{
	/* Fails if bytes are lost, or something leaks, when a connection turns
	 * from bulk to messages and back. */
	static uint8_t bytes[20000];
	struct noise noise = {5}, again = noise;

	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		calls.pause_ms = 20;
		start_bulk();
		for (size_t round = 2; round <= 6; round++) {
			AWAIT(holds_no_bulk());
			assert_passes(copy.from.peer, copy.to.peer, "ping");
			assert_true(calls.pauses < round);
			noise_fill(&noise, bytes, sizeof(bytes));
			assert_int_equal(
			    write_all(copy.from.peer, bytes, sizeof(bytes)), 0);
			read_noise(&again, sizeof(bytes));
			AWAIT(calls.pauses >= round);
		}
		AWAIT(holds_no_bulk());
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		assert_int_equal(copy.moved, WARM_UP + 5 * (sizeof(bytes) + 4));
		assert_int_equal(
		    calls.mmap.count, copy.way.bulk_splice ? 0 : calls.pauses);
		assert_no_more();
		finish();
	}
}

static void
test_end_in_bulk(void **state)
{
	/* Fails if a connection that ends, or is reset, while it moves bulk
	 * leaks, or takes its time. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * 2; i++) {
		prepare(i / 2);
		calls.pause_ms = 2 * DEADLINE_S * 1000;
		start_bulk();
		assert_true(holds_bulk());
		if (i % 2 == 0) {
			assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
			assert_ended(COPY_EOF, 0);
		} else {
			reset_peer(&copy.from);
			assert_ended(COPY_READ_FAILED, ECONNRESET);
		}
		assert_int_equal(copy.moved, WARM_UP);
		finish();
	}
}

static void
test_no_memory(void **state)
{
	/* Fails if a proxy that is short of memory drops a connection, or bytes
	 * of it; or if it stays slow when the need is over. */
	(void)state;
	for (size_t i = BUFFER; i <= MIXED; i++) {
		prepare(i);
		calls.mmap.then = FAIL(ENOMEM);
		pass_noise(300000);
		assert_true(calls.mmap.count > 1);
		assert_int_equal(reader(false)->largest, SMALL);
		assert_int_equal(calls.recv.count > 1, i == BUFFER);
		assert_int_equal(calls.pauses, 0);
		finish();
		prepare(i);
		calls.mmap.script[0] = calls.mmap.script[1] = FAIL(ENOMEM);
		pass_noise(300000);
		assert_int_equal(calls.mmap.count, 3);
		assert_int_equal(calls.recv.largest, LARGE);
		finish();
	}
}

static void
test_no_pipe(void **state)
{
	/* Fails if a proxy that is short of descriptors drops a connection, or
	 * bytes of it, or is slower than it must be. */
	static const int errors[] = {EMFILE, ENFILE};

	(void)state;
	for (size_t i = 0; i < 2 * LENGTH(errors); i++) {
		prepare(i % 2 == 0 ? MIXED : PIPE);
		calls.pipe2.then = FAIL(errors[i / 2]);
		pass_noise(300000);
		assert_int_equal(
		    calls.splice_in.count + calls.splice_out.count, 0);
		assert_int_equal(calls.recv.largest, LARGE);
		assert_int_equal(calls.mmap.count, 1);
		assert_int_equal(calls.pipe_size, 0);
		assert_int_equal(calls.limits, 0);
		finish();
	}
}

static void
test_small_pipe(void **state)
{
	/* Fails if a user who has many pipes, and gets no larger ones or only
	 * those of a page, gets nothing. */
	(void)state;
	for (size_t i = MIXED; i <= PIPE; i++) {
		for (size_t j = 0; j < 2; j++) {
			prepare(i);
			calls.pipe_size_error = EPERM;
			calls.one_page = j == 1;
			pass_noise(SEVERAL_MIB);
			assert_true(calls.splice_out.count > 0);
			if (i == PIPE)
				assert_int_equal(
				    calls.recv.count + calls.mmap.count, 1);
			finish();
		}
	}
}

static void
test_short_counts(void **state)
{
	/* Fails if what the kernel didn't take at once is lost or doubled. */
	static const int most[] = {1, 1000, 4096, 30000};
	static const size_t totals[] = {7000, 200000, 1000000, 1000000};

	(void)state;
	for (size_t i = 0; i < LENGTH(most) * LENGTH(ways); i++) {
		int limit = most[i / LENGTH(ways)];
		size_t total = totals[i / LENGTH(ways)];
		/* Of the calls that messages need, in the mixed way. */
		size_t count =
		    (i % LENGTH(ways) == MIXED ? SMALL : total) / (size_t)limit;

		prepare(i % LENGTH(ways));
		calls.splice_out.then = calls.send.then = limit;
		pass_noise(total);
		assert_true(writer(false)->count >= count);
		assert_true(writer(false)->count + writer(true)->count >=
			    total / (size_t)limit);
		finish();
		prepare(i % LENGTH(ways));
		calls.splice_in.then = calls.recv.then = limit;
		pass_noise(total);
		assert_true(reader(false)->count >= count);
		assert_true(reader(false)->count + reader(true)->count >=
			    total / (size_t)limit);
		finish();
	}
}

static void
test_interrupted(void **state)
{
	/* Fails if a signal ends a connection, or doubles bytes. */
	static const int script[] = {FAIL(EINTR), FAIL(EINTR), 100, FAIL(EINTR),
	    1, FAIL(EINTR), FAIL(EINTR), FAIL(EINTR)};
	static const int full[] = {FAIL(EAGAIN), FAIL(EINTR), FAIL(EAGAIN), 100,
	    FAIL(EAGAIN), 1, FAIL(EAGAIN), FAIL(EINTR)};
	static const int polled[] = {
	    FAIL(EINTR), ALL_OF_IT, FAIL(EINTR), FAIL(EINTR), FAIL(EINTR)};

	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		memcpy(calls.splice_in.script, script, sizeof(script));
		memcpy(calls.splice_out.script, script, sizeof(script));
		memcpy(calls.send.script, script, sizeof(script));
		memcpy(calls.poll.script, polled, sizeof(polled));
		calls.recv.script[0] = calls.recv.script[1] = FAIL(EINTR);
		calls.recv.script[3] = calls.recv.script[5] = FAIL(EINTR);
		pass_noise(300000);
		if (i != BUFFER) {
			assert_true(calls.splice_in.count > LENGTH(script));
			assert_true(calls.splice_out.count > LENGTH(script));
		}
		if (i != PIPE) {
			assert_true(calls.recv.count > 6);
			assert_true(calls.send.count > LENGTH(script));
		}
		finish();
		/* With no room, as far as the kernel tells. */
		prepare(i);
		memcpy(calls.splice_out.script, full, sizeof(full));
		memcpy(calls.send.script, full, sizeof(full));
		memcpy(calls.poll.script, polled, sizeof(polled));
		pass_noise(300000);
		assert_true(calls.poll.count >= (i == MIXED ? 8 : 4));
		finish();
	}
}

static void
test_poll_fails(void **state)
{
	/* Fails if poll(2), which may be short of memory, can stop a copy. */
	static const int full[] = {FAIL(EAGAIN), FAIL(EAGAIN), 100,
	    FAIL(EAGAIN), 1, FAIL(EAGAIN), 5000, FAIL(EAGAIN)};

	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		calls.poll.then = FAIL(ENOMEM);
		memcpy(calls.splice_out.script, full, sizeof(full));
		memcpy(calls.send.script, full, sizeof(full));
		pass_noise(300000);
		assert_true(calls.poll.count >= (i == MIXED ? 9 : 5));
		finish();
	}
}

static void
test_cannot_splice_from(void **state)
{
	/* Fails if Linux 4.14, which can't splice from vsock, or a filter of
	 * system calls moves nothing, or if this is found out late and bytes
	 * are lost. */
	static const int errors[] = {EINVAL, ENOSYS, EPERM};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors) * 2; i++) {
		size_t way = i % 2 == 0 ? MIXED : PIPE;
		int error = errors[i / 2];

		prepare(way);
		calls.splice_in.then = FAIL(error);
		copy.way.chunk = 32768;
		pass_noise(1000000);
		assert_int_equal(calls.splice_in.count, 1);
		assert_int_equal(calls.splice_out.count, 0);
		assert_int_equal(calls.mmap.count, 1);
		assert_int_equal(calls.recv.largest, LARGE);
		assert_in_range(calls.send.largest, SMALL, 32768);
		finish();
		prepare(way);
		calls.splice_in.script[0] = 777;
		calls.splice_in.script[1] = FAIL(EINTR);
		calls.splice_in.then = FAIL(error);
		pass_noise(1000000);
		assert_int_equal(calls.splice_in.count, 3);
		assert_int_equal(calls.mmap.count, 1);
		finish();
		if (way == PIPE) { /* only after bulk has begun */
			prepare(way);
			calls.splice_in.script[0] = SMALL;
			calls.splice_in.then = FAIL(error);
			pass_noise(1000000);
			assert_int_equal(calls.splice_in.count, 2);
			assert_int_equal(calls.mmap.count, 1);
			finish();
		}
		/* And there is no memory either. */
		prepare(way);
		calls.splice_in.then = FAIL(error);
		calls.mmap.then = FAIL(ENOMEM);
		pass_noise(300000);
		assert_int_equal(calls.recv.largest, SMALL);
		finish();
	}
}

static void
test_urgent_data(void **state)
{
	/* Fails if TCP's urgent data, before which a splice says 0, passes for
	 * the end, or a shortage of memory, where it does so, too. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * 2; i++) {
		prepare(i / 2);
		if (i % 2 == 0) {
			start();
			assert_passes(copy.from.peer, copy.to.peer, "hello");
		} else {
			calls.pause_ms = 2 * DEADLINE_S * 1000;
			start_bulk();
		}
		assert_int_equal(send(copy.from.peer, "!", 1, MSG_OOB), 1);
		assert_passes(copy.from.peer, copy.to.peer, "more");
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		assert_int_equal(copy.moved, (i % 2 == 0 ? 5 : WARM_UP) + 4);
		assert_no_more();
		finish();
	}
	for (size_t i = MIXED; i <= PIPE; i++) {
		prepare(i);
		calls.splice_in.script[0] = 777;
		calls.splice_in.script[1] = NOTHING;
		pass_noise(300000);
		assert_int_equal(calls.splice_in.count, 2);
		finish();
	}
}

static void
test_read_fails(void **state)
{
	/* Fails if cut-off data passes for complete data. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		start();
		assert_passes(copy.from.peer, copy.to.peer, "hello");
		reset_peer(&copy.from);
		assert_ended(COPY_READ_FAILED, ECONNRESET);
		assert_int_equal(copy.moved, 5);
		finish();
	}
}

/* Writes to the copy until that has ended. */
static void
write_until_end(void)
{
	while (
	    !job_has_ended(&copy.job) && write_all(copy.from.peer, "x", 1) == 0)
		;
	end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_true(copy.error == ECONNRESET || copy.error == EPIPE);
}

static void
test_write_fails(void **state)
{
	/* Fails if the log blames the wrong side, or a target that is gone goes
	 * unnoticed, or kills the process with SIGPIPE. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways) * 2; i++) {
		prepare(i / 2);
		if (i % 2 == 0) {
			start();
			assert_passes(copy.from.peer, copy.to.peer, "hello");
		} else {
			start_bulk();
		}
		reset_peer(&copy.to);
		/* Until the reset is noticed, bytes may still be taken. */
		write_until_end();
		finish();
	}
}

static void
test_target_ends(void **state)
{
	/* Fails if a target that has said all, but still listens, counts as
	 * gone. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		assert_int_equal(shutdown(copy.to.peer, SHUT_WR), 0);
		pass_noise(100000);
		finish();
	}
}

/* Runs a scripted copy of 10,000 bytes to its end. */
static void
run_to_end(void)
{
	static const char bytes[10000];

	assert_int_equal(write_all(copy.from.peer, bytes, sizeof(bytes)), 0);
	assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
	AWAIT(arrived(copy.from.ours) == sizeof(bytes));
	start();
	end();
}

/* Runs it to this end, and asserts that so much was delivered before. */
static void
check_error(enum copy_end how, int error, size_t moved)
{
	run_to_end();
	assert_int_equal(copy.end, how);
	assert_int_equal(copy.error, error);
	assert_int_equal(copy.moved, moved);
	finish();
}

static void
test_errors_classified(void **state)
{
	/* Fails if a failing call passes for a fault of the other side, or its
	 * errno is lost, or what was delivered before isn't counted, or bulk
	 * leaves something behind. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		size_t first; /* call in bulk */

		prepare(i);
		reader(false)->script[0] = 100;
		reader(false)->then = FAIL(ETIMEDOUT);
		check_error(COPY_READ_FAILED, ETIMEDOUT, 100);

		prepare(i);
		writer(false)->script[0] = 10;
		writer(false)->then = FAIL(EPIPE);
		check_error(COPY_WRITE_FAILED, EPIPE, 10);
		/* Nothing is begun that may fail in its turn. */
		assert_int_equal(calls.mmap.count + calls.pauses, 0);
		assert_int_equal(calls.pipe_size, 0);

		/* In bulk. */
		first = i == MIXED ? 0 : 1;
		prepare(i);
		reader(true)->script[0] = SMALL;
		reader(true)->script[first] = 100;
		reader(true)->then = FAIL(ETIMEDOUT);
		check_error(COPY_READ_FAILED, ETIMEDOUT, SMALL + 100);

		prepare(i);
		writer(true)->script[0] = SMALL;
		writer(true)->script[first] = 10;
		writer(true)->then = FAIL(EHOSTUNREACH);
		check_error(COPY_WRITE_FAILED, EHOSTUNREACH, SMALL + 10);
	}
}

static void
test_invalid_is_no_fallback(void **state)
{
	/* Fails if EINVAL, ENOSYS or EPERM of anything but a splice from a
	 * socket means to try for ever, or to go on without what is in the
	 * pipe. */
	static const int errors[] = {EINVAL, ENOSYS, EPERM};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors) * LENGTH(ways); i++) {
		size_t way = i % LENGTH(ways);
		int error = errors[i / LENGTH(ways)];

		prepare(way);
		writer(false)->script[0] = 5;
		writer(false)->then = FAIL(error);
		check_error(COPY_WRITE_FAILED, error, 5);
		assert_int_equal(writer(false)->count, 2);

		prepare(way);
		if (way != MIXED)
			writer(true)->script[0] = SMALL;
		writer(true)->then = FAIL(error);
		check_error(COPY_WRITE_FAILED, error, SMALL);

		if (way != PIPE) {
			prepare(way);
			calls.recv.then = FAIL(error);
			check_error(
			    COPY_READ_FAILED, error, way == MIXED ? SMALL : 0);
			assert_int_equal(calls.recv.count, 1);
		}

		if (way != BUFFER) { /* after the fallback */
			prepare(way);
			calls.splice_in.then = FAIL(error);
			calls.recv.script[0] = SMALL;
			calls.recv.then = FAIL(error);
			check_error(COPY_READ_FAILED, error, SMALL);
			assert_int_equal(calls.recv.count, 2);
		}
	}
}

static void
test_splice_writes_nothing(void **state)
{
	/* Fails if a splice that moves nothing makes a busy loop, or an error
	 * without a reason. */
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		prepare(i == 0 ? MIXED : PIPE);
		calls.splice_out.script[0] = i == 2 ? SMALL : NOTHING;
		calls.splice_out.then = NOTHING;
		run_to_end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		assert_int_equal(copy.error, EIO); /* relay knows it */
		assert_int_equal(copy.moved, i == 2 ? SMALL : 0);
		finish();
	}
}

static void
test_not_connected(void **state)
{
	/* Fails if ENOTCONN, which on Linux 4.14 ends a vsock stream, doesn't
	 * reach those who know what it means. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		reader(false)->then = FAIL(ENOTCONN);
		check_error(COPY_READ_FAILED, ENOTCONN, 0);
		prepare(i);
		if (i != MIXED)
			reader(true)->script[0] = SMALL;
		reader(true)->then = FAIL(ENOTCONN);
		check_error(COPY_READ_FAILED, ENOTCONN, SMALL);
	}
}

/* A copy that waits until its target takes more. */
static struct {
	size_t before; /* bytes that it has moved */
	size_t filled; /* bytes before what it has to deliver: */
	struct noise noise;
	size_t size;
	size_t polls; /* that it has made until then */
	long since;   /* now_ms() of then */
} stuck;

/* Starts a copy in this way, gives it bulk or a message to deliver, and no
 * room. limit_ms: see calls. */
static void
start_full(size_t way, bool bulk, int limit_ms)
{
	static uint8_t bytes[5000];
	struct noise noise = {9};

	prepare(way);
	calls.pause_ms = 2 * DEADLINE_S * 1000;
	calls.limit_ms = limit_ms;
	calls.patient = true;
	if (bulk) {
		start_bulk();
		stuck.before = WARM_UP;
		stuck.size = sizeof(bytes);
	} else {
		start();
		assert_passes(copy.from.peer, copy.to.peer, "hello");
		stuck.before = 5;
		stuck.size = 1000;
	}
	stuck.filled = fill_connection(copy.to.ours, copy.to.ours);
	stuck.noise = noise;
	noise_fill(&noise, bytes, stuck.size);
	assert_int_equal(write_all(copy.from.peer, bytes, stuck.size), 0);
}

/* Likewise, and waits until it waits. i: up to STUCK. */
#define STUCK (LENGTH(ways) * 2)

static void
start_stuck(size_t i)
{
	start_full(i / 2, i % 2 == 0, 20);
	AWAIT(calls.waiting == 1 && arrived(copy.from.ours) == 0);
	stuck.since = now_ms();
	stuck.polls = calls.poll.count;
}

/* Reads all that was meant for its target. */
static void
read_stuck(void)
{
	static char zeros[65536];

	for (size_t n; stuck.filled > 0; stuck.filled -= n) {
		n = stuck.filled < sizeof(zeros) ? stuck.filled : sizeof(zeros);
		n = read_all(copy.to.peer, zeros, n);
		assert_true(n > 0);
	}
	read_noise(&stuck.noise, stuck.size);
}

/* Nothing happens for a while: after the first, one poll or two a second, and
 * then one attempt. */
static void
assert_no_spin(void)
{
	size_t calls_of_io = calls.send.count + calls.splice_out.count;
	long seconds;

	pause_ms(100);
	calls_of_io = calls.send.count + calls.splice_out.count - calls_of_io;
	seconds = (now_ms() - stuck.since) / 1000;
	assert_in_range(calls.poll.count - stuck.polls, 0, 3 + 2 * seconds);
	assert_in_range(calls_of_io, 0, 2 + seconds);
	assert_false(job_has_ended(&copy.job));
}

static void
test_waits_for_room(void **state)
{
	/* Fails if a target that doesn't read for a while gets less than all,
	 * or keeps a processor busy, or waits in the kernel, where a reset
	 * isn't noticed. */
	(void)state;
	for (size_t i = 0; i < STUCK; i++) {
		start_stuck(i);
		assert_no_spin();
		read_stuck();
		assert_passes(copy.from.peer, copy.to.peer, "more");
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_ended(COPY_EOF, 0);
		assert_int_equal(copy.moved, stuck.before + stuck.size + 4);
		assert_int_equal(calls.to_only, 0); /* `from` is watched */
		assert_no_more();
		finish();
	}
}

static int
take_error(int fd)
{
	int error;
	socklen_t length = sizeof(error);

	assert_int_equal(
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length), 0);
	return error;
}

/* The source has failed, and the target takes nothing: that is noticed. */
static void
assert_deadline(void)
{
	uint64_t now;

	AWAIT(copy.deadline != 0);
	now = (uint64_t)now_ms();
	assert_in_range(copy.deadline, now + 5000, now + 10000);
	assert_false(copy_is_over(&copy.deadline));
}

/* The deadline passes: the copy ends, and has moved so much. */
static void
assert_over(uint64_t moved)
{
	copy.deadline = 1;
	calls.second_over = true;
	end();
	assert_int_equal(copy.end, COPY_OVER);
	assert_int_equal(copy.moved, moved);
}

static void
test_reset_while_waiting(void **state)
{
	/* Fails if a target that doesn't read hides that the source is gone:
	 * nobody else reads from that. Or if that costs what the source had
	 * sent, or keeps a processor busy, or waits for ever. */
	(void)state;
	for (size_t i = 0; i < STUCK * 4; i++) {
		start_stuck(i / 4);
		if (i % 2 == 1) { /* after its end: the kernel says EPIPE */
			assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
			assert_true(wait_for(copy.from.ours, POLLRDHUP));
			assert_no_spin();
		}
		if (i % 4 == 2) { /* behind what isn't read either */
			assert_int_equal(write_all(copy.from.peer, "x", 1), 0);
			AWAIT(arrived(copy.from.ours) == 1);
		}
		assert_int_equal(copy.deadline, 0);
		reset_peer(&copy.from);
		assert_deadline();
		assert_no_spin();
		if (i % 4 < 2) {
			read_stuck();
			/* An end-of-file hides it, but it is still there. */
			assert_ended(i % 2 == 0 ? COPY_READ_FAILED : COPY_EOF,
			    i % 2 == 0 ? ECONNRESET : 0);
			assert_int_equal(
			    take_error(copy.from.ours), i % 2 == 0 ? 0 : EPIPE);
			assert_int_equal(copy.moved, stuck.before + stuck.size);
		} else {
			assert_over(stuck.before);
		}
		finish();
	}
}

static void
test_reset_while_splicing(void **state)
{
	/* Fails if that is noticed only in poll(2), which isn't where a splice
	 * waits, or later than its limit tells. */
	static const struct {
		size_t way;
		bool bulk;
	} cases[] = {{MIXED, false}, {PIPE, false}, {PIPE, true}};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		size_t before;
		long seconds; /* each may see another attempt */

		start_full(cases[i].way, cases[i].bulk, 0);
		AWAIT(calls.splicing == 1);
		seconds = -now_ms();
		before = calls.splice_out.count;
		reset_peer(&copy.from);
		assert_deadline();
		seconds = (seconds + now_ms()) / 1000;
		assert_in_range(calls.splice_out.count - before, 0, seconds);
		assert_over(stuck.before);
		finish();
	}
}

static void
test_over(void **state)
{
	/* Fails if a copy goes on after the end of its connection, or ends
	 * before. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		copy.deadline = (uint64_t)now_ms() + 2 * DEADLINE_S * 1000;
		start();
		assert_passes(copy.from.peer, copy.to.peer, "hello");
		copy.deadline = 1;
		assert_int_equal(write_all(copy.from.peer, "more", 4), 0);
		end();
		assert_int_equal(copy.end, COPY_OVER);
		assert_int_equal(copy.moved, 5);
		finish();
	}
}

static void
test_target_resets_while_waiting(void **state)
{
	/* Fails if a copy waits for ever for room in a target that is gone. */
	(void)state;
	for (size_t i = 0; i < STUCK; i++) {
		start_stuck(i);
		reset_peer(&copy.to);
		end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		assert_true(copy.error == ECONNRESET || copy.error == EPIPE);
		assert_int_equal(copy.moved, stuck.before);
		finish();
	}
}

static void
test_closed_while_waiting(void **state)
{
	/* Fails if a source that is closed both ways, which poll(2) tells again
	 * and again, keeps a processor busy or costs what it sent. */
	(void)state;
	for (size_t i = 0; i < STUCK * 2; i++) {
		start_stuck(i / 2);
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		assert_int_equal(shutdown(copy.from.ours, SHUT_WR), 0);
		assert_true(wait_for(copy.from.ours, 0));
		assert_no_spin();
		assert_int_equal(copy.deadline, 0); /* it has not failed */
		if (i % 2 == 0) {
			read_stuck();
			assert_ended(COPY_EOF, 0);
			assert_int_equal(copy.moved, stuck.before + stuck.size);
			assert_no_more();
		} else { /* and now the target is gone */
			reset_peer(&copy.to);
			end();
			assert_int_equal(copy.end, COPY_WRITE_FAILED);
		}
		finish();
	}
}

static void
test_error_told_while_waiting(void **state)
{
	/* Fails if a reset of the source that the opposite direction was told
	 * of, and will act upon, keeps a processor busy until then. */
	(void)state;
	for (size_t i = 0; i < STUCK; i++) {
		start_stuck(i);
		reset_peer(&copy.from);
		assert_true(wait_for(copy.from.ours, 0));
		(void)take_error(copy.from.ours);
		assert_no_spin();
		reset_peer(&copy.to);
		end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		finish();
	}
}

static void
test_silent_end_while_waiting(void **state)
{
	/* Fails if a copy waits for ever for room in a vsock socket whose peer
	 * has closed it while bytes of that peer wait to be read: poll(2)
	 * tells nothing, and only a write says EPIPE. */
	(void)state;
	for (size_t i = 0; i < LENGTH(ways); i++) {
		prepare(i);
		calls.blind = true;
		writer(false)->script[0] = FAIL(EAGAIN);
		writer(false)->then = FAIL(EPIPE);
		assert_int_equal(write_all(copy.from.peer, "hello", 5), 0);
		start();
		end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		assert_int_equal(copy.error, EPIPE);
		assert_int_equal(calls.poll.count, 1);
		finish();
	}
}

static void
test_deadline(void **state)
{
	/* Fails if what is on its way when a side fails has more or less than
	 * ten seconds, or has them once more after each failure. */
	copy_deadline deadline = 0;
	uint64_t before = (uint64_t)now_ms(), first;

	(void)state;
	assert_false(copy_is_over(&deadline));
	copy_set_deadline(&deadline);
	first = deadline;
	assert_in_range(first, before + 10000, (uint64_t)now_ms() + 10000);
	assert_false(copy_is_over(&deadline));
	AWAIT((uint64_t)now_ms() > before + 1);
	copy_set_deadline(&deadline);
	assert_int_equal(deadline, first);
	for (int i = 0; i < 100; i++) {
		deadline = (uint64_t)now_ms();
		assert_true(copy_is_over(&deadline));
	}
	deadline = 1;
	copy_set_deadline(&deadline);
	assert_int_equal(deadline, 1);
	assert_true(copy_is_over(&deadline));
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_intact),
	    cmocka_unit_test(test_ways),
	    cmocka_unit_test(test_chunks),
	    cmocka_unit_test(test_messages),
	    cmocka_unit_test(test_messages_in_bulk),
	    cmocka_unit_test(test_pause_of_a_second),
	    cmocka_unit_test(test_pauses),
	    cmocka_unit_test(test_end_in_bulk),
	    cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_no_pipe),
	    cmocka_unit_test(test_small_pipe),
	    cmocka_unit_test(test_short_counts),
	    cmocka_unit_test(test_interrupted),
	    cmocka_unit_test(test_poll_fails),
	    cmocka_unit_test(test_cannot_splice_from),
	    cmocka_unit_test(test_urgent_data),
	    cmocka_unit_test(test_read_fails),
	    cmocka_unit_test(test_write_fails),
	    cmocka_unit_test(test_target_ends),
	    cmocka_unit_test(test_errors_classified),
	    cmocka_unit_test(test_invalid_is_no_fallback),
	    cmocka_unit_test(test_splice_writes_nothing),
	    cmocka_unit_test(test_not_connected),
	    cmocka_unit_test(test_waits_for_room),
	    cmocka_unit_test(test_reset_while_waiting),
	    cmocka_unit_test(test_reset_while_splicing),
	    cmocka_unit_test(test_over),
	    cmocka_unit_test(test_target_resets_while_waiting),
	    cmocka_unit_test(test_closed_while_waiting),
	    cmocka_unit_test(test_error_told_while_waiting),
	    cmocka_unit_test(test_silent_end_while_waiting),
	    cmocka_unit_test(test_deadline),
	};

	limit_tests(tests, LENGTH(tests));
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
