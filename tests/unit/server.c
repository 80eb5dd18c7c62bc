/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of server. server_run() never returns, so a child runs it, with
 * a listener on loopback and a dial function of its own; the test is the
 * client, the upstream and the reader of the log. Memory that both share says
 * which calls of the child fail, and tells what it did. The child ends by an
 * accept4(2) that fails for good. */
#include "server.h"

#include "copy.h"
#include "log.h"
#include "options.h"
#include "relay.h"
#include "stream.h"
#include "support.h"

#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

int
__real_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int
__wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
void __real_free(void *memory);
void __wrap_free(void *memory);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);
struct relay_result __real_relay_run(
    int client, int upstream, struct copy_way up, struct copy_way down);
struct relay_result __wrap_relay_run(
    int client, int upstream, struct copy_way up, struct copy_way down);
int __real_stream_connect(const struct address *address, unsigned timeout_ms);
int __wrap_stream_connect(const struct address *address, unsigned timeout_ms);
int __real_stream_listen(const struct address *address);
int __wrap_stream_listen(const struct address *address);
int __wrap_stream_local_cid(uint32_t *cid);
int __real_stream_original_destination(int fd, struct address *target);
int __wrap_stream_original_destination(int fd, struct address *target);

#define MOST_CALLS 32

/* What the child is to do and has done. */
static struct shared {
	/* errno of the first calls; 0: as ever */
	int accept_errors[MOST_CALLS];
	int create_errors[MOST_CALLS];
	int malloc_errors[MOST_CALLS];
	_Atomic size_t accepts, creates, mallocs; /* calls */
	_Atomic int accept_flags;                 /* of all calls */
	bool without_streams;         /* start with none of the standard ones */
	_Atomic int standard_sockets; /* among those, at an accept4(2) */

	/* How long it paused after failures, in milliseconds. The clock stands
	 * still but for that, if it is a false one. */
	_Atomic int delays[MOST_CALLS];
	_Atomic size_t delayed;
	bool false_clock;
	_Atomic int clock_ms;

	size_t dial_errors; /* this many dials fail */
	_Atomic size_t dials;
	/* In use at the first accept4(2), and at each dial. */
	_Atomic int first_descriptors, descriptors[MOST_CALLS];
	_Atomic int connections[MOST_CALLS]; /* that have memory, likewise */
	/* At the first dial: the limit of descriptors, what SIGPIPE does, how
	 * the client's socket and the thread are. */
	struct rlimit limit;
	bool ignores_sigpipe, is_detached;
	int no_delay;

	size_t stack_size;     /* that was asked for, for the first thread */
	bool created_detached; /* likewise */
	/* Of the last relay. */
	struct noted_way {
		_Atomic bool splice, bulk_splice;
		_Atomic size_t chunk;
	} up, down;
	_Atomic unsigned vsock_buffer; /* before vsock sockets are made */
	bool poses_as_vsock;           /* a vsock listener is one of TCP */
	struct rlimit first_limit;     /* of descriptors, before server_run() */
	size_t descriptors_max;        /* the hard limit to ask for; 0: none */
	int listen_error;              /* of stream_listen() */
	uint32_t local_cid;            /* 0: none is known */
} * shared;

/* Whether this is the child, whose calls are wrapped. */
static bool is_server;

/* For server_target(), in this process. */
static int target_error;
static struct address target_found;

/* The end of a pipe on which the child waits for its own end. */
static int stop_fd;

/* What the child's next call of a script does; 0: as ever. */
static int
scripted(const int *errors, _Atomic size_t *calls)
{
	size_t i = (*calls)++;

	return i < MOST_CALLS ? errors[i] : 0;
}

int
__wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	struct pollfd waits[2];
	int error;

	if (!is_server)
		return __real_accept4(fd, address, length, flags);
	if (shared->accepts == 0)
		shared->first_descriptors = open_descriptors();
	error = scripted(shared->accept_errors, &shared->accepts);
	shared->accept_flags |= flags;
	shared->standard_sockets = 0;
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
		struct stat status;

		if (fstat(i, &status) == -1 || S_ISSOCK(status.st_mode))
			shared->standard_sockets++;
	}
	if (error == 0) {
		waits[0] = (struct pollfd){.fd = fd, .events = POLLIN};
		waits[1] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
		(void)__real_poll(waits, 2, -1);
		if (waits[1].revents == 0)
			return __real_accept4(fd, address, length, flags);
		error = EBADF;
	}
	errno = error;
	return -1;
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

