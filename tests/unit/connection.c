/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of connection. Its threads run in this process; the test is the
 * client, the upstream, and the log. What ends the process is done in a child.
 */
#include "connection.h"

#include "../rules.h"
#include "log.h"
#include "options.h"
#include "stream.h"
#include "support.h"

#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <linux/sockios.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __real_close(int fd);
int __wrap_close(int fd);
int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_log_line(enum log_level level, const char *format, ...);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_worker_start(struct worker_job *job);
int __wrap_worker_start(struct worker_job *job);
void
__real_relay_run(struct relay *relay, struct copy_way up, struct copy_way down);
void
__wrap_relay_run(struct relay *relay, struct copy_way up, struct copy_way down);
int __real_stream_complete(int fd, bool is_complete);
int __wrap_stream_complete(int fd, bool is_complete);
int __real_stream_connect(const struct address *address, unsigned timeout_ms);
int __wrap_stream_connect(const struct address *address, unsigned timeout_ms);
bool __real_stream_gone(int fd);
bool __wrap_stream_gone(int fd);
const char *__real_stream_original_destination(int fd, struct address *target);
const char *__wrap_stream_original_destination(int fd, struct address *target);
int __real_stream_send(int fd, const uint8_t *bytes, size_t size);
int __wrap_stream_send(int fd, const uint8_t *bytes, size_t size);

/* What goes wrong, and what was seen. */
static struct {
	int create_errors[2]; /* of the next worker_start() */
	_Atomic size_t creates;
	bool false_clock;   /* it stands still */
	void (*look)(void); /* called at the main thread's next look at it */
	_Atomic int clock_ms;
	struct address target;  /* of redirected clients, if it has a length */
	int send_buffer;        /* of upstream sockets; 0: as ever */
	int complete_errors[2]; /* of the next stream_complete() */
	_Atomic size_t completes;
	int connect_error;        /* of stream_connect() */
	int send_error;           /* of stream_send() */
	_Atomic bool is_gone;     /* the upstream, for stream_gone() */
	_Atomic bool holds_close; /* in all threads but the main one */
	_Atomic bool busy;        /* sockets can't be disconnected */

	struct copy_way up, down; /* of the last relay, and its sockets' */
	bool paired;
	_Atomic unsigned connect_timeout;
	_Atomic int closing; /* threads that are held */
	unsigned sleeps;     /* of the main thread, in poll(2) */
} calls;

/* What the test is to the proxy: its upstream, if it accepts. */
static struct sockaddr_in upstream_name;
static int upstream_listener;

/* The memory of connections. */
static void *_Atomic memories[64];

/* The log. A line that holds `blocked` waits to be written. */
static struct {
	struct line {
		enum log_level level;
		char text[512];
	} lines[64];
	size_t count, next;
	pthread_mutex_t lock;
	const char *_Atomic blocked;
	_Atomic int waiting;
	int fd; /* where lines go in the child, else -1; there: */
	_Atomic bool ends, stuck; /* wait until soon after the end begins */
	_Atomic bool unlocks;     /* who unlocks this one does so, too: */
	pthread_mutex_t *_Atomic list;
} record = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int ms;

	if (clock != CLOCK_MONOTONIC || !calls.false_clock)
		return __real_clock_gettime(clock, now);
	ms = calls.clock_ms;
	if (calls.look != NULL && gettid() == getpid()) {
		calls.look();
		calls.look = NULL;
	}
	*now = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	return 0;
}

int
__wrap_close(int fd)
{
	if (calls.holds_close && gettid() != getpid()) {
		calls.closing++;
		while (calls.holds_close)
			pause_ms(1);
	}
	return __real_close(fd);
}

int
__wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	if (calls.busy && address->sa_family == AF_UNSPEC) {
		errno = EBUSY;
		return -1;
	}
	return __real_connect(fd, address, length);
}

void
__wrap_free(void *memory)
{
	for (size_t i = 0; memory != NULL && i < LENGTH(memories); i++) {
		if (memories[i] == memory)
			memories[i] = NULL;
	}
	__real_free(memory);
}

void *
__wrap_malloc(size_t size)
{
	void *memory;

	/* Where libc is static, all of its own are wrapped, too. */
	if (size != sizeof(struct connection))
		return __real_malloc(size);
	memory = __real_malloc(size);
	for (size_t i = 0; i < LENGTH(memories); i++) {
		if (memories[i] == NULL) {
			memories[i] = memory;
			break;
		}
	}
	return memory;
}

void
__wrap_log_line(enum log_level level, const char *format, ...)
{
	struct line line = {.level = level};
	const char *blocked;
	int told = 0;
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(line.text, sizeof(line.text) - 1, format, arguments);
	va_end(arguments);
	record.waiting++;
	while ((blocked = record.blocked) != NULL &&
	       strstr(line.text, blocked) != NULL) {
		if (record.fd != -1 && !told++)
			(void)!write(record.fd, "waiting\n", 8);
		pause_ms(1);
		if (record.ends && !record.stuck) {
			pause_ms(50);
			break;
		}
	}
	record.waiting--;
	if (record.fd != -1) {
		strcat(line.text, "\n");
		(void)!write(record.fd, line.text, strlen(line.text));
		return;
	}
	pthread_mutex_lock(&record.lock);
	if (record.count < LENGTH(record.lines))
		record.lines[record.count++] = line;
	pthread_mutex_unlock(&record.lock);
}

int
__wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
	int error = __real_pthread_mutex_unlock(mutex);

	if (!record.unlocks || mutex == &record.lock)
		return error;
	if (gettid() == getpid()) { /* connection_report() */
		record.list = mutex;
	} else if (mutex == record.list) {
		record.unlocks = false;
		(void)!write(record.fd, "waiting\n", 8);
		while (!record.ends)
			pause_ms(1);
		pause_ms(50);
	}
	return error;
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	if (count == 0 && gettid() == getpid())
		calls.sleeps++;
	return __real_poll(fds, count, timeout);
}

int
__wrap_worker_start(struct worker_job *job)
{
	size_t i = calls.creates++;
	int error = 0;

	if (i < LENGTH(calls.create_errors))
		error = calls.create_errors[i];
	return error != 0 ? error : __real_worker_start(job);
}

void
__wrap_relay_run(struct relay *relay, struct copy_way up, struct copy_way down)
{
	pthread_mutex_lock(&record.lock);
	calls.up = up;
	calls.down = down;
	calls.paired = relay->paired;
	pthread_mutex_unlock(&record.lock);
	__real_relay_run(relay, up, down);
}

int
__wrap_stream_complete(int fd, bool is_complete)
{
	size_t i = calls.completes++;

	if (i >= LENGTH(calls.complete_errors) || calls.complete_errors[i] == 0)
		return __real_stream_complete(fd, is_complete);
	errno = calls.complete_errors[i];
	return -1;
}

int
__wrap_stream_connect(const struct address *address, unsigned timeout_ms)
{
	int fd;

	calls.connect_timeout = timeout_ms;
	if (calls.connect_error != 0) {
		errno = calls.connect_error;
		return -1;
	}
	fd = __real_stream_connect(address, timeout_ms);
	if (calls.send_buffer != 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &calls.send_buffer,
		    sizeof(calls.send_buffer));
	return fd;
}

bool
__wrap_stream_gone(int fd)
{
	struct address peer = {.length = sizeof(peer.in6)};

	return calls.is_gone ? getpeername(fd, &peer.any, &peer.length) == 0 &&
				   peer.in.sin_port == upstream_name.sin_port
			     : __real_stream_gone(fd);
}

int
__wrap_stream_send(int fd, const uint8_t *bytes, size_t size)
{
	if (calls.send_error == 0)
		return __real_stream_send(fd, bytes, size);
	errno = calls.send_error;
	return -1;
}

const char *
__wrap_stream_original_destination(int fd, struct address *target)
{
	if (calls.target.length == 0)
		return __real_stream_original_destination(fd, target);
	*target = calls.target;
	return NULL;
}

/* Connections that have memory. */
static size_t
allocated(void)
{
	size_t count = 0;

	for (size_t i = 0; i < LENGTH(memories); i++)
		count += memories[i] != NULL;
	return count;
}

/* How dialling goes. */
static struct {
	_Atomic bool fails, needs_target, held;
	_Atomic int waiting; /* threads that are held */
	/* Of the last one: descriptors in use, connections that have memory,
	 * how the thread is. */
	_Atomic int descriptors, connections;
	_Atomic bool is_detached;
	const char *first; /* what is sent before the data */
} dialling;

