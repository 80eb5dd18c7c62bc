/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listeners: which addresses they can have, what is said when they start, and
 * what when they can't.
 */
#include "strict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where programs that need an upstream are sent; nobody listens there. */
#define SOME_VSOCK "1:7"
#define SOME_TCP "127.0.0.1:7"

#define VSOCK_ANY 4294967295

/* What occupies the listener's address. */
enum rival { NOBODY, TCP_RIVAL, VSOCK_RIVAL };

#define IN_USE "Address already in use|Address in use"
#define NOT_OURS "Cannot assign requested address|Address not available"
#define NO_CID "not a CID of this machine (any is all of them)"

/* Listeners that can't be. %u: a port, which the rival has. */
static const struct refusal {
	const char *program;
	const char *listen; /* as in the arguments and in the log */
	enum rival rival;
	const char *rival_address;
	const char *reason; /* NULL: any */
} refusals[] = {
    {"ip-to-vsock", "127.0.0.1:%u", TCP_RIVAL, "127.0.0.1", IN_USE},
    {"ip-to-vsock-transparent", "[::1]:%u", TCP_RIVAL, "::1", IN_USE},
    {"port-to-vsock-transparent", "0.0.0.0:%u", TCP_RIVAL, "127.0.0.1", IN_USE},
    {"vsock-to-ip", "1:%u", VSOCK_RIVAL, NULL, IN_USE},
    {"vsock-to-ip-transparent", "any:%u", VSOCK_RIVAL, NULL, IN_USE},
    {"ip-to-vsock", "203.0.113.9:%u", NOBODY, NULL, NOT_OURS},
    {"ip-to-vsock-transparent", "[2001:db8:ffff::1]:%u", NOBODY, NULL,
	NOT_OURS},
    {"port-to-vsock-transparent", UNRESOLVABLE ":%u", NOBODY, NULL, NULL},
    {"vsock-to-ip", "99:%u", NOBODY, NULL, NO_CID},
    {"vsock-to-ip-transparent", "4294967294:%u", NOBODY, NULL, NO_CID},
};

/* The arguments for a listener, with any valid upstream. */
static struct program *
start(const char *program, const char *listen, char *const *extra)
{
	bool tcp_first = strstr(program, "vsock-to-ip") != program;
	const char *upstream = tcp_first ? SOME_VSOCK : SOME_TCP;
	char *args[16] = {harness_text("-%c", tcp_first ? 'i' : 'v'),
	    harness_text("%s", listen)};
	size_t count = 2;

	if (strcmp(program, "port-to-vsock-transparent") == 0)
		upstream = "1";
	if (strcmp(program, "vsock-to-ip-transparent") != 0) {
		args[count++] = harness_text("-%c", tcp_first ? 'v' : 'i');
		args[count++] = harness_text("%s", upstream);
	}
	for (; extra != NULL && *extra != NULL; extra++)
		args[count++] = *extra;
	return program_start(&(struct program_options){
	    .side = HOST, .name = program, .args = args});
}

/* Expects that it ended, with just a line about an address. */
static void
expect_refusal(struct program *p, const char *listen, const char *reason)
{
	const char *line;

	assert_int_equal(program_wait_end(p), 1);
	assert_string_equal(program_out(p), "");
	assert_int_equal(strict_count(program_err(p), '\n'), 1);
	line = program_wait_log(p, " msg=\"cannot listen\" ", 1);
	strict_expect_keys(line, "ts level prog msg listen reason");
	strict_expect_value(line, "level", "error");
	strict_expect_value(line, "listen", listen);
	if (reason != NULL)
		strict_expect_value(line, "reason", reason);
	assert_true(strlen(program_log_value(line, "reason")) > 5);
}

static void
test_cannot_listen(void **state)
{
	/* Broken: a service that can't listen seems to run, or nobody learns
	 * which address is to blame for what. */
	const struct refusal *r = &refusals[(uintptr_t)*state];
	unsigned port =
	    r->rival == TCP_RIVAL ? network_tcp_port() : network_vsock_port();
	const char *listen = harness_text(r->listen, port);

	if (r->rival == TCP_RIVAL)
		network_tcp_listen(HOST, r->rival_address, (uint16_t)port);
	if (r->rival == VSOCK_RIVAL)
		network_vsock_listen(port);
	expect_refusal(start(r->program, listen, NULL), listen, r->reason);
}

