/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many connections: limits on them, what happens when the process runs out of
 * something, and that all of it comes back.
 */
#include "strict.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long to watch a program that has run out of something. */
#define WATCH_MS 2200
#define CROWD 100

static enum route
route_of(void **state)
{
	return (enum route)(uintptr_t)*state;
}

/* Expects that a program says again that it can't accept, and not more often
 * than every second since it can't. */
static void
expect_warnings(struct program *p, uint64_t since)
{
	const char *text = " msg=\"cannot accept\" ";
	unsigned count;

	program_wait_log(p, text, 2);
	count = program_count_log(p, text);
	assert_in_range(count, 2, 2 + (harness_now_ms() - since) / 1000);
}

static void
test_max_connections(void **state)
{
	/* Broken: more are served than the machine can bear; or the excess is
	 * turned away instead of waiting. */
	struct bridge b =
	    strict_bridge(route_of(state), ARGS("--max-connections", "2"));
	int clients[4], upstreams[4];

	for (int i = 0; i < 2; i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	for (int i = 2; i < 4; i++) {
		clients[i] = bridge_connect(&b);
		traffic_send(clients[i], "early", 5);
	}
	assert_false(traffic_readable(b.listener, 200));
	for (int i = 0; i < 2; i++) {
		traffic_echo(clients[i], upstreams[i]);
		close(clients[i]);
		close(upstreams[i]);
		/* One place for one of those who wait. */
		upstreams[2 + i] = bridge_accept(&b);
		traffic_expect(upstreams[2 + i], "early", 5);
		assert_false(traffic_readable(b.listener, 50));
	}
	for (int i = 2; i < 4; i++)
		traffic_echo(clients[i], upstreams[i]);
}

static void
test_full(void **state)
{
	/* Broken: nobody learns that clients wait, because the program is full;
	 * or it fills the log with that, or spins. */
	struct bridge b =
	    strict_bridge(IP_TO_VSOCK, ARGS("--max-connections=2"));
	int clients[5], upstreams[5];
	const char *line;
	uint64_t begin;

	(void)state;
	for (int i = 0; i < 2; i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	/* As long as nobody waits, that's nothing to talk about. */
	poll(NULL, 0, 100);
	assert_int_equal(program_count_log(b.first, " msg=\"cannot "), 0);
	begin = harness_now_ms();
	for (int i = 2; i < 5; i++) {
		clients[i] = bridge_connect(&b);
		traffic_send(clients[i], "early", 5);
	}
	line = program_wait_log(b.first, " msg=\"cannot accept\" ", 1);
	strict_expect_keys(line, "ts level prog msg reason");
	strict_expect_value(line, "level", "warn");
	strict_expect_value(
	    line, "reason", "as many connections as are allowed");
	strict_expect_quiet(b.first, 2500);
	expect_warnings(b.first, begin);
	assert_false(network_pending(b.listener));
	for (int i = 0; i < 3; i++) {
		close(clients[i]);
		close(upstreams[i]);
		upstreams[2 + i] = bridge_accept(&b);
		traffic_expect(upstreams[2 + i], "early", 5);
	}
	for (int i = 3; i < 5; i++)
		traffic_echo(clients[i], upstreams[i]);
}

static void
test_max_connections_in_failure(void **state)
{
	/* Broken: each failure takes a place for ever, and in the end nobody is
	 * served. */
	struct bridge b = {.route = route_of(state),
	    .extra = ARGS("--max-connections", "2"),
	    .no_upstream = true};

	bridge_open(&b);
	for (int i = 0; i < 5; i++)
		traffic_expect_end(bridge_connect(&b));
	bridge_listen(&b);
	for (int i = 0; i < 3; i++)
		bridge_expect_service(&b);
}

static void
test_crowd(void **state)
{
	/* Broken: clients that come all at once are refused, or get each
	 * other's bytes. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int clients[CROWD], upstreams[CROWD];
	uint8_t name;

	for (unsigned i = 0; i < CROWD; i++) {
		clients[i] = bridge_connect(&b);
		name = (uint8_t)i;
		traffic_send(clients[i], &name, 1);
	}
	for (unsigned i = 0; i < CROWD; i++)
		upstreams[i] = -1;
	for (unsigned i = 0; i < CROWD; i++) {
		int upstream = bridge_accept(&b);

		assert_int_equal(traffic_receive(upstream, &name, 1), 1);
		assert_true(name < CROWD && upstreams[name] == -1);
		upstreams[name] = upstream;
	}
	for (unsigned i = 0; i < CROWD; i++)
		traffic_echo(clients[i], upstreams[i]);
}

/* Starts a program by itself, with a limit, where bridge functions find it. */
static struct bridge
start_limited(enum route route, int resource, rlim_t soft, rlim_t hard)
{
	struct bridge b = {.route = route,
	    .client_is_tcp = route == IP_TO_VSOCK,
	    .upstream_is_tcp = route != IP_TO_VSOCK,
	    .listen_port = network_tcp_port(),
	    .vsock_port = network_vsock_port(),
	    .upstream_port = network_tcp_port()};
	struct program_limit limit = {resource, {soft, hard}};
	char *vsock = harness_text("1:%u", b.vsock_port);
	char *tcp = harness_text("127.0.0.1:%u", b.listen_port);

	b.first = b.last = program_start(&(struct program_options){.side = HOST,
	    .name = bridge_name(route),
	    .args = b.client_is_tcp ? ARGS("--max-connections=100", "--copy",
					  "buffer", "-v", vsock, "-i", tcp)
				    : ARGS("--max-connections=100", "--copy",
					  "buffer", "-v", vsock),
	    .limits = &limit,
	    .limit_count = 1});
	program_wait_log(b.first, " msg=listening ", 1);
	strict_guard_log(b.first);
	bridge_listen(&b);
	return b;
}

static void
test_descriptors_run_out(void **state)
{
	/* Broken: without free descriptors the program ends, spins, fills the
	 * log, turns clients away who could wait, or never recovers. */
	struct bridge b =
	    start_limited(VSOCK_TO_IP_TRANSPARENT, RLIMIT_NOFILE, 20, 20);
	unsigned long before =
	    program_wait_descriptors(b.first, IDLE_DESCRIPTORS);
	uint64_t begin = harness_now_ms();
	int clients[20];
	unsigned i;

	(void)state;
	assert_int_equal(before, IDLE_DESCRIPTORS);
	/* Each takes one until it has sent its preamble. */
	for (i = 0; i < COUNT(clients); i++)
		clients[i] = bridge_try(&b);
	program_wait_log(b.first, " msg=\"cannot accept\" ", 1);
	assert_int_equal(program_wait_descriptors(b.first, 20), 20);
	strict_expect_quiet(b.first, WATCH_MS);
	expect_warnings(b.first, begin);
	strict_expect_keys(
	    program_wait_log(b.first, " msg=\"cannot accept\" ", 1),
	    "ts level prog msg reason");
	for (i = 0; i < 18; i++)
		close(clients[i]);
	/* Two had to wait all the time. */
	for (; i < COUNT(clients); i++) {
		uint8_t bytes[22];
		int upstream;

		traffic_send(clients[i], bytes,
		    bridge_preamble(TARGET_IPV4, b.upstream_port, bytes));
		upstream = bridge_accept(&b);
		traffic_echo(clients[i], upstream);
		close(clients[i]);
		close(upstream);
	}
	bridge_expect_service(&b);
	assert_int_equal(program_wait_descriptors(b.first, before), before);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
}

struct rest {
	struct bridge *bridge;
	unsigned lines; /* that must be in the log, one for each connection */
};

/* Ends what upstreams there are; whether that were all connections. */
static bool
all_ended(void *argument)
{
	struct rest *rest = argument;

	while (network_pending(rest->bridge->listener))
		close(network_accept(rest->bridge->listener));
	return program_count_log(rest->bridge->first, " ms=") == rest->lines;
}

/* Waits for the end of so many connections, whose clients have left. */
static void
expect_all_ended(struct bridge *b, unsigned lines)
{
	struct rest rest = {b, lines};

	if (!harness_wait(all_ended, &rest))
		fail_msg("not %u lines:\n%s", lines, program_err(b->first));
	assert_int_equal(program_wait_descriptors(b->first, IDLE_DESCRIPTORS),
	    IDLE_DESCRIPTORS);
	assert_int_equal(program_wait_threads(b->first, 1), 1);
}

static void
test_sockets_run_out(void **state)
{
	/* Broken: without a descriptor for the upstream's socket the program
	 * ends, or doesn't recover. */
	struct bridge b = start_limited(IP_TO_VSOCK, RLIMIT_NOFILE, 20, 20);
	int clients[20], resets = 0;

	(void)state;
	for (unsigned i = 0; i < COUNT(clients); i++)
		clients[i] = bridge_connect(&b);
	/* Some have a place, others none, and may be told. */
	program_wait_log(b.first, " reason=\"", 1);
	strict_expect_quiet(b.first, 500);
	for (unsigned i = 0; i < COUNT(clients); i++) {
		if (traffic_readable(clients[i], 0)) {
			traffic_expect_end(clients[i]);
			resets++;
		}
		close(clients[i]);
	}
	/* Six are certain: 20 descriptors, six in use, two each. */
	assert_in_range(resets, 0, COUNT(clients) - 6);
	expect_all_ended(&b, COUNT(clients));
	bridge_expect_service(&b);
}

static void
test_soft_limit_raised(void **state)
{
	/* Broken: a low soft limit on descriptors, which is common, limits
	 * connections. */
	struct bridge b = start_limited(IP_TO_VSOCK, RLIMIT_NOFILE, 8, 200);
	int clients[20], upstreams[20];

	(void)state;
	for (unsigned i = 0; i < COUNT(clients); i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	for (unsigned i = 0; i < COUNT(clients); i++)
		traffic_echo(clients[i], upstreams[i]);
}

static void
test_cannot_accept(void **state)
{
	/* Broken: where accepting fails again and again, a program burns a
	 * processor, says nothing, fills a disk with its log, or can't be
	 * stopped. */
	static const int errors[] = {EPERM, EOPNOTSUPP};
	uint16_t port = network_tcp_port();

	(void)state;
	for (size_t i = 0; i < COUNT(errors); i++) {
		const struct strict_forbidden forbidden = {
		    errors[i], 1, {SYS_accept4}};
		struct program *p =
		    program_start(&(struct program_options){.side = HOST,
			.name = "ip-to-vsock",
			.args = ARGS("-i", harness_text("127.0.0.1:%u", port),
			    "-v", "1:7"),
			.prepare = strict_forbid,
			.argument = &forbidden});
		uint64_t begin;

		program_wait_log(p, " msg=listening ", 1);
		network_tcp_connect(HOST, "127.0.0.1", port);
		begin = harness_now_ms();
		program_wait_log(p, " msg=\"cannot accept\" ", 3);
		assert_in_range(harness_now_ms() - begin, 1900, DEADLINE_MS);
		strict_expect_quiet(p, 500);
		assert_int_equal(program_stop(p), 0);
	}
}

static void
test_threads_run_out(void **state)
{
	/* Broken: without memory for another thread the program ends, or loses
	 * what the connection held, or doesn't recover. */
	struct bridge b = start_limited(
	    IP_TO_VSOCK, RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY);
	rlim_t most = (rlim_t)program_memory(b.first) * 1024 + 3 * MIB;
	int clients[40];

	(void)state;
	if (most > (rlim_t)MIB * MIB)
		harness_skip("sanitizers can't do without memory");
	program_stop(b.first);
	b = start_limited(IP_TO_VSOCK, RLIMIT_AS, most, most);
	for (unsigned i = 0; i < COUNT(clients); i++)
		clients[i] = bridge_connect(&b);
	program_wait_log(b.first, " end=no-resources ", 1);
	assert_true(program_runs(b.first));
	for (unsigned i = 0; i < COUNT(clients); i++)
		close(clients[i]);
	expect_all_ended(&b, COUNT(clients));
	for (int i = 0; i < 3; i++)
		bridge_expect_service(&b);
}

static void
test_idle(void **state)
{
	/* Broken: connections that wait use CPU time, for instance after one
	 * end has been closed. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	for (int i = 0; i < 12; i++) {
		bridge_pair(&b, &client, &upstream);
		traffic_echo(client, upstream);
		if (i % 3 == 1)
			traffic_half_close(client);
		if (i % 3 == 2)
			traffic_half_close(upstream);
	}
	strict_expect_quiet(b.first, 500);
}

/* A connection that isn't a proper one: without a target, or so. */
static void
go_wrong(const struct bridge *b)
{
	int fd = b->client_is_tcp
		     ? network_tcp_try(
			   b->route == IP_TO_VSOCK_TRANSPARENT ? ENCLAVE : HOST,
			   "127.0.0.1", b->listen_port)
		     : network_vsock_try(b->vsock_port);

	if (fd != -1)
		traffic_reset(fd);
}

/* One connection that ends in one of several ways. */
static void
run_connection(const struct bridge *b, unsigned kind)
{
	int client, upstream;

	bridge_pair(b, &client, &upstream);
	traffic_send(client, "request", 7);
	traffic_expect(upstream, "request", 7);
	switch (kind % 4) {
	case 0:
		traffic_send(upstream, "answer", 6);
		traffic_expect(client, "answer", 6);
		break;
	case 1:
		traffic_reset(client);
		traffic_wait_end(upstream, NULL);
		close(upstream);
		return;
	case 2:
		traffic_reset(upstream);
		traffic_wait_end(client, NULL);
		close(client);
		return;
	default:
		traffic_half_close(client);
		traffic_expect_eof(upstream);
		break;
	}
	close(client);
	close(upstream);
}

/* Connections of all kinds, a number of each. */
static void
run_connections(struct bridge *b, unsigned number)
{
	for (unsigned i = 0; i < number; i++) {
		int client = bridge_connect(b);

		traffic_wait_end(client, NULL);
		close(client);
	}
	bridge_listen(b);
	for (unsigned i = 0; i < number; i++)
		run_connection(b, i);
	if (b->route == IP_TO_VSOCK || b->route == VSOCK_TO_IP)
		return; /* they take any client */
	for (unsigned i = 0; i < number; i++)
		go_wrong(b);
}

static void
test_no_leaks(void **state)
{
	/* Broken: some kind of connection leaves descriptors or threads behind,
	 * and after a day nothing works. */
	struct bridge b = {.route = route_of(state), .no_upstream = true};
	unsigned long descriptors;

	bridge_open(&b);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
	program_wait_log(b.first, " msg=listening ", 1);
	descriptors = program_wait_descriptors(b.first, IDLE_DESCRIPTORS);
	assert_int_equal(descriptors, IDLE_DESCRIPTORS);
	run_connections(&b, b.route == IP_TO_VSOCK ? 150 : 40);
	assert_int_equal(
	    program_wait_descriptors(b.first, descriptors), descriptors);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
	bridge_expect_service(&b);
}

int
strict_load_run(void)
{
	const struct CMUnitTest tests[] = {
	    EACH_PROGRAM(test_max_connections),
	    TEST(test_full),
	    TEST_WITH(
		test_max_connections_in_failure, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(
		test_max_connections_in_failure, "vsock-to-ip", VSOCK_TO_IP),
	    TEST_WITH(test_crowd, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_crowd, "vsock-to-ip", VSOCK_TO_IP),
	    TEST(test_descriptors_run_out),
	    TEST(test_sockets_run_out),
	    TEST(test_soft_limit_raised),
	    TEST(test_cannot_accept),
	    TEST(test_threads_run_out),
	    TEST_WITH(test_idle, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_idle, "vsock-to-ip", VSOCK_TO_IP),
	    EACH_PROGRAM(test_no_leaks),
	};

	return cmocka_run_group_tests_name("strict: load", tests, NULL, NULL);
}