static void
look_around(void)
{
	pthread_attr_t attributes;
	int state = -1;

	dialling.descriptors = open_descriptors();
	dialling.connections = (int)allocated();
	if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
		(void)pthread_attr_getdetachstate(&attributes, &state);
		(void)pthread_attr_destroy(&attributes);
	}
	dialling.is_detached = state == PTHREAD_CREATE_DETACHED;
}

static int
dial(struct connection *c)
{
	struct address target,
	    upstream = {.in = upstream_name, .length = sizeof(upstream_name)};

	look_around();
	if (dialling.held) {
		(void)snprintf(c->target, sizeof(c->target), "192.0.2.9:9");
		(void)snprintf(c->upstream, sizeof(c->upstream), "9:9");
		c->reason = "not known yet";
	}
	dialling.waiting++;
	while (dialling.held)
		pause_ms(1);
	dialling.waiting--;
	if (dialling.fails) {
		(void)snprintf(c->upstream, sizeof(c->upstream), "some:1");
		c->reason = "out of luck";
		return -1;
	}
	if (dialling.needs_target) {
		c->reason =
		    stream_original_destination(c->relay.client, &target);
		if (c->reason != NULL || connection_check(c, &target) == -1)
			return -1;
	}
	return connection_connect(c, &upstream, (const uint8_t *)dialling.first,
	    strlen(dialling.first));
}

static unsigned limit; /* of connections */
static int freed;      /* what connection_open() has returned */

static size_t
lines_logged(void)
{
	size_t count;

	pthread_mutex_lock(&record.lock);
	count = record.count;
	pthread_mutex_unlock(&record.lock);
	return count;
}

/* The next line of the log; it must be of this level and contain this. */
static const char *
assert_logs(enum log_level level, const char *part)
{
	const struct line *line = &record.lines[record.next];

	AWAIT(lines_logged() > record.next);
	record.next++;
	if (line->level != level || strstr(line->text, part) == NULL)
		fail_msg("no '%s' of level %d in '%s' of level %d", part,
		    (int)level, line->text, (int)line->level);
	return line->text;
}

/* Nothing was logged that the test hasn't seen. */
static void
assert_logged_all(void)
{
	if (lines_logged() > record.next)
		fail_msg("'%s'", record.lines[record.next].text);
}

/* The rest of a line, from end= on, must be this. */
static void
assert_end(const char *line, const char *end, const char *reason)
{
	char expected[128];

	assert_non_null(strstr(line, " end="));
	(void)snprintf(
	    expected, sizeof(expected), " end=%s reason=\"%s\"", end, reason);
	assert_string_equal(strstr(line, " end="), expected);
}

/* A number of a line; the name is between a space and "=". */
static uint64_t
number_in(const char *line, const char *name)
{
	char text[32];
	uint64_t number = 0;

	(void)snprintf(text, sizeof(text), " %s=", name);
	line = strstr(line, text);
	assert_non_null(line);
	assert_int_equal(sscanf(line + strlen(text), "%" SCNu64, &number), 1);
	return number;
}

/* The line that a report makes. The log's is the place of it. */
static const char *
report(void)
{
	connection_report(REPORT_ASKED);
	return assert_logs(LEVEL_ANY, "msg=counters accepted=");
}

/* Whether the limit's descriptor is readable; reads it. */
static bool
has_freed(void)
{
	eventfd_t value = 0;

	if (eventfd_read(freed, &value) == -1) {
		assert_int_equal(errno, EAGAIN);
		return false;
	}
	assert_int_equal(value, 1);
	return true;
}

static unsigned own_threads; /* not of connections */

