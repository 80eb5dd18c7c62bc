/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of access: what is taken for a rule, in which normal form, and
 * which addresses each one names, at both sides of its edges. */
#include "access.h"

#include "../rules.h"
#include "support.h"

#include <stdlib.h>

#define FREE NULL                        /* allowed */
#define UNNAMED "no allow item names it" /* why not */
#define UNKNOWN "whether it is local can't be known now"

/* What is said to be local, and how often that was asked. */
static const char *local_address;
static int unknown, questions;

/* IP or IP PORT (0 without one), or a CID that follows "vsock". */
static struct address
parse_address(const char *text)
{
	char host[64] = "";
	unsigned port = 0, cid;
	uint8_t bytes[16];
	sa_family_t family;

	if (sscanf(text, "vsock %u", &cid) == 1)
		return vsock_address(cid, 4294967000);
	assert_true(sscanf(text, "%63s %u", host, &port) >= 1);
	family = strchr(host, ':') == NULL ? AF_INET : AF_INET6;
	if (inet_pton(family, host, bytes) != 1)
		fail_msg("not an address: %s", text);
	return address_ip(family, bytes, (uint16_t)port);
}

static int
is_local(const struct address *address)
{
	struct address local;

	questions++;
	if (unknown)
		return -1;
	if (local_address == NULL)
		return 0;
	local = parse_address(local_address);
	local.in.sin_port = address->in.sin_port; /* at the same place in in6 */
	return same_address(&local, address);
}

static int
start_afresh(void **state)
{
	(void)state;
	forget_rules();
	local_address = NULL;
	unknown = questions = 0;
	return 0;
}

static int
end(void **state)
{
	(void)state;
	forget_rules();
	return 0;
}

static const char *const flags[] = {
    [ALLOW_TARGET] = "allow-target",
    [DENY_TARGET] = "deny-target",
    [ALLOW_CLIENT] = "allow-client",
};

/* What a list is for: clients on TCP, clients on vsock, or targets. */
enum use { TARGETS, TCP_CLIENTS, VSOCK_CLIENTS };

/* Of the program; for targets it doesn't matter. */
static int listens_on_vsock;

static const char *
add(enum access_kind kind, enum use use, const char *items)
{
	return access_add(kind,
	    use == VSOCK_CLIENTS || (use == TARGETS && listens_on_vsock),
	    flags[kind], items);
}

static void
assert_taken(enum access_kind kind, enum use use, const char *items)
{
	const char *wrong = add(kind, use, items);

	if (wrong != NULL)
		fail_msg("'%s': refused from '%s' on", items, wrong);
}

/* Expects a verdict on an address: FREE, or a reason. */
static void
assert_verdict(enum access_kind kind, const char *address, const char *expected)
{
	struct address a = parse_address(address);
	const char *reason = access_check(kind, &a, is_local);

	if (expected == NULL ? reason != NULL
			     : reason == NULL || strcmp(reason, expected) != 0)
		fail_msg("%s: '%s' instead of '%s'", address,
		    reason == NULL ? "allowed" : reason,
		    expected == NULL ? "allowed" : expected);
}

/* Whether one item alone, of this kind, lets an address pass. */
static bool
lets_pass(enum access_kind kind, enum use use, const char *item,
    const struct address *a)
{
	forget_rules();
	assert_taken(kind, use, item);
	return access_check(kind == ALLOW_CLIENT ? kind : ALLOW_TARGET, a,
		   is_local) == NULL;
}

/* Whether an item names an address: whatever kind of rule it is. */
static void
assert_names(enum use use, const char *item, const char *address, bool expected)
{
	struct address a = parse_address(address);
	bool named;

	for (listens_on_vsock = 0; listens_on_vsock < 2; listens_on_vsock++) {
		named = lets_pass(use == TARGETS ? ALLOW_TARGET : ALLOW_CLIENT,
		    use, item, &a);
		if (named != expected)
			fail_msg("%s: names %s: %d", item, address, named);
		if (use == TARGETS &&
		    lets_pass(DENY_TARGET, use, item, &a) == expected)
			fail_msg("%s: denies %s: %d", item, address, !expected);
	}
	listens_on_vsock = 0;
}

struct naming {
	const char *item;
	const char *named[9], *not [13]; /* up to NULL */
};