static void
test_privileged_port(void **state)
{
	/* Broken: a user who isn't root doesn't learn why a low port fails. */
	static const struct {
		const char *name, *listen;
		char *args[5];
	} low[] = {
	    {"ip-to-vsock", "127.0.0.1:81",
		{"-i", "127.0.0.1:81", "-v", "1:7", NULL}},
	    {"vsock-to-ip", "any:81",
		{"-v", "4294967295:81", "-i", "127.0.0.1:7", NULL}},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(low); i++) {
		struct program *p =
		    program_start(&(struct program_options){.side = HOST,
			.name = low[i].name,
			.args = low[i].args,
			.prepare = strict_drop_privileges});

		expect_refusal(p, low[i].listen, "Permission denied");
	}
}

/* The line of the start: the only one, but where having no rules is one, too.
 */
static const char *
start_line(struct program *p)
{
	const char *line = program_wait_log(p, " msg=listening ", 1);
	bool warns = strcmp(p->name, "vsock-to-ip-transparent") == 0;

	strict_expect_keys(line, LISTENING_KEYS);
	strict_expect_value(line, "level", "info");
	strict_expect_value(line, "prog", p->name);
	assert_int_equal(strict_count(program_err(p), '\n'), 1 + warns);
	assert_string_equal(program_out(p), "");
	return line;
}

/* The port at the end of an address. */
static unsigned
port_of(const char *address)
{
	const char *colon = strrchr(address, ':');
	char *end;
	unsigned long port;

	assert_non_null(colon);
	port = strtoul(colon + 1, &end, 10);
	assert_true(end > colon + 1 && *end == '\0' && port <= VSOCK_ANY);
	return (unsigned)port;
}

/* Expects that a TCP listener's start line tells where it really is. */
static void
expect_tcp_start(const char *program, const char *listen, const char *upstream)
{
	struct program *p = start(program, listen, NULL);
	const char *line = start_line(p);
	unsigned port = port_of(program_log_value(line, "listen"));

	strict_expect_value(line, "listen", harness_text("127.0.0.1:%u", port));
	strict_expect_value(line, "upstream", upstream);
	assert_int_not_equal(port, 0);
	network_tcp_connect(HOST, "127.0.0.1", (uint16_t)port);
	program_wait_connection(p, 1);
}

/* The same for vsock; own: the CID that was asked for, as a number. */
static void
expect_vsock_start(
    const char *program, const char *cid, const char *own, const char *upstream)
{
	struct program *p =
	    start(program, harness_text("%s:4294967295", cid), NULL);
	const char *line = start_line(p);
	unsigned port = port_of(program_log_value(line, "listen"));

	strict_expect_value(line, "listen", harness_text("%s:%u", own, port));
	strict_expect_value(line, "upstream", upstream);
	assert_int_not_equal(port, VSOCK_ANY);
	close(network_vsock_connect(port));
	program_wait_connection(p, 1);
}

static void
test_start_line(void **state)
{
	/* Broken: nobody learns which port the kernel chose, or where
	 * connections will go. */
	(void)state;
	expect_tcp_start("ip-to-vsock", "127.0.0.1:0", SOME_VSOCK);
	expect_tcp_start("ip-to-vsock-transparent", "127.0.0.1:0", SOME_VSOCK);
	expect_tcp_start("port-to-vsock-transparent", "127.0.0.1:0", "1:*");
	expect_vsock_start("vsock-to-ip", "any", "any", SOME_TCP);
	expect_vsock_start("vsock-to-ip-transparent", "local", "1", "*:*");
	expect_vsock_start(
	    "vsock-to-ip-transparent", "4294967295", "any", "*:*");
	expect_vsock_start("vsock-to-ip", "1", "1", SOME_TCP);
}

static void
test_upstream_in_start_line(void **state)
{
	/* Broken: the log doesn't say where connections go, or a word for a
	 * CID means another one. */
	static char *const rows[][2] = {{"local:8", "1:8"}, {"host:9", "2:9"},
	    {"3:0", "3:0"}, {"4294967294:4294967294", "4294967294:4294967294"}};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct program *p = program_start_args(HOST, "ip-to-vsock",
		    "-i", "127.0.0.1:0", "-v", rows[i][0], NULL);

		strict_expect_value(start_line(p), "upstream", rows[i][1]);
	}
}

