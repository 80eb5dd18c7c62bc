/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Targets: how redirected connections tell theirs, the preamble that carries
 * it, and what is refused for want of one.
 */
#include "strict.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOT_REDIRECTED "not redirected, it has no original destination"
#define FROM_ITSELF "not redirected, or from this listener to itself"
#define LINK_LOCAL "a link-local target has no meaning elsewhere"
#define TOO_SLOW "no whole preamble came in time"
#define TOO_SHORT "the client ended before its preamble was whole"
#define PORT_0 "the preamble names port 0"
#define REFUSED "Connection refused"

#define DATA "what follows"

/* The preambles of 198.51.100.7 and of 2001:db8::7, port 443. */
static const uint8_t golden_ipv4[] = {0x07, 0x64, 0x33, 0xc6, 0xbb, 0x01};
static const uint8_t golden_ipv6[] = {0xff, 0xff, 0xff, 0xff, 0xbb, 0x01, 0x20,
    0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x07};

/* Redirected connections: the address, the listener's, and what comes. */
static const struct redirection {
	const char *target, *listen, *name;
	const uint8_t *bytes;
	size_t size;
} redirections[] = {
    {TARGET_IPV4, "127.0.0.1:%u", TARGET_IPV4 ":443", golden_ipv4,
	sizeof(golden_ipv4)},
    {TARGET_IPV6, "[::1]:%u", "[" TARGET_IPV6 "]:443", golden_ipv6,
	sizeof(golden_ipv6)},
    /* An IPv6 socket serves an IPv4 client here. */
    {TARGET_IPV4, "[::]:%u", TARGET_IPV4 ":443", golden_ipv4,
	sizeof(golden_ipv4)},
    {TARGET_IPV6, "[::]:%u", "[" TARGET_IPV6 "]:443", golden_ipv6,
	sizeof(golden_ipv6)},
};

/* Starts a transparent program that listens on TCP, in ENCLAVE. */
static struct program *
start(const char *name, const char *listen, uint16_t port, const char *vsock)
{
	return strict_start(ENCLAVE, name,
	    ARGS("-i", harness_text(listen, port), "-v",
		harness_text("%s", vsock)));
}

static void
test_golden_preamble(void **state)
{
	/* Broken: the other end, which may be older, connects to the wrong
	 * target, or waits until the client has sent something. */
	const struct redirection *r = &redirections[(uintptr_t)*state];
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	struct program *p = start("ip-to-vsock-transparent", r->listen, port,
	    harness_text("1:%u", vsock_port));
	int listener = network_vsock_listen(vsock_port), client, upstream;
	const char *line;

	network_redirect(ENCLAVE, r->target, port);
	client = network_tcp_connect(ENCLAVE, r->target, 443);
	upstream = network_accept(listener);
	traffic_expect(upstream, r->bytes, r->size);
	/* Not one byte more before the data. */
	traffic_echo(client, upstream);
	close(client);
	traffic_expect_eof(upstream);
	close(upstream);
	line = strict_expect_end(p, 1, "eof", NULL);
	strict_expect_value(line, "target", r->name);
	/* The preamble isn't the client's. */
	assert_int_equal(program_log_number(line, "up"), strlen("to upstream"));
}

static void
test_port_kept(void **state)
{
	/* Broken: connections to one service come to another one. */
	const struct redirection *r = &redirections[(uintptr_t)*state];
	uint16_t port = network_tcp_port();
	struct program *p =
	    start("port-to-vsock-transparent", r->listen, port, "1");

	network_redirect(ENCLAVE, r->target, port);
	for (unsigned i = 1; i <= 3; i++) {
		uint32_t vsock_port = network_vsock_port();
		int listener = network_vsock_listen(vsock_port);
		int client = network_tcp_connect(
		    ENCLAVE, r->target, (uint16_t)vsock_port);
		int upstream = network_accept(listener);
		const char *line;

		traffic_echo(client, upstream);
		traffic_end_pair(client, upstream);
		line = strict_expect_end(p, i, "eof", NULL);
		strict_expect_value(
		    line, "upstream", harness_text("1:%u", vsock_port));
	}
}