/* The memory of the child's connections. */
static void *_Atomic memories[MOST_CALLS];
static _Atomic int connections;

void
__wrap_free(void *memory)
{
	for (size_t i = 0; is_server && memory != NULL && i < MOST_CALLS; i++) {
		if (memories[i] == memory) {
			memories[i] = NULL;
			connections--;
		}
	}
	__real_free(memory);
}

void *
__wrap_malloc(size_t size)
{
	bool counts = is_server && size == sizeof(struct connection);
	int error = 0;
	void *memory;

	/* Only server_run()'s own: where libc is static, all are wrapped. */
	if (counts)
		error = scripted(shared->malloc_errors, &shared->mallocs);
	if (error != 0) {
		errno = error;
		return NULL;
	}
	memory = __real_malloc(size);
	if (counts && shared->mallocs <= MOST_CALLS) {
		memories[shared->mallocs - 1] = memory;
		connections++;
	}
	return memory;
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	size_t i;

	if (!is_server || count != 0)
		return __real_poll(fds, count, timeout);
	i = shared->delayed++;
	if (i < MOST_CALLS)
		shared->delays[i] = timeout;
	shared->clock_ms += timeout;
	return 0;
}

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument)
{
	int error = 0, state = -1;

	if (!is_server)
		return __real_pthread_create(thread, attributes, run, argument);
	(void)pthread_attr_getdetachstate(attributes, &state);
	if (shared->creates == 0) {
		(void)pthread_attr_getstacksize(
		    attributes, &shared->stack_size);
		shared->created_detached = state == PTHREAD_CREATE_DETACHED;
	}
	error = scripted(shared->create_errors, &shared->creates);
	if (error != 0)
		return error;
	/* The sanitizer needs a far larger stack than a relay's second thread
	 * is given; that is the one that is waited for. */
	if (THREAD_SANITIZER && state != PTHREAD_CREATE_DETACHED)
		attributes = NULL;
	return __real_pthread_create(thread, attributes, run, argument);
}

static void
note_way(struct noted_way *noted, struct copy_way way)
{
	noted->splice = way.splice;
	noted->bulk_splice = way.bulk_splice;
	noted->chunk = way.chunk;
}

struct relay_result
__wrap_relay_run(
    int client, int upstream, struct copy_way up, struct copy_way down)
{
	note_way(&shared->up, up);
	note_way(&shared->down, down);
	return __real_relay_run(client, upstream, up, down);
}

static unsigned connect_timeout; /* of the last stream_connect() */

int
__wrap_stream_connect(const struct address *address, unsigned timeout_ms)
{
	if (!is_server)
		connect_timeout = timeout_ms;
	return __real_stream_connect(address, timeout_ms);
}

int
__wrap_stream_listen(const struct address *address)
{
	static const uint8_t bytes[4] = {127, 0, 0, 1};
	struct address loopback = address_ip(AF_INET, bytes, 0);

	if (address->any.sa_family != AF_VSOCK)
		return __real_stream_listen(address);
	shared->vsock_buffer = stream_vsock_buffer;
	if (shared->poses_as_vsock)
		return __real_stream_listen(&loopback);
	errno = shared->listen_error;
	return -1;
}

int
__wrap_stream_local_cid(uint32_t *cid)
{
	*cid = shared->local_cid;
	errno = ENOENT;
	return shared->local_cid == 0 ? -1 : 0;
}

int
__wrap_stream_original_destination(int fd, struct address *target)
{
	if (fd != -1)
		return __real_stream_original_destination(fd, target);
	*target = target_found;
	errno = target_error;
	return target_error == 0 ? 0 : -1;
}

/* What the test is to the child: its upstream, if it accepts. */
static struct sockaddr_in upstream_name;

/* Notes how a connection's thread finds the process. */
static void
look_around(int client)
{
	struct sigaction action;
	socklen_t length = sizeof(shared->no_delay);
	pthread_attr_t attributes;
	int state = -1;

	(void)getrlimit(RLIMIT_NOFILE, &shared->limit);
	(void)sigaction(SIGPIPE, NULL, &action);
	shared->ignores_sigpipe = action.sa_handler == SIG_IGN;
	(void)getsockopt(
	    client, IPPROTO_TCP, TCP_NODELAY, &shared->no_delay, &length);
	if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
		(void)pthread_attr_getdetachstate(&attributes, &state);
		(void)pthread_attr_destroy(&attributes);
	}
	shared->is_detached = state == PTHREAD_CREATE_DETACHED;
}