static void
assert_namings(enum use use, const struct naming *cases, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const char *const *a;

		for (a = cases[i].named; *a != NULL; a++)
			assert_names(use, cases[i].item, *a, true);
		for (a = cases[i].not ; *a != NULL; a++)
			assert_names(use, cases[i].item, *a, false);
	}
}

static void
test_prefixes(void **state)
{
	/* Fails if a prefix is wider or narrower than its bits. */
	static const struct naming cases[] = {
	    {"10.0.0.0/8", {"10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"},
		{"9.255.255.255", "11.0.0.0", "a00::", "::10.0.0.0"}},
	    {"192.0.2.4/30", {"192.0.2.4", "192.0.2.5", "192.0.2.7"},
		{"192.0.2.3", "192.0.2.8", "193.0.2.4", "192.0.3.4"}},
	    {"192.0.2.128/25", {"192.0.2.128", "192.0.2.255"},
		{"192.0.2.127", "192.0.3.128", "64.0.2.128"}},
	    {"128.0.0.0/1", {"128.0.0.0", "255.255.255.255"},
		{"127.255.255.255", "8000::"}},
	    {"192.0.2.7", {"192.0.2.7"},
		{"192.0.2.6", "192.0.2.135", "::192.0.2.7", "c000:207::"}},
	    {"192.0.2.6/31", {"192.0.2.6", "192.0.2.7"},
		{"192.0.2.5", "192.0.2.8"}},
	    {"0.0.0.0/0", {"0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"},
		{"::", "::1", "ffff::"}},
	};

	(void)state;
	assert_namings(TARGETS, cases, LENGTH(cases));
	assert_namings(TCP_CLIENTS, cases, LENGTH(cases));
}

/* As clients and as targets are written. */
static const struct naming ipv6[] = {
    {"2001:db8::/32", {"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "32.1.13.184",
	    "2000:db8::"}},
    {"2001:db8:0:8000::/49", {"2001:db8:0:8000::", "2001:db8:0:ffff::"},
	{"2001:db8:0:7fff:ffff::", "2001:db8:1:8000::"}},
    {"2001:db8::8/125", {"2001:db8::8", "2001:db8::f"},
	{"2001:db8::7", "2001:db8::10"}},
    {"2001:db8::7", {"2001:db8::7"},
	{"2001:db8::6", "2001:db8::87", "2001:db8::107"}},
    {"2001:db8::6/127", {"2001:db8::6", "2001:db8::7"},
	{"2001:db8::5", "2001:db8::8"}},
    /* All of IPv6, and nothing of IPv4. */
    {"::/0", {"::", "::1", "ffff::", "::fffe:1.2.3.4", "::1:ffff:1.2.3.4"},
	{"0.0.0.0", "1.2.3.4", "::ffff:1.2.3.4"}},
    {"::/80", {"::", "::fffe:1.2.3.4"}, {"1.2.3.4", "::ffff:1.2.3.4"}},
    {"::/96", {"::", "::1", "::1.2.3.4"}, {"1.2.3.4", "::1:0:0"}},
    {"::fffe:0:0/95", {"::fffe:1.2.3.4"}, {"1.2.3.4", "::ffff:1.2.3.4"}},
    /* IPv4, however it is written. */
    {"::ffff:0:0/96", {"0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"},
	{"::", "::1", "::fffe:1.2.3.4"}},
    {"::ffff:10.0.0.0/104", {"10.0.0.0", "::ffff:10.255.255.255"},
	{"9.255.255.255", "11.0.0.0", "::10.0.0.0"}},
    {"::ffff:192.0.2.7", {"192.0.2.7", "::ffff:192.0.2.7"},
	{"192.0.2.6", "192.0.2.135"}},
    {"::ffff:0:1.2.3.4", {"::ffff:0:1.2.3.4"}, {"1.2.3.4"}},
    {"::ff00:1.2.3.4", {"::ff00:1.2.3.4"}, {"1.2.3.4"}},
    {"100::ffff:1.2.3.4", {"100::ffff:1.2.3.4"}, {"1.2.3.4"}},
    /* As long as can be. */
    {"1111:2222:3333:4444:5555:6666:255.255.255.255",
	{"1111:2222:3333:4444:5555:6666:ffff:ffff"}, {"255.255.255.255"}},
};