static void
test_ipv6_chain(void **state)
{
	/* Broken: IPv6 targets get lost between the two programs. */
	struct bridge b = {
	    .route = (enum route)(uintptr_t)*state, .target = TARGET_IPV6};
	int client, upstream;

	bridge_open(&b);
	bridge_pair(&b, &client, &upstream);
	traffic_send_stream(client, 1, 100000);
	traffic_expect_stream(upstream, 1, 100000);
	traffic_echo(client, upstream);
}

/* A connection that must be refused for this reason; and nothing may come to
 * the upstream. */
static void
expect_no_target(struct program *p, unsigned number, const char *target,
    const char *reason, int client, int listener)
{
	const char *line;

	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	line = strict_expect_end(p, number, "no-target", reason);
	strict_expect_value(line, "target", target);
	strict_expect_value(line, "upstream", "-");
	assert_false(network_pending(listener));
	close(client);
}

/* Both programs, either in BARE or in ENCLAVE behind a redirect rule. */
static void
expect_loops_refused(const char *name, enum side side)
{
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	bool by_port = strcmp(name, "port-to-vsock-transparent") == 0;
	const char *reason = side == ENCLAVE ? FROM_ITSELF : NOT_REDIRECTED;
	struct program *p = strict_start(side, name,
	    ARGS("-i", harness_text("[::]:%u", port), "-v",
		harness_text(by_port ? "1" : "1:%u", vsock_port)));
	/* What a loop would come to. */
	int listener = network_vsock_listen(by_port ? port : vsock_port);

	if (side == ENCLAVE)
		network_redirect(ENCLAVE, TARGET_IPV4, port);
	expect_no_target(p, 1, "-", reason,
	    network_tcp_connect(side, "127.0.0.1", port), listener);
	expect_no_target(p, 2, "-", reason,
	    network_tcp_connect(side, "::1", port), listener);
	expect_no_target(p, 3, "-", reason,
	    network_tcp_connect(
		side, side == ENCLAVE ? "192.0.2.1" : TARGET_IPV4, port),
	    listener);
	assert_true(program_runs(p));
	network_reset();
}

static void
test_not_redirected(void **state)
{
	/* Broken: a client that connects straight to a transparent program
	 * makes it call itself, or is sent somewhere. */
	const char *name = *state;

	expect_loops_refused(name, BARE);
	expect_loops_refused(name, ENCLAVE);
}

static void
test_link_local(void **state)
{
	/* Broken: a target that means something on this machine only is asked
	 * of another one. */
	static const char target[] = "fe80::7";
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	struct program *p = start("ip-to-vsock-transparent", "[::]:%u", port,
	    harness_text("1:%u", vsock_port));
	int listener = network_vsock_listen(vsock_port), client;

	(void)state;
	network_redirect(ENCLAVE, target, port);
	expect_no_target(p, 1, "[fe80::7]:443", LINK_LOCAL,
	    network_tcp_connect(ENCLAVE, target, 443), listener);
	/* The port alone does. */
	port = network_tcp_port();
	p = start("port-to-vsock-transparent", "[::]:%u", port, "1");
	network_reset();
	network_redirect(ENCLAVE, target, port);
	client = network_tcp_connect(ENCLAVE, target, (uint16_t)vsock_port);
	traffic_echo(client, network_accept(listener));
}

/* Sends bytes one at a time, so that most of them come one at a time. */
static void
dribble(int fd, const uint8_t *bytes, size_t size, int pause_ms)
{
	for (size_t i = 0; i < size; i++) {
		traffic_send(fd, bytes + i, 1);
		assert_false(traffic_readable(fd, pause_ms));
	}
}

/* Sends a preamble and data, whole or dribbling; expects the data behind. */
static void
expect_understood(const struct bridge *b, int listener, const uint8_t *preamble,
    size_t size, bool whole)
{
	uint8_t bytes[22 + sizeof(DATA)];
	int client = bridge_try(b), upstream;

	memcpy(bytes, preamble, size);
	memcpy(bytes + size, DATA, sizeof(DATA));
	if (whole)
		traffic_send(client, bytes, size + sizeof(DATA));
	else
		dribble(client, bytes, size, 3);
	upstream = network_accept(listener);
	if (!whole)
		dribble(client, bytes + size, sizeof(DATA), 3);
	traffic_expect(upstream, DATA, sizeof(DATA));
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
}