static void
open_connections(unsigned most)
{
	/* The last one's thread may not have ended as yet, and write to what is
	 * closed now. */
	AWAIT(connection_count(limit) == 0);
	AWAIT(count_threads() <= own_threads);
	if (freed != -1)
		close(freed);
	limit = most;
	freed = connection_open(dial);
	(void)connection_count(limit);
	assert_true(freed >= 0);
	assert_int_equal(fcntl(freed, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(freed, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_false(has_freed());
}

/* A child, which has connections and ends. */
static struct {
	pid_t pid;
	int commands, log;
	struct pair pairs[4];
	char text[512]; /* the last line of its log */
} child;

/* Counters as they were when the test began: accepted, and ends. */
static const char *const counters[] = {"accepted", "eof", "client-error",
    "upstream-error", "no-resources", "idle-timeout", "no-upstream",
    "no-target", "not-allowed", "stopped", "up", "down"};
static uint64_t counted[LENGTH(counters)];

static int
set_up(void **state)
{
	const char *line;

	(void)state;
	memset(&calls, 0, sizeof(calls));
	memset(&dialling, 0, sizeof(dialling));
	dialling.first = "";
	record.count = record.next = 0;
	settings = (struct settings){.listens_on_tcp = true,
	    .connect_timeout = DEADLINE_S,
	    .copy = COPY_BUFFER};
	upstream_listener = listen_loopback(&upstream_name);
	open_connections(100);
	line = report();
	for (size_t i = 0; i < LENGTH(counters); i++)
		counted[i] = number_in(line, counters[i]);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	forget_rules();
	record.blocked = NULL;
	calls.holds_close = false;
	dialling.held = false;
	close(upstream_listener);
	if (child.pid > 0) {
		(void)kill(child.pid, SIGKILL);
		(void)waitpid(child.pid, NULL, 0);
		child.pid = 0;
	}
	AWAIT(connection_count(limit) == 0);
	return 0;
}

/* Gives a client to the module, with memory as from the main thread. */
static int
give(int fd, const struct address *peer)
{
	struct connection *c = malloc(sizeof(*c));

	assert_non_null(c);
	return connection_start(c, fd, peer);
}

/* A client and, if dialling succeeds, its upstream; both ends are ours. */
struct ends {
	int client, upstream;
	uint64_t number; /* of the connection */
	struct address peer;
};

/* Hands a client to the module, which must return this. */
static struct ends
start_client(int expected)
{
	struct pair pair = make_pair();
	struct ends ends = {.client = pair.peer, .upstream = -1};

	reset_on_close(pair.ours); /* as a listener's sockets do */
	assert_int_equal(stream_local_address(pair.peer, &ends.peer), 0);
	assert_int_equal(give(pair.ours, &ends.peer), expected);
	return ends;
}

/* Starts a connection that has an upstream. */
static struct ends
start(void)
{
	struct ends ends = start_client(0);

	ends.upstream = accept_in_time(upstream_listener);
	return ends;
}

static void
end(struct ends ends)
{
	close(ends.client);
	if (ends.upstream != -1)
		close(ends.upstream);
}

/* One whole connection, and its line in the log. */
static void
assert_serves(void)
{
	char expected[256];
	uint64_t number = number_in(report(), "accepted") + 1;
	struct ends ends = start();
	const char *line;

	assert_passes(ends.client, ends.upstream, "request");
	assert_passes(ends.upstream, ends.client, "answer");
	(void)snprintf(expected, sizeof(expected),
	    "msg=closed conn=%" PRIu64
	    " client=127.0.0.1:%u upstream=127.0.0.1:%u "
	    "target=- up=7 down=6 ms=",
	    number, address_port(&ends.peer), ntohs(upstream_name.sin_port));
	close(ends.upstream);
	assert_int_equal(read_to_end(ends.client, NULL), 0);
	close(ends.client);
	line = assert_logs(LEVEL_DEBUG, "msg=connected ");
	line = assert_logs(LEVEL_INFO, expected);
	assert_string_equal(strstr(line, " end="), " end=eof");
}

static const enum copy_mode modes[] = {COPY_AUTO, COPY_SPLICE, COPY_BUFFER};

static void
test_serves(void **state)
{
	/* Fails if nothing works, or the log doesn't tell what a connection
	 * did. */
	struct ends ends;
	const char *line;

	(void)state;
	assert_serves();
	assert_serves();
	/* An end without an answer, and with no more fields after it. */
	ends = start();
	end(ends);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	line = assert_logs(LEVEL_INFO, "msg=closed conn=");
	assert_string_equal(strstr(line, " end="), " end=eof");
	AWAIT(connection_count(limit) == 0);
	assert_logged_all();
}

static void
test_ms(void **state)
{
	/* Fails if the log doesn't tell how long a connection took. */
	struct ends ends;

	(void)state;
	calls.false_clock = true;
	calls.clock_ms = 1000;
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	calls.clock_ms = 4321;
	end(ends);
	assert_int_equal(
	    number_in(assert_logs(LEVEL_INFO, "msg=closed "), "ms"), 3321);
}

static void
set_buffer(int fd, int option, int size)
{
	assert_int_equal(
	    setsockopt(fd, SOL_SOCKET, option, &size, sizeof(size)), 0);
}

static void
test_end_is_delivered(void **state)
{
	/* Fails if a client that reads late is reset after a complete answer,
	 * or a server after a complete request. Most of either still waits in
	 * the proxy's kernel when the connection ends. */
	static const char bytes[100000];
	struct pair pair = make_pair();
	int upstream;
	size_t count;

	(void)state;
	set_buffer(upstream_listener, SO_RCVBUF, 4096);
	calls.send_buffer = 2 * (int)sizeof(bytes);
	set_buffer(pair.peer, SO_RCVBUF, 4096);
	set_buffer(pair.ours, SO_SNDBUF, calls.send_buffer);
	reset_on_close(pair.ours);
	assert_int_equal(give(pair.ours, &(struct address){.length = 0}), 0);
	upstream = accept_in_time(upstream_listener);
	assert_int_equal(write_all(pair.peer, bytes, sizeof(bytes)), 0);
	assert_int_equal(write_all(upstream, bytes, sizeof(bytes)), 0);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	assert_int_equal(shutdown(upstream, SHUT_WR), 0);
	AWAIT(connection_count(limit) == 0); /* and so closed */
	assert_int_equal(read_to_end(pair.peer, &count), 0);
	assert_int_equal(count, sizeof(bytes));
	assert_int_equal(read_to_end(upstream, &count), 0);
	assert_int_equal(count, sizeof(bytes));
	close(pair.peer);
	close(upstream);
}

static void
test_end_is_not_delivered(void **state)
{
	/* Fails if the log says that all is well with a connection that will be
	 * reset, since what takes that back failed. */
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct ends ends;

		calls.completes = 0;
		calls.complete_errors[0] = i == 0 ? ENOMEM : 0;
		calls.complete_errors[1] = i == 1 ? ENOMEM : 0;
		ends = start();
		assert_int_equal(shutdown(ends.client, SHUT_WR), 0);
		assert_int_equal(shutdown(ends.upstream, SHUT_WR), 0);
		assert_logs(LEVEL_DEBUG, "msg=connected ");
		assert_end(assert_logs(LEVEL_WARN, "msg=failed "),
		    "no-resources", strerror(ENOMEM));
		close(ends.client);
		close(ends.upstream);
	}
}

static void
test_nothing_leaks(void **state)
{
	/* Fails if the proxy stops serving after some thousand connections. */
	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		int before;

		settings.copy = modes[i];
		open_connections(1);
		before = open_descriptors();
		for (int j = 0; j < 20; j++) {
			record.count = record.next = 0;
			assert_serves();
			/* But for the client's, and its peer. */
			assert_int_equal(dialling.descriptors, before + 2);
			assert_int_equal(dialling.connections, 1);
			AWAIT(connection_count(limit) == 0);
			assert_int_equal(open_descriptors(), before);
			assert_int_equal(allocated(), 0);
			AWAIT(has_freed());
		}
		assert_true(dialling.is_detached);
	}
}

#define AT_ONCE 20

static void
test_many_at_once(void **state)
{
	/* Fails if connections get mixed up, or wait for each other. */
	static struct ends all[AT_ONCE];
	static bool logged[AT_ONCE];
	char text[32];

	(void)state;
	for (int i = 0; i < AT_ONCE; i++) {
		all[i] = start();
		assert_logs(LEVEL_DEBUG, "msg=connected ");
	}
	assert_int_equal(connection_count(limit), AT_ONCE);
	for (int i = 0; i < AT_ONCE; i++) {
		(void)snprintf(text, sizeof(text), "this is number %d", i);
		assert_passes(all[i].client, all[i].upstream, text);
		assert_passes(all[i].upstream, all[i].client, text);
	}
	for (int i = 0; i < AT_ONCE; i++)
		end(all[i]);
	memset(logged, 0, sizeof(logged));
	for (int i = 0; i < AT_ONCE; i++) {
		uint64_t number =
		    number_in(assert_logs(LEVEL_INFO, "msg=closed "), "conn") -
		    counted[0] - 1;

		assert_in_range(number, 0, AT_ONCE - 1);
		assert_false(logged[number]);
		logged[number] = true;
	}
}

static void
test_debug(void **state)
{
	/* Fails if --log-level debug doesn't tell when a connection is made. */
	char expected[128];
	struct ends ends = start();

	(void)state;
	(void)snprintf(expected, sizeof(expected),
	    "msg=connected conn=%" PRIu64 " upstream=127.0.0.1:%u target=-",
	    counted[0] + 1, ntohs(upstream_name.sin_port));
	assert_string_equal(
	    assert_logs(LEVEL_DEBUG, "msg=connected "), expected);
	end(ends);
}

/* The next line of the log must tell that the only connection failed before it
 * had an upstream. */
static void
assert_failed(struct ends ends, const char *end, const char *reason)
{
	char expected[256];
	const char *line;

	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    "msg=failed conn=%" PRIu64 " client=127.0.0.1:%u upstream=%s "
	    "target=- up=0 down=0 ms=",
	    counted[0] + 1, address_port(&ends.peer),
	    strcmp(end, "no-upstream") == 0 ? "some:1" : "-");
	line = assert_logs(LEVEL_WARN, expected);
	assert_end(line, end, reason);
	close(ends.client);
	AWAIT(connection_count(limit) == 0);
}

static void
test_no_thread(void **state)
{
	/* Fails if a proxy that is short of threads ends, or leaves a client
	 * waiting for what won't come. */
	int before = open_descriptors();

	(void)state;
	calls.create_errors[0] = EAGAIN;
	assert_failed(start_client(EAGAIN), "no-resources", strerror(EAGAIN));
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(allocated(), 0);
	assert_int_equal(dialling.descriptors, 0); /* never called */
	assert_serves();
}

static void
test_no_second_thread(void **state)
{
	/* Fails if a connection for whose other direction there is no thread is
	 * half served, or not reported. */
	struct ends ends;

	(void)state;
	calls.create_errors[1] = EAGAIN;
	ends = start();
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(ends.upstream, NULL), ECONNRESET);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_end(assert_logs(LEVEL_WARN, "msg=failed "), "no-resources",
	    strerror(EAGAIN));
	end(ends);
	assert_serves();
}

static void
test_dial_fails(void **state)
{
	/* Fails if a client whose upstream isn't there gets a clean end, which
	 * looks like an answer, or if the log doesn't say why. */
	(void)state;
	dialling.fails = true;
	assert_failed(start_client(0), "no-upstream", "out of luck");
	dialling.fails = false;
	assert_serves();
}

static void
test_upstream_refuses(void **state)
{
	/* Fails if the log doesn't say which upstream refused. */
	struct sockaddr_in name = upstream_name;
	int bound = bind_loopback(&upstream_name);
	struct ends ends = start_client(0);
	char expected[128];
	const char *line;

	(void)state;
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    " upstream=127.0.0.1:%u target=- ", ntohs(upstream_name.sin_port));
	line = assert_logs(LEVEL_WARN, expected);
	assert_end(line, "no-upstream", strerror(ECONNREFUSED));
	close(ends.client);
	close(bound);
	upstream_name = name;
}

static void
test_not_redirected(void **state)
{
	/* Fails if a client that comes directly to a transparent proxy is sent
	 * somewhere. */
	(void)state;
	dialling.needs_target = true;
	assert_failed(start_client(0), "no-target",
	    "not redirected, it has no original destination");
}

static void
test_resets(void **state)
{
	/* Fails if a reset isn't passed on, or the log blames the wrong side.
	 */
	static const char *const ends[] = {"client-error", "upstream-error"};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes) * LENGTH(ends); i++) {
		struct ends both;
		const char *line;

		settings.copy = modes[i / LENGTH(ends)];
		open_connections(100);
		both = start();
		assert_logs(LEVEL_DEBUG, "msg=connected ");
		assert_passes(both.client, both.upstream, "hello");
		reset(i % 2 == 0 ? both.client : both.upstream);
		assert_int_equal(
		    read_to_end(i % 2 == 0 ? both.upstream : both.client, NULL),
		    ECONNRESET);
		close(i % 2 == 0 ? both.upstream : both.client);
		line = assert_logs(
		    i % 2 == 0 ? LEVEL_INFO : LEVEL_WARN, " up=5 down=0 ");
		assert_end(line, ends[i % 2], strerror(ECONNRESET));
		assert_serves();
	}
}

