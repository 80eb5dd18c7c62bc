/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of server. server_run() never returns, so a child runs it, with
 * a listener on loopback and a dial function of its own; the test is the
 * client, the upstream and the reader of the log. Memory that both share says
 * which calls of the child fail, and tells what it did. */
#include "server.h"

#include "../rules.h"
#include "capacity.h"
#include "confine.h"
#include "log.h"
#include "options.h"
#include "service.h"
#include "stream.h"
#include "support.h"

#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

int
__real_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int
__wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
unsigned __real_capacity_connections(unsigned descriptors, const char **name);
unsigned __wrap_capacity_connections(unsigned descriptors, const char **name);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
void __wrap_confine_process(bool connects, bool reads, rlim_t descriptors);
int __real_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags);
int __real_getaddrinfo(const char *node, const char *service,
    const struct addrinfo *hints, struct addrinfo **list);
int __wrap_getaddrinfo(const char *node, const char *service,
    const struct addrinfo *hints, struct addrinfo **list);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_worker_start(struct worker_job *job);
int __wrap_worker_start(struct worker_job *job);
int __real_signalfd(int fd, const sigset_t *set, int flags);
int __wrap_signalfd(int fd, const sigset_t *set, int flags);
int __real_stream_listen(const struct address *address);
int __wrap_stream_listen(const struct address *address);
void __real_stream_prepare(int fd, int family);
void __wrap_stream_prepare(int fd, int family);

#define MOST_CALLS 32

/* What the child is to do and has done. */
struct shared {
	/* errno of the first calls; 0: as ever */
	int accept_errors[MOST_CALLS];
	int create_errors[MOST_CALLS];
	int malloc_errors[MOST_CALLS];
	int eventfd_error, signalfd_error;
	int signalfd_flags;
	int poll_error;     /* of all the main thread's waits */
	bool tells_of_exit; /* exit(3) leaves a line in the log */
	_Atomic size_t accepts, creates, mallocs; /* calls */
	_Atomic int accept_flags;                 /* of all calls */
	_Atomic int prepared;                     /* accepted sockets */
	bool without_streams; /* start with none of the standard ones */
	bool without_null;    /* nor with a /dev/null */
	bool without_reader;  /* nobody reads the log */

	/* A false clock stands still, but for waits that come to nothing: as
	 * many as are left end at once, and it goes on by their length. */
	bool false_clock;
	_Atomic int clock_ms, waits_left;
	/* Those waits, in milliseconds; with the true clock, those in which
	 * nothing is accepted. */
	_Atomic int delays[MOST_CALLS];
	_Atomic size_t delayed;
	/* The main thread's waits; how long the longest was to take, and the
	 * last. */
	_Atomic size_t waits;
	_Atomic int longest_wait, last_wait;
	_Atomic bool both; /* they last until a signal and a client have come */
	/* Whether it listened when it wrote its last line. */
	_Atomic bool listened;
	/* Descriptors in use before server_run(), and at the first wait; those
	 * of the standard streams that are closed or sockets then. */
	int own_descriptors;
	_Atomic int first_descriptors, standard_sockets;

	/* What confine_process() was told, how often, and whether too late; how
	 * many descriptors there were then, and the one made last. */
	_Atomic unsigned confined;
	bool connects, reads, confined_late;
	rlim_t most_descriptors;
	int confined_descriptors, last_descriptor;

	size_t dial_errors; /* this many dials fail */
	_Atomic size_t dials;
	_Atomic int descriptors[MOST_CALLS]; /* in use, at each */
	/* At the first dial: the limit of descriptors, what signals do, how the
	 * client's socket is. */
	struct rlimit limit;
	bool ignores_sigpipe, ignores_sighup;
	int no_delay;

	bool hangs_resolving;
	_Atomic bool resolving;

	_Atomic unsigned vsock_buffer; /* before vsock sockets are made */
	_Atomic unsigned stall_ms;     /* likewise */
	bool poses_as_vsock;           /* a vsock listener is one of TCP */
	struct rlimit first_limit;     /* of descriptors, before server_run() */
	size_t descriptors_max;        /* the hard limit to ask for; 0: none */
	unsigned capacity;             /* 0: what the limits allow */
	unsigned needed;               /* descriptors for a connection */
	int listen_error;              /* of stream_listen() */
};
static struct shared *shared;

/* Whether this is the child, whose calls are wrapped. */
static bool is_server;

/* What the child is passed as descriptor 3; -1: nothing. */
static int passed;

/* What the child's next call of a script does; 0: as ever. */
static int
scripted(const int *errors, _Atomic size_t *calls)
{
	size_t i = (*calls)++;

	return i < MOST_CALLS ? errors[i] : 0;
}

static int
fails(int error)
{
	if (is_server && error != 0)
		errno = error;
	return is_server && error != 0 ? -1 : 0;
}

int
__wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	if (!is_server)
		return __real_accept4(fd, address, length, flags);
	shared->accept_flags |= flags;
	if (fails(scripted(shared->accept_errors, &shared->accepts)))
		return -1;
	return __real_accept4(fd, address, length, flags);
}

unsigned
__wrap_capacity_connections(unsigned descriptors, const char **name)
{
	unsigned result = __real_capacity_connections(descriptors, name);

	shared->needed = descriptors;
	if (shared->capacity == 0)
		return result;
	*name = "some-limit";
	return shared->capacity;
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int ms;

	if (clock != CLOCK_MONOTONIC || !is_server || !shared->false_clock)
		return __real_clock_gettime(clock, now);
	ms = shared->clock_ms;
	*now = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	return 0;
}

void
__wrap_confine_process(bool connects, bool reads, rlim_t descriptors)
{
	shared->connects = connects;
	shared->reads = reads;
	shared->most_descriptors = descriptors;
	shared->confined_late = shared->creates > 0 || shared->waits > 0;
	shared->confined_descriptors = open_descriptors();
	shared->confined++;
	/* From now on, nobody can be connected to by a name. */
	(void)unsetenv("NOTIFY_SOCKET");
}

int
__wrap_eventfd(unsigned value, int flags)
{
	if (fails(shared->eventfd_error))
		return -1;
	shared->last_descriptor = __real_eventfd(value, flags);
	return shared->last_descriptor;
}

int
__wrap_getaddrinfo(const char *node, const char *service,
    const struct addrinfo *hints, struct addrinfo **list)
{
	while (is_server && shared->hangs_resolving) {
		shared->resolving = true;
		(void)pause();
	}
	return __real_getaddrinfo(node, service, hints, list);
}

void *
__wrap_malloc(size_t size)
{
	/* Only the server's own: where libc is static, all are wrapped. */
	if (is_server && size == sizeof(struct connection) &&
	    fails(scripted(shared->malloc_errors, &shared->mallocs)))
		return NULL;
	return __real_malloc(size);
}

int
__wrap_open(const char *path, int flags, ...)
{
	bool is_null = strcmp(path, "/dev/null") == 0;

	if (is_server && is_null && shared->without_null)
		return fails(ENOENT);
	return __real_open(path, flags, 0);
}

static void
note_wait(int timeout)
{
	struct stat status;

	shared->last_wait = timeout;
	if (timeout > shared->longest_wait)
		shared->longest_wait = timeout;
	if (shared->waits == 0) {
		shared->first_descriptors = open_descriptors();
		shared->standard_sockets = 0;
		for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
			shared->standard_sockets +=
			    fstat(i, &status) == -1 || S_ISSOCK(status.st_mode);
	}
	shared->waits++;
}

static void
note_delay(int timeout)
{
	size_t i = shared->delayed++;

	if (i < MOST_CALLS)
		shared->delays[i] = timeout;
}

/* The main thread waits for three things; the last is the listener. It also
 * waits for room to write a line. */
