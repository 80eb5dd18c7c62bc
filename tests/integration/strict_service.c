/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a service manager does: it wants to be told when a program is ready, and
 * may pass it a listener. The tests are the manager.
 */
#include "strict.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define RESTARTS 2
#define WAVE 6
#define SAMPLE 3
/* Longer than two of the intervals in which a test wants no news. */
#define STILL_MS 2200

/* A manager's socket. path: '@' in front makes it abstract. Sets the variable
 * that tells a program where it is. */
static int
listen_for_news(const char *path, char **variable)
{
	int fd;

	network_enter(HOST); /* abstract names are the namespace's */
	if (path[0] != '@')
		unlink(path);
	fd = strict_bind_unix(path);
	*variable = harness_text("NOTIFY_SOCKET=%s", path);
	return fd;
}

/* Fills the queue of a manager's socket, so that who sends to it must wait.
 * Returns how many messages that were. */
static unsigned
fill_queue(int manager)
{
	struct sockaddr_un address;
	socklen_t length = sizeof(address);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned count = 0;

	assert_int_equal(
	    getsockname(manager, (struct sockaddr *)&address, &length), 0);
	while (sendto(fd, "junk", 4, MSG_DONTWAIT, (struct sockaddr *)&address,
		   length) == 4)
		count++;
	assert_int_equal(errno, EAGAIN);
	close(fd);
	return count;
}

/* Expects that the next message is made of these lines. */
static void
expect_news(int manager, const char *wanted)
{
	char text[1024];
	ssize_t n;

	assert_true(traffic_readable(manager, DEADLINE_MS));
	n = recv(manager, text, sizeof(text) - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_string_equal(text, wanted);
}

/* Starts a program that a manager waits for. */
static struct program *
start_managed(uint16_t port, char *const *env)
{
	return program_start(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", harness_text("127.0.0.1:%u", port), "-v", "1:7"),
	    .env = env});
}

static void
test_notify(void **state)
{
	/* Broken: what must start after the program starts before it listens,
	 * or the manager waits in vain, and kills it. */
	char *env[] = {NULL, NULL};
	int manager = listen_for_news(*state, &env[0]);
	unsigned junk = fill_queue(manager);
	uint16_t port = network_tcp_port();
	struct program *p = start_managed(port, env);

	/* It can't say anything yet, and would never listen, if it had to say
	 * so first. */
	program_wait_tcp(p, port);
	while (junk-- > 0)
		expect_news(manager, "junk");
	expect_news(manager, "READY=1\nSTATUS=Serving");
	close(network_tcp_connect(HOST, "127.0.0.1", port));
	program_wait_connection(p, 1);
	assert_false(traffic_readable(manager, 0));
	assert_int_equal(program_stop(p), 0);
	expect_news(
	    manager, "STOPPING=1\nSTATUS=Waiting for connections to finish");
	assert_false(traffic_readable(manager, 0));
}

static void
test_notify_hangs(void **state)
{
	/* Broken: a manager that hangs makes the program hang, too. */
	char *env[] = {NULL, NULL};
	int manager = listen_for_news("@tcp-proxy-test-hangs", &env[0]);
	unsigned junk = fill_queue(manager);
	uint16_t port = network_tcp_port();
	struct program *p = start_managed(port, env);

	(void)state;
	program_wait_tcp(p, port);
	close(network_tcp_connect(HOST, "127.0.0.1", port));
	program_wait_connection(p, 1);
	assert_int_equal(program_stop(p), 0);
	while (junk-- > 0)
		expect_news(manager, "junk");
	assert_false(traffic_readable(manager, 0));
}

/* The next news must be of counters that are in the next line of them, too, and
 * both must have this. Returns the line. */
static const char *
expect_counters(struct program *p, int manager, unsigned nth, uint64_t active,
    uint64_t accepted, uint64_t failed, uint64_t up, uint64_t down)
{
	const char *line = program_wait_log(p, " msg=counters ", nth);

	assert_int_equal(program_log_number(line, "active"), active);
	assert_int_equal(program_log_number(line, "accepted"), accepted);
	assert_int_equal(program_log_number(line, "up"), up);
	assert_int_equal(program_log_number(line, "down"), down);
	expect_news(manager,
	    harness_text("STATUS=Serving: %u active, %u accepted, %u failed, "
			 "%u bytes up, %u down",
		(unsigned)active, (unsigned)accepted, (unsigned)failed,
		(unsigned)up, (unsigned)down));
	return line;
}