static void
assert_way(
    const struct copy_way *way, bool splice, bool bulk_splice, size_t chunk)
{
	assert_int_equal(way->splice, splice);
	assert_int_equal(way->bulk_splice, bulk_splice);
	assert_int_equal(way->chunk, chunk);
}

static void
test_engine(void **state)
{
	/* Fails if --copy or --vsock-chunk have no effect, or TCP gets what is
	 * meant for vsock. */
	(void)state;
	settings.vsock_chunk = 12345;
	for (size_t i = 0; i < LENGTH(modes) * 2; i++) {
		bool from_vsock = i % 2 == 1;
		bool splice = modes[i / 2] == COPY_SPLICE;

		settings.copy = modes[i / 2];
		settings.listens_on_tcp = !from_vsock;
		open_connections(100);
		assert_serves();
		assert_way(from_vsock ? &calls.up : &calls.down,
		    modes[i / 2] != COPY_BUFFER, splice, 0);
		assert_way(from_vsock ? &calls.down : &calls.up, splice, splice,
		    12345);
	}
}

static void
test_paired(void **state)
{
	/* Fails if --paired has no effect, or is there unasked. */
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		settings.paired = i;
		assert_serves();
		assert_int_equal(calls.paired, i);
	}
}

static void
test_client_unmapped(void **state)
{
	/* Fails if an IPv4 client of an IPv6 listener is named in a form that
	 * no filter of the log knows. */
	static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 192, 0, 2, 1};
	struct address peer = address_ip(AF_INET6, mapped, 4321);
	struct pair pair = make_pair();

	(void)state;
	dialling.fails = true;
	assert_int_equal(give(pair.ours, &peer), 0);
	assert_logs(LEVEL_WARN, " client=192.0.2.1:4321 ");
	close(pair.peer);
}

static struct connection
some_connection(void)
{
	return (struct connection){.relay.client = -1,
	    .relay.upstream = -1,
	    .upstream = "-",
	    .target = "-"};
}

static void
test_target(void **state)
{
	/* Fails if a target isn't logged. */
	struct connection c = some_connection();
	struct address target =
	    address_ip(AF_INET, (const uint8_t[4]){192, 0, 2, 1}, 443);

	(void)state;
	assert_int_equal(connection_check(&c, &target), 0);
	assert_string_equal(c.upstream, "-");
	assert_string_equal(c.target, "192.0.2.1:443");
	assert_null(c.reason);
}

static void
test_connect(void **state)
{
	/* Fails if dialling doesn't say where to, or why not. */
	struct address upstream = {
	    .in = upstream_name, .length = sizeof(upstream_name)};
	struct connection c = some_connection();
	char text[ADDRESS_TEXT_SIZE];
	struct sockaddr_in name;
	int fd, bound;

	(void)state;
	address_format(&upstream, text, sizeof(text));
	fd = connection_connect(&c, &upstream, NULL, 0);
	assert_true(fd >= 0);
	assert_string_equal(c.upstream, text);
	assert_null(c.reason);
	assert_int_equal(calls.connect_timeout, DEADLINE_S * 1000);
	close(fd);

	c = some_connection();
	bound = bind_loopback(&name);
	upstream.in = name;
	address_format(&upstream, text, sizeof(text));
	assert_int_equal(connection_connect(&c, &upstream, NULL, 0), -1);
	assert_string_equal(c.upstream, text);
	assert_string_equal(c.reason, strerror(ECONNREFUSED));
	close(bound);

	/* What it means depends on the family. */
	c = some_connection();
	upstream = vsock_address(3, 1200);
	calls.connect_error = ECONNRESET;
	assert_int_equal(connection_connect(&c, &upstream, NULL, 0), -1);
	assert_string_equal(c.upstream, "3:1200");
	assert_string_equal(c.reason, stream_reason(AF_VSOCK, ECONNRESET));
	assert_string_not_equal(c.reason, strerror(ECONNRESET));
}

static void
test_first(void **state)
{
	/* Fails if what comes before the data gets lost, comes late, or counts
	 * as the client's. */
	struct ends ends;
	char first[5];

	(void)state;
	dialling.first = "first";
	ends = start(); /* the client is silent */
	assert_int_equal(read_all(ends.upstream, first, 5), 5);
	assert_memory_equal(first, "first", 5);
	assert_passes(ends.client, ends.upstream, "second");
	assert_passes(ends.upstream, ends.client, "third");
	close(ends.client);
	assert_int_equal(read_to_end(ends.upstream, NULL), 0);
	close(ends.upstream);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_logs(LEVEL_INFO, " up=6 down=5 ");
	/* No bytes are not sent: on vsock, that is a question. */
	dialling.first = "";
	calls.send_error = EPIPE;
	assert_serves();
}

static void
test_first_not_sent(void **state)
{
	/* Fails if a service gets data though its header is missing, or the log
	 * doesn't say why there is none; if what an upstream said, before it
	 * closed without having taken it, is lost, or taken for complete. */
	int before = open_descriptors();
	struct ends ends;

	(void)state;
	dialling.first = "first";
	calls.send_error = ETIMEDOUT;
	ends = start();
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(ends.upstream, NULL), ECONNRESET);
	assert_end(assert_logs(LEVEL_WARN, " upstream=127.0.0.1:"),
	    "no-upstream", strerror(ETIMEDOUT));
	end(ends);
	AWAIT(connection_count(limit) == 0);
	assert_int_equal(open_descriptors(), before);

	calls.send_error = EPIPE;
	calls.is_gone = true;
	ends = start();
	assert_passes(ends.upstream, ends.client, "busy");
	close(ends.upstream);
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	close(ends.client);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_end(assert_logs(LEVEL_WARN, " up=0 down=4 "), "upstream-error",
	    stream_reason(AF_UNSPEC, EPIPE));
}

/* The report must differ so much from when the test began; what was logged
 * before doesn't matter. */
static const char *
assert_counted(const char *name, uint64_t count)
{
	const char *line;

	record.next = lines_logged();
	line = report();
	for (size_t i = 0; i < LENGTH(counters); i++) {
		if (strcmp(counters[i], name) == 0)
			assert_int_equal(
			    number_in(line, name), counted[i] + count);
	}
	return line;
}

/* What all connections have moved, ended ones and others. */
static void
await_moved(uint64_t up, uint64_t down)
{
	size_t i = LENGTH(counters);
	const char *line;

	do {
		record.count = record.next = 0; /* there may be many */
		line = report();
		pause_ms(1);
	} while (number_in(line, "up") < counted[i - 2] + up ||
		 number_in(line, "down") < counted[i - 1] + down);
	assert_counted("up", up);
	assert_counted("down", down);
}

static void
test_counters(void **state)
{
	/* Fails if the counters don't add up: an end is counted as another, not
	 * at all or twice, or bytes are forgotten when a connection ends. */
	struct ends ends;

	(void)state;
	ends = start();
	assert_passes(ends.client, ends.upstream, "12345");
	end(ends);
	AWAIT(connection_count(limit) == 0);
	assert_counted("eof", 1);
	for (int i = 0; i < 2; i++) {
		ends = start();
		assert_passes(ends.upstream, ends.client, "123");
		reset(i == 0 ? ends.client : ends.upstream);
		(void)read_to_end(i == 0 ? ends.upstream : ends.client, NULL);
		close(i == 0 ? ends.upstream : ends.client);
		AWAIT(connection_count(limit) == 0);
	}
	ends = start();
	AWAIT(lines_logged() > 0 &&
	      strstr(record.lines[lines_logged() - 1].text, "msg=connected "));
	connection_end_idle(0);
	(void)read_to_end(ends.client, NULL);
	end(ends);
	dialling.needs_target = true;
	end(start_client(0));
	AWAIT(connection_count(limit) == 0);
	dialling.fails = true;
	end(start_client(0));
	AWAIT(connection_count(limit) == 0);
	calls.creates = 0;
	calls.create_errors[0] = EAGAIN;
	end(start_client(EAGAIN));
	assert_null(access_add(ALLOW_CLIENT, false, "allow-client", "::/0"));
	end(start_client(0));
	for (size_t i = 0; i < LENGTH(counters) - 2; i++)
		assert_counted(counters[i],
		    i == 0 ? 8 : strcmp(counters[i], "stopped") != 0);
	assert_counted("up", 5);
	assert_int_equal(number_in(assert_counted("down", 6), "active"), 0);
}