static void
test_copy_in_start_line(void **state)
{
	/* Broken: the log doesn't say how bytes are moved, or --copy has no
	 * effect. */
	(void)state;
	strict_expect_value(start_line(start("ip-to-vsock", "127.0.0.1:0",
				ARGS("--copy", "splice"))),
	    "copy", "splice");
	strict_expect_value(start_line(start("vsock-to-ip", "any:4294967295",
				ARGS("--copy=buffer"))),
	    "copy", "buffer");
	strict_expect_value(start_line(start("ip-to-vsock-transparent",
				"127.0.0.1:0", ARGS("--copy", "auto"))),
	    "copy", "auto");
}

static void
test_limit_in_start_line(void **state)
{
	/* Broken: nobody learns how many connections are served at once. */
	const struct program_limit limit = {RLIMIT_NOFILE, {600, 600}};
	static const struct {
		char *mode;
		unsigned descriptors; /* for each connection */
	} modes[] = {{"auto", 4}, {"buffer", 2}, {"splice", 6}};
	struct program *p;
	const char *line;
	uint64_t most;

	(void)state;
	line = start_line(start("vsock-to-ip-transparent", "any:4294967295",
	    ARGS("--max-connections", "77")));
	strict_expect_value(line, "max-connections", "77");
	strict_expect_value(line, "limited-by", "--max-connections");
	for (size_t i = 0; i < COUNT(modes); i++) {
		p = program_start(
		    &(struct program_options){.name = "vsock-to-ip-transparent",
			.args = ARGS(
			    "-v", "any:4294967295", "--copy", modes[i].mode),
			.limits = &limit,
			.limit_count = 1});
		line = start_line(p);
		most = program_log_number(line, "max-connections");
		strict_expect_value(line, "limited-by", "RLIMIT_NOFILE");
		/* Some are for the process itself. */
		assert_in_range(most * modes[i].descriptors, 500, 599);
	}
}

static void
test_vsock_port_ignored(void **state)
{
	/* Broken: command lines that gave a port to --vsock fail, or nobody
	 * learns that it has no effect. */
	struct program *p =
	    program_start_args(HOST, "port-to-vsock-transparent", "--vsock",
		"88:1200", "-i", "127.0.0.1:0", NULL);
	const char *line = program_wait_log(p, " msg=listening ", 1), *all;

	(void)state;
	strict_expect_value(line, "upstream", "88:*");
	line = program_wait_log(p, " level=warn ", 1);
	strict_expect_keys(line, "ts level prog msg");
	assert_non_null(strstr(line, "--vsock"));
	assert_int_equal(strict_count(program_err(p), '\n'), 2);
	all = program_err(p);
	assert_ptr_equal(strstr(all, line), all); /* the first */
	p = program_start_args(HOST, "port-to-vsock-transparent", "--vsock",
	    "88", "-i", "127.0.0.1:0", NULL);
	program_wait_log(p, " msg=listening ", 1);
	assert_int_equal(program_count_log(p, " level=warn "), 0);
}

/* Goes through a TCP listener; expects the client's name in the log. */
static void
expect_client(struct program *p, unsigned number, const char *address,
    uint16_t port, int upstream_listener)
{
	int client = network_tcp_connect(HOST, address, port);
	int upstream = network_accept(upstream_listener);
	const char *name = strict_own_name(client);

	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	strict_expect_value(
	    strict_expect_end(p, number, "eof", NULL), "client", name);
}

static void
test_dual_stack(void **state)
{
	/* Broken: [::] serves only one kind of client, or the log shows IPv4
	 * clients in a form that no other log has. */
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	struct program *p = strict_start(HOST, "ip-to-vsock",
	    ARGS("-i", harness_text("[::]:%u", port), "-v",
		harness_text("1:%u", vsock_port)));
	int listener = network_vsock_listen(vsock_port);

	(void)state;
	strict_expect_value(program_wait_log(p, " msg=listening ", 1), "listen",
	    harness_text("[::]:%u", port));
	expect_client(p, 1, "127.0.0.1", port, listener);
	expect_client(p, 2, "::1", port, listener);
	expect_client(p, 3, TARGET_IPV4, port, listener);
	expect_client(p, 4, TARGET_IPV6, port, listener);
}

