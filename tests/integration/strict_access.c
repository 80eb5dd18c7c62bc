/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may call, and what may be reached. Targets that are allowed are mostly
 * such that nobody listens there, or that no route leads to: what counts is
 * whether the program tries (no-upstream) or not (not-allowed).
 */
#include "strict.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UNNAMED "no allow item names it"
#define TRIED "Connection refused|Network unreachable|Network is unreachable"
#define RULES 1000
#define STORM_PER_S 1000
#define STORM_TRIPS 600
#define DENIED_TOGETHER 30

/* What is asked for; denied: by which rule, NULL: it is tried. */
struct target {
	const char *address;
	uint16_t port;
	const char *denied;
};

#define DENY_LOCAL "--deny-target local"
#define DENY_PRIVATE "--deny-target private"

/* A list of arguments, and targets that show what it means. */
struct rule_set {
	char *const *args;
	struct target targets[32]; /* up to one without an address */
};

/* Starts vsock-to-ip-transparent. */
static struct program *
start_host(enum side side, char *const *rules, uint32_t *port)
{
	char *args[16] = {"-v", NULL};
	size_t count = 2;

	*port = network_vsock_port();
	args[1] = harness_text("1:%u", *port);
	for (; *rules != NULL; rules++) {
		assert_true(count + 1 < COUNT(args));
		args[count++] = *rules;
	}
	return strict_start(side, "vsock-to-ip-transparent", args);
}

/* Asks for a target as a client on vsock. Returns the socket. */
static int
ask(uint32_t port, const char *address, uint16_t target_port)
{
	uint8_t bytes[22];
	size_t size = bridge_preamble(address, target_port, bytes);
	int client = network_vsock_connect(port);

	traffic_send(client, bytes, size);
	return client;
}

/* The client and its line in the log: denied, or tried and failed. */
static void
expect_verdict(
    struct program *p, unsigned number, int client, const struct target *t)
{
	const char *line;

	traffic_expect_end(client);
	close(client);
	line = strict_expect_end(p, number,
	    t->denied == NULL ? "no-upstream" : "not-allowed",
	    t->denied == NULL ? TRIED : t->denied);
	if (t->denied != NULL)
		strict_expect_value(line, "upstream", "-");
	if (strncmp(t->address, "::ffff:", 7) != 0)
		strict_expect_value(
		    line, "target", network_name(t->address, t->port));
}

static void
expect_rule_set(const struct rule_set *set)
{
	uint32_t port;
	struct program *p = start_host(HOST, set->args, &port);
	const struct target *t = set->targets;

	for (unsigned i = 1; t->address != NULL; i++, t++)
		expect_verdict(p, i, ask(port, t->address, t->port), t);
	assert_true(program_runs(p));
}

static void
test_access_local(void **state)
{
	/* Broken: an enclave reaches what listens on its host. */
	static char *const args[] = {"--deny-target", "local", NULL};
	static const struct rule_set set = {
	    args, {{"127.0.0.1", 9, DENY_LOCAL}, {"127.9.9.9", 9, DENY_LOCAL},
		      {"127.255.255.255", 65535, DENY_LOCAL},
		      {"0.0.0.0", 9, DENY_LOCAL}, {"::", 9, DENY_LOCAL},
		      {"::1", 9, DENY_LOCAL}, {TARGET_IPV4, 9, DENY_LOCAL},
		      {OTHER_IPV4, 9, DENY_LOCAL}, {TARGET_IPV6, 9, DENY_LOCAL},
		      {OTHER_IPV6, 1, DENY_LOCAL},
		      {"::ffff:127.0.0.1", 9, DENY_LOCAL},
		      {"::ffff:0.0.0.0", 9, DENY_LOCAL},
		      {"::ffff:" TARGET_IPV4, 9, DENY_LOCAL},
		      {"198.51.100.9", 9, NULL}, {"128.0.0.1", 9, NULL},
		      {"2001:db8::9", 9, NULL}, {"::2", 9, NULL},
		      {"10.0.0.1", 9, NULL}, {"::ffff:198.51.100.9", 9, NULL}}};

	(void)state;
	expect_rule_set(&set);
}