static void
test_ipv6(void **state)
{
	/* Fails if an IPv6 prefix is wider or narrower than its bits, or names
	 * IPv4. */
	(void)state;
	assert_namings(TCP_CLIENTS, ipv6, LENGTH(ipv6));
	for (size_t i = 0; i < LENGTH(ipv6); i++) {
		struct naming target = ipv6[i];
		char item[80];

		(void)snprintf(item, sizeof(item), "[%s]", target.item);
		target.item = item;
		assert_namings(TARGETS, &target, 1);
	}
}

static void
test_words(void **state)
{
	/* Fails if a word stands for less or more than README.md says. */
	static const struct naming cases[] = {
	    {"*",
		{"0.0.0.0", "255.255.255.255", "::", "ffff::", "127.0.0.1",
		    "::ffff:1.2.3.4"},
		{NULL}},
	    {"local",
		{"127.0.0.0", "127.0.0.1", "127.9.9.9", "127.255.255.255",
		    "0.0.0.0", "::", "::1", "::ffff:127.0.0.1"},
		{"126.255.255.255", "128.0.0.0", "0.0.0.1", "::2", "1.2.3.4",
		    "::127.0.0.1", "8000::", "7f00::", "10.0.0.1",
		    "169.254.169.254"}},
	    {"local", {"::ffff:0.0.0.0"}, {"::1.0.0.0", "0.127.0.0"}},
	    {"private",
		{"10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255",
		    "192.168.0.0", "192.168.255.255", "::ffff:10.0.0.1"},
		{"9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0",
		    "192.167.255.255", "192.169.0.0", "127.0.0.1", "::1",
		    "0.0.0.0", "::", "::10.0.0.1"}},
	    {"private",
		{"100.64.0.0", "100.127.255.255", "169.254.0.0",
		    "169.254.169.254", "169.254.255.255"},
		{"100.63.255.255", "100.128.0.0", "169.253.255.255",
		    "169.255.0.0"}},
	    {"private",
		{"fc00::", "fd00:ec2::254", "fdff:ffff::", "fe80::", "febf::"},
		{"fbff::", "fe00::", "fe7f::", "fec0::", "ff02::1",
		    "2001:db8::1"}},
	};

	(void)state;
	assert_namings(TARGETS, cases, LENGTH(cases));
}

static void
test_ports(void **state)
{
	/* Fails if a rule opens, or closes, another port than it says. */
	static const struct naming cases[] = {
	    {"192.0.2.7:443", {"192.0.2.7 443"},
		{"192.0.2.7 442", "192.0.2.7 444", "192.0.2.7 0",
		    "192.0.2.6 443"}},
	    {"10.0.0.0/8:80-90", {"10.0.0.1 80", "10.0.0.1 90", "10.0.0.1 85"},
		{"10.0.0.1 79", "10.0.0.1 91", "11.0.0.1 85"}},
	    {"10.0.0.0/8:1-65535", {"10.0.0.1 1", "10.0.0.1 65535"},
		{"10.0.0.1 0"}},
	    {"10.0.0.0/8", {"10.0.0.1 0", "10.0.0.1 1", "10.0.0.1 65535"},
		{NULL}},
	    {"[2001:db8::/32]:443", {"2001:db8::1 443"},
		{"2001:db8::1 442", "2001:db8::1 444", "2001:db9::1 443"}},
	    {"[2001:db8::1]:65535", {"2001:db8::1 65535"},
		{"2001:db8::1 65534"}},
	    {"[::ffff:10.0.0.0/104]:80", {"10.0.0.1 80", "::ffff:10.0.0.1 80"},
		{"10.0.0.1 81"}},
	    {"*:53", {"192.0.2.7 53", "2001:db8::7 53"},
		{"192.0.2.7 54", "2001:db8::7 52"}},
	    {"private:80", {"10.0.0.1 80"}, {"10.0.0.1 81", "11.0.0.1 80"}},
	    {"local:80", {"127.0.0.1 80"}, {"127.0.0.1 81", "11.0.0.1 80"}},
	};

	(void)state;
	assert_namings(TARGETS, cases, LENGTH(cases));
	assert_int_equal(questions, 4); /* for each way to be a rule */
}