static int
dial(struct connection *c)
{
	size_t i = shared->dials++;
	struct address upstream = {
	    .in = upstream_name, .length = sizeof(upstream_name)};

	if (i < MOST_CALLS) {
		shared->descriptors[i] = open_descriptors();
		shared->connections[i] = connections;
	}
	if (i == 0)
		look_around(c->client);
	if (!shared->poses_as_vsock)
		shared->vsock_buffer = stream_vsock_buffer;
	if (i < shared->dial_errors) {
		c->reason = "out of luck";
		return -1;
	}
	return server_connect(c, &upstream);
}

static int
dial_target(struct connection *c)
{
	struct address target;

	return server_target(c, &target) == -1 ? -1
					       : server_connect(c, &target);
}

/* The child, from here. */
static struct {
	pid_t pid; /* 0: none */
	int log, stop;
	struct sockaddr_in name; /* where it listens */
	char text[16384];        /* what came of the log */
	size_t length, next;     /* next: where the next line starts */
} server;

static int upstream_listener;
static enum log_level level;

_Noreturn static void
be_server(dial_function *function, int log)
{
	struct rlimit limit;

	alarm(LAST_RESORT_S);
	(void)dup2(log, STDERR_FILENO);
	(void)signal(SIGPIPE, SIG_DFL);
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
	log_open("unit", level);
	is_server = true;
	server_run("some-upstream", function);
}

/* Starts a child; its listener may fail. */
static void
launch(dial_function *function)
{
	int log[2], stop[2];

	assert_int_equal(pipe2(log, O_CLOEXEC), 0);
	assert_int_equal(pipe2(stop, O_CLOEXEC), 0);
	(void)fflush(NULL);
	server.pid = fork();
	if (server.pid == 0) {
		close(stop[1]);
		close(log[0]);
		stop_fd = stop[0];
		be_server(function, log[1]);
	}
	assert_true(server.pid > 0);
	close(log[1]);
	close(stop[0]);
	server.log = log[0];
	server.stop = stop[1];
	server.length = server.next = 0;
}