static void
test_access_private(void **state)
{
	/* Broken: an enclave reaches its host's network, or the metadata
	 * service with the machine's credentials; or less than the world. */
	static char *const args[] = {"--deny-target=private", NULL};
	static const struct rule_set set = {args,
	    {{"9.255.255.255", 80, NULL}, {"10.0.0.0", 80, DENY_PRIVATE},
		{"10.255.255.255", 80, DENY_PRIVATE}, {"11.0.0.0", 80, NULL},
		{"172.15.255.255", 80, NULL}, {"172.16.0.0", 80, DENY_PRIVATE},
		{"172.31.255.255", 80, DENY_PRIVATE}, {"172.32.0.0", 80, NULL},
		{"192.167.255.255", 80, NULL},
		{"192.168.0.0", 80, DENY_PRIVATE},
		{"192.168.255.255", 80, DENY_PRIVATE},
		{"192.169.0.0", 80, NULL}, {"100.63.255.255", 80, NULL},
		{"100.64.0.0", 80, DENY_PRIVATE},
		{"100.127.255.255", 80, DENY_PRIVATE},
		{"100.128.0.0", 80, NULL}, {"169.253.255.255", 80, NULL},
		{"169.254.0.0", 80, DENY_PRIVATE},
		{"169.254.169.254", 80, DENY_PRIVATE},
		{"::ffff:169.254.169.254", 80, DENY_PRIVATE},
		{"169.254.255.255", 80, DENY_PRIVATE},
		{"169.255.0.0", 80, NULL}, {"fbff:ffff::1", 80, NULL},
		{"fc00::", 80, DENY_PRIVATE},
		{"fd00:ec2::254", 80, DENY_PRIVATE},
		{"fdff:ffff:ffff::1", 80, DENY_PRIVATE},
		{"fe80::", 80, DENY_PRIVATE}, {"febf::1", 80, DENY_PRIVATE},
		{"fec0::1", 80, NULL}, {"127.0.0.1", 9, NULL},
		{"2001:db8::9", 80, NULL}}};

	(void)state;
	expect_rule_set(&set);
}

static void
test_access_items(void **state)
{
	/* Broken: a rule names more, or less, than it says. */
	static char *const allow[] = {"--allow-target",
	    "198.51.100.7:440-443,198.51.100.8/31:80,[2001:db8::4/126]:443",
	    "--allow-target=[::ffff:192.0.2.0/120]:25", NULL};
	static char *const both[] = {"--allow-target=*:443,local:9",
	    "--deny-target", "198.51.100.0/24,[2001:db8::8]:443", NULL};
	static char *const metadata[] = {
	    "--deny-target=169.254.169.254,[fd00:ec2::254]", NULL};
	static const struct rule_set sets[] = {
	    {allow,
		{{"198.51.100.7", 439, UNNAMED}, {"198.51.100.7", 440, NULL},
		    {"198.51.100.7", 443, NULL}, {"198.51.100.7", 444, UNNAMED},
		    {"198.51.100.6", 443, UNNAMED}, {"198.51.100.8", 80, NULL},
		    {"198.51.100.9", 80, NULL}, {"198.51.100.9", 81, UNNAMED},
		    {"198.51.100.10", 80, UNNAMED},
		    {"2001:db8::3", 443, UNNAMED}, {"2001:db8::4", 443, NULL},
		    {"2001:db8::7", 443, NULL}, {"2001:db8::7", 442, UNNAMED},
		    {"2001:db8::8", 443, UNNAMED}, {"192.0.2.255", 25, NULL},
		    {"::ffff:192.0.2.1", 25, NULL}, {"192.0.3.0", 25, UNNAMED},
		    {"::ffff:198.51.100.7", 443, NULL}}},
	    /* What denies counts first. */
	    {both,
		{{"203.0.113.1", 443, NULL}, {"203.0.113.1", 442, UNNAMED},
		    {"198.51.100.1", 443, "--deny-target 198.51.100.0/24"},
		    {"198.51.100.7", 9, "--deny-target 198.51.100.0/24"},
		    {"127.0.0.1", 9, NULL}, {"2001:db8::7", 9, NULL},
		    {"2001:db8::7", 10, UNNAMED}, {"2001:db8::7", 443, NULL},
		    {"2001:db8::8", 443, "--deny-target [2001:db8::8/128]:443"},
		    {"2001:db8::8", 9, NULL}}},
	    {metadata,
		{{"169.254.169.253", 80, NULL},
		    {"169.254.169.254", 80, "--deny-target 169.254.169.254/32"},
		    {"169.254.169.254", 1, "--deny-target 169.254.169.254/32"},
		    {"::ffff:169.254.169.254", 80,
			"--deny-target 169.254.169.254/32"},
		    {"fd00:ec2::254", 80, "--deny-target [fd00:ec2::254/128]"},
		    {"fd00:ec2::253", 80, NULL}}},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(sets); i++)
		expect_rule_set(&sets[i]);
}