static void
test_notify_counters(void **state)
{
	/* Broken: with --stats-interval neither the log nor the manager tells
	 * what goes on; counters come too soon, when nothing has changed, or
	 * not for those who want no more than errors in the log. */
	char *env[] = {NULL, NULL};
	int manager = listen_for_news("@tcp-proxy-test-counters", &env[0]);
	struct bridge b = {.route = IP_TO_VSOCK,
	    .env = env,
	    .extra = ARGS("--stats-interval", "1", "--log-level", "error")};
	uint64_t begin = harness_now_ms();
	int client, upstream;

	(void)state;
	bridge_open(&b);
	strict_guard_log(b.first);
	expect_news(manager, "READY=1\nSTATUS=Serving");
	assert_false(traffic_readable(manager, STILL_MS));
	bridge_pair(&b, &client, &upstream);
	(void)expect_counters(b.first, manager, 1, 1, 1, 0, 0, 0);
	for (unsigned i = 1; i <= SAMPLE; i++) {
		traffic_send(client, "12345", 5);
		traffic_expect(upstream, "12345", 5);
		(void)expect_counters(
		    b.first, manager, 1 + i, 1, 1, 0, (uint64_t)5 * i, 0);
	}
	assert_true(harness_now_ms() - begin >= (1 + SAMPLE) * 1000);
	assert_false(traffic_readable(manager, STILL_MS));
	assert_int_equal(
	    program_count_log(b.first, " msg=counters "), 1 + SAMPLE);
	/* Who asks gets an answer in the log. */
	assert_int_equal(kill(b.first->pid, SIGUSR1), 0);
	program_wait_log(b.first, " msg=counters ", 2 + SAMPLE);
	assert_false(traffic_readable(manager, STILL_MS));
	traffic_reset(client);
	(void)expect_counters(
	    b.first, manager, 3 + SAMPLE, 0, 1, 1, (uint64_t)5 * SAMPLE, 0);
	/* What it waits for isn't hidden by counters. */
	bridge_pair(&b, &client, &upstream);
	(void)expect_counters(
	    b.first, manager, 4 + SAMPLE, 1, 2, 1, (uint64_t)5 * SAMPLE, 0);
	assert_int_equal(kill(b.first->pid, SIGTERM), 0);
	expect_news(
	    manager, "STOPPING=1\nSTATUS=Waiting for connections to finish");
	traffic_send(client, "1", 1);
	traffic_expect(upstream, "1", 1);
	program_wait_log(b.first, " msg=counters ", 5 + SAMPLE);
	traffic_end_pair(client, upstream);
	assert_int_equal(program_wait_end(b.first), 0);
	assert_false(traffic_readable(manager, 0));
}

static void
test_notify_failure(void **state)
{
	/* Broken: a program that can't listen is taken for ready; or one that
	 * can fails, because nobody wants to know. */
	static char no_socket[] = "NOTIFY_SOCKET=/nonexistent/notify";
	static char nothing[] = "NOTIFY_SOCKET=";
	char *env[] = {NULL, NULL};
	char *const *args = ARGS("-i", "127.0.0.1:0", "-v", "1:7");
	char *others[] = {
	    no_socket, nothing, harness_text("NOTIFY_SOCKET=/%0200d", 0)};
	int manager = listen_for_news("@tcp-proxy-test-failure", &env[0]);
	struct program *p = program_run(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", "203.0.113.9:1", "-v", "1:7"),
	    .env = env});

	(void)state;
	assert_int_equal(program_wait_end(p), 1);
	assert_false(traffic_readable(manager, 0));
	for (size_t i = 0; i < COUNT(others); i++) {
		env[0] = others[i];
		p = program_start(&(struct program_options){.side = HOST,
		    .name = "ip-to-vsock",
		    .args = args,
		    .env = env});
		program_wait_log(p, " msg=listening ", 1);
		assert_int_equal(program_stop(p), 0);
	}
}