int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	static int listener = -1;
	size_t i = is_server ? (size_t)shared->accepts : 0;
	int ready;

	if (is_server && count == 1 && fds->fd == STDERR_FILENO &&
	    gettid() == getpid())
		shared->listened = fcntl(listener, F_GETFD) != -1;
	if (!is_server || count != 3)
		return __real_poll(fds, count, timeout);
	note_wait(timeout);
	if (fds[2].fd != -1)
		listener = fds[2].fd;
	if (fails(shared->poll_error))
		return -1;
	if (shared->both) {
		while (__real_poll(fds, 1, 1000) == 0 ||
		       __real_poll(fds + 2, 1, 1000) == 0)
			;
		return __real_poll(fds, count, 0);
	}
	if (fds[2].fd != -1 && i < MOST_CALLS &&
	    shared->accept_errors[i] != 0) {
		ready = __real_poll(fds, 2, 0);
		fds[2].revents = POLLIN;
		return ready + 1;
	}
	if (!shared->false_clock || timeout == INT_MAX) {
		if (fds[2].fd == -1)
			note_delay(timeout);
		return __real_poll(fds, count, timeout);
	}
	/* A short wait in truth, so that waits_left is looked at. */
	ready = __real_poll(fds, count, shared->waits_left > 0 ? 0 : 10);
	if (ready != 0 || shared->waits_left == 0)
		return ready;
	shared->waits_left--;
	note_delay(timeout);
	shared->clock_ms += timeout;
	return 0;
}

int
__wrap_worker_start(struct worker_job *job)
{
	int error = 0;

	if (is_server)
		error = scripted(shared->create_errors, &shared->creates);
	return error != 0 ? error : __real_worker_start(job);
}

int
__wrap_signalfd(int fd, const sigset_t *set, int flags)
{
	shared->signalfd_flags = flags;
	return fails(shared->signalfd_error) ? -1
					     : __real_signalfd(fd, set, flags);
}

int
__wrap_stream_listen(const struct address *address)
{
	static const uint8_t bytes[4] = {127, 0, 0, 1};
	struct address loopback = address_ip(AF_INET, bytes, 0);

	if (address->any.sa_family != AF_VSOCK)
		return __real_stream_listen(address);
	shared->vsock_buffer = stream_vsock_buffer;
	shared->stall_ms = stream_stall_ms;
	if (shared->poses_as_vsock)
		return __real_stream_listen(&loopback);
	errno = shared->listen_error;
	return -1;
}

void
__wrap_stream_prepare(int fd, int family)
{
	shared->prepared++;
	__real_stream_prepare(fd, family);
}

/* What the test is to the child: its upstream, if it accepts. */
static struct sockaddr_in upstream_name;

static bool
ignores(int signal)
{
	struct sigaction action;

	return sigaction(signal, NULL, &action) == 0 &&
	       action.sa_handler == SIG_IGN;
}

static int
dial(struct connection *c)
{
	size_t i = shared->dials++;
	struct address upstream = {
	    .in = upstream_name, .length = sizeof(upstream_name)};
	socklen_t length = sizeof(shared->no_delay);

	if (i < MOST_CALLS)
		shared->descriptors[i] = open_descriptors();
	if (i == 0) {
		(void)getrlimit(RLIMIT_NOFILE, &shared->limit);
		shared->ignores_sigpipe = ignores(SIGPIPE);
		shared->ignores_sighup = ignores(SIGHUP);
		(void)getsockopt(c->relay.client, IPPROTO_TCP, TCP_NODELAY,
		    &shared->no_delay, &length);
	}
	if (!shared->poses_as_vsock) {
		shared->vsock_buffer = stream_vsock_buffer;
		shared->stall_ms = stream_stall_ms;
	}
	if (i < shared->dial_errors) {
		(void)snprintf(c->upstream, sizeof(c->upstream), "some:1");
		c->reason = "out of luck";
		return -1;
	}
	return connection_connect(c, &upstream, NULL, 0);
}

/* The child, from here. */
static struct {
	pid_t pid; /* 0: none */
	int log;
	struct sockaddr_in name; /* where it listens */
	char text[16384];        /* what came of the log */
	size_t length, next;     /* next: where the next line starts */
} server;

static int upstream_listener;
static enum log_level level;

static void
tell_of_exit(void)
{
	(void)fputs("exit\n", stderr);
}

_Noreturn static void
be_server(dial_function *function, int log)
{
	struct rlimit limit;
	int unread[2];

	alarm(TEST_LIMIT_S);
	if (shared->without_reader && pipe(unread) == 0) {
		close(unread[0]);
		(void)dup2(unread[1], STDERR_FILENO);
		close(unread[1]);
	} else {
		(void)dup2(log, STDERR_FILENO);
	}
	(void)signal(SIGPIPE, SIG_DFL);
	if (passed != -1)
		(void)dup2(passed, PASSED_LISTENER);
	/* Some emulators don't allow it: the test takes what there is. */
	if (shared->descriptors_max != 0) {
		limit.rlim_cur = limit.rlim_max = shared->descriptors_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	(void)getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 20;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	(void)getrlimit(RLIMIT_NOFILE, &shared->first_limit);
	for (int i = STDIN_FILENO; shared->without_streams && i <= 2; i++)
		close(i);
	if (shared->tells_of_exit)
		(void)atexit(tell_of_exit);
	log_program = "unit";
	log_threshold = level;
	shared->own_descriptors = open_descriptors();
	is_server = true;
	server_run(function);
}

/* Starts a child; its listener may fail. */
static void
launch(dial_function *function)
{
	int log[2];

	assert_int_equal(pipe2(log, O_CLOEXEC), 0);
	(void)fflush(NULL);
	server.pid = fork();
	if (server.pid == 0) {
		close(log[0]);
		be_server(function, log[1]);
	}
	assert_true(server.pid > 0);
	close(log[1]);
	server.log = log[0];
	server.length = server.next = 0;
}

/* The next line of the log, without its newline; NULL: the log has ended. */
static char *
next_line(void)
{
	char *line = server.text + server.next, *newline;
	ssize_t n;

	for (;;) {
		/* Not server.length: a compiler may think that it changes. */
		const size_t length = server.length;

		server.text[length] = '\0';
		newline = strchr(line, '\n');
		if (newline != NULL)
			break;
		if (length >= sizeof(server.text) - 1)
			return NULL; /* full */
		if (!wait_for(server.log, POLLIN))
			fail_msg("no more log after %d s", DEADLINE_S);
		n = read(server.log, server.text + length,
		    sizeof(server.text) - 1 - length);
		if (n <= 0)
			return NULL;
		server.length = length + (size_t)n;
	}
	*newline = '\0';
	server.next = (size_t)(newline + 1 - server.text);
	return line;
}

static void
assert_contains(const char *line, const char *part)
{
	if (line == NULL || strstr(line, part) == NULL)
		fail_msg("no '%s' in '%s'", part, line == NULL ? "" : line);
}

/* The next line of the log must contain this. */
static char *
assert_logs(const char *part)
{
	char *line = next_line();

	assert_contains(line, part);
	return line;
}

/* Starts a child, which listens. */
static void
serve(dial_function *function)
{
	unsigned port = 0;
	char *colon;

	launch(function);
	if (!settings.listens_on_tcp && settings.host.text == NULL)
		assert_logs(" level=warn prog=unit msg=\"connects to any ");
	colon = strstr(assert_logs(" msg=listening listen="), " listen=");
	colon = strstr(colon, " upstream=");
	assert_non_null(colon);
	while (*colon != ':')
		colon--;
	assert_int_equal(sscanf(colon, ":%u ", &port), 1);
	server.name = (struct sockaddr_in){.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* The child has ended by itself: the log is at its end, and this was its
 * status. */
static void
assert_exits(int expected)
{
	int status;

	assert_null(next_line());
	assert_int_equal(waitpid(server.pid, &status, 0), server.pid);
	server.pid = 0;
	close(server.log);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), expected);
}

/* The rest of a line, from end= on, must be this. */
static void
assert_end(const char *line, const char *end, const char *reason)
{
	char expected[128];

	assert_contains(line, " end=");
	(void)snprintf(
	    expected, sizeof(expected), " end=%s reason=\"%s\"", end, reason);
	assert_string_equal(strstr(line, " end="), expected);
}

/* The next line of the log must say that accept(2) failed like this. */
static void
assert_accept_failed(int error)
{
	char expected[128];

	(void)snprintf(expected, sizeof(expected),
	    " level=error prog=unit msg=\"cannot accept\" reason=\"%s\"",
	    strerror(error));
	assert_logs(expected);
}

static void
send_signal(int signal)
{
	assert_int_equal(kill(server.pid, signal), 0);
}

/* Ends the child; nothing more was to be logged. */
static void
stop_server(void)
{
	send_signal(SIGTERM);
	assert_logs(" level=info prog=unit msg=stopping active=");
	assert_logs(" level=info prog=unit msg=stopped accepted=");
	assert_exits(0);
}

static int
set_up(void **state)
{
	(void)state;
	memset(shared, 0, sizeof(*shared));
	settings = (struct settings){.listens_on_tcp = true,
	    .connect_timeout = DEADLINE_S,
	    .max_connections = 100,
	    .copy = COPY_BUFFER};
	if (!host_port_parse("127.0.0.1:0", 0, &settings.host))
		return -1;
	level = LEVEL_INFO;
	passed = -1;
	upstream_listener = listen_loopback(&upstream_name);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	forget_rules();
	close(upstream_listener);
	if (server.pid > 0) {
		(void)kill(server.pid, SIGKILL);
		(void)waitpid(server.pid, NULL, 0);
		close(server.log);
	}
	server.pid = 0;
	return 0;
}

static int
connect_client(void)
{
	int fd = connect_loopback(&server.name);

	assert_true(fd >= 0);
	return fd;
}

static unsigned
port_of(int fd)
{
	struct sockaddr_in name;
	socklen_t length = sizeof(name);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &length), 0);
	return ntohs(name.sin_port);
}