static void
test_report(void **state)
{
	/* Fails if who reads the counters by machine finds other names, or in
	 * another order, or the bytes of those alive are left out. */
	char expected[512];
	uint64_t *c = counted;
	struct ends ends;

	(void)state;
	calls.false_clock = true;
	calls.clock_ms = 1000;
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_passes(ends.client, ends.upstream, "request");
	assert_passes(ends.upstream, ends.client, "answer");
	await_moved(7, 6);
	calls.clock_ms = 3500;
	(void)snprintf(expected, sizeof(expected),
	    "msg=counters accepted=%" PRIu64 " active=1 eof=%" PRIu64
	    " client-error=%" PRIu64 " upstream-error=%" PRIu64
	    " no-resources=%" PRIu64 " idle-timeout=%" PRIu64
	    " no-upstream=%" PRIu64 " no-target=%" PRIu64
	    " not-allowed=%" PRIu64 " stopped=0 up=%" PRIu64 " down=%" PRIu64
	    " longest-ms=2500",
	    c[0] + 1, c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[10] + 7,
	    c[11] + 6);
	assert_string_equal(report(), expected);
	end(ends);
	AWAIT(connection_count(limit) == 0);
	assert_counted("up", 7);
	assert_int_equal(number_in(assert_counted("down", 6), "longest-ms"), 0);
}

static void
test_target_denied(void **state)
{
	/* Fails if a target that the rules deny is connected to, or its line in
	 * the log doesn't say which, and why. */
	static const uint8_t bytes[4] = {192, 0, 2, 7};
	const char *line;

	(void)state;
	assert_null(
	    access_add(DENY_TARGET, false, "deny-target", "192.0.2.0/24:443"));
	calls.target = address_ip(AF_INET, bytes, 443);
	dialling.needs_target = true;
	for (int i = 0; i < 3; i++) { /* each has its line */
		struct ends ends = start_client(0);

		assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
		line = assert_logs(
		    LEVEL_WARN, " upstream=- target=192.0.2.7:443 up=0 ");
		assert_end(
		    line, "not-allowed", "--deny-target 192.0.2.0/24:443");
		close(ends.client);
	}
	AWAIT(connection_count(limit) == 0);
	assert_false(calls.connect_timeout != 0); /* never called */
	assert_counted("not-allowed", 3);
	calls.target = address_ip(AF_INET, bytes, 80);
	end(start());
	assert_string_equal(
	    strstr(assert_logs(LEVEL_DEBUG, "msg=connected "), " target="),
	    " target=192.0.2.7:80");
}

static void
test_target_local(void **state)
{
	/* Fails if the machine isn't asked what is local to it. */
	static const uint8_t bytes[16] = {[15] = 1};
	struct ends ends;

	(void)state;
	assert_null(access_add(ALLOW_TARGET, false, "allow-target", "local"));
	calls.target = address_ip(AF_INET6, bytes, 443);
	dialling.needs_target = true;
	end(start());
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_logs(LEVEL_INFO, "msg=closed ");
	calls.target = address_ip(AF_INET, (const uint8_t[]){240, 0, 0, 1}, 80);
	ends = start_client(0);
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_end(assert_logs(LEVEL_WARN, " upstream=- target=240.0.0.1:80 "),
	    "not-allowed", "no allow item names it");
	close(ends.client);
}

/* A client that no rule allows: it is gone when the module returns. */
static void
deny_client(void)
{
	struct ends ends = start_client(0);

	assert_int_equal(connection_count(limit), 0);
	assert_int_equal(allocated(), 0);
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	close(ends.client);
}

static void
test_client_denied(void **state)
{
	/* Fails if a client that the rules don't allow costs a thread, or is
	 * served, or many of them fill the log. */
	static const char reason[] = "no allow item names it";
	static const int times[] = {0, 999, 1000, 1001, 1999, 2000};
	static const char *const ends[] = {" end=not-allowed", NULL,
	    " end=not-allowed unlogged=1", NULL, NULL,
	    " end=not-allowed unlogged=2"};
	int before = open_descriptors();
	char expected[128];

	(void)state;
	assert_null(
	    access_add(ALLOW_CLIENT, false, "allow-client", "10.0.0.0/8"));
	calls.false_clock = true;
	for (size_t i = 0; i < LENGTH(times); i++) {
		const char *line;

		calls.clock_ms = 1000000 + times[i];
		deny_client();
		if (ends[i] == NULL)
			continue;
		line = assert_logs(LEVEL_WARN, "msg=failed conn=");
		assert_int_equal(number_in(line, "conn"), counted[0] + i + 1);
		(void)snprintf(expected, sizeof(expected),
		    " upstream=- target=- up=0 down=0 ms=0%s reason=\"%s\"",
		    ends[i], reason);
		assert_string_equal(strstr(line, " upstream="), expected);
	}
	assert_logged_all();
	assert_int_equal(calls.creates, 0);
	assert_int_equal(open_descriptors(), before);
	assert_counted("accepted", LENGTH(times));
	assert_int_equal(
	    number_in(assert_counted("not-allowed", LENGTH(times)), "active"),
	    0);
	/* Others are served, and a denied one's number is in none's line. */
	assert_null(
	    access_add(ALLOW_CLIENT, false, "allow-client", "127.0.0.0/8"));
	calls.clock_ms = 1002500;
	assert_serves();
}

static void
test_client_denied_mapped(void **state)
{
	/* Fails if an IPv4 client of a dual-stack listener passes for one of
	 * IPv6, whichever way. */
	static const uint8_t mapped[16] = {
	    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7};
	struct address address = address_ip(AF_INET6, mapped, 80);
	struct pair pair;

	(void)state;
	assert_null(access_add(ALLOW_CLIENT, false, "allow-client", "::/0"));
	pair = make_pair();
	reset_on_close(pair.ours);
	assert_int_equal(give(pair.ours, &address), 0);
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close(pair.peer);
	assert_int_equal(calls.creates, 0);
	assert_null(
	    access_add(ALLOW_CLIENT, false, "allow-client", "192.0.2.7"));
	pair = make_pair();
	assert_int_equal(give(pair.ours, &address), 0);
	close(accept_in_time(upstream_listener));
	close(pair.peer);
	AWAIT(connection_count(limit) == 0);
	assert_int_not_equal(calls.creates, 0);
}