/* Makes an IPv6 preamble of the IPv4 target. */
static size_t
mapped_preamble(uint16_t port, uint8_t preamble[22])
{
	return bridge_preamble("::ffff:" TARGET_IPV4, port, preamble);
}

static void
test_preamble_understood(void **state)
{
	/* Broken: a target gets lost because it comes in pieces; or data of the
	 * client is taken for a part of it. */
	bool whole = *state != NULL;
	struct bridge b = {
	    .route = VSOCK_TO_IP_TRANSPARENT, .no_upstream = true};
	int ipv4, ipv6;
	uint8_t bytes[22];
	size_t size;

	bridge_open(&b);
	ipv4 = network_tcp_listen(HOST, TARGET_IPV4, b.upstream_port);
	ipv6 = network_tcp_listen(HOST, TARGET_IPV6, b.upstream_port);
	size = bridge_preamble(TARGET_IPV4, b.upstream_port, bytes);
	expect_understood(&b, ipv4, bytes, size, whole);
	size = bridge_preamble(TARGET_IPV6, b.upstream_port, bytes);
	expect_understood(&b, ipv6, bytes, size, whole);
	strict_expect_value(strict_expect_end(b.first, 3, "eof", NULL),
	    "target", harness_text("[" TARGET_IPV6 "]:%u", b.upstream_port));
	size = mapped_preamble(b.upstream_port, bytes);
	expect_understood(&b, ipv4, bytes, size, whole);
	strict_expect_value(strict_expect_end(b.first, 4, "eof", NULL),
	    "target", harness_text(TARGET_IPV4 ":%u", b.upstream_port));
}

static void
test_preamble_bad(void **state)
{
	/* Broken: a client that ends early or names no port isn't found out, or
	 * does harm to others. */
	static const uint8_t no_port[6] = {7, 0x64, 0x33, 0xc6};
	static const uint8_t no_port_ipv6[22] = {
	    255, 255, 255, 255, 0, 0, 0x20, 1};
	static const struct {
		const uint8_t *bytes;
		size_t size;
		bool ends; /* the client, after that */
		const char *reason;
	} rows[] = {
	    {golden_ipv4, 0, true, TOO_SHORT},
	    {golden_ipv4, 1, true, TOO_SHORT},
	    {golden_ipv4, 5, true, TOO_SHORT},
	    {golden_ipv6, 6, true, TOO_SHORT},
	    {golden_ipv6, 21, true, TOO_SHORT},
	    {no_port, sizeof(no_port), false, PORT_0},
	    {no_port_ipv6, sizeof(no_port_ipv6), false, PORT_0},
	};
	struct bridge b = strict_bridge(VSOCK_TO_IP_TRANSPARENT, NULL);

	(void)state;
	for (unsigned i = 0; i < COUNT(rows); i++) {
		int client = bridge_try(&b);
		const char *line;

		traffic_send(client, rows[i].bytes, rows[i].size);
		if (rows[i].ends)
			traffic_half_close(client);
		traffic_expect_end(client);
		line = strict_expect_end(
		    b.first, 2 + i, "no-target", rows[i].reason);
		strict_expect_value(line, "target", "-");
		close(client);
	}
	assert_false(network_pending(b.listener));
	bridge_expect_service(&b);
}

static void
test_target_refused(void **state)
{
	/* Broken: the log doesn't say which target failed, and why. */
	struct bridge b = {
	    .route = VSOCK_TO_IP_TRANSPARENT, .no_upstream = true};
	const char *target, *line;

	(void)state;
	bridge_open(&b);
	target = harness_text(TARGET_IPV4 ":%u", b.upstream_port);
	traffic_expect_end(bridge_connect(&b));
	line = strict_expect_end(b.first, 2, "no-upstream", REFUSED);
	strict_expect_value(line, "target", target);
	strict_expect_value(line, "upstream", target);
}