/* One whole connection, and its line in the log. */
static void
assert_serves(unsigned number)
{
	char expected[256];
	int client = connect_client(),
	    upstream = accept_in_time(upstream_listener);

	assert_passes(client, upstream, "request");
	assert_passes(upstream, client, "answer");
	(void)snprintf(expected, sizeof(expected),
	    " level=info prog=unit msg=closed conn=%u client=127.0.0.1:%u "
	    "upstream=127.0.0.1:%u target=- up=7 down=6 ms=",
	    number, port_of(client), ntohs(upstream_name.sin_port));
	close(upstream);
	assert_int_equal(read_to_end(client, NULL), 0);
	close(client);
	assert_contains(assert_logs(expected), " end=eof");
}

static const enum copy_mode modes[] = {COPY_AUTO, COPY_SPLICE, COPY_BUFFER};

static void
test_serves(void **state)
{
	/* Fails if nothing works, or the log doesn't tell what a connection
	 * did. */
	int client, upstream;
	char *line;

	(void)state;
	serve(dial);
	assert_serves(1);
	assert_serves(2);
	/* An end without an answer, and with no more fields after it. */
	client = connect_client();
	upstream = accept_in_time(upstream_listener);
	close(upstream);
	close(client);
	line = assert_logs(" msg=closed conn=3 ");
	assert_string_equal(strstr(line, " end="), " end=eof");
	stop_server();
	assert_int_equal(shared->accept_flags, SOCK_CLOEXEC);
	assert_int_equal(shared->signalfd_flags & SFD_CLOEXEC, SFD_CLOEXEC);
	assert_true(shared->ignores_sigpipe);
	assert_true(shared->ignores_sighup);
	assert_int_not_equal(shared->no_delay, 0);
	assert_int_equal(shared->delayed, 0);
	/* They have the listener's options: seven calls less for each. */
	assert_int_equal(shared->prepared, 0);
	/* The listener, and two to be woken by. */
	assert_int_equal(
	    shared->first_descriptors, shared->own_descriptors + 3);
}

static void
test_nothing_leaks(void **state)
{
	/* Fails if the proxy stops serving after some thousand connections. */
	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i];
		/* One that is logged may have its place for a moment. */
		settings.max_connections = 10;
		serve(dial);
		for (unsigned j = 1; j <= 20; j++)
			assert_serves(j);
		stop_server();
		for (size_t j = 0; j < 20; j++) {
			/* But for the client's. */
			assert_int_equal(shared->descriptors[j],
			    shared->first_descriptors + 1);
		}
	}
}

static void
test_quiet(void **state)
{
	/* Fails if --log-level error still tells of what goes well. */
	(void)state;
	level = LEVEL_ERROR;
	launch(dial);
	AWAIT(shared->waits > 0);
	send_signal(SIGTERM);
	assert_exits(0);
}

static void
test_accept_goes_on(void **state)
{
	/* Fails if one broken connection, or a signal, stops or slows down the
	 * proxy. */
	static const int errors[] = {EINTR, ECONNABORTED, ECONNABORTED, EAGAIN};

	(void)state;
	memcpy(shared->accept_errors, errors, sizeof(errors));
	serve(dial);
	assert_serves(1);
	stop_server();
	assert_int_equal(shared->delayed, 0);
	assert_int_equal(shared->accepts, LENGTH(errors) + 1);
}

static void
test_pauses(void **state)
{
	/* Fails if a proxy that is short of descriptors or memory, or may not
	 * accept any more, ends, burns a processor, or fills a disk with its
	 * log. */
	static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO,
	    ENOPROTOOPT, ENETDOWN, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH,
	    EOPNOTSUPP, ETIMEDOUT, EPERM, EPERM};

	(void)state;
	memcpy(shared->accept_errors, errors, sizeof(errors));
	shared->false_clock = true;
	shared->waits_left = LENGTH(errors);
	serve(dial);
	/* After 0 and 1000 ms. */
	assert_accept_failed(EMFILE);
	assert_accept_failed(ENETUNREACH);
	assert_serves(1);
	stop_server();
	assert_int_equal(shared->delayed, LENGTH(errors));
	for (size_t i = 0; i < LENGTH(errors); i++)
		assert_int_equal(shared->delays[i], 100);
}

static void
test_accept_fails_for_good(void **state)
{
	/* Fails if a proxy whose listener is broken hangs about, or ends
	 * without a word. */
	static const int errors[] = {EBADF, EINVAL, ENOTSOCK, EFAULT};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors); i++) {
		memset(shared, 0, sizeof(*shared));
		/* Also within the second in which nothing is to be said. */
		shared->accept_errors[0] = EMFILE;
		shared->accept_errors[1] = errors[i];
		serve(dial);
		assert_accept_failed(EMFILE);
		assert_accept_failed(errors[i]);
		assert_logs(" level=info prog=unit msg=stopped accepted=0 ");
		assert_exits(1);
		assert_int_equal(shared->accepts, 2);
	}
}

/* The first client gets no thread: a pause, then the next one is served. */
static void
check_no_thread(void)
{
	char expected[256], *line;
	int client;

	shared->create_errors[0] = EAGAIN;
	shared->false_clock = true;
	shared->waits_left = 1;
	serve(dial);
	client = connect_client();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    " level=warn prog=unit msg=failed conn=1 client=127.0.0.1:%u "
	    "upstream=- target=- up=0 down=0 ms=",
	    port_of(client));
	line = assert_logs(expected);
	assert_end(line, "no-resources", strerror(EAGAIN));
	close(client);
	assert_serves(2);
	stop_server();
	assert_int_equal(shared->descriptors[0], shared->first_descriptors + 1);
	assert_int_equal(shared->delayed, 1);
	assert_int_equal(shared->delays[0], 100);
	assert_int_equal(shared->dials, 1);
}