static void
test_longest(void **state)
{
	/* Fails if the oldest connection isn't found, in whatever order they
	 * end, or the list breaks when one leaves it. */
	static const int orders[][3] = {
	    {0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

	(void)state;
	calls.false_clock = true;
	dialling.held = true;
	for (size_t i = 0; i < LENGTH(orders); i++) {
		struct ends all[3];
		bool alive[3] = {true, true, true};
		uint64_t oldest;

		record.count = record.next = 0;
		dialling.held = false;
		for (int j = 0; j < 3; j++) {
			calls.clock_ms = 1000 * (j + 1);
			all[j] = start();
			assert_logs(LEVEL_DEBUG, "msg=connected ");
		}
		calls.clock_ms = 10000;
		for (unsigned j = 0; j < 3; j++) {
			const char *line = report();

			for (oldest = 0; !alive[oldest];)
				oldest++;
			assert_int_equal(number_in(line, "active"), 3 - j);
			assert_int_equal(number_in(line, "longest-ms"),
			    9000 - 1000 * oldest);
			end(all[orders[i][j]]);
			alive[orders[i][j]] = false;
			line = assert_logs(LEVEL_INFO, "msg=closed ");
			assert_int_equal(
			    number_in(line, "ms"), 9000 - 1000 * orders[i][j]);
			AWAIT(connection_count(limit) == 2 - j);
		}
	}
}

static void
test_freed(void **state)
{
	/* Fails if clients wait although there is room again, or the main
	 * thread is woken for nothing. */
	struct ends ends[2];

	(void)state;
	open_connections(2);
	ends[0] = start();
	assert_false(has_freed());
	end(ends[0]);
	AWAIT(connection_count(limit) == 0);
	assert_false(has_freed()); /* there was room all the time */
	ends[0] = start();
	ends[1] = start();
	assert_int_equal(connection_count(limit), 2);
	assert_false(has_freed());
	end(ends[0]);
	AWAIT(connection_count(limit) == 1);
	AWAIT(has_freed());
	ends[0] = start();
	end(ends[1]);
	AWAIT(connection_count(limit) == 1);
	AWAIT(has_freed());
	end(ends[0]);
	AWAIT(connection_count(limit) == 0);
	assert_false(has_freed());
}

static void
test_failures_free(void **state)
{
	/* Fails if connections that come to nothing count against the limit for
	 * ever. */
	(void)state;
	open_connections(1);
	calls.create_errors[0] = EAGAIN;
	end(start_client(EAGAIN));
	assert_int_equal(connection_count(limit), 0);
	AWAIT(has_freed());
	dialling.fails = true;
	end(start_client(0));
	AWAIT(connection_count(limit) == 0);
	AWAIT(has_freed());
}

static void
test_limit_changed(void **state)
{
	/* Fails if a drain isn't woken when the last connection has ended, but
	 * before. */
	struct ends ends[3];

	(void)state;
	open_connections(3);
	for (int i = 0; i < 3; i++)
		ends[i] = start();
	limit = 1;
	assert_int_equal(connection_count(limit), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(has_freed());
		end(ends[i]);
		AWAIT(connection_count(limit) == 2 - i);
	}
	AWAIT(has_freed());
	/* Changed while it is full, and less than what there is. */
	open_connections(2);
	ends[0] = start();
	ends[1] = start();
	limit = 1;
	assert_int_equal(connection_count(limit), 2);
	end(ends[0]);
	AWAIT(connection_count(limit) == 1);
	assert_false(has_freed()); /* it is full again, or still */
	end(ends[1]);
	AWAIT(connection_count(limit) == 0);
	AWAIT(has_freed());
}

static void
test_counted_until_logged(void **state)
{
	/* Fails if a proxy that is told to end does so before the last line, or
	 * holds more than the limit says while the log is slow. */
	struct ends ends;

	(void)state;
	open_connections(1);
	record.blocked = "msg=closed ";
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	end(ends);
	AWAIT(record.waiting == 1);
	assert_int_equal(connection_count(limit), 1);
	assert_false(has_freed());
	/* But it isn't alive any more: its sockets are closed. The counters
	 * don't wait for its line. */
	assert_int_equal(number_in(assert_counted("eof", 1), "active"), 0);
	assert_int_equal(calls.sleeps, 0);
	record.blocked = NULL;
	AWAIT(connection_count(limit) == 0);
	AWAIT(has_freed());
	assert_logs(LEVEL_INFO, "msg=closed ");
	assert_logged_all();
}

static void
test_leaves_the_list_first(void **state)
{
	/* Fails if what is reset from outside may be a socket of somebody
	 * else's, since the connection's own is closed. */
	struct ends ends = start();

	(void)state;
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	calls.holds_close = true;
	end(ends);
	AWAIT(calls.closing == 1);
	assert_int_equal(number_in(assert_counted("eof", 1), "active"), 0);
	calls.holds_close = false;
	assert_logs(LEVEL_INFO, "msg=closed ");
}

/* Whether a report of changes has something to report; and if so, expects the
 * same in the log. */
static bool
has_changed(void)
{
	const char *numbers = connection_report(REPORT_CHANGE), *line;
	char expected[256];

	if (numbers == NULL)
		return false;
	line = assert_logs(LEVEL_ANY, "msg=counters ");
	(void)snprintf(expected, sizeof(expected),
	    "%u active, %u accepted, %u failed, %u bytes up, %u down",
	    (unsigned)number_in(line, "active"),
	    (unsigned)number_in(line, "accepted"),
	    (unsigned)(number_in(line, "accepted") - number_in(line, "active") -
		       number_in(line, "eof")),
	    (unsigned)number_in(line, "up"), (unsigned)number_in(line, "down"));
	assert_string_equal(numbers, expected);
	return true;
}

static void
test_report_of_changes(void **state)
{
	/* Fails if a log fills with what it has said already, or if something
	 * that changes, and be it one byte, goes unsaid. */
	struct ends ends;

	(void)state;
	(void)connection_report(REPORT_ASKED);
	record.next = lines_logged();
	assert_false(has_changed());
	assert_false(has_changed());
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_true(has_changed()); /* accepted */
	assert_false(has_changed());
	assert_passes(ends.client, ends.upstream, "1");
	AWAIT(has_changed()); /* up */
	assert_false(has_changed());
	assert_passes(ends.upstream, ends.client, "1");
	AWAIT(has_changed()); /* down */
	assert_false(has_changed());
	end(ends);
	AWAIT(connection_count(limit) == 0);
	assert_logs(LEVEL_INFO, "msg=closed ");
	assert_true(has_changed()); /* ended */
	assert_false(has_changed());
	dialling.fails = true;
	end(start_client(0));
	AWAIT(connection_count(limit) == 0);
	assert_logs(LEVEL_WARN, "msg=failed ");
	assert_true(has_changed());
	assert_true(
	    connection_report(REPORT_ASKED) != NULL); /* says it again */
	assert_logs(LEVEL_ANY, "msg=counters ");
	assert_false(has_changed());
	assert_logged_all();
}

static void
report_counters(void *argument)
{
	(void)argument;
	connection_report(REPORT_ASKED);
}

static void
test_report_holds_up_nobody(void **state)
{
	/* Fails if no connection can begin or end while a log that nobody reads
	 * takes its time with the counters. */
	static struct job job;
	struct ends ends;
	long limit_ms;
	bool ended;

	(void)state;
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	record.blocked = "msg=counters ";
	job_start(&job, report_counters, NULL);
	AWAIT(record.waiting == 1);
	end(ends);
	limit_ms = now_ms() + 5000;
	while (!(ended = lines_logged() > record.next) && now_ms() < limit_ms)
		pause_ms(1);
	record.blocked = NULL;
	job_end(&job);
	assert_true(ended);
	assert_logs(LEVEL_INFO, "msg=closed ");
	assert_int_equal(
	    number_in(assert_logs(LEVEL_ANY, "msg=counters "), "active"), 1);
}

/* Time passes; then idle connections are ended, if so many milliseconds have
 * passed for them. */
static void
pass_time(int ms, uint64_t idle)
{
	calls.clock_ms += ms;
	connection_end_idle(idle);
}

/* This one was ended for idleness, and it has passed so much. */
static void
assert_idle_end(struct ends ends, uint64_t up, uint64_t down)
{
	const char *line;

	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(ends.upstream, NULL), ECONNRESET);
	line = assert_logs(LEVEL_WARN, "msg=failed ");
	assert_end(line, "idle-timeout", strerror(ETIMEDOUT));
	assert_int_equal(number_in(line, "up"), up);
	assert_int_equal(number_in(line, "down"), down);
	end(ends);
}

static void
test_idle(void **state)
{
	/* Fails if connections that nobody uses stay, or one ends on which
	 * bytes move, if only one way. */
	struct ends ends[2];

	(void)state;
	calls.false_clock = true;
	calls.clock_ms = 5000;
	for (int way = 0; way < 2; way++) {
		for (int i = 0; i < 2; i++) {
			ends[i] = start();
			assert_logs(LEVEL_DEBUG, "msg=connected ");
		}
		for (unsigned i = 1; i <= 3; i++) {
			pass_time(999, 1000);
			/* Bytes, counted when they are looked at first. */
			assert_passes(
			    way == 0 ? ends[1].client : ends[1].upstream,
			    way == 0 ? ends[1].upstream : ends[1].client, "x");
			await_moved(way == 0 ? i : 3, way == 0 ? 0 : i);
			if (i > 1)
				continue;
			assert_int_equal(connection_count(limit), 2);
			pass_time(1, 1000);
			assert_idle_end(ends[0], 0, 0);
		}
		pass_time(999, 1000); /* sees the last one */
		pass_time(999, 1000);
		assert_logged_all();
		assert_int_equal(connection_count(limit), 1);
		pass_time(1, 1000);
		assert_idle_end(ends[1], way == 0 ? 3 : 0, way == 0 ? 0 : 3);
		AWAIT(connection_count(limit) == 0);
	}
}

static void
test_idle_refused(void **state)
{
	/* Fails if some 6.x kernels, which don't disconnect a socket as long as
	 * threads wait on it, make a clean end of a connection that failed: its
	 * close(2) is the reset. */
	struct ends ends = start();

	(void)state;
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	calls.busy = true;
	connection_end_idle(0);
	assert_idle_end(ends, 0, 0);
}

/* Time enough for what waits for the lock, or doesn't. */
static void
let_dial(void)
{
	calls.clock_ms++;
	dialling.held = false;
	pause_ms(100);
}

static void
test_idle_not_at_once(void **state)
{
	/* Fails if a connection that gets its upstream while idle ones are
	 * looked for is taken for one of them. */
	struct ends ends;

	(void)state;
	calls.false_clock = true;
	dialling.held = true;
	ends = start_client(0);
	AWAIT(dialling.waiting == 1);
	calls.look = let_dial;
	connection_end_idle(1000);
	assert_null(calls.look);
	ends.upstream = accept_in_time(upstream_listener);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_passes(ends.client, ends.upstream, "hello");
	await_moved(5, 0);
	pass_time(999, 1000);
	pass_time(1000, 1000);
	assert_idle_end(ends, 5, 0);
}

static void
test_idle_not_while_dialling(void **state)
{
	/* Fails if the time for dialling is that for idleness, or counts as
	 * idle: such a connection would end when it has barely begun. */
	struct ends ends;

	(void)state;
	calls.false_clock = true;
	dialling.held = true;
	ends = start_client(0);
	AWAIT(dialling.waiting == 1);
	pass_time(5000, 1000);
	pass_time(5000, 1000);
	assert_int_equal(connection_count(limit), 1);
	dialling.held = false;
	ends.upstream = accept_in_time(upstream_listener);
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	pass_time(999, 1000);
	assert_passes(ends.client, ends.upstream, "hello");
	await_moved(5, 0);
	pass_time(999, 1000);
	pass_time(999, 1000);
	assert_passes(ends.upstream, ends.client, "alive");
	await_moved(5, 5);
	pass_time(999, 1000);
	pass_time(1000, 1000);
	assert_idle_end(ends, 5, 5);
}

static void
test_idle_half_closed(void **state)
{
	/* Fails if a client that asked and waits for ever keeps its place, or
	 * an answer that comes late enough is cut off early. */
	struct ends ends;

	(void)state;
	calls.false_clock = true;
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	assert_int_equal(write_all(ends.client, "request", 7), 0);
	assert_int_equal(shutdown(ends.client, SHUT_WR), 0);
	assert_int_equal(read_to_end(ends.upstream, NULL), 0);
	await_moved(7, 0);
	pass_time(1, 1000);
	pass_time(999, 1000);
	assert_passes(ends.upstream, ends.client, "answer");
	await_moved(7, 6);
	pass_time(999, 1000);
	pass_time(1000, 1000);
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_end(assert_logs(LEVEL_WARN, "msg=failed "), "idle-timeout",
	    strerror(ETIMEDOUT));
	end(ends);
}

/* The module's end of a connection to one of our sockets. */
static int
other_end(int fd)
{
	struct address own, peer;
	int other = 0;

	assert_int_equal(stream_local_address(fd, &own), 0);
	do {
		assert_true(other < 256);
		peer = (struct address){.length = sizeof(peer.in6)};
	} while (getpeername(other++, &peer.any, &peer.length) == -1 ||
		 !same_address(&own, &peer));
	return other - 1;
}

/* Whether the counters have all that was written to an upstream. */
static bool
is_counted(int to, int upstream)
{
	int waiting = 0, arrived = 0;

	record.count = record.next = 0;
	assert_int_equal(ioctl(to, SIOCOUTQ, &waiting), 0);
	assert_int_equal(ioctl(upstream, FIONREAD, &arrived), 0);
	return number_in(report(), "up") ==
	       counted[LENGTH(counters) - 2] + (uint64_t)(waiting + arrived);
}

static void
test_idle_blocked(void **state)
{
	/* Fails if a peer that takes nothing holds its place for ever, because
	 * bytes are waiting for it. */
	struct ends ends;
	int to;

	(void)state;
	calls.false_clock = true;
	ends = start();
	assert_logs(LEVEL_DEBUG, "msg=connected ");
	to = other_end(ends.upstream);
	(void)fill_connection(ends.client, to);
	AWAIT(is_counted(to, ends.upstream));
	pass_time(1, 1000);
	pass_time(1000, 1000);
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(ends.upstream, NULL), ECONNRESET);
	assert_end(assert_logs(LEVEL_WARN, "msg=failed "), "idle-timeout",
	    strerror(ETIMEDOUT));
	end(ends);
}

