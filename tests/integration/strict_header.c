/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of --send-proxy-v2, which tells a service who its client is; and
 * what it has in common with the preamble, that it comes before the data.
 */
#include "strict.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define GAVE_UP "the peer gave up"
#define BY_PORT "port-to-vsock-transparent"
#define BY_TARGET "ip-to-vsock-transparent"

static char header_flag[] = "--send-proxy-v2";

/* Where a client comes from, which address it connects to, and which one the
 * listener has. */
static const struct row {
	const char *program, *listen, *from, *to;
} rows[] = {
    {"ip-to-vsock", "127.0.0.1:%u", "127.0.0.5", "127.0.0.1"},
    {"ip-to-vsock", "[::1]:%u", TARGET_IPV6, "::1"},
    /* The listener's address isn't the one that the client wanted. */
    {"ip-to-vsock", "0.0.0.0:%u", "127.0.0.5", TARGET_IPV4},
    {"ip-to-vsock", "[::]:%u", TARGET_IPV6, OTHER_IPV6},
    /* An IPv6 socket serves an IPv4 client. */
    {"ip-to-vsock", "[::]:%u", "127.0.0.5", TARGET_IPV4},
    {BY_PORT, "127.0.0.1:%u", "127.0.0.5", OTHER_IPV4},
    {BY_PORT, "[::1]:%u", TARGET_IPV6, OTHER_IPV6},
    {BY_PORT, "[::]:%u", "127.0.0.5", OTHER_IPV4},
};

/* A program with the header, a client's way to it, and its upstream. */
struct stage {
	const struct row *row;
	struct program *p;
	uint16_t port; /* that clients connect to */
	int listener;
};

/* extra: one more argument, or NULL. */
static struct stage
open_stage(const struct row *row, char *extra)
{
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	bool by_port = strcmp(row->program, BY_PORT) == 0;
	bool has_preamble = strcmp(row->program, BY_TARGET) == 0;
	struct stage s = {.row = row,
	    .port = port,
	    .listener = network_vsock_listen(vsock_port)};

	s.p = strict_start(HOST, row->program,
	    ARGS("-i", harness_text(row->listen, port), "-v",
		harness_text(by_port ? "1" : "1:%u", vsock_port),
		extra != NULL ? extra : "--grace=8",
		has_preamble ? NULL : header_flag));
	if (by_port || has_preamble) {
		s.port = (uint16_t)vsock_port;
		network_redirect(HOST, row->to, port);
	}
	return s;
}

static int
connect_client(const struct stage *s)
{
	return network_tcp_connect_from(
	    HOST, s->row->from, s->row->to, s->port);
}

size_t
strict_make_header(
    int client, const char *to, uint16_t port, uint8_t bytes[HEADER_MAX])
{
	static const uint8_t start[] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
	    0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21};
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} own;
	socklen_t length = sizeof(own);
	uint8_t size, *ports;

	assert_int_equal(getsockname(client, &own.any, &length), 0);
	size = own.any.sa_family == AF_INET ? 4 : 16;
	ports = bytes + 16 + 2 * size;
	memcpy(bytes, start, sizeof(start));
	bytes[13] = size == 4 ? 0x11 : 0x21;
	bytes[14] = 0;
	bytes[15] = size == 4 ? 12 : 36;
	if (size == 4)
		memcpy(bytes + 16, &own.in.sin_addr, size);
	else
		memcpy(bytes + 16, &own.in6.sin6_addr, size);
	assert_int_equal(
	    inet_pton(own.any.sa_family, to, bytes + 16 + size), 1);
	memcpy(ports, &own.in.sin_port, 2); /* at the same place in in6 */
	ports[2] = (uint8_t)(port >> 8);
	ports[3] = (uint8_t)port;
	return size == 4 ? 28 : 52;
}

static void
expect_header(int upstream, int client, const char *to, uint16_t port)
{
	uint8_t bytes[HEADER_MAX];

	traffic_expect(
	    upstream, bytes, strict_make_header(client, to, port, bytes));
}

static void
test_header(void **state)
{
	/* Broken: a service takes the proxy, or nobody, for its client; or
	 * waits for a header until the client sends something; or takes data of
	 * the client for the header. */
	struct stage s = open_stage(*state, NULL);
	int client, upstream;
	const char *line;

	client = connect_client(&s);
	upstream = network_accept(s.listener);
	/* Really from there: the kernel could have chosen another address. */
	assert_non_null(strstr(strict_own_name(client), s.row->from));
	expect_header(upstream, client, s.row->to, s.port);
	traffic_echo(client, upstream); /* not one byte more before it */
	close(client);
	traffic_expect_eof(upstream);
	close(upstream);
	line = strict_expect_end(s.p, 1, "eof", NULL);
	/* The header isn't the client's. */
	assert_int_equal(program_log_number(line, "up"), strlen("to upstream"));

	client = connect_client(&s);
	traffic_send(client, "data at once", 12);
	upstream = network_accept(s.listener);
	expect_header(upstream, client, s.row->to, s.port);
	traffic_expect(upstream, "data at once", 12);
	traffic_end_pair(client, upstream);
	line = strict_expect_end(s.p, 2, "eof", NULL);
	assert_int_equal(program_log_number(line, "up"), 12);
}

static void
test_header_last(void **state)
{
	/* Broken: a service that speaks first, or a client that only ends,
	 * makes the header come late or never. */
	struct stage s = open_stage(*state, NULL);
	int client = connect_client(&s);
	int upstream = network_accept(s.listener);

	traffic_send(upstream, "220 hello", 9);
	traffic_expect(client, "220 hello", 9);
	expect_header(upstream, client, s.row->to, s.port);
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	client = connect_client(&s);
	traffic_half_close(client);
	upstream = network_accept(s.listener);
	expect_header(upstream, client, s.row->to, s.port);
	traffic_expect_eof(upstream);
	traffic_send(upstream, "bye", 3);
	close(upstream);
	traffic_expect(client, "bye", 3);
	traffic_expect_eof(client);
	strict_expect_end(s.p, 2, "eof", NULL);
}