static void
test_client_ports(void **state)
{
	/* Fails if the port that a client comes from matters. */
	static const struct naming cases[] = {
	    {"10.0.0.0/8", {"10.0.0.1 0", "10.0.0.1 1", "10.0.0.1 65535"},
		{"11.0.0.1 1"}},
	    {"2001:db8::/32", {"2001:db8::1 0", "2001:db8::1 65535"}, {NULL}},
	};

	(void)state;
	assert_namings(TCP_CLIENTS, cases, LENGTH(cases));
}

static void
test_cids(void **state)
{
	/* Fails if an enclave passes for its neighbour. */
	static const struct naming cases[] = {
	    {"16", {"vsock 16"}, {"vsock 15", "vsock 17", "vsock 4096"}},
	    {"16-31", {"vsock 16", "vsock 20", "vsock 31"},
		{"vsock 15", "vsock 32", "vsock 1", "10.0.0.16 16"}},
	    {"16-16", {"vsock 16"}, {"vsock 15", "vsock 17"}},
	    {"0", {"vsock 0"}, {"vsock 1"}},
	    {"0-4294967294", {"vsock 0", "vsock 4294967294"},
		{"vsock 4294967295"}},
	    {"4294967294", {"vsock 4294967294"}, {"vsock 4294967293"}},
	    {"local", {"vsock 1"}, {"vsock 0", "vsock 2"}},
	    {"host", {"vsock 2"}, {"vsock 1", "vsock 3"}},
	    {"host,7-8", {"vsock 2", "vsock 7", "vsock 8"},
		{"vsock 6", "vsock 9", "vsock 3"}},
	};

	(void)state;
	assert_namings(VSOCK_CLIENTS, cases, LENGTH(cases));
}

static void
test_normal_form(void **state)
{
	/* Fails if the log doesn't say what a rule means. */
	static const struct {
		enum access_kind kind;
		enum use use;
		const char *item, *normal;
	} cases[] = {
	    {ALLOW_TARGET, TARGETS, "*", "--allow-target *"},
	    {DENY_TARGET, TARGETS, "local", "--deny-target local"},
	    {DENY_TARGET, TARGETS, "private:80-81",
		"--deny-target private:80-81"},
	    {DENY_TARGET, TARGETS, "*:65535", "--deny-target *:65535"},
	    {ALLOW_TARGET, TARGETS, "10.0.0.0/8", "--allow-target 10.0.0.0/8"},
	    {ALLOW_TARGET, TARGETS, "10.0.0.1", "--allow-target 10.0.0.1/32"},
	    {ALLOW_TARGET, TARGETS, "10.0.0.0/08:1-2",
		"--allow-target 10.0.0.0/8:1-2"},
	    {DENY_TARGET, TARGETS, "[2001:DB8:0:0::/32]",
		"--deny-target [2001:db8::/32]"},
	    {DENY_TARGET, TARGETS, "[::0001]:443",
		"--deny-target [::1/128]:443"},
	    {DENY_TARGET, TARGETS, "[::ffff:a00:0/104]:443",
		"--deny-target 10.0.0.0/8:443"},
	    {DENY_TARGET, TARGETS,
		"[1111:2222:3333:4444:5555:6666:7777:8888/128]:10000-65535",
		"--deny-target [1111:2222:3333:4444:5555:6666:7777:8888/128]"
		":10000-65535"},
	    {ALLOW_CLIENT, TCP_CLIENTS, "2001:DB8::/32",
		"--allow-client 2001:db8::/32"},
	    {ALLOW_CLIENT, TCP_CLIENTS, "::ffff:10.0.0.1",
		"--allow-client 10.0.0.1/32"},
	    {ALLOW_CLIENT, TCP_CLIENTS, "0.0.0.0/0",
		"--allow-client 0.0.0.0/0"},
	    {ALLOW_CLIENT, VSOCK_CLIENTS, "16-31", "--allow-client 16-31"},
	    {ALLOW_CLIENT, VSOCK_CLIENTS, "16", "--allow-client 16"},
	    {ALLOW_CLIENT, VSOCK_CLIENTS, "host", "--allow-client host"},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		forget_rules();
		assert_taken(cases[i].kind, cases[i].use, cases[i].item);
		assert_string_equal(access_rules->text, cases[i].normal);
		assert_int_equal(access_rules->kind, cases[i].kind);
		assert_null(access_rules->next);
	}
}