static void
test_noise(void **state)
{
	/* Broken: whoever speaks another protocol to the listener does harm. */
	struct bridge b = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--connect-timeout", "1"));
	unsigned long before =
	    program_wait_descriptors(b.first, IDLE_DESCRIPTORS);
	uint8_t bytes[40];

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		int client = bridge_try(&b);

		/* Addresses without a route, and a few of this machine. */
		bytes_fill(i, 0, bytes, sizeof(bytes));
		if (i % 4 == 0)
			memset(bytes, i % 8 == 0 ? 0xff : 0, 4);
		traffic_send(client, bytes, sizeof(bytes));
		traffic_half_close(client);
		traffic_expect_end(client);
		close(client);
		assert_non_null(program_log_value(
		    program_wait_connection(b.first, 2 + i), "reason"));
	}
	bridge_expect_service(&b);
	assert_int_equal(program_wait_descriptors(b.first, before), before);
}

static void
test_preamble_timeout(void **state)
{
	/* Broken: clients that never send a whole preamble hold their places
	 * for ever; or they delay the others. */
	struct bridge b = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--preamble-timeout", "1"));
	struct bridge patient = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--preamble-timeout=600"));
	uint64_t begin;
	int silent = bridge_try(&patient), slow;

	(void)state;
	traffic_send(silent, golden_ipv6, 3);
	bridge_expect_service(&patient);
	/* Meanwhile that one waits. */
	assert_false(traffic_readable(silent, 0));
	begin = harness_now_ms();
	silent = bridge_try(&b);
	slow = bridge_try(&b);
	traffic_send(silent, golden_ipv6, 3);
	traffic_send(slow, golden_ipv6, 6);
	/* It's never quiet for a second, but in all takes longer. */
	for (int i = 6; i < 22 && !traffic_readable(slow, 200); i++)
		if (send(slow, golden_ipv6 + i, 1, MSG_NOSIGNAL) == -1)
			break;
	traffic_expect_end(slow);
	traffic_expect_end(silent);
	assert_true(harness_now_ms() - begin >= 1000);
	for (unsigned i = 2; i <= 3; i++) {
		const char *line =
		    strict_expect_end(b.first, i, "no-target", TOO_SLOW);

		assert_true(program_log_number(line, "ms") >= 950);
	}
	assert_false(network_pending(b.listener));
}

static void
test_slow_neighbour(void **state)
{
	/* Broken: one client's silent target delays the other clients. */
	struct bridge b = strict_bridge(
	    VSOCK_TO_IP_TRANSPARENT, ARGS("--connect-timeout=600"));
	uint16_t port = network_tcp_port();
	uint8_t bytes[22];
	int filler, slow;

	(void)state;
	strict_black_hole(HOST, OTHER_IPV4, port, &filler);
	slow = bridge_try(&b);
	traffic_send(slow, bytes, bridge_preamble(OTHER_IPV4, port, bytes));
	assert_false(traffic_readable(slow, 100));
	for (int i = 0; i < 3; i++)
		bridge_expect_service(&b);
	/* It still waits. */
	assert_false(traffic_readable(slow, 0));
	assert_int_equal(program_count_log(b.first, " conn=2 "), 0);
}

int
strict_target_run(void)
{
	static char by_address[] = "ip-to-vsock-transparent";
	static char by_port[] = "port-to-vsock-transparent";
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_golden_preamble, "ipv4", 0),
	    TEST_WITH(test_golden_preamble, "ipv6", 1),
	    TEST_WITH(test_golden_preamble, "ipv4-mapped", 2),
	    TEST_WITH(test_golden_preamble, "ipv6-dual-stack", 3),
	    TEST_WITH(test_port_kept, "ipv4", 0),
	    TEST_WITH(test_port_kept, "ipv6", 1),
	    TEST_WITH(test_port_kept, "ipv4-mapped", 2),
	    TEST_WITH(test_ipv6_chain, "chain-transparent", CHAIN_TRANSPARENT),
	    TEST_WITH(test_ipv6_chain, "chain-port", CHAIN_PORT),
	    TEST_WITH(
		test_not_redirected, "ip-to-vsock-transparent", by_address),
	    TEST_WITH(
		test_not_redirected, "port-to-vsock-transparent", by_port),
	    TEST(test_link_local),
	    TEST_WITH(test_preamble_understood, "whole", 1),
	    TEST_WITH(test_preamble_understood, "dribbling", 0),
	    TEST(test_preamble_bad),
	    TEST(test_target_refused),
	    TEST(test_noise),
	    TEST(test_preamble_timeout),
	    TEST(test_slow_neighbour),
	};

	return cmocka_run_group_tests_name("strict: target", tests, NULL, NULL);
}