/* The arguments of each program without those for the listener. */
static const struct client_of_manager {
	char *name, *flag, *listen; /* what they would be */
	bool is_tcp;
	char *args[3];
} programs[] = {
    {"ip-to-vsock", "--ip-addr", "127.0.0.1:0", true, {"-v", "1:7"}},
    {"vsock-to-ip", "--vsock-addr", "any:4294967295", false,
	{"-i", "127.0.0.1:7"}},
    {"ip-to-vsock-transparent", "--ip-addr", "127.0.0.1:0", true,
	{"-v", "1:7"}},
    {"vsock-to-ip-transparent", "--vsock-addr", "any:4294967295", false, {0}},
    {"port-to-vsock-transparent", "--ip-addr", "127.0.0.1:0", true,
	{"--vsock", "1"}},
};

/* Starts one of them with a listener passed. */
static struct program *
start_passed(const struct client_of_manager *c, int listener)
{
	return program_start(&(struct program_options){.side = HOST,
	    .name = c->name,
	    .args = c->args,
	    .listener = listener,
	    .listen_fds = "1"});
}

static int
option_of(int fd, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	assert_int_equal(getsockopt(fd, level, option, &value, &length), 0);
	return value;
}

static void
test_passed(void **state)
{
	/* Broken: a program can't be given a listener; or connections that come
	 * through it are delayed, or never found dead. */
	(void)state;
	for (size_t i = 0; i < COUNT(programs); i++) {
		const struct client_of_manager *c = &programs[i];
		uint16_t port = network_tcp_port();
		uint32_t vsock_port = network_vsock_port();
		int listener = c->is_tcp ? network_tcp_listen(HOST, "::1", port)
					 : network_vsock_listen(vsock_port);
		struct program *p = start_passed(c, listener);
		const char *line = program_wait_log(p, " msg=listening ", 1);

		strict_expect_keys(line, LISTENING_KEYS);
		strict_expect_value(line, "listen",
		    c->is_tcp ? harness_text("[::1]:%u", port)
			      : harness_text("1:%u", vsock_port));
		traffic_half_close(c->is_tcp
				       ? network_tcp_connect(HOST, "::1", port)
				       : network_vsock_connect(vsock_port));
		program_wait_connection(p, 1);
		assert_int_equal(program_wait_descriptors(p, IDLE_DESCRIPTORS),
		    IDLE_DESCRIPTORS);
		if (!c->is_tcp)
			continue;
		assert_int_equal(
		    option_of(listener, IPPROTO_TCP, TCP_NODELAY), 1);
		assert_int_equal(
		    option_of(listener, SOL_SOCKET, SO_KEEPALIVE), 1);
	}
}

static void
test_passed_with_clients(void **state)
{
	/* Broken: a client that came before the program, as the first one does
	 * that a manager starts it for, sees an error as a clean end. */
	int clients[2];
	uint16_t port = network_tcp_port();
	int listener = network_tcp_listen(HOST, "127.0.0.1", port);
	uint32_t vsock_port = network_vsock_port();
	int upstream = network_vsock_listen(vsock_port);
	struct program *p;

	(void)state;
	for (size_t i = 0; i < COUNT(clients); i++)
		clients[i] = network_tcp_connect(HOST, "127.0.0.1", port);
	p = start_passed(&programs[0], listener); /* nobody is there */
	assert_int_equal(traffic_wait_end(clients[0], NULL), TRAFFIC_RESET);
	assert_int_equal(traffic_wait_end(clients[1], NULL), TRAFFIC_RESET);
	assert_int_equal(program_stop(p), 0);
	clients[0] = network_tcp_connect(HOST, "127.0.0.1", port);
	p = program_start(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("--grace=0", "-v", harness_text("1:%u", vsock_port)),
	    .listener = listener,
	    .listen_fds = "1"});
	upstream = network_accept(upstream);
	traffic_echo(clients[0], upstream);
	assert_int_equal(program_stop(p), 0);
	assert_int_equal(traffic_wait_end(clients[0], NULL), TRAFFIC_RESET);
}

