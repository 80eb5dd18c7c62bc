/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: SIGTERM and SIGINT let connections finish, SIGUSR1 asks for counts,
 * SIGHUP does nothing, and SIGKILL doesn't make cut-off data look complete.
 */
#include "strict.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOME 100000
/* For what happens at once: far more than that takes on a slow machine, and
 * less than --grace is unless it's given. */
#define AT_ONCE_MS 5000
#define STORM 200
#define BURSTS 10 /* twice */
#define BURST 8

#define REFUSED "Connection refused"
#define GONE "Connection reset by peer|the peer gave up"

static void
send_signal(const struct program *p, int number)
{
	assert_int_equal(kill(p->pid, number), 0);
}

/* Sends a signal, and waits until the program says that it stops. */
static void
begin_stop(struct program *p, int number, unsigned active, unsigned grace)
{
	uint64_t begin = harness_now_ms();
	const char *line;

	send_signal(p, number);
	line = program_wait_log(p, " msg=stopping ", 1);
	assert_in_range(harness_now_ms() - begin, 0, AT_ONCE_MS);
	strict_expect_keys(line, "ts level prog msg active grace");
	strict_expect_value(line, "level", "info");
	assert_int_equal(program_log_number(line, "active"), active);
	assert_int_equal(program_log_number(line, "grace"), grace);
}

/* Expects that it ends, with exit status 0 and these counts. */
static void
expect_stopped(struct program *p, const char *counts)
{
	const char *line, *end;

	assert_int_equal(program_wait_end(p), 0);
	line = program_wait_log(p, " msg=stopped ", 1);
	strict_expect_counts(line, counts);
	end = strstr(program_err(p), line);
	assert_string_equal(end + strlen(line), "\n"); /* the last one */
	assert_int_equal(program_count_log(p, " msg=stopping "), 1);
}

/* What finding out whether it listens on vsock has counted. */
static const char *
probed(const struct bridge *b, unsigned more)
{
	const char *kind =
	    b->route == VSOCK_TO_IP_TRANSPARENT ? "no-target" : "no-upstream";

	return b->client_is_tcp
		   ? harness_text("accepted=%u", more)
		   : harness_text("accepted=%u %s=1", 1 + more, kind);
}

struct drain {
	enum route route;
	int signal;
};

static void
test_drain(void **state)
{
	/* Broken: a restart cuts off connections, or has to wait for the last
	 * of them before the address can be had again. */
	const struct drain *row = *state;
	struct bridge b = strict_bridge(row->route, NULL), next = b;
	int client, upstream, tcp, vsock;
	uint64_t begin;

	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	begin_stop(b.first, row->signal, 1, 8);
	next.first = next.last = bridge_start_again(&b);
	program_wait_log(next.first, " msg=listening ", 1);
	bridge_expect_service(&next);
	assert_true(program_runs(b.first));
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	traffic_send_stream(tcp, 1, SOME);
	traffic_half_close(tcp);
	traffic_expect_stream(vsock, 1, SOME);
	traffic_expect_eof(vsock);
	/* It neither waits for all of its time, nor ends before. */
	assert_true(program_runs(b.first));
	begin = harness_now_ms();
	traffic_send_stream(vsock, 2, MIB);
	traffic_half_close(vsock);
	expect_stopped(
	    b.first, harness_text("%s eof=1 up=%u down=%u", probed(&b, 1),
			 11 + (b.client_is_tcp ? SOME : MIB),
			 8 + (b.client_is_tcp ? MIB : SOME)));
	assert_in_range(harness_now_ms() - begin, 0, AT_ONCE_MS);
	/* What the kernel has yet to deliver outlives it. */
	traffic_expect_stream(tcp, 2, MIB);
	traffic_expect_eof(tcp);
	strict_expect_end(b.first, strict_first(&b), "eof", NULL);
	bridge_expect_service(&next);
}

static void
test_stop_idle(void **state)
{
	/* Broken: a program without connections takes its time to end, or
	 * doesn't say that it ended as it was told. */
	static const int numbers[] = {SIGTERM, SIGINT};

	(void)state;
	for (size_t i = 0; i < COUNT(numbers); i++) {
		struct program *p = strict_start(HOST, "ip-to-vsock",
		    ARGS("-i", "127.0.0.1:0", "-v", "1:7", "--grace=1000"));

		begin_stop(p, numbers[i], 0, 1000);
		expect_stopped(p, "");
	}
}