/* Does as the parent says: '0' to '3' starts a connection; '!' holds those that
 * follow while they are dialled for; 'b' holds lines of ends back, 's' those of
 * the final report, 'S' the last one, until soon after that has begun, 'B' for
 * good; 'u' holds the next to unlock the list; 'r' reports; 'w' waits until
 * none is left; 'x' ends, as does 'X', with an error if that waited for a line.
 */
_Noreturn static void
be_child(int commands)
{
	struct address peer = {.length = sizeof(peer.in6)};
	char command;

	alarm(TEST_LIMIT_S);
	for (size_t i = 0; i < LENGTH(child.pairs); i++)
		close(child.pairs[i].peer);
	while (read(commands, &command, 1) == 1) {
		int fd = child.pairs[command & 3].ours;

		switch (command) {
		case '!': dialling.held = true; break;
		case 'B': record.stuck = true; /* fall through */
		case 'b': record.blocked = "msg=closed "; break;
		case 's': record.blocked = " end=stopped"; break;
		case 'S': record.blocked = "msg=stopped "; break;
		case 'u': record.unlocks = true; break;
		case 'r': connection_report(REPORT_ASKED); break;
		case 'w':
			while (connection_count(limit) > 0)
				pause_ms(1);
			break;
		case 'x':
		case 'X':
			record.ends = true;
			connection_report(REPORT_END);
			exit(command == 'X' && calls.sleeps > 0);
		default:
			(void)getpeername(fd, &peer.any, &peer.length);
			(void)give(fd, &peer);
			while (dialling.held && dialling.waiting == 0)
				pause_ms(1);
		}
	}
	_exit(1);
}

static void
command(char command)
{
	assert_int_equal(write(child.commands, &command, 1), 1);
}

static void
launch(void)
{
	int commands[2], log[2];

	assert_int_equal(pipe2(commands, O_CLOEXEC), 0);
	assert_int_equal(pipe2(log, O_CLOEXEC), 0);
	for (size_t i = 0; i < LENGTH(child.pairs); i++) {
		child.pairs[i] = make_pair();
		reset_on_close(child.pairs[i].ours);
	}
	(void)fflush(NULL);
	/* One of an earlier test that has not quite ended confuses emulators:
	 * QEMU 7.2 ends the child when it makes a thread itself. */
	AWAIT(count_threads() <= own_threads);
	child.pid = fork();
	if (child.pid == 0) {
		close(commands[1]);
		close(log[0]);
		record.fd = log[1];
		be_child(commands[0]);
	}
	assert_true(child.pid > 0);
	close(commands[0]);
	close(log[1]);
	child.commands = commands[1];
	child.log = log[0];
	for (size_t i = 0; i < LENGTH(child.pairs); i++)
		close(child.pairs[i].ours);
}

/* The next line of the child's log; "": it has ended. */
static const char *
child_any_line(void)
{
	size_t length = 0;

	for (length = 0; length < sizeof(child.text) - 1; length++) {
		if (!wait_for(child.log, POLLIN))
			fail_msg("no more log after %d s", DEADLINE_S);
		if (read(child.log, child.text + length, 1) != 1 ||
		    child.text[length] == '\n')
			break;
	}
	child.text[length] = '\0';
	return child.text;
}

/* The same, but debug lines don't count. */
static const char *
child_line(void)
{
	do
		(void)child_any_line();
	while (strstr(child.text, "msg=connected ") != NULL);
	return child.text;
}

/* Starts a connection of the child's, and waits until it has its upstream. */
static struct ends
start_in_child(int i)
{
	struct ends ends = {.client = child.pairs[i].peer};

	command((char)('0' + i));
	ends.upstream = accept_in_time(upstream_listener);
	assert_non_null(strstr(child_any_line(), "msg=connected "));
	ends.number = counted[0] + (uint64_t)i + 1;
	assert_int_equal(stream_local_address(ends.client, &ends.peer), 0);
	return ends;
}