static void
run_ip(char *const *args)
{
	struct program *ip = program_run(&(struct program_options){
	    .side = BARE, .name = "ip", .args = args});

	if (ip->wait_status != 0)
		fail_msg("ip: %s", program_err(ip));
}

static void
test_access_local_added(void **state)
{
	/* Broken: an address that the machine gets later, or isn't the first of
	 * its network, or a whole network that it serves, isn't local. */
	static char *const args[] = {"--deny-target", "local", NULL};
	static const struct {
		char *args[8];
		const char *address;
	} additions[] = {
	    {{"addr", "add", "203.0.113.65/28", "dev", "lo"}, "203.0.113.65"},
	    {{"addr", "add", "203.0.113.66/28", "dev", "lo"}, "203.0.113.66"},
	    {{"addr", "add", "2001:db8:7::1/64", "dev", "lo", "nodad"},
		"2001:db8:7::1"},
	    {{"addr", "add", "2001:db8:7::2/64", "dev", "lo", "nodad"},
		"2001:db8:7::2"},
	    {{"route", "add", "local", "192.0.2.64/28", "dev", "lo"},
		"192.0.2.70"},
	    {{"-6", "route", "add", "local", "2001:db8:8::/64", "dev", "lo"},
		"2001:db8:8::7"},
	};
	uint32_t port;
	struct program *p = start_host(BARE, args, &port);
	unsigned number = 1;

	(void)state;
	for (size_t i = 0; i < COUNT(additions); i++) {
		struct target t = {additions[i].address, 9, NULL};

		/* It has just been given a network of its own. */
		if (i != 1)
			expect_verdict(
			    p, number++, ask(port, t.address, t.port), &t);
		run_ip(additions[i].args);
		t.denied = DENY_LOCAL;
		expect_verdict(p, number++, ask(port, t.address, t.port), &t);
	}
	for (size_t i = COUNT(additions); i > 0; i--) {
		char *undo[8];

		memcpy(undo, additions[i - 1].args, sizeof(undo));
		undo[strcmp(undo[0], "-6") == 0 ? 2 : 1] =
		    (char[]){'d', 'e', 'l', '\0'};
		if (strcmp(undo[0], "addr") == 0)
			undo[5] = NULL; /* nodad */
		run_ip(undo);
	}
}

static void
test_access_loop(void **state)
{
	/* Broken: by one of its host's addresses an enclave makes the programs
	 * call each other without end. */
	static char *const args[] = {"--deny-target", "local", NULL};
	uint16_t tcp_port = network_tcp_port();
	uint8_t bytes[22];
	uint32_t port;
	struct program *inner = start_host(HOST, args, &port);
	struct program *outer = strict_start(HOST, "ip-to-vsock",
	    ARGS("-i", harness_text("0.0.0.0:%u", tcp_port), "-v",
		harness_text("1:%u", port), "--paired"));
	int client = network_tcp_connect(HOST, TARGET_IPV4, tcp_port);

	(void)state;
	/* Back to the one in front, by another address of the machine. */
	traffic_send(
	    client, bytes, bridge_preamble(OTHER_IPV4, tcp_port, bytes));
	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	strict_expect_value(
	    strict_expect_end(inner, 1, "not-allowed", DENY_LOCAL), "target",
	    harness_text(OTHER_IPV4 ":%u", tcp_port));
	program_wait_connection(outer, 1);
	strict_count_now(outer, "accepted=1 upstream-error=1 up=6");
	strict_count_now(inner, "accepted=1 not-allowed=1");
}