/* What is an item nowhere. */
#define BAD                                                                   \
	"", " ", "x", "any", "hosts", "loca", "locals", "Local", "-", "/",    \
	    ":", "[]", "[", "]", "1.2.3", "1.2.3.4.5", "1.2.3.256",           \
	    "01.2.3.4", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/+8", \
	    "1.2.3.4/ 8", "1.2.3.4/8/8", "10.0.0.1/8", "11.0.0.0/7",          \
	    "128.0.0.0/0", "0.0.0.1/31", "1.2.3.4 ", " 1.2.3.4",              \
	    "1.2.3.4/0x8", "1.2.3.4/255.0.0.0", "0x1020304", "a.example",     \
	    "localhost", "::/129", ":::", "::1%lo", "::1/127",                \
	    "2001:db8::/28", "8000::/0", "::ffff:10.0.0.1/104",               \
	    "::ffff:0:0/95", "1.2.3.4-5", "[::1", "::1]",                     \
	    "10.0.0.0/8;10.0.0.0/8", "10.0.0.0/4294967304",                   \
	    "1111:2222:3333:4444:5555:6666:255.255.255.2555",                 \
	    "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa"

static void
assert_refused(
    enum access_kind kind, enum use use, const char *const *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		static const char *const good[] = {"local", "1.2.3.4", "16"};
		char list[4096];
		size_t first;

		/* Alone, behind others, before others. */
		(void)snprintf(list, sizeof(list), "%s,%s,%s", good[use],
		    items[i], good[use]);
		first = strlen(good[use]) + 1;
		if (add(kind, use, items[i]) != items[i] ||
		    add(kind, use, list) != list + first ||
		    add(kind, use, list + first) != list + first)
			fail_msg("taken, or another is named: '%s'", items[i]);
	}
}

static void
test_refused(void **state)
{
	/* Fails if a typing error becomes a rule, or isn't named. */
	static const char *const targets[] = {BAD,
	    "[1111:2222:3333:4444:5555:6666:255.255.255.2555]",
	    "[1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa]", "::1",
	    "::/0", "2001:db8::/32", "2001:db8::1:80", "16", "16-31",
	    "[10.0.0.0/8]", "[1.2.3.4]:80", "[local]", "[*]", "[::1]80",
	    "[::1]:", "[::1]:0", "[::1]:65536", "[::1]/128", "[::1]/128:80",
	    "[[::1]]", "[::1]]", "[::1]:80:80", "[::1/127]", "[::1]x",
	    "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:0-80", "1.2.3.4:65536",
	    "1.2.3.4:80-65536", "1.2.3.4:80-79", "1.2.3.4:80-", "1.2.3.4:-80",
	    "1.2.3.4:80-81-82", "1.2.3.4:80/8", "1.2.3.4:+80", "1.2.3.4: 80",
	    "1.2.3.4:http", "1.2.3.4:4294967376", "*:", "*:0", "*/0", "**",
	    "*.*", "local/8", "private:", "private:0", "local:80-79",
	    "private/8", ":80", "host", "[]:80", "[/64]", "10.0.0.0/8:80:81"};
	static const char *const clients[] = {BAD, "*", "local", "private",
	    "host", "16", "16-31", "[::1]", "[2001:db8::/32]", "1.2.3.4:80",
	    "[::1]:80", "10.0.0.0/8:80"};
	static const char *const cids[] = {BAD, "*", "private", "4294967295",
	    "4294967296", "4294967312", "18446744073709551632", "16-", "-16",
	    "16-15", "16-4294967295", "16-4294967312", "16-17-18", "16-host",
	    "local-16", "16:5", "16:", "local:5", "+16", " 16", "16 ", "0x10",
	    "1.2.3.4", "::1", "16/8", "[16]"};

	(void)state;
	assert_refused(ALLOW_TARGET, TARGETS, targets, LENGTH(targets));
	assert_refused(DENY_TARGET, TARGETS, targets, LENGTH(targets));
	assert_refused(ALLOW_CLIENT, TCP_CLIENTS, clients, LENGTH(clients));
	assert_refused(ALLOW_CLIENT, VSOCK_CLIENTS, cids, LENGTH(cids));
}