static void
test_no_thread(void **state)
{
	/* Fails if a proxy that is short of threads ends, or leaves a client
	 * waiting for what won't come. */
	(void)state;
	check_no_thread();
}

static void
test_no_thread_at_limit(void **state)
{
	/* Fails if the end of a connection that got no thread, and made room by
	 * that, ends the pause: thousands of clients would be reset. */
	(void)state;
	settings.max_connections = 1;
	check_no_thread();
}

static void
test_ends_at_once(void **state)
{
	/* Fails if the end runs what exit(3) runs, while other threads are in
	 * it. */
	(void)state;
	shared->tells_of_exit = true;
	serve(dial);
	stop_server();
}

static void
test_cannot_wait(void **state)
{
	/* Fails if a proxy that may not call poll(2) any more burns a
	 * processor, says nothing, or serves nobody, signals included. */
	long since = now_ms();

	(void)state;
	shared->poll_error = EPERM;
	serve(dial);
	assert_accept_failed(EPERM);
	assert_serves(1);
	assert_int_equal(kill(server.pid, SIGTERM), 0);
	assert_logs(" msg=stopping ");
	assert_logs(" msg=stopped ");
	assert_exits(0);
	assert_true((long)shared->waits <= (now_ms() - since) / 100 + 1);
}

static void
test_wait_interrupted(void **state)
{
	/* Fails if a proxy that was stopped and goes on takes that for a
	 * failure. */
	(void)state;
	shared->poll_error = EINTR;
	serve(dial);
	assert_serves(1);
	stop_server();
}

/* A connection that lasts. */
struct held {
	int client, upstream;
};

static void
hold(struct held *held)
{
	held->client = connect_client();
	held->upstream = accept_in_time(upstream_listener);
	assert_passes(held->client, held->upstream, "hello");
}

static void
let_go(struct held held)
{
	close(held.client);
	close(held.upstream);
	assert_logs(" msg=closed conn=");
}

static void
test_no_memory(void **state)
{
	/* Fails if a proxy that is short of memory ends, or spins, or loses the
	 * client. */
	struct held held;

	(void)state;
	shared->malloc_errors[0] = ENOMEM;
	shared->false_clock = true;
	shared->waits_left = 1;
	serve(dial);
	hold(&held);
	assert_accept_failed(ENOMEM);
	let_go(held);
	stop_server();
	assert_int_equal(shared->delayed, 1);
	assert_int_equal(shared->delays[0], 100);
	assert_int_equal(shared->mallocs, 2);
	assert_int_equal(shared->accepts, 1);
}

static void
assert_full(void)
{
	assert_logs(" level=warn prog=unit msg=\"cannot accept\" "
		    "reason=\"as many connections as are allowed\"");
}

static void
test_connection_limit(void **state)
{
	/* Fails if more connections are served than allowed, or those beyond
	 * the limit are lost instead of waiting. */
	int clients[3], upstreams[2];
	struct pollfd pending;

	(void)state;
	settings.max_connections = 2;
	shared->false_clock = true;
	serve(dial);
	for (int i = 0; i < 2; i++) {
		clients[i] = connect_client();
		upstreams[i] = accept_in_time(upstream_listener);
	}
	clients[2] = connect_client();
	assert_full();
	assert_int_equal(write_all(clients[2], "waiting", 7), 0);
	assert_passes(clients[0], upstreams[0], "a");
	assert_passes(clients[1], upstreams[1], "b");
	/* The third one isn't dialled for: nothing comes for a while. */
	pending = (struct pollfd){.fd = upstream_listener, .events = POLLIN};
	assert_int_equal(poll(&pending, 1, 100), 0);
	assert_int_equal(shared->accepts, 2);
	close(clients[0]);
	close(upstreams[0]);
	assert_logs(" msg=closed conn=1 ");
	upstreams[0] = accept_in_time(upstream_listener);
	assert_passes(upstreams[0], clients[2], "hello");
	close(clients[1]);
	close(upstreams[1]);
	assert_logs(" msg=closed conn=2 ");
	close(clients[2]);
	close(upstreams[0]);
	assert_contains(assert_logs(" conn=3 "), " up=7 down=5 ");
	stop_server();
}

static void
test_failures_free_slots(void **state)
{
	/* Fails if connections that come to nothing count against the limit for
	 * ever. */
	(void)state;
	settings.max_connections = 1;
	shared->accept_errors[0] = EMFILE;
	shared->create_errors[0] = EAGAIN;
	shared->dial_errors = 1;
	serve(dial);
	assert_logs(" msg=\"cannot accept\" ");
	for (int i = 1; i <= 2; i++) {
		int client = connect_client();

		assert_int_equal(read_to_end(client, NULL), ECONNRESET);
		assert_logs(
		    i == 1 ? " end=no-resources " : " end=no-upstream ");
		close(client);
	}
	assert_serves(3);
	assert_serves(4);
	stop_server();
}

static void
expect_rules(const char *counts, bool warns)
{
	launch(dial);
	for (const struct access_rule *r = access_rules;
	     level == LEVEL_DEBUG && r != NULL; r = r->next) {
		const char *line =
		    assert_logs(" level=debug prog=unit msg=rule rule=\"--");

		assert_non_null(strstr(line, r->text));
	}
	if (warns)
		assert_logs(" level=warn prog=unit msg=\"connects to any ");
	assert_string_equal(
	    strstr(assert_logs(" msg=listening "), " allow-client="), counts);
	stop_server();
}

static void
test_rules(void **state)
{
	/* Fails if a log doesn't tell which rules hold, or that none limit what
	 * can be connected to. */
	(void)state;
	settings.listens_on_tcp = false;
	settings.vsock = vsock_address(3, 1200);
	shared->poses_as_vsock = true;
	settings.host.text = NULL;
	assert_null(access_add(ALLOW_CLIENT, true, "allow-client", "16"));
	expect_rules(" allow-client=1 allow-target=0 deny-target=0", true);
	level = LEVEL_DEBUG;
	assert_null(access_add(DENY_TARGET, true, "deny-target", "local,*:25"));
	expect_rules(" allow-client=1 allow-target=0 deny-target=2", false);
	assert_null(access_add(ALLOW_TARGET, true, "allow-target", "*,*,*"));
	expect_rules(" allow-client=1 allow-target=3 deny-target=2", false);
	forget_rules();
	assert_null(
	    access_add(ALLOW_TARGET, true, "allow-target", "10.0.0.0/8"));
	expect_rules(" allow-client=0 allow-target=1 deny-target=0", false);
	forget_rules();
	/* Others have no need for them. */
	settings.host.text = "some-upstream:1";
	expect_rules(" allow-client=0 allow-target=0 deny-target=0", false);
}

static void
test_listening_line(void **state)
{
	/* Fails if the log doesn't tell what the proxy does. */
	static const struct {
		enum copy_mode mode;
		const char *text;
	} cases[] = {{COPY_BUFFER, "copy=buffer"}, {COPY_SPLICE, "copy=splice"},
	    {COPY_AUTO, "copy=auto"}};
	static const char *const upstreams[] = {
	    "some-upstream:1", "3:1200", "88:*", "*:*"};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases) * LENGTH(upstreams); i++) {
		size_t which = i % LENGTH(upstreams);
		char expected[256];

		memset(shared, 0, sizeof(*shared));
		settings.copy = cases[i / LENGTH(upstreams)].mode;
		settings.max_connections = 77;
		settings.listens_on_tcp = which == 1 || which == 2;
		shared->poses_as_vsock = !settings.listens_on_tcp;
		assert_true(host_port_parse("127.0.0.1:0", 0, &settings.host));
		if (!settings.listens_on_tcp)
			settings.host.text =
			    which == 0 ? upstreams[which] : NULL;
		settings.vsock = which == 2 ? vsock_address(88, VMADDR_PORT_ANY)
					    : vsock_address(3, 1200);
		launch(dial);
		if (which == 3)
			assert_logs(" level=warn prog=unit msg=\"connects to "
				    "any target: see --deny-target and "
				    "--allow-target\"");
		(void)snprintf(expected, sizeof(expected),
		    " upstream=%s %s max-connections=77 "
		    "limited-by=--max-connections "
		    "allow-client=0 allow-target=0 deny-target=0",
		    upstreams[which], cases[i / LENGTH(upstreams)].text);
		assert_string_equal(
		    strstr(assert_logs(" level=info prog=unit msg=listening "
				       "listen=127.0.0.1:"),
			" upstream="),
		    expected);
		stop_server();
	}
}