static void
test_passed_and_given(void **state)
{
	/* Broken: of two listeners one is ignored silently; or one of several
	 * that were passed is. */
	static const char *const counts[] = {"2", "0", "", "1 ", "01"};

	(void)state;
	for (size_t i = 0; i < COUNT(programs); i++) {
		const struct client_of_manager *c = &programs[i];
		struct program *p = program_run(&(struct program_options){
		    .name = c->name,
		    .args = ARGS(c->flag, c->listen, c->args[0], c->args[1]),
		    .listener = network_tcp_listen(HOST, "127.0.0.1", 0),
		    .listen_fds = "1"});

		assert_int_equal(program_wait_end(p), 2);
		assert_non_null(strstr(program_err(p), "LISTEN_FDS"));
		assert_non_null(strstr(program_err(p), c->flag));
	}
	for (size_t i = 0; i < COUNT(counts); i++) {
		struct program *p = program_run(
		    &(struct program_options){.name = programs[0].name,
			.args = programs[0].args,
			.listener = network_tcp_listen(HOST, "127.0.0.1", 0),
			.listen_fds = counts[i]});

		assert_int_equal(program_wait_end(p), 2);
		assert_non_null(strstr(program_err(p),
		    harness_text(
			"LISTEN_FDS is '%s': expected 1\n", counts[i])));
	}
}

/* Expects that a program ends, because of what it was passed. */
static void
expect_not_adopted(const struct client_of_manager *c, int fd)
{
	struct program *p = start_passed(c, fd);
	const char *line;

	assert_int_equal(program_wait_end(p), 1);
	assert_int_equal(strict_count(program_err(p), '\n'), 1);
	line = program_wait_log(p, " msg=\"cannot listen\" ", 1);
	strict_expect_value(line, "listen", "LISTEN_FDS");
	strict_expect_value(line, "reason",
	    c->is_tcp ? "descriptor 3 is no TCP listener"
		      : "descriptor 3 is no vsock listener");
}