static void
test_access_enclave_side(void **state)
{
	/* Broken: what the enclave's side denies goes over vsock after all. */
	const char *name = *state;
	bool by_port = strcmp(name, "port-to-vsock-transparent") == 0;
	uint16_t port = network_tcp_port();
	uint32_t vsock_port = network_vsock_port();
	int listener = network_vsock_listen(by_port ? 443 : vsock_port), client;
	struct program *p = strict_start(ENCLAVE, name,
	    ARGS("-i", harness_text("[::]:%u", port), "-v",
		harness_text(by_port ? "1" : "1:%u", vsock_port),
		"--deny-target", "local,198.51.100.9:443",
		"--allow-target=*:443", "--allow-target=[::/0]:9"));
	static const struct target targets[] = {
	    {"198.51.100.9", 443, "--deny-target 198.51.100.9/32:443"},
	    {"192.0.2.1", 443, DENY_LOCAL}, {"2001:db8:1::1", 443, DENY_LOCAL},
	    {"198.51.100.10", 442, UNNAMED}, {"198.51.100.10", 9, UNNAMED}};

	network_redirect(ENCLAVE, NULL, port);
	for (unsigned i = 0; i < COUNT(targets); i++) {
		const struct target *t = &targets[i];

		client = network_tcp_connect(ENCLAVE, t->address, t->port);
		assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
		strict_expect_value(
		    strict_expect_end(p, i + 1, "not-allowed", t->denied),
		    "target", network_name(t->address, t->port));
	}
	assert_false(network_pending(listener));
	client = network_tcp_connect(ENCLAVE, "198.51.100.10", 443);
	close(network_accept(listener));
	close(client);
	program_wait_connection(p, COUNT(targets) + 1);
}

static void
test_access_original_sender(void **state)
{
	/* Broken: a sender that is the original, whose preamble comes in two
	 * pieces, gets around the rules; or isn't served. */
	static char *const args[] = {
	    "--deny-target", "198.51.100.8", "--allow-target=local", NULL};
	uint16_t tcp_port = network_tcp_port();
	int listener = network_tcp_listen(HOST, TARGET_IPV4, tcp_port);
	int other = network_tcp_listen(HOST, OTHER_IPV4, tcp_port);
	uint8_t bytes[22];
	uint32_t port;
	struct program *p = start_host(HOST, args, &port);
	int client = network_vsock_connect(port), upstream;

	(void)state;
	bridge_preamble(OTHER_IPV4, tcp_port, bytes);
	traffic_send(client, bytes, 4);
	assert_false(traffic_readable(client, 20));
	traffic_send(client, bytes + 4, 2);
	traffic_expect_end(client);
	strict_expect_end(p, 1, "not-allowed", "--deny-target 198.51.100.8/32");
	assert_false(network_pending(other));
	client = network_vsock_connect(port);
	bridge_preamble(TARGET_IPV4, tcp_port, bytes);
	traffic_send(client, bytes, 4);
	assert_false(traffic_readable(client, 20));
	traffic_send(client, bytes + 4, 2);
	upstream = network_accept(listener);
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
	strict_expect_end(p, 2, "eof", NULL);
	strict_count_now(p, "accepted=2 not-allowed=1 eof=1 up=11 down=8");
}

static void
test_access_many_rules(void **state)
{
	/* Broken: a long list is cut, or takes long. */
	static const struct target targets[] = {{"10.3.231.1", 1, UNNAMED},
	    {"10.3.231.255", 1000, NULL}, {"10.3.231.255", 999, UNNAMED},
	    {"10.3.231.1", 1001, UNNAMED}, {"10.0.0.0", 1, NULL},
	    {"10.3.232.1", 1001, "--deny-target 10.3.232.0/24"}};
	char *list;
	char *args[] = {
	    "--allow-target", NULL, "--deny-target=10.3.232.0/24", NULL};
	size_t length = 0, size = RULES * 24UL;
	uint32_t port;
	struct program *p;

	(void)state;
	list = malloc(size);
	assert_non_null(list);
	for (int i = 0; i < RULES; i++)
		length += (size_t)snprintf(list + length, size - length,
		    "%s10.%d.%d.0/24:%d", i == 0 ? "" : ",", i / 256, i % 256,
		    i + 1);
	args[1] = list;
	p = start_host(HOST, args, &port);
	free(list);
	strict_expect_value(
	    program_wait_log(p, " msg=listening ", 1), "allow-target", "1000");
	for (unsigned i = 0; i < COUNT(targets); i++)
		expect_verdict(p, i + 1,
		    ask(port, targets[i].address, targets[i].port),
		    &targets[i]);
}