static void
test_long_items(void **state)
{
	/* Fails if what is too long for its place is cut, or goes beyond. */
	char item[512];

	(void)state;
	for (size_t zeros = 0; zeros < 400; zeros++) {
		int n = snprintf(
		    item, sizeof(item), "10.0.0.0/8:%0*d", (int)zeros + 2, 80);
		const char *wrong = add(DENY_TARGET, TARGETS, item);

		if (wrong == NULL) {
			assert_in_range(n, 13, 79);
			assert_verdict(ALLOW_TARGET, "10.0.0.1 81", FREE);
		} else {
			assert_ptr_equal(wrong, item);
			assert_true(n >= 80);
		}
		forget_rules();
	}
}

static void
test_lists(void **state)
{
	/* Fails if an item of a list, or a flag given again, gets lost. */
	static const char *const texts[] = {"--deny-target 10.0.0.0/8",
	    "--deny-target 192.0.2.7/32:80", "--allow-client ::1/128",
	    "--deny-target local"};
	const struct access_rule *rule;
	size_t i = 0;

	(void)state;
	assert_taken(DENY_TARGET, TARGETS, "10.0.0.0/8,192.0.2.7:80");
	assert_taken(ALLOW_CLIENT, TCP_CLIENTS, "::1");
	assert_taken(DENY_TARGET, TARGETS, "local");
	for (rule = access_rules; rule != NULL; rule = rule->next)
		assert_string_equal(rule->text, texts[i++]);
	assert_int_equal(i, LENGTH(texts));
	assert_verdict(ALLOW_TARGET, "10.0.0.1 1", texts[0]);
	assert_verdict(ALLOW_TARGET, "192.0.2.7 80", texts[1]);
	assert_verdict(ALLOW_TARGET, "192.0.2.7 81", FREE);
	assert_verdict(ALLOW_TARGET, "127.0.0.1 1", texts[3]);
}

static void
test_no_rules(void **state)
{
	/* Fails if something is denied that nobody has denied. */
	(void)state;
	assert_verdict(ALLOW_TARGET, "127.0.0.1 80", FREE);
	assert_verdict(ALLOW_CLIENT, "2001:db8::1", FREE);
	assert_verdict(ALLOW_CLIENT, "vsock 16", FREE);
	assert_int_equal(questions, 0);
}

static void
test_deny_first(void **state)
{
	/* Fails if an allow item lets in what a deny item names, whichever
	 * comes first. */
	(void)state;
	for (int order = 0; order < 2; order++) {
		forget_rules();
		if (order == 0)
			assert_taken(DENY_TARGET, TARGETS, "10.1.0.0/16,*:25");
		assert_taken(ALLOW_TARGET, TARGETS, "10.0.0.0/8,192.0.2.7:443");
		if (order == 1)
			assert_taken(DENY_TARGET, TARGETS, "10.1.0.0/16,*:25");
		assert_verdict(
		    ALLOW_TARGET, "10.1.2.3 80", "--deny-target 10.1.0.0/16");
		assert_verdict(ALLOW_TARGET, "10.2.3.4 80", FREE);
		assert_verdict(
		    ALLOW_TARGET, "10.2.3.4 25", "--deny-target *:25");
		assert_verdict(ALLOW_TARGET, "192.0.2.7 443", FREE);
		assert_verdict(ALLOW_TARGET, "192.0.2.7 80", UNNAMED);
		/* A deny item that names it says so, not the allow list. */
		assert_verdict(
		    ALLOW_TARGET, "203.0.113.1 25", "--deny-target *:25");
	}
}

static void
test_clients_and_targets(void **state)
{
	/* Fails if rules for clients hold for targets, or the other way. */
	(void)state;
	assert_taken(ALLOW_CLIENT, TCP_CLIENTS, "192.0.2.0/24");
	assert_verdict(ALLOW_TARGET, "203.0.113.1 80", FREE);
	assert_verdict(ALLOW_CLIENT, "203.0.113.1", UNNAMED);
	assert_verdict(ALLOW_CLIENT, "192.0.2.1", FREE);
	forget_rules();
	assert_taken(DENY_TARGET, TARGETS, "192.0.2.0/24");
	assert_verdict(ALLOW_CLIENT, "192.0.2.1", FREE);
	assert_taken(ALLOW_TARGET, TARGETS, "203.0.113.0/24");
	assert_verdict(ALLOW_CLIENT, "192.0.2.1", FREE);
	assert_verdict(ALLOW_CLIENT, "198.51.100.1", FREE);
	assert_verdict(ALLOW_TARGET, "198.51.100.1 80", UNNAMED);
}