static void
test_stop_while_resolving(void **state)
{
	/* Broken: whoever starts a program with a name that no resolver answers
	 * for can't end it for a minute. */
	static const int numbers[] = {SIGTERM, SIGINT};
	static char own_etc[] =
	    "mount -t tmpfs none /etc && echo 'hosts: dns' >/etc/nsswitch.conf "
	    "&& echo nameserver 127.0.0.1 >/etc/resolv.conf && exec \"$@\"";
	struct sockaddr_in name = {.sin_family = AF_INET,
	    .sin_port = htons(53),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int resolver;

	(void)state;
	network_enter(HOST);
	resolver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
	    bind(resolver, (struct sockaddr *)&name, sizeof(name)), 0);
	for (size_t i = 0; i < COUNT(numbers); i++) {
		struct program *p =
		    program_start(&(struct program_options){.side = HOST,
			.name = "unshare",
			.args = ARGS("-m", "sh", "-c", own_etc, "sh",
			    harness_text("%s", program_path("ip-to-vsock")),
			    "-i", "silent.example:0", "-v", "1:7")});
		char query[512];

		assert_true(traffic_readable(resolver, DEADLINE_MS));
		send_signal(p, SIGUSR1);
		send_signal(p, numbers[i]);
		assert_int_equal(program_wait_end(p), 0);
		assert_string_equal(program_err(p), "");
		while (recv(resolver, query, sizeof(query), MSG_DONTWAIT) > 0)
			;
	}
	close(resolver);
}

struct cut {
	char *grace;
	bool twice; /* the signal, not to wait for the end of the grace */
	unsigned least_ms;
};

/* Expects that both connections of a program are cut off in time. */
static void
expect_cut(const struct cut *cut, enum route route)
{
	struct bridge b = strict_bridge(route, ARGS("--grace", cut->grace));
	uint64_t begin = harness_now_ms();
	unsigned first = strict_first(&b);
	const char *line;
	int ends[2][2], tcp, vsock;

	for (int i = 0; i < 2; i++) {
		bridge_pair(&b, &ends[i][0], &ends[i][1]);
		traffic_echo(ends[i][0], ends[i][1]);
	}
	strict_sort_ends(&b, ends[1][0], ends[1][1], &tcp, &vsock);
	/* More than can be delivered: its end must not look like the end. */
	strict_fill(vsock);
	begin = harness_now_ms();
	begin_stop(
	    b.first, SIGTERM, 2, (unsigned)strtoul(cut->grace, NULL, 10));
	if (cut->twice)
		send_signal(b.first, SIGINT);
	assert_int_equal(program_wait_end(b.first), 0);
	assert_in_range(harness_now_ms() - begin, cut->least_ms,
	    cut->least_ms + AT_ONCE_MS);
	assert_int_equal(traffic_wait_end(tcp, NULL), TRAFFIC_RESET);
	traffic_expect_end(ends[0][0]);
	traffic_expect_end(ends[0][1]);
	for (unsigned i = 0; i < 2; i++)
		strict_expect_end(b.first, first + i, "stopped", NULL);
	line = program_wait_log(b.first, " msg=stopped ", 1);
	strict_expect_value(line, "stopped", "2");
	strict_expect_value(line, "active", "0");
	strict_expect_value(line, b.client_is_tcp ? "up" : "down",
	    b.client_is_tcp ? "22" : "16");
	assert_true(program_log_number(line, "longest-ms") >= cut->least_ms);
}

static void
test_cut_off_in_the_end(void **state)
{
	/* Broken: a connection that never ends keeps a stopped program alive;
	 * or it is cut off without anybody being told; or too early. */
	expect_cut(*state, IP_TO_VSOCK);
	expect_cut(*state, VSOCK_TO_IP);
}

/* A client that the program has begun to dial for. */
static int
connect_and_dial(const struct bridge *b)
{
	int client;

	/* What found out whether it listens has gone by then. */
	assert_int_equal(program_wait_threads(b->first, 1), 1);
	client = bridge_connect(b);
	strict_await_threads(b->first, 2);
	return client;
}