/* The next line of the log, without its newline; NULL: the log has ended. */
static char *
next_line(void)
{
	char *line = server.text + server.next, *newline;
	ssize_t n;

	for (;;) {
		server.text[server.length] = '\0';
		newline = strchr(line, '\n');
		if (newline != NULL)
			break;
		if (!wait_for(server.log, POLLIN))
			fail_msg("no more log after %d s", DEADLINE_S);
		n = read(server.log, server.text + server.length,
		    sizeof(server.text) - 1 - server.length);
		if (n <= 0)
			return NULL;
		server.length += (size_t)n;
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
	close(server.stop);
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

/* Ends the child; nothing more was to be logged. */
static void
stop_server(void)
{
	assert_int_equal(write(server.stop, "", 1), 1);
	assert_accept_failed(EBADF);
	assert_exits(1);
}

static int
set_up(void **state)
{
	(void)state;
	memset(shared, 0, sizeof(*shared));
	settings = (struct settings){.connect_timeout = DEADLINE_S,
	    .max_connections = 100,
	    .copy = COPY_BUFFER};
	if (!host_port_parse("127.0.0.1:0", &settings.listen_host))
		return -1;
	level = LEVEL_INFO;
	target_error = 0;
	upstream_listener = listen_loopback(&upstream_name);
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	close(upstream_listener);
	if (server.pid > 0) {
		(void)kill(server.pid, SIGKILL);
		(void)waitpid(server.pid, NULL, 0);
		close(server.log);
		close(server.stop);
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

static int
accept_upstream(void)
{
	int fd;

	assert_true(wait_for(upstream_listener, POLLIN));
	fd = accept4(upstream_listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	limit_time(fd);
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
	int client = connect_client(), upstream = accept_upstream();

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
	upstream = accept_upstream();
	close(upstream);
	close(client);
	line = assert_logs(" msg=closed conn=3 ");
	assert_string_equal(strstr(line, " end="), " end=eof");
	stop_server();
	assert_int_equal(shared->accept_flags, SOCK_CLOEXEC);
	assert_true(shared->ignores_sigpipe);
	assert_int_not_equal(shared->no_delay, 0);
	assert_int_equal(shared->delayed, 0);
}

static void
test_nothing_leaks(void **state)
{
	/* Fails if the proxy stops serving after some thousand connections. */
	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i];
		settings.max_connections = 1; /* one after the other */
		serve(dial);
		for (unsigned j = 1; j <= 20; j++)
			assert_serves(j);
		stop_server();
		for (size_t j = 0; j < 20; j++) {
			/* But for the client's. */
			assert_int_equal(shared->descriptors[j],
			    shared->first_descriptors + 1);
			assert_int_equal(shared->connections[j], 1);
		}
		assert_true(shared->is_detached);
	}
}

#define AT_ONCE 40

static void
test_many_at_once(void **state)
{
	/* Fails if connections get mixed up, or wait for each other. */
	static int clients[AT_ONCE], upstreams[AT_ONCE];
	static bool logged[AT_ONCE + 1];
	char text[32];

	(void)state;
	serve(dial);
	for (int i = 0; i < AT_ONCE; i++) {
		clients[i] = connect_client();
		upstreams[i] = accept_upstream();
	}
	for (int i = 0; i < AT_ONCE; i++) {
		(void)snprintf(text, sizeof(text), "this is number %d", i);
		assert_passes(clients[i], upstreams[i], text);
		assert_passes(upstreams[i], clients[i], text);
	}
	for (int i = 0; i < AT_ONCE; i++) {
		close(upstreams[i]);
		close(clients[i]);
	}
	for (int i = 0; i < AT_ONCE; i++) {
		char *conn = strstr(assert_logs(" msg=closed "), " conn=");
		unsigned number = 0;

		assert_int_equal(sscanf(conn, " conn=%u ", &number), 1);
		assert_in_range(number, 1, AT_ONCE);
		assert_false(logged[number]);
		logged[number] = true;
	}
	stop_server();
}

static void
test_debug(void **state)
{
	/* Fails if --log-level debug doesn't tell when a connection is made. */
	char expected[128];
	int client, upstream;

	(void)state;
	level = LEVEL_DEBUG;
	serve(dial);
	client = connect_client();
	upstream = accept_upstream();
	(void)snprintf(expected, sizeof(expected),
	    " level=debug prog=unit msg=connected conn=1 "
	    "upstream=127.0.0.1:%u target=-",
	    ntohs(upstream_name.sin_port));
	assert_logs(expected);
	close(client);
	close(upstream);
	assert_logs(" msg=closed conn=1 ");
	stop_server();
}

static void
test_quiet(void **state)
{
	/* Fails if --log-level error still tells of what goes well. */
	(void)state;
	level = LEVEL_ERROR;
	launch(dial);
	stop_server();
}

static void
test_accept_goes_on(void **state)
{
	/* Fails if one broken connection, or a signal, stops or slows down the
	 * proxy. */
	static const int errors[] = {EINTR, ECONNABORTED, EPROTO, ENOPROTOOPT,
	    ENETDOWN, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH, EOPNOTSUPP,
	    ETIMEDOUT, EPERM, ECONNABORTED};

	(void)state;
	memcpy(shared->accept_errors, errors, sizeof(errors));
	serve(dial);
	assert_serves(1);
	stop_server();
	assert_int_equal(shared->delayed, 0);
	assert_int_equal(shared->accepts, LENGTH(errors) + 2);
}

static void
test_backs_off(void **state)
{
	/* Fails if a proxy that is short of descriptors or memory ends, burns a
	 * processor, or fills a disk with its log; or if it stays slow when the
	 * need is over. */
	static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EMFILE,
	    EMFILE, EMFILE, EMFILE, EMFILE, EMFILE, EMFILE, EMFILE, 0, EMFILE,
	    ENFILE};
	static const int delays[] = {
	    5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000, 5, 10};

	int client, upstream;

	(void)state;
	memcpy(shared->accept_errors, errors, sizeof(errors));
	shared->false_clock = true;
	serve(dial);
	/* After 0, 1275, 2275, 3275 and 4275 ms; each stands for a second. */
	for (int i = 0; i < 5; i++)
		assert_accept_failed(EMFILE);
	/* At 5275 ms, the first of the two after a success. */
	client = connect_client();
	upstream = accept_upstream();
	assert_accept_failed(EMFILE);
	close(client);
	close(upstream);
	assert_logs(" msg=closed conn=1 ");
	stop_server();
	assert_int_equal(shared->delayed, LENGTH(delays));
	for (size_t i = 0; i < LENGTH(delays); i++)
		assert_int_equal(shared->delays[i], delays[i]);
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
		assert_exits(1);
		assert_int_equal(shared->accepts, 2);
	}
}

/* The first client can't be served, for this reason; the next one is. */
static void
check_no_resources(const char *reason)
{
	char expected[256], *line;
	int client;

	serve(dial);
	client = connect_client();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    " level=warn prog=unit msg=failed conn=1 client=127.0.0.1:%u "
	    "upstream=- target=- up=0 down=0 ms=",
	    port_of(client));
	line = assert_logs(expected);
	assert_end(line, "no-resources", reason);
	close(client);
	assert_serves(2);
	stop_server();
	assert_int_equal(shared->descriptors[0], shared->first_descriptors + 1);
	assert_int_equal(shared->connections[0], 1);
}