/* How many connections there may be, and why, as the log tells. */
static unsigned long
told_limit(char *reason)
{
	unsigned long told = 0;
	char *line;

	launch(dial);
	line = assert_logs(" msg=listening ");
	assert_int_equal(
	    sscanf(strstr(line, " max-connections="),
		" max-connections=%lu limited-by=%31s", &told, reason),
	    2);
	stop_server();
	return told;
}

static const size_t needs[] = {
    [COPY_AUTO] = 4, [COPY_SPLICE] = 6, [COPY_BUFFER] = 2};

static void
test_limits(void **state)
{
	/* Fails if the proxy takes on more connections than it has descriptors
	 * for, or leaves those unused that it could have. */
	static const size_t descriptors[] = {0, 128, 30};

	(void)state;
	for (size_t i = 0; i < LENGTH(descriptors) * LENGTH(modes); i++) {
		size_t wanted = descriptors[i / LENGTH(modes)], most;
		unsigned long told;
		char reason[32];

		memset(shared, 0, sizeof(*shared));
		shared->descriptors_max = wanted;
		settings.max_connections = 0;
		settings.copy = modes[i % LENGTH(modes)];
		told = told_limit(reason);
		most = shared->first_limit.rlim_max / needs[settings.copy];
		most = most > 10 ? most - 10 : 1;
		assert_in_range(told, 1, most);
		/* Of the machine's own limits another may be less. */
		if (wanted != 0 && shared->first_limit.rlim_max == wanted) {
			assert_int_equal(told, most);
			assert_string_equal(reason, "RLIMIT_NOFILE");
		}
	}
}

static void
test_other_limits(void **state)
{
	/* Fails if a limit other than that of descriptors isn't kept to, or
	 * --max-connections doesn't win. */
	char reason[32];

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		memset(shared, 0, sizeof(*shared));
		shared->capacity = 33;
		settings.copy = modes[i];
		settings.max_connections = 0;
		assert_int_equal(told_limit(reason), 33);
		assert_string_equal(reason, "some-limit");
		assert_int_equal(shared->needed, needs[modes[i]]);
		settings.max_connections = 44;
		assert_int_equal(told_limit(reason), 44);
		assert_string_equal(reason, "--max-connections");
	}
	/* It is what counts, too. */
	memset(shared, 0, sizeof(*shared));
	settings.max_connections = 0;
	shared->capacity = 1;
	shared->false_clock = true;
	serve(dial);
	hold(&(struct held){0, 0});
	close(connect_client());
	assert_full();
}

static void
test_from_vsock(void **state)
{
	/* Fails if --vsock-buffer or --tcp-user-timeout doesn't reach the
	 * sockets, or if it can't be served from vsock. */
	(void)state;
	for (size_t i = 0; i < LENGTH(modes) * 2; i++) {
		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i / 2];
		settings.vsock_buffer = 262144 + (unsigned)i;
		settings.user_timeout = (unsigned)i;
		settings.listens_on_tcp = i % 2 == 0;
		settings.vsock = vsock_address(3, 1200);
		shared->poses_as_vsock = !settings.listens_on_tcp;
		serve(dial);
		assert_serves(1);
		stop_server();
		assert_int_equal(shared->vsock_buffer, 262144 + (unsigned)i);
		assert_int_equal(shared->stall_ms, (unsigned)i * 1000);
	}
}

static void
test_confined(void **state)
{
	/* Fails if the proxy can do more than it needs to when the first bytes
	 * come from outside; or less; or if who waits for the line of the log
	 * may still see it unconfined. */
	static const struct {
		const char *host;
		bool listens_on_tcp, reads;
	} cases[] = {{"127.0.0.1:0", true, false}, {"localhost:0", true, false},
	    {"127.0.0.1:7", false, false}, {"[::1]:7", false, false},
	    {"localhost:7", false, true}, {NULL, false, false}};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases) * LENGTH(modes); i++) {
		size_t c = i / LENGTH(modes);

		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i % LENGTH(modes)];
		settings.listens_on_tcp = cases[c].listens_on_tcp;
		settings.vsock = vsock_address(3, 1200);
		settings.host = (struct host_port){.text = NULL};
		assert_true(cases[c].host == NULL ||
			    host_port_parse(cases[c].host, 0, &settings.host));
		shared->poses_as_vsock = !settings.listens_on_tcp;
		serve(dial);
		assert_int_equal(shared->confined, 1);
		if (c != 1) /* which may listen on ::1 */
			assert_serves(1);
		stop_server();
		assert_int_equal(shared->confined, 1);
		assert_false(shared->confined_late);
		assert_int_equal(shared->connects, !settings.listens_on_tcp);
		assert_int_equal(shared->reads, cases[c].reads);
		/* For ten connections more than allowed. */
		assert_int_equal(shared->most_descriptors,
		    (size_t)shared->last_descriptor +
			(needs[settings.copy] + 2 * cases[c].reads) *
			    (100 + 10));
		assert_int_equal(
		    shared->confined_descriptors, shared->first_descriptors);
	}
}

static void
test_soft_limit_raised(void **state)
{
	/* Fails if the proxy makes do with 1,024 descriptors where it might
	 * have more. */
	(void)state;
	serve(dial);
	assert_serves(1);
	stop_server();
	assert_true(shared->first_limit.rlim_max > 0);
	assert_true(shared->limit.rlim_cur == shared->first_limit.rlim_max);
}

static void
test_closed_streams(void **state)
{
	/* Fails if a proxy that was started without standard error sends its
	 * log to a client. */
	(void)state;
	for (int i = 0; i < 2; i++) {
		memset(shared, 0, sizeof(*shared));
		shared->without_streams = true;
		shared->without_null = i == 1;
		shared->standard_sockets = -1;
		launch(dial);
		AWAIT(shared->waits > 0);
		send_signal(SIGTERM);
		assert_exits(0);
		assert_int_equal(shared->standard_sockets, 0);
	}
}

static void
test_port_ignored(void **state)
{
	/* Fails if who names a port that has no effect isn't told so. */
	(void)state;
	settings.upstream_has_port = true;
	launch(dial);
	assert_logs(" level=warn prog=unit "
		    "msg=\"the port of --vsock is ignored\"");
	assert_logs(" msg=listening ");
	stop_server();
}

static void
test_log_without_reader(void **state)
{
	/* Fails if a proxy that has something to say before it listens is
	 * killed by that. */
	(void)state;
	settings.upstream_has_port = true;
	shared->without_reader = true;
	launch(dial);
	AWAIT(shared->waits > 0);
	send_signal(SIGTERM);
	assert_exits(0);
}

static void
test_cannot_listen(void **state)
{
	/* Fails if a proxy that can't listen doesn't say so, or hangs about. */
	static char text[32];
	char expected[256];

	(void)state;
	(void)snprintf(
	    text, sizeof(text), "127.0.0.1:%u", ntohs(upstream_name.sin_port));
	assert_true(host_port_parse(text, 0, &settings.host));
	launch(dial);
	(void)snprintf(expected, sizeof(expected),
	    " level=error prog=unit msg=\"cannot listen\" listen=%s "
	    "reason=\"%s\"",
	    text, strerror(EADDRINUSE));
	assert_logs(expected);
	assert_exits(1);
}