static void
test_access_malformed(void **state)
{
	/* Broken: a rule that is none starts a program, or isn't named. */
	static const char *const targets[] = {"", "x", "10.0.0.1/8",
	    "10.0.0.0/33", "::1", "[::1", "[2001:db8::1/64]", "10.0.0.1:0",
	    "10.0.0.1:2-1", "*:65536", "local/8", "name.example:443"};
	static const char *const clients[] = {"", "10.0.0.1/8", "[::1]",
	    "10.0.0.1:80", "*", "local", "16", "2001:db8::1/64"};
	static const char *const cids[] = {
	    "", "any", "16-15", "16:80", "4294967295", "10.0.0.0/8"};
	static const struct {
		const char *program, *flag, *good;
		const char *const *bad;
		size_t count;
	} kinds[] = {
	    {"vsock-to-ip-transparent", "deny-target", "local", targets,
		COUNT(targets)},
	    {"ip-to-vsock-transparent", "allow-target", "*", targets, 3},
	    {"port-to-vsock-transparent", "allow-client", "10.0.0.0/8", clients,
		COUNT(clients)},
	    {"ip-to-vsock", "allow-client", "::1", clients, 2},
	    {"vsock-to-ip", "allow-client", "16-31", cids, COUNT(cids)},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(kinds); i++) {
		for (size_t j = 0; j < kinds[i].count; j++) {
			const char *bad = kinds[i].bad[j];
			const char *expected = harness_text(
			    "error: invalid item '%s' for '--%s <LIST>': "
			    "expected ",
			    bad, kinds[i].flag);
			struct program *p = program_run_args(HOST,
			    kinds[i].program, "--grace", "1",
			    harness_text("--%s=%s,%s", kinds[i].flag,
				kinds[i].good, bad),
			    NULL);
			const char *err = program_err(p);

			if (program_wait_end(p) != 2 ||
			    strncmp(err, expected, strlen(expected)) != 0)
				fail_msg("%s: %s", bad, err);
		}
	}
}

static void
test_access_said(void **state)
{
	/* Broken: the log doesn't tell which rules hold, or that there are
	 * none. */
	static char *const none[] = {"--allow-client=local", NULL};
	static char *const some[] = {"--deny-target", "local,[2001:DB8::/32]",
	    "--allow-target=*:443", "--deny-target=private",
	    "--log-level=debug", NULL};
	static const char *const rules[] = {"--deny-target local",
	    "--deny-target [2001:db8::/32]", "--allow-target *:443",
	    "--deny-target private"};
	uint32_t port;
	struct program *p = start_host(HOST, none, &port);
	const char *line = program_wait_log(p, " msg=listening ", 1);

	(void)state;
	strict_expect_keys(line, LISTENING_KEYS);
	strict_expect_value(line, "allow-client", "1");
	strict_expect_value(line, "allow-target", "0");
	strict_expect_value(line, "deny-target", "0");
	line = program_wait_log(p, " level=warn ", 1);
	assert_non_null(strstr(line, "--deny-target"));
	assert_non_null(strstr(line, "--allow-target"));
	assert_int_equal(program_count_log(p, " level=warn "), 1);
	p = start_host(HOST, some, &port);
	line = program_wait_log(p, " msg=listening ", 1);
	strict_expect_value(line, "allow-client", "0");
	strict_expect_value(line, "allow-target", "1");
	strict_expect_value(line, "deny-target", "3");
	assert_int_equal(program_count_log(p, " level=warn "), 0);
	for (unsigned i = 0; i < COUNT(rules); i++)
		strict_expect_value(
		    program_wait_log(p, " msg=rule ", i + 1), "rule", rules[i]);
}

/* A client by TCP, whose address is the one that it connects to. One that is
 * denied may be reset before connect(2) has ended. Returns its name, or NULL.
 */
static const char *
try_client(uint16_t port, const char *address, bool allowed)
{
	int client = network_tcp_try(HOST, address, port);
	const char *name;

	if (client == -1) {
		assert_int_equal(errno, ECONNRESET);
		assert_false(allowed);
		return NULL;
	}
	name = strict_own_name(client);
	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	close(client);
	return name;
}

