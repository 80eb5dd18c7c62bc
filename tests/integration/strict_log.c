/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line for each connection: what is in it, and that it stays whole.
 */
#include "strict.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define UP 70001
#define DOWN 30007
/* How long the connection is held for its duration to be seen in the log. */
#define HELD_MS 120
#define CROWD 50
/* Connections of one kind, in a log that is filtered. */
#define SAMPLE 2
#define CHECKS 50

/* The upstream of a bridge of one program, as a log has it. */
static const char *
upstream_name(const struct bridge *b)
{
	if (!b->upstream_is_tcp)
		return harness_text("1:%u", b->vsock_port);
	return network_name(b->route == VSOCK_TO_IP ? "127.0.0.1" : TARGET_IPV4,
	    b->upstream_port);
}

/* The target likewise. */
static const char *
target_name(const struct bridge *b)
{
	switch (b->route) {
	case IP_TO_VSOCK_TRANSPARENT:
	case VSOCK_TO_IP_TRANSPARENT:
		return network_name(TARGET_IPV4, b->upstream_port);
	case PORT_TO_VSOCK_TRANSPARENT:
		return network_name(OTHER_IPV4, (uint16_t)b->vsock_port);
	default: return "-";
	}
}

/* Goes through a bridge with UP and DOWN bytes. Returns the client's name. */
static const char *
exchange(const struct bridge *b)
{
	const char *name;
	int client, upstream;

	bridge_pair(b, &client, &upstream);
	name = strict_own_name(client);
	traffic_send_stream(client, 1, UP);
	traffic_half_close(client);
	traffic_expect_stream(upstream, 1, UP);
	traffic_expect_eof(upstream);
	assert_false(traffic_readable(client, HELD_MS));
	traffic_send_stream(upstream, 2, DOWN);
	traffic_half_close(upstream);
	traffic_expect_stream(client, 2, DOWN);
	traffic_expect_eof(client);
	close(client);
	close(upstream);
	return name;
}

static void
test_connection_line(void **state)
{
	/* Broken: the log doesn't tell who was connected to what, how much
	 * went through, or for how long. */
	struct bridge b = strict_bridge((enum route)(uintptr_t)*state, NULL);
	unsigned first = strict_first(&b);

	for (unsigned i = first; i < first + 2; i++) {
		uint64_t begin = harness_now_ms(), ms;
		const char *client = exchange(&b);
		const char *line = strict_expect_end(b.first, i, "eof", NULL);

		ms = program_log_number(line, "ms");
		strict_expect_value(line, "client", client);
		strict_expect_value(line, "upstream", upstream_name(&b));
		strict_expect_value(line, "target", target_name(&b));
		assert_int_equal(program_log_number(line, "up"), UP);
		assert_int_equal(program_log_number(line, "down"), DOWN);
		assert_in_range(ms, HELD_MS, harness_now_ms() - begin);
	}
	assert_int_equal(program_count_log(b.first, " end=eof"), 2);
	assert_string_equal(program_out(b.first), "");
}

static void
test_empty_connection(void **state)
{
	/* Broken: a probe that connects and leaves isn't seen, or is counted
	 * as a failure. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	int client, upstream;
	const char *line;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	close(client);
	traffic_expect_eof(upstream);
	close(upstream);
	line = strict_expect_end(b.first, 1, "eof", NULL);
	assert_int_equal(program_log_number(line, "up"), 0);
	assert_int_equal(program_log_number(line, "down"), 0);
}

static void
test_time_stamp(void **state)
{
	/* Broken: lines can't be put in order with those of other programs. */
	struct program *p = strict_start(
	    HOST, "ip-to-vsock", ARGS("-i", "127.0.0.1:0", "-v", "1:7"));
	const char *stamp = program_log_value(program_err(p), "ts");
	const char *now = program_out(
	    program_run_args(HOST, "date", "-u", "+%Y-%m-%dT%H:%M:", NULL));
	unsigned parts[7];
	char zone;

	(void)state;
	assert_int_equal(strlen(stamp), strlen("2025-01-02T03:04:05.678Z"));
	assert_int_equal(
	    sscanf(stamp, "%4u-%2u-%2uT%2u:%2u:%2u.%3u%c", parts, parts + 1,
		parts + 2, parts + 3, parts + 4, parts + 5, parts + 6, &zone),
	    8);
	assert_int_equal(zone, 'Z');
	/* The minute may have changed in between, the hour seldom. */
	assert_memory_equal(stamp, now, strlen("2025-01-02T"));
}

/* How many lines of each kind there must be at a level. */
static const struct filter {
	char *level;
	unsigned listening, failed, connected, closed;
} filters[] = {
    {"error", 0, 0, 0, 0},
    {"warn", 0, SAMPLE, 0, 0},
    {"info", 1, SAMPLE, 0, SAMPLE},
    {"debug", 1, SAMPLE, SAMPLE, SAMPLE},
};