static void
test_no_thread(void **state)
{
	/* Fails if a proxy that is short of threads ends, or leaves a client
	 * waiting for what won't come. */
	(void)state;
	shared->create_errors[0] = EAGAIN;
	check_no_resources(strerror(EAGAIN));
	assert_int_equal(shared->delayed, 1);
	assert_int_equal(shared->delays[0], 5);
	assert_int_equal(shared->dials, 1);
}

static void
test_no_memory(void **state)
{
	/* Fails if a proxy that is short of memory ends, or leaves a client
	 * waiting for what won't come. */
	(void)state;
	shared->malloc_errors[0] = ENOMEM;
	check_no_resources(strerror(ENOMEM));
	assert_int_equal(shared->delayed, 1);
	assert_int_equal(shared->mallocs, 2);
}

static void
test_no_second_thread(void **state)
{
	/* Fails if a connection for whose other direction there is no thread is
	 * half served, or not reported. */
	int client, upstream;
	char *line;

	(void)state;
	shared->create_errors[1] = EAGAIN;
	serve(dial);
	client = connect_client();
	upstream = accept_upstream();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	assert_int_equal(read_to_end(upstream, NULL), ECONNRESET);
	line = assert_logs(" level=warn prog=unit msg=failed conn=1 ");
	assert_end(line, "no-resources", strerror(EAGAIN));
	close(client);
	close(upstream);
	assert_serves(2);
	stop_server();
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
	serve(dial);
	for (int i = 0; i < 2; i++) {
		clients[i] = connect_client();
		upstreams[i] = accept_upstream();
	}
	clients[2] = connect_client();
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
	upstreams[0] = accept_upstream();
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
test_dial_fails(void **state)
{
	/* Fails if a client whose upstream isn't there gets a clean end, which
	 * looks like an answer, or if the log doesn't say why. */
	char expected[256], *line;
	int client;

	(void)state;
	shared->dial_errors = 1;
	serve(dial);
	client = connect_client();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    " level=warn prog=unit msg=failed conn=1 client=127.0.0.1:%u "
	    "upstream=- target=- up=0 down=0 ms=",
	    port_of(client));
	line = assert_logs(expected);
	assert_end(line, "no-upstream", "out of luck");
	close(client);
	assert_serves(2);
	stop_server();
}

static void
test_upstream_refuses(void **state)
{
	/* Fails if the log doesn't say which upstream refused. */
	char expected[128], *line;
	int client, bound;

	(void)state;
	bound = bind_loopback(&upstream_name);
	serve(dial);
	client = connect_client();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	(void)snprintf(expected, sizeof(expected),
	    " upstream=127.0.0.1:%u target=- ", ntohs(upstream_name.sin_port));
	line = assert_logs(" level=warn prog=unit msg=failed conn=1 ");
	assert_contains(line, expected);
	assert_end(line, "no-upstream", strerror(ECONNREFUSED));
	close(client);
	close(bound);
	stop_server();
}

static void
test_not_redirected(void **state)
{
	/* Fails if a client that comes directly to a transparent proxy is sent
	 * somewhere. */
	int client;

	(void)state;
	serve(dial_target);
	client = connect_client();
	assert_int_equal(read_to_end(client, NULL), ECONNRESET);
	assert_end(assert_logs(" level=warn prog=unit msg=failed conn=1 "),
	    "no-target", "not redirected, it has no original destination");
	close(client);
	stop_server();
}