static void
test_cannot_listen_vsock(void **state)
{
	/* Fails if a user who binds another machine's CID isn't told so. */
	char *line;

	(void)state;
	settings.listens_on_tcp = false;
	settings.vsock = vsock_address(5, 1200);
	shared->listen_error = EADDRNOTAVAIL;
	launch(dial);
	line = assert_logs(
	    " level=error prog=unit msg=\"cannot listen\" listen=5:1200 ");
	assert_contains(line, " reason=\"not a CID of this machine");
	assert_exits(1);

	shared->listen_error = EAFNOSUPPORT;
	launch(dial);
	line = assert_logs(" listen=5:1200 ");
	assert_string_equal(
	    strstr(line, " reason="), " reason=\"this kernel has no vsock\"");
	assert_exits(1);
}

static void
test_dual_stack(void **state)
{
	/* Fails if an IPv4 client of an IPv6 listener is named in a form that
	 * no filter of the log knows. */
	struct address any = address_ip(AF_INET6, (const uint8_t[16]){0}, 0);
	int fd = stream_listen(&any);

	(void)state;
	if (fd == -1) {
		print_message("no IPv6 here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
	assert_true(host_port_parse("[::]:0", 0, &settings.host));
	serve(dial);
	assert_serves(1);
	stop_server();
}

static void
test_full(void **state)
{
	/* Fails if a proxy that is full fills the log, says nothing, burns a
	 * processor, or lets clients wait although there is room. */
	struct held held[3];
	int waiting;

	(void)state;
	settings.max_connections = 1;
	shared->false_clock = true;
	serve(dial);
	hold(&held[0]);
	waiting = connect_client();
	assert_full();
	shared->waits_left = 3;
	for (int i = 0; i < 3; i++)
		assert_full();
	AWAIT(shared->waits_left == 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(shared->delays[i], 1000);
	/* The place goes to the next one at once; in the same second it is
	 * known that others wait. */
	let_go(held[0]);
	held[1] = (struct held){waiting, accept_in_time(upstream_listener)};
	waiting = connect_client();
	assert_passes(held[1].client, held[1].upstream, "hello");
	let_go(held[1]);
	held[2] = (struct held){waiting, accept_in_time(upstream_listener)};
	assert_passes(held[2].client, held[2].upstream, "hello");
	shared->clock_ms += 1000;
	waiting = connect_client();
	assert_full();
	close(waiting);
	assert_int_equal(shared->delayed, 3);
	send_signal(SIGTERM);
	assert_logs(" msg=stopping active=1 ");
	assert_logs(" conn=3 ");
	assert_logs(" msg=stopped accepted=3 ");
	assert_exits(0);
	close(held[2].client);
	close(held[2].upstream);
}

static void
test_full_and_cannot_wait(void **state)
{
	/* Fails if clients are left waiting although there is room, where
	 * poll(2) fails. Time stands still, so that nothing else ends the
	 * pause. */
	struct held held[2];
	size_t waits;

	(void)state;
	settings.max_connections = 1;
	shared->poll_error = EPERM;
	shared->false_clock = true;
	serve(dial);
	assert_accept_failed(EPERM);
	hold(&held[0]);
	held[1].client = connect_client();
	waits = shared->waits;
	AWAIT(shared->waits >= waits + 2); /* it has seen that it is full */
	let_go(held[0]);
	held[1].upstream = accept_in_time(upstream_listener);
	assert_passes(held[1].client, held[1].upstream, "hello");
	let_go(held[1]);
	stop_server();
}

static void
test_rests(void **state)
{
	/* Fails if a proxy that has nothing to do wakes a processor, or with
	 * --idle-timeout more often than that needs. */
	(void)state;
	serve(dial);
	assert_serves(1);
	stop_server();
	assert_int_equal(shared->waits, 2); /* for the client, and the end */
	assert_int_equal(shared->longest_wait, INT_MAX);
	assert_int_equal(shared->delayed, 0);

	memset(shared, 0, sizeof(*shared));
	settings.idle_timeout = 1;
	serve(dial);
	AWAIT(shared->waits > 0);
	assert_in_range(shared->longest_wait, 250, 500);
	stop_server();
}

static void
test_idle_looked_for_in_time(void **state)
{
	/* Fails if what else happens delays the look for idle connections. */
	(void)state;
	settings.idle_timeout = 5;
	shared->false_clock = true;
	serve(dial);
	AWAIT(shared->last_wait == 500);
	shared->clock_ms += 300;
	send_signal(SIGUSR1);
	(void)assert_logs(" msg=counters ");
	AWAIT(shared->last_wait == 200);
	shared->clock_ms += 200;
	AWAIT(shared->last_wait == 500);
	stop_server();
}

static void
test_stats_in_time(void **state)
{
	/* Fails if counters come at other times than --stats-interval says: if
	 * the times drift, if one that was missed is made up for, or if they
	 * come although nothing has changed. */
	(void)state;
	settings.stats_interval = 3;
	shared->false_clock = true;
	serve(dial);
	AWAIT(shared->last_wait == 3000);
	assert_serves(1);
	shared->clock_ms += 2900;
	send_signal(SIGUSR1);
	assert_contains(assert_logs(" msg=counters "), " accepted=1 ");
	AWAIT(shared->last_wait == 100);
	shared->waits_left = 1; /* nothing has changed since */
	AWAIT(shared->last_wait == 3000);
	assert_serves(2);
	AWAIT(shared->last_wait == 3000);
	shared->clock_ms += 7000; /* two are due */
	assert_contains(assert_logs(" msg=counters "), " accepted=2 ");
	AWAIT(shared->last_wait == 2000);
	stop_server();
}

static void
test_idle_looked_for_while_full(void **state)
{
	/* Fails if a proxy that is full looks for idle connections, whose end
	 * would make room, less often. */
	struct held held;
	int waiting;

	(void)state;
	settings.idle_timeout = 5;
	settings.max_connections = 1;
	shared->false_clock = true;
	serve(dial);
	hold(&held);
	waiting = connect_client();
	assert_full();
	shared->waits_left = 4;
	AWAIT(shared->waits_left == 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(shared->delays[i], 500);
	close(waiting);
	close(held.client);
	close(held.upstream);
}

static void
test_idle(void **state)
{
	/* Fails if --idle-timeout has no effect, or not the one it says. */
	struct held held;
	char *line;
	unsigned long ms = 0;

	(void)state;
	settings.idle_timeout = 5;
	shared->false_clock = true;
	serve(dial);
	hold(&held);
	shared->waits_left = 100;
	assert_int_equal(read_to_end(held.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(held.upstream, NULL), ECONNRESET);
	shared->waits_left = 0;
	line = assert_logs(" level=warn prog=unit msg=failed conn=1 ");
	assert_end(line, "idle-timeout", strerror(ETIMEDOUT));
	assert_int_equal(sscanf(strstr(line, " ms="), " ms=%lu", &ms), 1);
	assert_true(ms >= 5000);
	close(held.client);
	close(held.upstream);
	assert_serves(2);
	stop_server();
}

static void
test_signals(void **state)
{
	/* Fails if the counters can't be asked for, or a hangup, or asking,
	 * ends or disturbs the proxy. */
	struct held held;
	char *line;

	(void)state;
	serve(dial);
	hold(&held);
	for (int i = 0; i < 2; i++) {
		send_signal(SIGHUP);
		send_signal(SIGUSR1);
		line = assert_logs(" level=info prog=unit msg=counters ");
		assert_contains(line, " accepted=1 active=1 eof=0 ");
		assert_passes(held.upstream, held.client, "answer");
	}
	let_go(held);
	send_signal(SIGUSR1);
	line = assert_logs(" level=info prog=unit msg=counters ");
	assert_contains(line, " accepted=1 active=0 eof=1 ");
	assert_contains(line, " up=5 down=12 longest-ms=0");
	assert_serves(2);
	stop_server();
}

/* The first signal has come: nobody can connect any more. */
static void
assert_stopping(unsigned active)
{
	char expected[128];

	(void)snprintf(expected, sizeof(expected),
	    " level=info prog=unit msg=stopping active=%u grace=%u", active,
	    settings.grace);
	assert_string_equal(strstr(next_line(), " level="), expected);
	/* Who has read this may take the port. */
	assert_false(shared->listened);
	AWAIT(connect_loopback(&server.name) == -1);
	assert_int_equal(errno, ECONNREFUSED);
}

static void
assert_stopped(unsigned eof, unsigned stopped)
{
	char *line = assert_logs(" level=info prog=unit msg=stopped accepted=");
	char expected[64];

	(void)snprintf(expected, sizeof(expected), " active=0 eof=%u ", eof);
	assert_contains(line, expected);
	(void)snprintf(expected, sizeof(expected), " stopped=%u ", stopped);
	assert_contains(line, expected);
	assert_exits(0);
}

static void
assert_cut_off(struct held held)
{
	assert_int_equal(read_to_end(held.client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(held.upstream, NULL), ECONNRESET);
	close(held.client);
	close(held.upstream);
}

static const int stop_signals[] = {SIGTERM, SIGINT};

static void
test_stops_at_once(void **state)
{
	/* Fails if a proxy that serves nobody waits for nobody. */
	(void)state;
	settings.grace = 1000000;
	for (size_t i = 0; i < LENGTH(stop_signals); i++) {
		memset(shared, 0, sizeof(*shared));
		serve(dial);
		send_signal(stop_signals[i]);
		assert_logs(" msg=stopping active=0 grace=1000000");
		assert_stopped(0, 0);
	}
}

static void
test_stops_early(void **state)
{
	/* Fails if a proxy can't be stopped while the resolver hangs, or if
	 * asking for the counters kills it then. */
	(void)state;
	for (size_t i = 0; i < LENGTH(stop_signals); i++) {
		memset(shared, 0, sizeof(*shared));
		shared->hangs_resolving = true;
		launch(dial);
		AWAIT(shared->resolving);
		send_signal(SIGHUP);
		send_signal(SIGUSR1);
		send_signal(stop_signals[i]);
		assert_exits(0);
	}
}

static void
test_drains(void **state)
{
	/* Fails if connections are cut off when a proxy is replaced, if it
	 * takes on new ones then, or doesn't end with the last one. */
	struct held held[2];

	(void)state;
	settings.grace = 1000000; /* in ms it just fits an int */
	for (size_t i = 0; i < LENGTH(stop_signals); i++) {
		memset(shared, 0, sizeof(*shared));
		serve(dial);
		hold(&held[0]);
		hold(&held[1]);
		send_signal(stop_signals[i]);
		assert_stopping(2);
		assert_passes(held[0].upstream, held[0].client, "answer");
		let_go(held[0]);
		send_signal(SIGHUP);
		send_signal(SIGUSR1);
		assert_contains(assert_logs(" msg=counters accepted=2 "),
		    " active=1 eof=1 ");
		assert_passes(held[1].client, held[1].upstream, "more");
		let_go(held[1]);
		assert_stopped(2, 0);
		assert_in_range(shared->delays[0], 999000000, 1000000000);
	}
}

static void
test_signal_beside_client(void **state)
{
	/* Fails if a client that comes together with the signal makes the end
	 * look like a failure. */
	int client;

	(void)state;
	shared->both = true;
	serve(dial);
	client = connect_client();
	send_signal(SIGTERM);
	assert_logs(" msg=stopping active=0 ");
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	close(client);
	assert_stopped(0, 0);
	assert_int_equal(shared->accepts, 0);
}

static void
test_drains_full(void **state)
{
	/* Fails if a proxy that is full when it is to end doesn't see that the
	 * last connection has ended, or keeps those who wait waiting. */
	struct held held[2];
	int waiting;

	(void)state;
	settings.grace = 1000000;
	settings.max_connections = 2;
	shared->false_clock = true;
	serve(dial);
	hold(&held[0]);
	hold(&held[1]);
	waiting = connect_client();
	assert_full();
	send_signal(SIGTERM);
	assert_stopping(2);
	assert_int_equal(read_to_end(waiting, NULL), ECONNRESET);
	close(waiting);
	let_go(held[1]);
	assert_passes(held[0].client, held[0].upstream, "alive");
	let_go(held[0]);
	assert_stopped(2, 0);
	assert_int_equal(shared->accepts, 2);
}

static void
test_deadline(void **state)
{
	/* Fails if a connection that lasts keeps a proxy from ending, or is cut
	 * off before its time, or as if all were well. */
	static const unsigned graces[] = {0, 1, 7};
	struct held held[2];

	(void)state;
	for (size_t i = 0; i < LENGTH(graces); i++) {
		memset(shared, 0, sizeof(*shared));
		settings.grace = graces[i];
		shared->false_clock = true;
		shared->waits_left = 1;
		serve(dial);
		hold(&held[0]);
		hold(&held[1]);
		send_signal(SIGTERM);
		assert_logs(" msg=stopping active=2 ");
		assert_contains(assert_logs(" level=warn prog=unit msg=failed "
					    "conn=2 "),
		    " end=stopped");
		assert_contains(assert_logs(" conn=1 "), " end=stopped");
		assert_stopped(0, 2);
		assert_cut_off(held[0]);
		assert_cut_off(held[1]);
		assert_int_equal(shared->delayed, graces[i] != 0);
		if (graces[i] != 0)
			assert_int_equal(shared->delays[0], graces[i] * 1000);
	}
}

static void
test_second_signal(void **state)
{
	/* Fails if an operator can't cut a drain short. */
	struct held held;

	(void)state;
	settings.grace = 1000000;
	for (size_t i = 0; i < 2 * LENGTH(stop_signals); i++) {
		memset(shared, 0, sizeof(*shared));
		serve(dial);
		hold(&held);
		send_signal(stop_signals[i % 2]);
		assert_stopping(1);
		send_signal(SIGHUP);
		assert_passes(held.client, held.upstream, "alive");
		send_signal(stop_signals[i / 2]);
		assert_contains(assert_logs(" conn=1 "), " end=stopped");
		assert_stopped(0, 1);
		assert_cut_off(held);
	}
}

static void
test_two_signals_at_once(void **state)
{
	/* Fails if two signals that come together count as one, or keep
	 * SIGUSR1 from being heard. */
	struct held held;
	int status;

	(void)state;
	settings.grace = 1000000;
	for (size_t i = 0; i < LENGTH(stop_signals); i++) {
		memset(shared, 0, sizeof(*shared));
		serve(dial);
		hold(&held);
		send_signal(SIGSTOP);
		assert_int_equal(
		    waitpid(server.pid, &status, WUNTRACED), server.pid);
		assert_true(WIFSTOPPED(status));
		send_signal(stop_signals[i]);
		send_signal(stop_signals[1 - i]);
		send_signal(SIGUSR1);
		send_signal(SIGCONT);
		/* The kernel hands them out by number. */
		assert_logs(" msg=stopping active=1 ");
		assert_logs(" msg=counters accepted=1 active=1 ");
		assert_contains(assert_logs(" conn=1 "), " end=stopped");
		assert_stopped(0, 1);
		assert_cut_off(held);
	}
}

static void
test_drains_idle(void **state)
{
	/* Fails if --idle-timeout is forgotten while a proxy drains. */
	struct held held;

	(void)state;
	settings.grace = 1000000;
	settings.idle_timeout = 5;
	shared->false_clock = true;
	serve(dial);
	hold(&held);
	send_signal(SIGTERM);
	assert_stopping(1);
	shared->waits_left = 100;
	assert_cut_off(held);
	assert_contains(assert_logs(" conn=1 "), " end=idle-timeout ");
	assert_stopped(0, 0);
}

/* Makes a manager, whose abstract name the kernel chooses, and starts a child
 * that is its service. Returns its socket; *name is where that is. */
static int
serve_manager(struct sockaddr_un *name, socklen_t *length)
{
	int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char text[256];

	*name = (struct sockaddr_un){.sun_family = AF_UNIX};
	*length = sizeof(name->sun_family);
	assert_int_equal(bind(manager, (struct sockaddr *)name, *length), 0);
	*length = sizeof(*name);
	assert_int_equal(
	    getsockname(manager, (struct sockaddr *)name, length), 0);
	limit_time(manager);
	(void)snprintf(text, sizeof(text), "@%.*s",
	    (int)(*length - sizeof(name->sun_family) - 1), name->sun_path + 1);
	assert_int_equal(setenv("NOTIFY_SOCKET", text, 1), 0);
	serve(dial);
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
	return manager;
}

/* The next word to a manager must begin with this. */
static void
assert_told(int manager, const char *word)
{
	char text[256] = "";
	ssize_t n = recv(manager, text, sizeof(text) - 1, 0);

	assert_true(n > 0);
	text[n] = '\0';
	assert_int_equal(strncmp(text, word, strlen(word)), 0);
}

static void
test_notifies(void **state)
{
	/* Fails if a service manager starts what needs the proxy before it can
	 * be reached, or takes a drain for a hang. */
	struct sockaddr_un name;
	socklen_t length;
	int manager = serve_manager(&name, &length);

	(void)state;
	assert_told(manager, "READY=1\nSTATUS=Serving");
	send_signal(SIGUSR1); /* which isn't news for long */
	assert_logs(" msg=counters ");
	stop_server();
	assert_told(manager, "STOPPING=1\n");
	assert_int_equal(recv(manager, &(char){0}, 1, MSG_DONTWAIT), -1);
	close(manager);
}

static void
test_counters_for_busy_manager(void **state)
{
	/* Fails if nobody is served while a manager could be told of counters,
	 * which it needn't know. */
	struct sockaddr_un name;
	socklen_t length;
	int manager, other = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	size_t waits;
	long begin;

	(void)state;
	settings.stats_interval = 1;
	shared->false_clock = true;
	manager = serve_manager(&name, &length);
	assert_told(manager, "READY=1\nSTATUS=Serving");
	while (sendto(other, "junk", 4, MSG_DONTWAIT, (struct sockaddr *)&name,
		   length) == 4)
		continue;
	begin = now_ms();
	for (unsigned i = 1; i <= 8; i++) { /* at a second each it would be 8 */
		assert_serves(i);
		shared->clock_ms += 1000;
		assert_logs(" msg=counters ");
	}
	assert_in_range(now_ms() - begin, 0, 6000);
	waits = shared->waits; /* after the last line comes the last word */
	AWAIT(shared->waits > waits + 1);
	while (recv(manager, &(char){0}, 1, MSG_DONTWAIT) == 1)
		continue;
	stop_server();
	assert_told(manager, "STOPPING=1\n");
	close(other);
	close(manager);
}

static void
test_listener_passed(void **state)
{
	/* Fails if a socket of a service manager isn't served, its clients that
	 * came first lack options, one that has left again stops the proxy, or
	 * the log doesn't tell where that listens. */
	struct held early;
	char expected[64];

	(void)state;
	settings.listener_passed = true;
	settings.host.text = NULL;
	passed = listen_loopback(&server.name);
	early.client = connect_client();
	shared->accept_errors[0] = ECONNABORTED;
	launch(dial);
	(void)snprintf(expected, sizeof(expected),
	    " msg=listening listen=127.0.0.1:%u ", ntohs(server.name.sin_port));
	assert_logs(expected);
	early.upstream = accept_in_time(upstream_listener);
	assert_passes(early.client, early.upstream, "hello");
	assert_int_not_equal(shared->no_delay, 0);
	/* The child has this socket, too. */
	assert_int_equal(shutdown(early.client, SHUT_WR), 0);
	let_go(early);
	assert_serves(2);
	stop_server();
	close(passed);
}

static void
test_passed_wrongly(void **state)
{
	/* Fails if a mistake in a unit file isn't named. */
	struct sockaddr_in name;

	(void)state;
	settings.listener_passed = true;
	passed = bind_loopback(&name); /* but it doesn't listen */
	launch(dial);
	assert_string_equal(
	    strstr(assert_logs(" level=error prog=unit "), " msg="),
	    " msg=\"cannot listen\" listen=LISTEN_FDS "
	    "reason=\"descriptor 3 is no TCP listener\"");
	assert_exits(1);
	close(passed);
	settings.listens_on_tcp = false;
	passed = listen_loopback(&name); /* but not on vsock */
	launch(dial);
	assert_contains(assert_logs(" level=error prog=unit "),
	    " msg=\"cannot listen\" listen=LISTEN_FDS "
	    "reason=\"descriptor 3 is no vsock listener\"");
	assert_exits(1);
	close(passed);
}

static void
test_cannot_start(void **state)
{
	/* Fails if a proxy without a descriptor that it needs serves all the
	 * same, until it can't be stopped or clients wait for ever. */
	char expected[128];

	(void)state;
	(void)snprintf(expected, sizeof(expected),
	    " msg=\"cannot start\" reason=\"%s\"", strerror(EMFILE));
	for (int i = 0; i < 2; i++) {
		memset(shared, 0, sizeof(*shared));
		if (i == 0)
			shared->signalfd_error = EMFILE;
		else
			shared->eventfd_error = EMFILE;
		launch(dial);
		assert_string_equal(
		    strstr(assert_logs(" level=error prog=unit "), " msg="),
		    expected);
		assert_exits(1);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static struct CMUnitTest tests[] = {
    TEST(test_serves),
    TEST(test_nothing_leaks),
    TEST(test_quiet),
    TEST(test_accept_goes_on),
    TEST(test_pauses),
    TEST(test_accept_fails_for_good),
    TEST(test_no_thread),
    TEST(test_no_thread_at_limit),
    TEST(test_cannot_wait),
    TEST(test_wait_interrupted),
    TEST(test_ends_at_once),
    TEST(test_no_memory),
    TEST(test_connection_limit),
    TEST(test_failures_free_slots),
    TEST(test_rules),
    TEST(test_listening_line),
    TEST(test_limits),
    TEST(test_other_limits),
    TEST(test_from_vsock),
    TEST(test_confined),
    TEST(test_soft_limit_raised),
    TEST(test_closed_streams),
    TEST(test_port_ignored),
    TEST(test_log_without_reader),
    TEST(test_cannot_listen),
    TEST(test_cannot_listen_vsock),
    TEST(test_dual_stack),
    TEST(test_full),
    TEST(test_full_and_cannot_wait),
    TEST(test_rests),
    TEST(test_idle_looked_for_in_time),
    TEST(test_stats_in_time),
    TEST(test_idle_looked_for_while_full),
    TEST(test_idle),
    TEST(test_signals),
    TEST(test_stops_at_once),
    TEST(test_stops_early),
    TEST(test_drains),
    TEST(test_signal_beside_client),
    TEST(test_drains_full),
    TEST(test_deadline),
    TEST(test_second_signal),
    TEST(test_two_signals_at_once),
    TEST(test_drains_idle),
    TEST(test_notifies),
    TEST(test_counters_for_busy_manager),
    TEST(test_listener_passed),
    TEST(test_passed_wrongly),
    TEST(test_cannot_start),
};

int
main(void)
{
	limit_tests(tests, LENGTH(tests));
	(void)signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