static void
test_log_level(void **state)
{
	/* Broken: --log-level hides what it should show, or the reverse. */
	const struct filter *f = &filters[(uintptr_t)*state];
	struct bridge b = {.route = IP_TO_VSOCK,
	    .extra = ARGS("--log-level", f->level),
	    .no_upstream = true};

	bridge_open(&b);
	strict_guard_log(b.first);
	for (int i = 0; i < SAMPLE; i++)
		traffic_expect_end(bridge_connect(&b));
	bridge_listen(&b);
	for (int i = 0; i < SAMPLE; i++)
		bridge_expect_service(&b);
	/* With its thread ends all that a connection has to say. */
	assert_int_equal(program_wait_threads(b.first, 1), 1);
	assert_int_equal(
	    program_count_log(b.first, " msg=listening "), f->listening);
	assert_int_equal(program_count_log(b.first, " msg=failed "), f->failed);
	assert_int_equal(
	    program_count_log(b.first, " msg=connected "), f->connected);
	assert_int_equal(program_count_log(b.first, " msg=closed "), f->closed);
	/* One more, with debug: what it gave up. */
	assert_int_equal(
	    program_count_log(b.first, " msg=confined "), f->connected != 0);
	assert_int_equal(strict_count(program_err(b.first), '\n'),
	    f->listening + f->failed + f->connected + f->closed +
		(f->connected != 0));
	/* Who asks gets an answer. */
	assert_int_equal(kill(b.first->pid, SIGUSR1), 0);
	program_wait_log(b.first,
	    " level=info prog=ip-to-vsock msg=counters accepted=4 ", 1);
}

static void
test_connected_line(void **state)
{
	/* Broken: with --log-level debug nobody sees a connection while it
	 * lasts. */
	struct bridge b = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--log-level", "debug"));
	int client, upstream;
	const char *line;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	line = program_wait_log(b.first, " msg=connected ", 1);
	strict_expect_keys(line, "ts level prog msg conn upstream target");
	strict_expect_value(line, "level", "debug");
	strict_expect_value(line, "conn", "2");
	strict_expect_value(line, "target", target_name(&b));
	strict_expect_value(line, "upstream", upstream_name(&b));
	traffic_echo(client, upstream);
}

static void
test_failure_logged_once(void **state)
{
	/* Broken: one failure looks like several, or like none. */
	struct bridge b = {
	    .route = (enum route)(uintptr_t)*state, .no_upstream = true};
	unsigned number;

	bridge_open(&b);
	number = strict_first(&b);
	traffic_expect_end(bridge_connect(&b));
	program_wait_connection(b.first, number);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
	assert_int_equal(
	    program_count_log(b.first, harness_text(" conn=%u ", number)), 1);
	/* And the start, and that there are no rules. */
	assert_int_equal(strict_count(program_err(b.first), '\n'),
	    number + (b.route == VSOCK_TO_IP_TRANSPARENT ? 2 : 1));
}

/* Starts ip-to-vsock with its standard error on a socket of messages, of which
 * each write makes one. Returns the other end. */
static int
start_with_messages(struct bridge *b)
{
	int ends[2];

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	b->listen_port = network_tcp_port();
	b->vsock_port = network_vsock_port();
	b->client_is_tcp = true;
	b->first = b->last =
	    program_start(&(struct program_options){.side = HOST,
		.name = "ip-to-vsock",
		.args = ARGS("-i", harness_text("127.0.0.1:%u", b->listen_port),
		    "-v", harness_text("1:%u", b->vsock_port), "--log-level",
		    "debug"),
		.stderr_fd = ends[1]});
	close(ends[1]);
	program_wait_tcp(b->first, b->listen_port);
	b->listener = network_vsock_listen(b->vsock_port);
	return ends[0];
}

/* Receives a message; expects that it is a whole line. Returns it. */
static const char *
next_line(int messages)
{
	char text[2048];
	size_t length;

	assert_true(traffic_readable(messages, DEADLINE_MS));
	length = (size_t)recv(messages, text, sizeof(text) - 1, 0);
	assert_in_range(length, 1, sizeof(text) - 1);
	text[length] = '\0';
	if (strchr(text, '\n') != text + length - 1)
		fail_msg("not one line: '%s'", text);
	text[length - 1] = '\0';
	return harness_text("%s", text);
}