static void
test_local(void **state)
{
	/* Fails if an address of this machine isn't local, or is asked for
	 * when it doesn't matter. */
	(void)state;
	local_address = "198.51.100.7";
	assert_taken(DENY_TARGET, TARGETS, "local:1-99");
	assert_verdict(
	    ALLOW_TARGET, "198.51.100.7 80", "--deny-target local:1-99");
	assert_verdict(
	    ALLOW_TARGET, "::ffff:198.51.100.7 80", "--deny-target local:1-99");
	assert_verdict(ALLOW_TARGET, "198.51.100.8 80", FREE);
	assert_int_equal(questions, 3);
	assert_verdict(ALLOW_TARGET, "198.51.100.7 100", FREE);
	assert_verdict(
	    ALLOW_TARGET, "127.9.9.9 80", "--deny-target local:1-99");
	assert_int_equal(questions, 3); /* neither depends on it */
	local_address = "2001:db8::7";
	assert_verdict(
	    ALLOW_TARGET, "2001:db8::7 80", "--deny-target local:1-99");
	forget_rules();
	assert_taken(ALLOW_TARGET, TARGETS, "10.0.0.1,local");
	assert_verdict(ALLOW_TARGET, "2001:db8::7 80", FREE);
	assert_verdict(ALLOW_TARGET, "2001:db8::8 80", UNNAMED);
	questions = 0;
	assert_verdict(ALLOW_TARGET, "10.0.0.1 80", FREE);
	assert_int_equal(questions, 0);
	/* Other words aren't it. */
	forget_rules();
	assert_taken(DENY_TARGET, TARGETS, "private");
	assert_verdict(ALLOW_TARGET, "2001:db8::7 80", FREE);
	assert_int_equal(questions, 0);
}

static void
test_local_unknown(void **state)
{
	/* Fails if what can't be asked passes, by either kind of rule. */
	(void)state;
	unknown = 1;
	assert_taken(DENY_TARGET, TARGETS, "local");
	assert_verdict(ALLOW_TARGET, "198.51.100.7 80", UNKNOWN);
	assert_verdict(ALLOW_TARGET, "127.0.0.1 80", "--deny-target local");
	forget_rules();
	assert_taken(ALLOW_TARGET, TARGETS, "local");
	assert_verdict(ALLOW_TARGET, "198.51.100.7 80", UNKNOWN);
	assert_verdict(ALLOW_TARGET, "127.0.0.1 80", FREE);
}

static void
test_many(void **state)
{
	/* Fails if a long list is cut, or one of its items counts for another.
	 */
	char list[32768] = "";
	size_t length = 0;
	char address[32];

	(void)state;
	for (int i = 0; i < 1000; i++)
		length += (size_t)snprintf(list + length, sizeof(list) - length,
		    "%s10.%d.%d.0/24:%d", i == 0 ? "" : ",", i / 256, i % 256,
		    i + 1);
	assert_taken(ALLOW_TARGET, TARGETS, list);
	for (int i = 0; i < 1000; i++) {
		(void)snprintf(address, sizeof(address), "10.%d.%d.255 %d",
		    i / 256, i % 256, i + 1);
		assert_verdict(ALLOW_TARGET, address, FREE);
		(void)snprintf(address, sizeof(address), "10.%d.%d.255 %d",
		    i / 256, i % 256, i + 2);
		assert_verdict(ALLOW_TARGET, address, UNNAMED);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start_afresh, end)

int
main(void)
{
	struct CMUnitTest tests[] = {
	    TEST(test_prefixes),
	    TEST(test_ipv6),
	    TEST(test_words),
	    TEST(test_ports),
	    TEST(test_client_ports),
	    TEST(test_cids),
	    TEST(test_normal_form),
	    TEST(test_refused),
	    TEST(test_long_items),
	    TEST(test_lists),
	    TEST(test_no_rules),
	    TEST(test_deny_first),
	    TEST(test_clients_and_targets),
	    TEST(test_local),
	    TEST(test_local_unknown),
	    TEST(test_many),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("access", tests, NULL, NULL);
}