static void
test_access_clients(void **state)
{
	/* Broken: a client that isn't named gets through, or one that is
	 * doesn't. */
	static const struct {
		const char *list, *address;
		bool allowed;
	} rows[] = {
	    {"198.51.100.7", TARGET_IPV4, true},
	    {"198.51.100.7", OTHER_IPV4, false},
	    {"198.51.100.4/30", TARGET_IPV4, true},
	    {"198.51.100.4/30", OTHER_IPV4, false},
	    {"127.0.0.0/8,::1", "::1", true},
	    {"127.0.0.0/8,::1", "127.0.0.1", true},
	    {"127.0.0.0/8,::1", TARGET_IPV6, false},
	    {"2001:db8::/125", TARGET_IPV6, true},
	    {"2001:db8::/125", OTHER_IPV6, false},
	    /* An IPv4 client of an IPv6 listener is one of IPv4. */
	    {"::/0", TARGET_IPV4, false},
	    {"::ffff:198.51.100.7", TARGET_IPV4, true},
	    {"0.0.0.0/0", TARGET_IPV4, true},
	    {"0.0.0.0/0", "::1", false},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		uint16_t port = network_tcp_port();
		struct program *p = strict_start(HOST, "ip-to-vsock",
		    ARGS("-i", harness_text("[::]:%u", port), "-v",
			harness_text("1:%u", network_vsock_port()),
			"--allow-client", harness_text("%s", rows[i].list)));
		const char *name, *line;

		/* Nobody listens behind it. */
		name = try_client(port, rows[i].address, rows[i].allowed);
		line = program_wait_connection(p, 1);
		strict_expect_value(line, "end",
		    rows[i].allowed ? "no-upstream" : "not-allowed");
		if (name != NULL)
			strict_expect_value(line, "client", name);
		strict_count_now(p, rows[i].allowed
					? "accepted=1 no-upstream=1"
					: "accepted=1 not-allowed=1");
		program_stop(p);
	}
}

static void
test_access_cids(void **state)
{
	/* Broken: an enclave passes for its neighbour. All clients here have
	 * the CID 1. */
	static const struct {
		const char *list;
		bool allowed;
	} rows[] = {{"1", true}, {"local", true}, {"0-1", true}, {"1-9", true},
	    {"16,1", true}, {"0", false}, {"2-4294967294", false},
	    {"host", false}};

	(void)state;
	for (size_t i = 0; i < COUNT(rows); i++) {
		char *args[] = {"--deny-target=local", "--allow-client",
		    harness_text("%s", rows[i].list), NULL};
		uint32_t port;
		struct program *p = start_host(HOST, args, &port);
		int client = rows[i].allowed ? ask(port, "127.0.0.1", 9)
					     : network_vsock_connect(port);

		traffic_expect_end(client);
		strict_expect_end(p, 1, "not-allowed",
		    rows[i].allowed ? DENY_LOCAL : UNNAMED);
		strict_count_now(p, "accepted=1 not-allowed=1");
		program_stop(p);
	}
}

static void
test_access_no_slot(void **state)
{
	/* Broken: clients that are denied keep out others, or leave something
	 * behind, or fill the log. */
	uint16_t port = network_tcp_port();
	struct program *p = strict_start(HOST, "ip-to-vsock",
	    ARGS("-i", harness_text("0.0.0.0:%u", port), "-v", "1:9",
		"--max-connections=1", "--allow-client=127.0.0.1"));
	unsigned long descriptors =
	    program_wait_descriptors(p, IDLE_DESCRIPTORS);
	uint64_t begin = harness_now_ms(), seconds;
	unsigned lines;

	(void)state;
	for (int i = 0; i < DENIED_TOGETHER; i++) {
		int client = network_tcp_connect(HOST, TARGET_IPV4, port);

		assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
		close(client);
	}
	strict_count_now(p, harness_text("accepted=%u not-allowed=%u",
				DENIED_TOGETHER, DENIED_TOGETHER));
	seconds = (harness_now_ms() - begin) / 1000;
	lines = program_count_log(p, " end=not-allowed ");
	assert_in_range(lines, 1, seconds + 1);
	assert_int_equal(program_count_log(p, " msg=\"cannot accept\" "), 0);
	assert_int_equal(program_threads(p), 1);
	assert_int_equal(program_wait_descriptors(p, descriptors), descriptors);
}

/* Clients from an address that isn't allowed, so many a second. */
struct storm {
	pthread_t thread;
	uint16_t port;
	atomic_bool ends;
	unsigned count, failed;
	double seconds;
};

static void *
run_storm(void *argument)
{
	struct storm *s = argument;
	uint64_t begin = strict_now_ns();

	network_enter(HOST);
	while (!s->ends) {
		uint64_t due = begin + s->count * (1000000000ULL / STORM_PER_S);
		struct timespec pause = {0, 0};
		uint64_t now = strict_now_ns();
		int fd;

		if (now < due) {
			pause.tv_nsec = (long)(due - now);
			nanosleep(&pause, NULL);
		}
		fd = network_tcp_try(HOST, TARGET_IPV4, s->port);
		if (fd != -1)
			close(fd);
		s->failed += fd == -1 && errno != ECONNRESET;
		s->count++;
	}
	s->seconds = (double)(strict_now_ns() - begin) / 1e9;
	return NULL;
}