static void
test_header_chain(void **state)
{
	/* Broken: the header doesn't come through vsock-to-ip, or not first. */
	enum route route = (enum route)(uintptr_t)*state;
	struct bridge b = {.route = route, .extra_first = ARGS(header_flag)};
	int client, upstream;

	bridge_open(&b);
	bridge_pair(&b, &client, &upstream);
	if (route == CHAIN_PORT)
		expect_header(
		    upstream, client, OTHER_IPV4, (uint16_t)b.vsock_port);
	else
		expect_header(upstream, client, "127.0.0.1", b.listen_port);
	strict_exchange(client, upstream, MIB);
}

/* The programs that send something before the data. */
static const struct row firsts[] = {
    {"ip-to-vsock", "127.0.0.1:%u", "127.0.0.5", "127.0.0.1"},
    {BY_PORT, "127.0.0.1:%u", "127.0.0.5", OTHER_IPV4},
    {BY_TARGET, "127.0.0.1:%u", "127.0.0.5", OTHER_IPV4},
};

#define EACH_FIRST(function)                            \
	TEST_WITH(function, "ip-to-vsock", &firsts[0]), \
	    TEST_WITH(function, BY_PORT, &firsts[1]),   \
	    TEST_WITH(function, BY_TARGET, &firsts[2])

/* Lets what a listener accepts have room for one byte. */
static void
take_one_byte(int listener)
{
	static const uint64_t one = 1;

	assert_int_equal(setsockopt(listener, AF_VSOCK,
			     SO_VM_SOCKETS_BUFFER_MIN_SIZE, &one, sizeof(one)),
	    0);
	assert_int_equal(setsockopt(listener, AF_VSOCK,
			     SO_VM_SOCKETS_BUFFER_SIZE, &one, sizeof(one)),
	    0);
}

static void
test_first_not_taken(void **state)
{
	/* Broken: a vsock peer that has no room for what comes before the data
	 * holds a place for ever. */
	static char limit[] = "--connect-timeout=1";
	struct stage s = open_stage(*state, limit);
	const char *line;
	int client;

	take_one_byte(s.listener);
	client = connect_client(&s);
	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	/* Newer kernels close what gets more than it has room for. */
	line = strict_expect_end(s.p, 1, "no-upstream|upstream-error",
	    "No buffer space available|Connection timed out|"
	    "Operation timed out|" GAVE_UP);
	assert_int_equal(program_log_number(line, "up"), 0);
}

static void
test_first_refused(void **state)
{
	/* Broken: a service that says why it doesn't serve, and closes without
	 * having read, isn't heard; or it looks as if it had said all. */
	struct stage s = open_stage(*state, NULL);

	take_one_byte(s.listener);
	for (unsigned i = 1; i <= 50; i++) {
		int client = connect_client(&s);
		int upstream = network_accept(s.listener);
		ssize_t sent = send(upstream, "!", 1, MSG_NOSIGNAL);
		const char *line;

		close(upstream);
		if (sent == 1)
			traffic_expect(client, "!", 1);
		assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
		close(client);
		line = strict_expect_end(s.p, i, "upstream-error", GAVE_UP);
		assert_int_equal(program_log_number(line, "up"), 0);
		assert_int_equal(program_log_number(line, "down"), sent == 1);
		if (sent == 1)
			return;
		/* Newer kernels, see above: it was too late. */
	}
	harness_skip("no upstream was quick enough");
}

static void
test_first_too_late(void **state)
{
	/* Broken: how a connection ends whose upstream closes at once depends
	 * on who is quicker. */
	static char paired[] = "--paired";
	const struct row *row = *state;
	struct stage s = open_stage(
	    row, strcmp(row->program, BY_TARGET) == 0 ? NULL : paired);

	for (unsigned i = 1; i <= 50 / PATIENCE; i++) {
		int client = connect_client(&s);
		int upstream = network_accept(s.listener);
		uint64_t size = 0;

		traffic_send(upstream, "busy", 4);
		close(upstream);
		assert_int_equal(
		    traffic_wait_end(client, &size), TRAFFIC_RESET);
		assert_int_equal(size, 4);
		close(client);
		strict_expect_end(s.p, i, "upstream-error", GAVE_UP);
	}
}

int
strict_header_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_header, "ipv4", &rows[0]),
	    TEST_WITH(test_header, "ipv6", &rows[1]),
	    TEST_WITH(test_header, "any-ipv4", &rows[2]),
	    TEST_WITH(test_header, "any-ipv6", &rows[3]),
	    TEST_WITH(test_header, "ipv4-mapped", &rows[4]),
	    TEST_WITH(test_header, "redirected-ipv4", &rows[5]),
	    TEST_WITH(test_header, "redirected-ipv6", &rows[6]),
	    TEST_WITH(test_header, "redirected-ipv4-mapped", &rows[7]),
	    TEST_WITH(test_header_last, "ip-to-vsock", &rows[0]),
	    TEST_WITH(test_header_last, BY_PORT, &rows[5]),
	    TEST_WITH(test_header_chain, "chain-fixed", CHAIN_FIXED),
	    TEST_WITH(test_header_chain, "chain-port", CHAIN_PORT),
	    EACH_FIRST(test_first_not_taken),
	    EACH_FIRST(test_first_refused),
	    EACH_FIRST(test_first_too_late),
	};

	return cmocka_run_group_tests_name("strict: header", tests, NULL, NULL);
}