static void
test_ipv6_only_address(void **state)
{
	/* Broken: an IPv6 listener doesn't work, or serves other addresses. */
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	struct program *p = strict_start(HOST, "ip-to-vsock",
	    ARGS("-i", harness_text("[" TARGET_IPV6 "]:%u", port), "-v",
		harness_text("1:%u", vsock_port)));
	int listener = network_vsock_listen(vsock_port);

	(void)state;
	expect_client(p, 1, TARGET_IPV6, port, listener);
	assert_int_equal(network_tcp_try(HOST, "::1", port), -1);
	assert_int_equal(network_tcp_try(HOST, "127.0.0.1", port), -1);
}

/* A name with an IPv4 and an IPv6 address. */
#define TWO_HOSTS "127.0.0.1 two\n::1 two\n"

static void
test_listener_by_name(void **state)
{
	/* Broken: a name doesn't work for a listener; or only the first of its
	 * addresses is tried. */
	uint32_t vsock_port = network_vsock_port();
	int listener = network_vsock_listen(vsock_port);
	static const char *const rivals[] = {NULL, "127.0.0.1", "::1"};

	(void)state;
	for (size_t i = 0; i < COUNT(rivals); i++) {
		uint16_t port = network_tcp_port();
		struct program *p;
		const char *listen;
		bool ipv6;

		if (rivals[i] != NULL)
			network_tcp_listen(HOST, rivals[i], port);
		p = strict_start_with_etc(HOST, "files", TWO_HOSTS,
		    "ip-to-vsock",
		    ARGS("-i", harness_text("two:%u", port), "-v",
			harness_text("1:%u", vsock_port)));
		listen = program_log_value(
		    program_wait_log(p, " msg=listening ", 1), "listen");
		ipv6 = listen[0] == '[';
		assert_string_equal(listen,
		    harness_text(ipv6 ? "[::1]:%u" : "127.0.0.1:%u", port));
		if (rivals[i] != NULL)
			assert_int_equal(ipv6, *rivals[i] == '1');
		expect_client(p, 1, ipv6 ? "::1" : "127.0.0.1", port, listener);
	}
}

static void
test_restart(void **state)
{
	/* Broken: after a restart the address is in use for a minute, because
	 * of connections that the program ended itself. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, ARGS("--grace=0"));
	char *args[] = {"-i", harness_text("127.0.0.1:%u", b.listen_port), "-v",
	    harness_text("1:%u", b.vsock_port), NULL};
	int client, upstream;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	/* Who closes first has the TIME_WAIT. */
	close(upstream);
	traffic_expect_eof(client);
	close(client);
	program_wait_connection(b.first, 1);
	/* And one that is open. */
	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	assert_int_equal(program_stop(b.first), 0);
	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	traffic_expect_end(upstream);
	b.first = b.last = strict_start(HOST, "ip-to-vsock", args);
	bridge_expect_service(&b);
}

#define REFUSAL(label, index) TEST_WITH(test_cannot_listen, label, index)

int
strict_listen_run(void)
{
	const struct CMUnitTest tests[] = {
	    REFUSAL("tcp-in-use", 0),
	    REFUSAL("tcp-in-use-ipv6", 1),
	    REFUSAL("tcp-in-use-any", 2),
	    REFUSAL("vsock-in-use", 3),
	    REFUSAL("vsock-in-use-any", 4),
	    REFUSAL("foreign-ipv4", 5),
	    REFUSAL("foreign-ipv6", 6),
	    REFUSAL("unresolvable", 7),
	    REFUSAL("foreign-cid", 8),
	    REFUSAL("foreign-cid-large", 9),
	    TEST(test_privileged_port),
	    TEST(test_start_line),
	    TEST(test_upstream_in_start_line),
	    TEST(test_copy_in_start_line),
	    TEST(test_limit_in_start_line),
	    TEST(test_vsock_port_ignored),
	    TEST(test_dual_stack),
	    TEST(test_ipv6_only_address),
	    TEST(test_listener_by_name),
	    TEST(test_restart),
	};

	return cmocka_run_group_tests_name("strict: listen", tests, NULL, NULL);
}