static int
listen_for_messages(void)
{
	struct sockaddr_vm a = {.svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_LOCAL,
	    .svm_port = network_vsock_port()};
	int fd = socket(AF_VSOCK, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd == -1 && errno == ESOCKTNOSUPPORT)
		harness_skip("vsock has no SOCK_SEQPACKET");
	assert_int_not_equal(fd, -1);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void
test_passed_wrong(void **state)
{
	/* Broken: a program that was passed the wrong thing seems to run, or
	 * spins, or nobody learns why it doesn't. */
	const struct client_of_manager *tcp = &programs[0],
				       *vsock = &programs[1];
	uint16_t port = network_tcp_port();
	int tcp_listener = network_tcp_listen(HOST, "127.0.0.1", port);
	char *variable;

	(void)state;
	expect_not_adopted(vsock, tcp_listener);
	expect_not_adopted(tcp, network_vsock_listen(network_vsock_port()));
	expect_not_adopted(tcp, network_tcp_connect(HOST, "127.0.0.1", port));
	expect_not_adopted(vsock, socket(AF_VSOCK, SOCK_STREAM, 0));
	expect_not_adopted(tcp, socket(AF_INET, SOCK_STREAM, 0));
	expect_not_adopted(tcp, socket(AF_INET6, SOCK_DGRAM, 0));
	expect_not_adopted(tcp, open("/dev/null", O_RDWR | O_CLOEXEC));
	expect_not_adopted(
	    vsock, listen_for_news("@tcp-proxy-test-wrong", &variable));
}

static void
test_passed_messages(void **state)
{
	/* Broken: a program that was passed a vsock listener for messages takes
	 * it for one of streams. */
	(void)state;
	expect_not_adopted(&programs[1], listen_for_messages());
}

static bool
close_third(const void *argument)
{
	(void)argument;
	return close(3) == 0 || errno == EBADF;
}

static void
test_passed_nothing(void **state)
{
	/* Broken: a program that was promised a listener and got none takes
	 * whatever has its number. */
	struct program *p;

	(void)state;
	p = program_run(&(struct program_options){.name = programs[0].name,
	    .args = programs[0].args,
	    .prepare = close_third,
	    .listen_fds = "1"});
	assert_int_equal(program_wait_end(p), 1);
	program_wait_log(p, " reason=\"descriptor 3 is no TCP listener\"", 1);
}

static void
test_passed_to_another(void **state)
{
	/* Broken: a variable that was meant for a parent keeps a program from
	 * listening where it was told to. */
	char *env[] = {"LISTEN_PID=1", "LISTEN_FDS=1", NULL};
	uint16_t port = network_tcp_port();
	struct program_options options = {.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", harness_text("127.0.0.1:%u", port), "-v", "1:7"),
	    .env = env,
	    .listener = network_tcp_listen(HOST, "::1", port)};
	struct program *p = program_start(&options);

	(void)state;
	strict_expect_value(program_wait_log(p, " msg=listening ", 1), "listen",
	    harness_text("127.0.0.1:%u", port));
	options.args = programs[0].args;
	p = program_run(&options);
	assert_int_equal(program_wait_end(p), 2);
	assert_non_null(strstr(program_err(p), "'--ip-addr <IP_ADDR>' is"));
}

/* Clients of a listener that is passed on and on. */
struct wave {
	struct bridge b;
	int clients[4 * WAVE];
	unsigned count;
};

/* A few more connect. */
static void
connect_some(struct wave *w)
{
	for (int i = 0; i < WAVE; i++) {
		uint8_t name = (uint8_t)w->count;

		w->clients[w->count] = bridge_connect(&w->b);
		traffic_send(w->clients[w->count++], &name, 1);
	}
}

/* Expects that all that are there get their own answer. */
static void
expect_answers(struct wave *w)
{
	bool seen[COUNT(w->clients)] = {false};
	uint8_t name;

	for (unsigned i = 0; i < w->count; i++) {
		int upstream = bridge_accept(&w->b);

		assert_int_equal(traffic_receive(upstream, &name, 1), 1);
		assert_true(name < w->count && !seen[name]);
		seen[name] = true;
		traffic_echo(w->clients[name], upstream);
		close(upstream);
		traffic_expect_eof(w->clients[name]);
		close(w->clients[name]);
	}
	w->count = 0;
}

/* A program with the listener of the wave. */
static struct program *
start_next(const struct wave *w, int listener)
{
	const struct bridge *b = &w->b;
	char *upstream = b->client_is_tcp
			     ? harness_text("1:%u", b->vsock_port)
			     : harness_text("127.0.0.1:%u", b->upstream_port);

	return program_start(
	    &(struct program_options){.side = bridge_side(b->route, false),
		.name = bridge_name(b->route),
		.args = ARGS(b->client_is_tcp ? "-v" : "-i", upstream),
		.listener = listener,
		.listen_fds = "1"});
}

static void
test_restart_refuses_nobody(void **state)
{
	/* Broken: an update of a service that gets its listener from a manager
	 * turns clients away, or loses them. */
	struct wave w = {.b = {.route = (enum route)(uintptr_t)*state,
			     .listen_port = network_tcp_port(),
			     .vsock_port = network_vsock_port(),
			     .upstream_port = network_tcp_port()}};
	struct program *old, *next;
	int listener;

	w.b.client_is_tcp = w.b.route == IP_TO_VSOCK;
	w.b.upstream_is_tcp = !w.b.client_is_tcp;
	listener = w.b.client_is_tcp
		       ? network_tcp_listen(bridge_side(w.b.route, false),
			     "127.0.0.1", w.b.listen_port)
		       : network_vsock_listen(w.b.vsock_port);
	bridge_listen(&w.b);
	old = start_next(&w, listener);
	w.b.first = w.b.last = old;
	for (unsigned i = 0; i < RESTARTS; i++) {
		connect_some(&w);
		/* Sometimes there is nobody for a while, sometimes two. */
		if (i % 2 == 1)
			program_wait_log(old, " msg=listening ", 1);
		next = i % 2 == 0 ? start_next(&w, listener) : NULL;
		connect_some(&w);
		program_wait_log(old, " msg=listening ", 1);
		assert_int_equal(kill(old->pid, SIGTERM), 0);
		connect_some(&w);
		if (next == NULL)
			next = start_next(&w, listener);
		connect_some(&w);
		expect_answers(&w);
		assert_int_equal(program_wait_end(old), 0);
		old = next;
	}
}

int
strict_service_run(void)
{
	static char path[] = "/tmp/tcp-proxy-test-notify";
	static char name[] = "@tcp-proxy-test-notify";
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_notify, "path", path),
	    TEST_WITH(test_notify, "abstract", name),
	    TEST(test_notify_hangs),
	    TEST(test_notify_counters),
	    TEST(test_notify_failure),
	    TEST(test_passed),
	    TEST(test_passed_with_clients),
	    TEST(test_passed_and_given),
	    TEST(test_passed_wrong),
	    TEST(test_passed_messages),
	    TEST(test_passed_nothing),
	    TEST(test_passed_to_another),
	    TEST_WITH(test_restart_refuses_nobody, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_restart_refuses_nobody, "vsock-to-ip", VSOCK_TO_IP),
	};

	return cmocka_run_group_tests_name(
	    "strict: service", tests, NULL, NULL);
}