static void
test_lines_whole(void **state)
{
	/* Broken: lines of connections that end together mix. */
	struct bridge b = {.route = IP_TO_VSOCK};
	int messages = start_with_messages(&b);
	int clients[CROWD], upstreams[CROWD];
	unsigned closed = 0;

	(void)state;
	for (int i = 0; i < CROWD; i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	/* All end at once, when the program goes on. */
	strict_stop(b.first);
	for (int i = 0; i < CROWD; i++) {
		close(clients[i]);
		close(upstreams[i]);
	}
	strict_continue(b.first);
	for (int i = 0; i < 2 + 2 * CROWD; i++) {
		const char *line = next_line(messages);

		closed += strstr(line, " msg=closed ") != NULL;
		strict_expect_keys(line,
		    i == 0   ? CONFINED_KEYS
		    : i == 1 ? LISTENING_KEYS
		    : strstr(line, " msg=connected ") != NULL
			? "ts level prog msg conn upstream target"
			: "ts level prog msg conn client upstream target up "
			  "down ms end");
	}
	assert_int_equal(closed, CROWD);
}

static void
test_numbers_unique(void **state)
{
	/* Broken: lines of two connections can't be told apart. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	int clients[CROWD], upstreams[CROWD];

	(void)state;
	for (int i = 0; i < CROWD; i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	for (int i = 0; i < CROWD; i++) {
		close(clients[i]);
		close(upstreams[i]);
	}
	for (unsigned i = 1; i <= CROWD; i++)
		strict_expect_end(b.first, i, "eof", NULL);
	assert_int_equal(program_count_log(b.first, " conn="), CROWD);
}

/* Makes a pipe full, so that the next line has no room. */
static void
fill_pipe(const int ends[2])
{
	static const char zeros[4096];

	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	while (write(ends[1], zeros, sizeof(zeros)) > 0)
		;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fcntl(ends[1], F_SETFL, 0), 0);
}

static void
end_one(const struct bridge *b)
{
	int client, upstream;

	bridge_pair(b, &client, &upstream);
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	assert_int_equal(program_wait_threads(b->first, 1), 1);
}

static void
test_health_check(void **state)
{
	/* Broken: a client that connects and resets, as health checks do, is a
	 * warning; or an upstream that does so is none. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	struct bridge back = strict_bridge(VSOCK_TO_IP, NULL);
	int client, upstream;
	char byte;

	(void)state;
	for (int i = 0; i < CHECKS; i++)
		traffic_reset(bridge_connect(&b));
	/* Who comes next is accepted after them. */
	client = bridge_connect(&b);
	traffic_send(client, "x", 1);
	while (recv(upstream = bridge_accept(&b), &byte, 1, 0) != 1)
		close(upstream);
	traffic_end_pair(client, upstream);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
	/* A reset that overtakes the end of the handshake leaves no client. */
	assert_in_range(program_count_log(b.first, " end=client-error "),
	    CHECKS / 2, CHECKS);
	assert_int_equal(program_count_log(b.first, " end=eof"), 1);
	assert_int_equal(program_count_log(b.first, " level=warn "), 0);
	bridge_pair(&back, &client, &upstream);
	traffic_reset(upstream);
	strict_expect_end(back.first, strict_first(&back), "upstream-error",
	    "Connection reset by peer");
}

static void
test_log_not_read(void **state)
{
	/* Broken: a log that nobody reads holds up clients, or the end; or
	 * lines are missing later, and nothing says so. */
	struct bridge b = {.client_is_tcp = true,
	    .listen_port = network_tcp_port(),
	    .vsock_port = network_vsock_port()};
	char text[65536];
	ssize_t n;
	int ends[2], client, upstream;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(fcntl(ends[1], F_SETPIPE_SZ, 8192), 8192);
	fill_pipe(ends);
	b.first = b.last = program_start(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", harness_text("127.0.0.1:%u", b.listen_port),
		"-v", harness_text("1:%u", b.vsock_port), "--grace=0"),
	    .stderr_fd = ends[1]});
	program_wait_tcp(b.first, b.listen_port);
	b.listener = network_vsock_listen(b.vsock_port);
	end_one(&b);
	assert_int_equal(read(ends[0], text, sizeof(text)), 8192);
	end_one(&b);
	n = read(ends[0], text, sizeof(text) - 1);
	assert_in_range(n, 1, sizeof(text) - 1);
	text[n] = '\0';
	strict_expect_keys(text, "ts level prog lost msg conn client upstream "
				 "target up down ms end");
	strict_expect_value(text, "conn", "2");
	strict_expect_value(text, "lost", "2"); /* listening; the first */
	bridge_pair(&b, &client, &upstream);
	fill_pipe(ends);
	assert_int_equal(program_stop(b.first), 0);
}

int
strict_log_run(void)
{
	const struct CMUnitTest tests[] = {
	    EACH_PROGRAM(test_connection_line),
	    TEST(test_empty_connection),
	    TEST(test_time_stamp),
	    TEST_WITH(test_log_level, "error", 0),
	    TEST_WITH(test_log_level, "warn", 1),
	    TEST_WITH(test_log_level, "info", 2),
	    TEST_WITH(test_log_level, "debug", 3),
	    TEST(test_connected_line),
	    EACH_PROGRAM(test_failure_logged_once),
	    TEST(test_lines_whole),
	    TEST(test_numbers_unique),
	    TEST(test_health_check),
	    TEST(test_log_not_read),
	};

	return cmocka_run_group_tests_name("strict: log", tests, NULL, NULL);
}