static void
test_stop_while_dialling(void **state)
{
	/* Broken: a client that was accepted is forgotten, because its upstream
	 * had not answered as yet; or its dialling holds up the end. */
	struct bridge b = {.route = VSOCK_TO_IP, .no_upstream = true};
	int filler, client, upstream;

	(void)state;
	bridge_open(&b);
	b.listener =
	    strict_black_hole(ENCLAVE, "127.0.0.1", b.upstream_port, &filler);
	client = connect_and_dial(&b);
	begin_stop(b.first, SIGTERM, 1, 8);
	close(network_accept(b.listener));
	close(filler);
	upstream = network_accept(b.listener);
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	expect_stopped(
	    b.first, harness_text("%s eof=1 up=11 down=8", probed(&b, 1)));
	/* And if the upstream never answers. */
	b = (struct bridge){.route = VSOCK_TO_IP,
	    .no_upstream = true,
	    .extra = ARGS("--grace=0", "--connect-timeout=100")};
	bridge_open(&b);
	strict_black_hole(ENCLAVE, "127.0.0.1", b.upstream_port, &filler);
	client = connect_and_dial(&b);
	begin_stop(b.first, SIGTERM, 1, 0);
	traffic_expect_end(client);
	expect_stopped(b.first, harness_text("%s stopped=1", probed(&b, 1)));
	strict_expect_value(
	    strict_expect_end(b.first, 2, "stopped", NULL), "upstream", "-");
}

static void
test_stop_before_preamble(void **state)
{
	/* Broken: the same for a client that has not said where it wants to go.
	 */
	struct bridge b = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--preamble-timeout=600"));
	int silent = bridge_try(&b), late = bridge_try(&b), upstream;
	uint8_t bytes[22];

	(void)state;
	/* Both were accepted when a third one gets through. */
	bridge_expect_service(&b);
	program_wait_connection(b.first, 4);
	begin_stop(b.first, SIGTERM, 2, 8);
	traffic_send(
	    late, bytes, bridge_preamble(TARGET_IPV4, b.upstream_port, bytes));
	upstream = bridge_accept(&b);
	traffic_echo(late, upstream);
	traffic_end_pair(late, upstream);
	assert_true(program_runs(b.first));
	traffic_half_close(silent);
	traffic_expect_end(silent);
	expect_stopped(b.first, "accepted=4 eof=2 no-target=2 up=22 down=16");
}

static void
test_stop_while_full(void **state)
{
	/* Broken: clients that wait for a place keep a program from ending, or
	 * get one after all, or are not told. */
	struct bridge b = strict_bridge(
	    (enum route)(uintptr_t)*state, ARGS("--max-connections=1"));
	int client, upstream, late;

	bridge_pair(&b, &client, &upstream);
	late = bridge_connect(&b);
	program_wait_log(b.first, " msg=\"cannot accept\" ", 1);
	begin_stop(b.first, SIGTERM, 1, 8);
	traffic_expect_end(late);
	assert_false(network_pending(b.listener));
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	expect_stopped(
	    b.first, harness_text("%s eof=1 up=11 down=8", probed(&b, 1)));
}

static void
test_stop_in_back_off(void **state)
{
	/* Broken: a program that has run out of descriptors doesn't hear that
	 * it should end. */
	const rlim_t most = IDLE_DESCRIPTORS + 1;
	const struct program_limit limit = {RLIMIT_NOFILE, {most, most}};
	uint32_t port = network_vsock_port();
	struct program *p = program_start(
	    &(struct program_options){.name = "vsock-to-ip-transparent",
		.args = ARGS("-v", harness_text("1:%u", port),
		    "--max-connections=9", "--grace=0"),
		.limits = &limit,
		.limit_count = 1});
	uint64_t begin;
	int clients[2];

	(void)state;
	program_wait_log(p, " msg=listening ", 1);
	for (size_t i = 0; i < COUNT(clients); i++)
		clients[i] = network_vsock_connect(port);
	/* The second: it waits for about a second at a time. */
	program_wait_log(p, " msg=\"cannot accept\" ", 2);
	begin = harness_now_ms();
	begin_stop(p, SIGTERM, 1, 0);
	expect_stopped(p, "accepted=1 stopped=1");
	assert_in_range(harness_now_ms() - begin, 0, AT_ONCE_MS);
	for (size_t i = 0; i < COUNT(clients); i++)
		traffic_expect_end(clients[i]);
}