/* ip-to-vsock on all addresses, with a connection through it. */
struct honest {
	struct program *program;
	uint16_t port;
	int client, upstream;
};

static struct honest
start_honest(void)
{
	uint32_t vsock_port = network_vsock_port();
	struct honest h = {.port = network_tcp_port()};
	int listener = network_vsock_listen(vsock_port);

	h.program = strict_start(HOST, "ip-to-vsock",
	    ARGS("-i", harness_text("0.0.0.0:%u", h.port), "-v",
		harness_text("1:%u", vsock_port), "--allow-client",
		"127.0.0.0/8"));
	h.client = network_tcp_connect(HOST, "127.0.0.1", h.port);
	h.upstream = network_accept(listener);
	return h;
}

static bool
has_taken_all(void *argument)
{
	const struct storm *s = *(struct storm *const *)argument;
	struct program *p = ((void **)argument)[1];
	unsigned before = program_count_log(p, " msg=counters ");
	const char *line;

	assert_int_equal(kill(p->pid, SIGUSR1), 0);
	line = program_wait_log(p, " msg=counters ", before + 1);
	return program_log_number(line, "not-allowed") == s->count - s->failed;
}

/* Each denied client is in a line, or counted in one, but for the last. */
static void
expect_lines(struct program *p, const struct storm *s)
{
	unsigned lines = program_count_log(p, " end=not-allowed ");
	uint64_t told = lines;

	assert_in_range(lines, 1, (unsigned)s->seconds + 2);
	for (unsigned i = 1; i <= lines; i++) {
		const char *line = program_wait_log(p, " end=not-allowed ", i);

		if (i > 1) /* the first one comes at once */
			told += program_log_number(line, "unlogged");
	}
	assert_in_range(told, 1, s->count - s->failed);
}

static void
test_access_storm(void **state)
{
	/* Broken: clients that are denied, a thousand a second, slow down those
	 * that are served, or make the log unreadable. */
	static struct strict_trips stormed, idle;
	struct honest h = start_honest(), twin = start_honest();
	struct storm s = {.port = h.port};
	void *both[2] = {&s, h.program};

	(void)state;
	for (int i = 0; i < 20; i++) {
		strict_trip(h.client, h.upstream, &stormed);
		strict_trip(twin.client, twin.upstream, &idle);
	}
	stormed.count = idle.count = 0;
	assert_int_equal(pthread_create(&s.thread, NULL, run_storm, &s), 0);
	for (size_t i = 0; i < STORM_TRIPS; i++) {
		strict_trip(h.client, h.upstream, &stormed);
		strict_trip(twin.client, twin.upstream, &idle);
	}
	assert_int_equal(program_threads(h.program), 3);
	s.ends = true;
	pthread_join(s.thread, NULL);
	strict_expect_under_twice(
	    harness_text("%.0f denied a second", s.count / s.seconds), &stormed,
	    &idle);
	assert_true(s.count > 100);
	assert_true(harness_wait(has_taken_all, both));
	expect_lines(h.program, &s);
	traffic_echo(h.client, h.upstream);
}

int
strict_access_run(void)
{
	static char by_address[] = "ip-to-vsock-transparent";
	static char by_port[] = "port-to-vsock-transparent";
	const struct CMUnitTest tests[] = {
	    TEST(test_access_local),
	    TEST(test_access_private),
	    TEST(test_access_items),
	    TEST(test_access_local_added),
	    TEST(test_access_loop),
	    TEST_WITH(test_access_enclave_side, "ip-to-vsock-transparent",
		by_address),
	    TEST_WITH(
		test_access_enclave_side, "port-to-vsock-transparent", by_port),
	    TEST(test_access_original_sender),
	    TEST(test_access_many_rules),
	    TEST(test_access_malformed),
	    TEST(test_access_said),
	    TEST(test_access_clients),
	    TEST(test_access_cids),
	    TEST(test_access_no_slot),
	    TEST(test_access_storm),
	};

	return cmocka_run_group_tests_name("strict: access", tests, NULL, NULL);
}