static void
assert_child_logs(const char *start, const char *end)
{
	const char *line = child_line();

	if (strstr(line, start) != line || strlen(line) < strlen(end) ||
	    strcmp(line + strlen(line) - strlen(end), end) != 0)
		fail_msg("not '%s...%s': '%s'", start, end, line);
}

/* The child's last line, with so many of these ends; it exits well. */
static void
assert_stopped(uint64_t eof, uint64_t stopped)
{
	const char *line = child_line();
	int status;

	assert_true(strncmp(line, "msg=stopped accepted=", 21) == 0);
	assert_int_equal(number_in(line, "active"), 0);
	assert_int_equal(number_in(line, "eof"), counted[1] + eof);
	assert_int_equal(number_in(line, "stopped"), stopped);
	assert_string_equal(child_line(), "");
	assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
	child.pid = 0;
	close(child.log);
	close(child.commands);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* The line of a connection that the end of the child has cut off. */
static void
assert_cut_off(struct ends ends, unsigned up, unsigned down)
{
	char expected[256], upstream[32] = "-";

	if (ends.upstream != -1)
		(void)snprintf(upstream, sizeof(upstream), "127.0.0.1:%u",
		    ntohs(upstream_name.sin_port));
	(void)snprintf(expected, sizeof(expected),
	    "msg=failed conn=%" PRIu64 " client=127.0.0.1:%u upstream=%s "
	    "target=- up=%u down=%u ms=",
	    ends.number, address_port(&ends.peer), upstream, up, down);
	assert_child_logs(expected, " end=stopped");
}

static void
assert_both_reset(struct ends ends)
{
	assert_int_equal(read_to_end(ends.client, NULL), ECONNRESET);
	if (ends.upstream != -1)
		assert_int_equal(read_to_end(ends.upstream, NULL), ECONNRESET);
	end(ends);
}

static void
test_stopped(void **state)
{
	/* Fails if cut-off data looks complete when the proxy ends, or the log
	 * doesn't tell who was cut off. One that is dialled for may be writing
	 * its names right now. */
	struct ends ends[3];
	const char *line;

	(void)state;
	launch();
	ends[0] = start_in_child(0);
	ends[1] = start_in_child(1);
	command('!');
	command('2');
	ends[2] = (struct ends){.client = child.pairs[2].peer,
	    .upstream = -1,
	    .number = counted[0] + 3};
	assert_int_equal(
	    stream_local_address(ends[2].client, &ends[2].peer), 0);
	assert_passes(ends[0].client, ends[0].upstream, "hello");
	assert_int_equal(write_all(ends[1].upstream, "cut o", 5), 0);
	do {
		command('r');
		line = child_line();
	} while (number_in(line, "up") < counted[10] + 5 ||
		 number_in(line, "down") < counted[11] + 5);
	assert_int_equal(number_in(line, "active"), 3);
	command('x');
	assert_cut_off(ends[2], 0, 0);
	assert_cut_off(ends[1], 0, 5);
	assert_cut_off(ends[0], 5, 0);
	assert_stopped(0, 3);
	for (size_t i = 0; i < LENGTH(ends); i++)
		assert_both_reset(ends[i]);
	close(child.pairs[3].peer);
}

/* A connection of the child's that has ended, and whose line is held. */
static void
end_in_child(char how)
{
	struct ends ends;

	launch();
	command(how);
	ends = start_in_child(0);
	end(ends);
	assert_child_logs("waiting", "");
	for (size_t i = 1; i < LENGTH(child.pairs); i++)
		close(child.pairs[i].peer);
	command('x');
}

static void
test_stopped_beside_ends(void **state)
{
	/* Fails if a connection that ends by itself at the last moment isn't
	 * logged, or after the last line. */
	(void)state;
	end_in_child('b');
	assert_child_logs("msg=closed ", " end=eof");
	assert_stopped(1, 0);
}

static void
test_stopped_log_stuck(void **state)
{
	/* Fails if a log that nobody reads keeps the proxy from ending. */
	(void)state;
	end_in_child('B');
	assert_stopped(1, 0);
}

static void
test_stopped_when_logged(void **state)
{
	/* Fails if the end waits for lines that have been written, or never
	 * will be. */
	struct ends ends;

	(void)state;
	launch();
	ends = start_in_child(0);
	end(ends);
	assert_child_logs("msg=closed ", " end=eof");
	command('w');
	ends = start_in_child(1);
	command('X');
	assert_cut_off(ends, 0, 0);
	assert_stopped(1, 1);
	assert_both_reset(ends);
	close(child.pairs[2].peer);
	close(child.pairs[3].peer);
}

static void
test_stopped_before_logging(void **state)
{
	/* Fails if a connection that has left the list, but not got as far as
	 * its line, isn't logged. */
	struct ends ends;

	(void)state;
	launch();
	ends = start_in_child(0);
	command('u');
	command('r');
	(void)child_line(); /* it has read both */
	end(ends);
	assert_child_logs("waiting", "");
	command('x');
	assert_child_logs("msg=closed ", " end=eof");
	assert_stopped(1, 0);
	for (size_t i = 1; i < LENGTH(child.pairs); i++)
		close(child.pairs[i].peer);
}

static void
test_stopped_before_ending(void **state)
{
	/* Fails if a connection that ends after the list was gone through is
	 * logged twice, or after the last line. */
	struct ends ends;

	(void)state;
	launch();
	command('S');
	ends = start_in_child(0);
	command('x');
	assert_cut_off(ends, 0, 0);
	assert_child_logs("waiting", "");
	end(ends);
	assert_stopped(0, 1);
	for (size_t i = 1; i < LENGTH(child.pairs); i++)
		close(child.pairs[i].peer);
}

static void
test_stopped_while_ending(void **state)
{
	/* Fails if a connection that ends while the list is gone through hangs
	 * the proxy, is logged twice, or not. */
	struct ends ends[4];

	(void)state;
	launch();
	command('s');
	for (int i = 0; i < 4; i++)
		ends[i] = start_in_child(i);
	command('x');
	assert_child_logs("waiting", "");
	for (int i = 0; i < 4; i++)
		end(ends[i]);
	for (int i = 3; i >= 0; i--) {
		if (i < 3)
			assert_child_logs("waiting", "");
		assert_cut_off(ends[i], 0, 0);
	}
	assert_stopped(0, 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	struct CMUnitTest tests[] = {
	    TEST(test_serves),
	    TEST(test_ms),
	    TEST(test_end_is_delivered),
	    TEST(test_end_is_not_delivered),
	    TEST(test_nothing_leaks),
	    TEST(test_many_at_once),
	    TEST(test_debug),
	    TEST(test_no_thread),
	    TEST(test_no_second_thread),
	    TEST(test_dial_fails),
	    TEST(test_upstream_refuses),
	    TEST(test_not_redirected),
	    TEST(test_target_denied),
	    TEST(test_target_local),
	    TEST(test_client_denied),
	    TEST(test_client_denied_mapped),
	    TEST(test_resets),
	    TEST(test_engine),
	    TEST(test_paired),
	    TEST(test_client_unmapped),
	    TEST(test_target),
	    TEST(test_connect),
	    TEST(test_first),
	    TEST(test_first_not_sent),
	    TEST(test_counters),
	    TEST(test_report),
	    TEST(test_longest),
	    TEST(test_freed),
	    TEST(test_failures_free),
	    TEST(test_limit_changed),
	    TEST(test_counted_until_logged),
	    TEST(test_leaves_the_list_first),
	    TEST(test_report_holds_up_nobody),
	    TEST(test_report_of_changes),
	    TEST(test_idle),
	    TEST(test_idle_refused),
	    TEST(test_idle_not_at_once),
	    TEST(test_idle_not_while_dialling),
	    TEST(test_idle_half_closed),
	    TEST(test_idle_blocked),
	    TEST(test_stopped),
	    TEST(test_stopped_beside_ends),
	    TEST(test_stopped_log_stuck),
	    TEST(test_stopped_when_logged),
	    TEST(test_stopped_before_logging),
	    TEST(test_stopped_before_ending),
	    TEST(test_stopped_while_ending),
	};

	limit_tests(tests, LENGTH(tests));
	own_threads = count_own_threads();
	(void)signal(SIGPIPE, SIG_IGN);
	freed = -1;
	return cmocka_run_group_tests_name("connection", tests, NULL, NULL);
}