static void
test_resets(void **state)
{
	/* Fails if a reset isn't passed on, or the log blames the wrong side.
	 */
	static const char *const ends[] = {"client-error", "upstream-error"};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes) * LENGTH(ends); i++) {
		int client, upstream;
		char *line;

		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i / LENGTH(ends)];
		serve(dial);
		client = connect_client();
		upstream = accept_upstream();
		assert_passes(client, upstream, "hello");
		reset(i % 2 == 0 ? client : upstream);
		assert_int_equal(
		    read_to_end(i % 2 == 0 ? upstream : client, NULL),
		    ECONNRESET);
		close(i % 2 == 0 ? upstream : client);
		line = assert_logs(" level=warn prog=unit msg=failed conn=1 ");
		assert_contains(line, " up=5 down=0 ");
		assert_end(line, ends[i % 2], strerror(ECONNRESET));
		assert_serves(2);
		stop_server();
	}
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

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		char expected[128];

		memset(shared, 0, sizeof(*shared));
		settings.copy = cases[i].mode;
		settings.max_connections = 77;
		launch(dial);
		(void)snprintf(expected, sizeof(expected),
		    " upstream=some-upstream %s max-connections=77",
		    cases[i].text);
		assert_string_equal(
		    strstr(assert_logs(" msg=listening listen=127.0.0.1:"),
			" upstream="),
		    expected);
		stop_server();
	}
}