static void
test_stop_in_burst(void **state)
{
	/* Broken: a signal that comes while clients do is lost once in a while,
	 * and so is a connection's line. */
	for (unsigned i = 0; i < BURSTS; i++) {
		struct bridge b = {.route = (enum route)(uintptr_t)*state,
		    .extra = ARGS("--grace=1000"),
		    .no_upstream = true};
		int clients[BURST];
		const char *line;

		bridge_open(&b);
		program_wait_log(b.first, " msg=listening ", 1);
		strict_guard_log(b.first);
		for (unsigned j = 0; j < BURST; j++) {
			clients[j] = bridge_try(&b);
			if (j == i % BURST)
				send_signal(b.first, SIGTERM);
		}
		assert_int_equal(program_wait_end(b.first), 0);
		line = program_wait_log(b.first, " msg=stopped ", 1);
		assert_int_equal(program_count_log(b.first, " conn="),
		    program_log_number(line, "accepted"));
		strict_expect_value(
		    line, "no-upstream", program_log_value(line, "accepted"));
		for (unsigned j = 0; j < BURST; j++)
			if (clients[j] != -1)
				close(clients[j]);
		program_stop_all();
	}
}

static void
test_storm(void **state)
{
	/* Broken: asking for counts again and again harms connections, or the
	 * program. */
	struct bridge b = strict_bridge((enum route)(uintptr_t)*state, NULL);
	struct flow *flows[4];
	int client, upstream;
	unsigned lines;

	bridge_pair(&b, &client, &upstream);
	flows[0] = flow_send(client, 1, 4 * MIB, 0);
	flows[1] = flow_send(upstream, 2, 4 * MIB, 0);
	flows[2] = flow_receive(upstream, 1, 4 * MIB);
	flows[3] = flow_receive(client, 2, 4 * MIB);
	for (int i = 0; i < STORM; i++) {
		send_signal(b.first, SIGUSR1);
		if (i == 0) /* so that it's one line at least */
			program_wait_log(b.first, " msg=counters ", 1);
		poll(NULL, 0, 1);
	}
	program_wait_log(b.first, " msg=counters ", 2);
	for (size_t i = 0; i < COUNT(flows); i++)
		flow_finish(flows[i]);
	strict_expect_end(b.first, strict_first(&b), "eof", NULL);
	lines = program_count_log(b.first, " msg=counters ");
	assert_in_range(lines, 2, STORM); /* those that wait are one */
	bridge_expect_service(&b);
	send_signal(b.first, SIGTERM);
	expect_stopped(b.first, harness_text("%s eof=2 up=%u down=%u",
				    probed(&b, 2), 4 * MIB + 11, 4 * MIB + 8));
}

/* One connection of each kind; the counts after each. */
static void
count_each_kind(struct bridge *b)
{
	uint8_t bytes[22] = {0};
	int client, upstream;

	/* Nobody listens as yet. */
	traffic_expect_end(bridge_connect(b));
	program_wait_connection(b->first, 2);
	strict_count_now(b->first, "accepted=2 no-target=1 no-upstream=1");
	client = bridge_try(b);
	traffic_send(client, bytes, 6); /* port 0 */
	traffic_expect_end(client);
	program_wait_connection(b->first, 3);
	strict_count_now(b->first, "accepted=3 no-target=2 no-upstream=1");
	bridge_listen(b);
	bridge_expect_service(b);
	strict_expect_end(b->first, 4, "eof", NULL);
	strict_count_now(b->first,
	    "accepted=4 no-target=2 no-upstream=1 eof=1 up=11 down=8");
	bridge_pair(b, &client, &upstream);
	traffic_echo(client, upstream);
	traffic_reset(upstream);
	traffic_expect_end(client);
	strict_expect_end(b->first, 5, "upstream-error", GONE);
	strict_count_now(b->first,
	    "accepted=5 no-target=2 no-upstream=1 eof=1 upstream-error=1 "
	    "up=22 down=16");
	bridge_pair(b, &client, &upstream);
	traffic_echo(client, upstream);
	close(client); /* both ways, before it was told that this is the end */
	assert_int_equal(traffic_wait_end(upstream, NULL), TRAFFIC_RESET);
	strict_expect_end(b->first, 6, "client-error", "the peer gave up");
}