static void
test_limits(void **state)
{
	/* Fails if the proxy takes on more connections than it has descriptors
	 * for, or leaves those unused that it could have. */
	static const size_t descriptors[] = {0, 128, 30};
	static const struct {
		enum copy_mode mode;
		size_t needs; /* descriptors for each connection */
	} cases[] = {{COPY_AUTO, 4}, {COPY_SPLICE, 6}, {COPY_BUFFER, 2}};

	(void)state;
	for (size_t i = 0; i < LENGTH(descriptors) * LENGTH(cases); i++) {
		size_t needs = cases[i % LENGTH(cases)].needs;
		struct rlimit threads;
		unsigned long most, told = 0;
		char *line;

		memset(shared, 0, sizeof(*shared));
		shared->descriptors_max = descriptors[i / LENGTH(cases)];
		settings.max_connections = 0;
		settings.copy = cases[i % LENGTH(cases)].mode;
		launch(dial);
		line = assert_logs(" msg=listening ");
		assert_int_equal(sscanf(strstr(line, " max-connections="),
				     " max-connections=%lu", &told),
		    1);
		stop_server();
		most = INT32_MAX;
		if (shared->first_limit.rlim_max / needs < most)
			most = shared->first_limit.rlim_max / needs;
		assert_int_equal(getrlimit(RLIMIT_NPROC, &threads), 0);
		if (threads.rlim_cur / 2 < most)
			most = threads.rlim_cur / 2;
		assert_int_equal(told, most > 10 ? most - 10 : 1);
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
	shared->without_streams = true;
	shared->standard_sockets = -1;
	launch(dial);
	assert_int_equal(write(server.stop, "", 1), 1);
	assert_exits(1);
	assert_int_equal(shared->standard_sockets, 0);
}

static void
test_threads(void **state)
{
	/* Fails if idle connections take the address space of libc's default
	 * stacks, or have too small ones for getaddrinfo(3), or if threads that
	 * have ended are never given back. */
	(void)state;
	serve(dial);
	assert_serves(1);
	stop_server();
	assert_in_range(shared->stack_size, 128 * 1024, 1024 * 1024);
	assert_true(shared->created_detached);
	assert_true(shared->is_detached);
}

static void
assert_way(
    const struct noted_way *way, bool splice, bool bulk_splice, size_t chunk)
{
	assert_int_equal(way->splice, splice);
	assert_int_equal(way->bulk_splice, bulk_splice);
	assert_int_equal(way->chunk, chunk);
}

static void
test_engine(void **state)
{
	/* Fails if --copy, --vsock-chunk or --vsock-buffer have no effect, or
	 * TCP gets what is meant for vsock. */
	(void)state;
	settings.vsock_chunk = 12345;
	for (size_t i = 0; i < LENGTH(modes) * 2; i++) {
		bool from_vsock = i % 2 == 1;
		bool splice = modes[i / 2] == COPY_SPLICE;

		memset(shared, 0, sizeof(*shared));
		settings.copy = modes[i / 2];
		settings.vsock_buffer = 262144 + (unsigned)i;
		if (from_vsock) {
			settings.listen_host.text = NULL;
			settings.listen_vsock = vsock_address(3, 1200);
			shared->poses_as_vsock = true;
		} else {
			assert_true(host_port_parse(
			    "127.0.0.1:0", &settings.listen_host));
		}
		serve(dial);
		assert_serves(1);
		stop_server();
		assert_way(from_vsock ? &shared->up : &shared->down,
		    modes[i / 2] != COPY_BUFFER, splice, 0);
		assert_way(from_vsock ? &shared->down : &shared->up, splice,
		    splice, 12345);
		assert_int_equal(shared->vsock_buffer, 262144 + (unsigned)i);
	}
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
	assert_true(host_port_parse(text, &settings.listen_host));
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
	/* Fails if a user who binds another machine's CID isn't told the own
	 * one. */
	char *line;

	(void)state;
	settings.listen_host.text = NULL;
	settings.listen_vsock = vsock_address(5, 1200);
	shared->listen_error = EADDRNOTAVAIL;
	shared->local_cid = 7;
	launch(dial);
	line = assert_logs(
	    " level=error prog=unit msg=\"cannot listen\" listen=5:1200 ");
	assert_contains(line, " reason=\"not a CID of this machine");
	assert_contains(line, "\" own-cid=7");
	assert_exits(1);

	shared->listen_error = EAFNOSUPPORT;
	shared->local_cid = 0;
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
	assert_true(host_port_parse("[::]:0", &settings.listen_host));
	serve(dial);
	assert_serves(1);
	stop_server();
}

static struct connection
some_connection(void)
{
	return (struct connection){
	    .client = -1, .upstream = "-", .target = "-", .end = "no-upstream"};
}

static void
test_target(void **state)
{
	/* Fails if a redirected client's target isn't found, or isn't logged.
	 */
	const struct {
		int error;
		const char *reason;
	} cases[] = {
	    {ENOENT, "not redirected, it has no original destination"},
	    {ENOPROTOOPT, "not redirected, it has no original destination"},
	    {EBADF, strerror(EBADF)},
	};
	struct address target;
	struct connection c;

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		c = some_connection();
		target_error = cases[i].error;
		assert_int_equal(server_target(&c, &target), -1);
		assert_string_equal(c.end, "no-target");
		assert_string_equal(c.reason, cases[i].reason);
		assert_string_equal(c.target, "-");
	}
	c = some_connection();
	target_error = 0;
	target_found =
	    address_ip(AF_INET, (const uint8_t[4]){192, 0, 2, 1}, 443);
	assert_int_equal(server_target(&c, &target), 0);
	assert_true(same_address(&target, &target_found));
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
	fd = server_connect(&c, &upstream);
	assert_true(fd >= 0);
	assert_string_equal(c.upstream, text);
	assert_null(c.reason);
	assert_int_equal(connect_timeout, DEADLINE_S * 1000);
	close(fd);

	c = some_connection();
	bound = bind_loopback(&name);
	upstream.in = name;
	address_format(&upstream, text, sizeof(text));
	assert_int_equal(server_connect(&c, &upstream), -1);
	assert_string_equal(c.upstream, text);
	assert_string_equal(c.reason, strerror(ECONNREFUSED));
	assert_string_equal(c.end, "no-upstream");
	close(bound);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_serves),
	    TEST(test_nothing_leaks),
	    TEST(test_many_at_once),
	    TEST(test_debug),
	    TEST(test_quiet),
	    TEST(test_accept_goes_on),
	    TEST(test_backs_off),
	    TEST(test_accept_fails_for_good),
	    TEST(test_no_thread),
	    TEST(test_no_memory),
	    TEST(test_no_second_thread),
	    TEST(test_connection_limit),
	    TEST(test_failures_free_slots),
	    TEST(test_dial_fails),
	    TEST(test_upstream_refuses),
	    TEST(test_not_redirected),
	    TEST(test_resets),
	    TEST(test_listening_line),
	    TEST(test_limits),
	    TEST(test_soft_limit_raised),
	    TEST(test_closed_streams),
	    TEST(test_threads),
	    TEST(test_engine),
	    TEST(test_cannot_listen),
	    TEST(test_cannot_listen_vsock),
	    TEST(test_dual_stack),
	    TEST(test_target),
	    TEST(test_connect),
	};

	alarm(LAST_RESORT_S);
	(void)signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