static void
test_counters(void **state)
{
	/* Broken: a monitor counts wrong: failures that nobody sees, or alarms
	 * about nothing. */
	struct bridge b = {
	    .route = VSOCK_TO_IP_TRANSPARENT, .no_upstream = true};
	const char *line;
	uint64_t begin, later, ms;
	int clients[2], upstreams[2];
	unsigned up, down;

	(void)state;
	bridge_open(&b);
	strict_guard_log(b.first);
	program_wait_connection(b.first, 1);
	count_each_kind(&b);
	line = program_wait_connection(b.first, 6);
	up = 22 + (unsigned)program_log_number(line, "up");
	down = 16 + (unsigned)program_log_number(line, "down");
	/* What those that are alive have moved counts, too. */
	begin = harness_now_ms();
	bridge_pair(&b, &clients[0], &upstreams[0]);
	traffic_echo(clients[0], upstreams[0]);
	later = harness_now_ms();
	poll(NULL, 0, 200);
	bridge_pair(&b, &clients[1], &upstreams[1]);
	traffic_echo(clients[1], upstreams[1]);
	ms = harness_now_ms() - later;
	line = strict_count_now(b.first,
	    harness_text("accepted=8 active=2 no-target=2 no-upstream=1 eof=1 "
			 "upstream-error=1 client-error=1 up=%u down=%u",
		up + 22, down + 16));
	assert_in_range(program_log_number(line, "longest-ms"), ms,
	    harness_now_ms() - begin);
	traffic_end_pair(clients[0], upstreams[0]);
	strict_expect_end(b.first, 7, "eof", NULL);
	line = strict_count_now(b.first,
	    harness_text("accepted=8 active=1 no-target=2 no-upstream=1 eof=2 "
			 "upstream-error=1 client-error=1 up=%u down=%u",
		up + 22, down + 16));
	/* Of those alive. */
	assert_in_range(program_log_number(line, "longest-ms"), 0,
	    harness_now_ms() - later - 200);
}

static void
test_hang_up(void **state)
{
	/* Broken: the program ends with the terminal that it was started from.
	 */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	int client, upstream;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	send_signal(b.first, SIGHUP);
	bridge_expect_service(&b);
	traffic_echo(client, upstream);
	strict_expect_end(b.first, 2, "eof", NULL);
	assert_int_equal(strict_count(program_err(b.first), '\n'), 2);
}

static void
test_killed(void **state)
{
	/* Broken: what a program that was killed had not delivered looks like
	 * the whole. */
	struct bridge b = strict_bridge((enum route)(uintptr_t)*state, NULL);
	int client, upstream, tcp, vsock;

	for (int i = 0; i < 2; i++) {
		bridge_pair(&b, &client, &upstream);
		traffic_echo(client, upstream);
	}
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	strict_fill(vsock);
	send_signal(b.first, SIGKILL);
	assert_int_equal(traffic_wait_end(tcp, NULL), TRAFFIC_RESET);
}

#define TEST_BOTH(function)                              \
	TEST_WITH(function, "ip-to-vsock", IP_TO_VSOCK), \
	    TEST_WITH(function, "vsock-to-ip", VSOCK_TO_IP)

int
strict_stop_run(void)
{
	static const struct drain drains[] = {{IP_TO_VSOCK, SIGTERM},
	    {IP_TO_VSOCK, SIGINT}, {VSOCK_TO_IP, SIGTERM},
	    {VSOCK_TO_IP, SIGINT}};
	static const struct cut cuts[] = {
	    {"1", false, 1000}, {"0", false, 0}, {"1000", true, 0}};
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_drain, "ip-to-vsock", &drains[0]),
	    TEST_WITH(test_drain, "ip-to-vsock-int", &drains[1]),
	    TEST_WITH(test_drain, "vsock-to-ip", &drains[2]),
	    TEST_WITH(test_drain, "vsock-to-ip-int", &drains[3]),
	    TEST(test_stop_idle),
	    TEST(test_stop_while_resolving),
	    TEST_WITH(test_cut_off_in_the_end, "grace-1", &cuts[0]),
	    TEST_WITH(test_cut_off_in_the_end, "grace-0", &cuts[1]),
	    TEST_WITH(test_cut_off_in_the_end, "second-signal", &cuts[2]),
	    TEST(test_stop_while_dialling),
	    TEST(test_stop_before_preamble),
	    TEST_BOTH(test_stop_while_full),
	    TEST(test_stop_in_back_off),
	    TEST_BOTH(test_stop_in_burst),
	    TEST_BOTH(test_storm),
	    TEST(test_counters),
	    TEST(test_hang_up),
	    TEST_BOTH(test_killed),
	};

	return cmocka_run_group_tests_name("strict: stop", tests, NULL, NULL);
}
