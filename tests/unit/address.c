/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of address: what is taken for an address, what is not, and that
 * parsing and formatting agree. */
#include "address.h"

#include "support.h"

#include <stdlib.h>

#define LABEL_63 \
	"a23456789-b23456789-c23456789-d23456789-e23456789-f23456789-123"
#define NAME_253                                             \
	LABEL_63 "." LABEL_63 "." LABEL_63                   \
		 ".a23456789-b23456789-c23456789-d23456789-" \
		 "e23456789-f23456789-1"
#define ZEROS_16 "0000000000000000"

static const uint8_t bytes_of_mapped[16] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1};

static void
test_number_taken(void **state)
{
	/* Fails if a number is misread, or a bound is outside of its range. */
	static const struct {
		const char *text;
		uint32_t minimum, maximum, number;
	} cases[] = {
	    {"0", 0, 0, 0},
	    {"1", 1, 1, 1},
	    {"9", 0, 9, 9},
	    {"65535", 0, 65535, 65535},
	    {"4294967295", 0, UINT32_MAX, UINT32_MAX},
	    {"4294967289", UINT32_MAX - 6, UINT32_MAX, UINT32_MAX - 6},
	    /* The original took leading zeros. */
	    {"0080", 80, 80, 80},
	    {ZEROS_16 ZEROS_16 "7", 0, 7, 7},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		uint32_t number = 4711;

		if (!address_parse_number(cases[i].text, cases[i].minimum,
			cases[i].maximum, &number))
			fail_msg("refused: '%s'", cases[i].text);
		assert_int_equal(number, cases[i].number);
	}
}

static void
test_number_refused(void **state)
{
	/* Fails if a typing error passes for a number, or a bound is ignored.
	 */
	static const struct {
		const char *text;
		uint32_t minimum, maximum;
	} cases[] = {
	    {"", 0, UINT32_MAX},
	    {" ", 0, UINT32_MAX},
	    {" 1", 0, UINT32_MAX},
	    {"1 ", 0, UINT32_MAX},
	    {"1\n", 0, UINT32_MAX},
	    {"\t1", 0, UINT32_MAX},
	    {"+1", 0, UINT32_MAX},
	    {"-1", 0, UINT32_MAX},
	    {"-0", 0, UINT32_MAX},
	    {"1.0", 0, UINT32_MAX},
	    {"1e3", 0, UINT32_MAX},
	    {"0x10", 0, UINT32_MAX},
	    {"10h", 0, UINT32_MAX},
	    {"1_000", 0, UINT32_MAX},
	    {"1,000", 0, UINT32_MAX},
	    {"/", 0, UINT32_MAX}, /* before '0' */
	    {":", 0, UINT32_MAX}, /* after '9' */
	    {"\xb2", 0, UINT32_MAX},
	    {"\xd9\xa1", 0, UINT32_MAX}, /* an Arabic 1 */
	    {"0", 1, 9},
	    {"10", 1, 9},
	    {"65536", 0, 65535},
	    {"4294967296", 0, UINT32_MAX},
	    {"4294967375", 0, UINT32_MAX}, /* 79 in 32 bits */
	    {"18446744073709551615", 0, UINT32_MAX},
	    {"18446744073709551616", 0, UINT32_MAX},
	    {"18446744073709551620", 0, UINT32_MAX},
	    {"18446744073709551696", 0, UINT32_MAX}, /* 80 in 64 bits */
	    {"184467440737095516150", 0, UINT32_MAX},
	    {"99999999999999999999999999999999999999", 0, UINT32_MAX},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		uint32_t number;

		if (address_parse_number(cases[i].text, cases[i].minimum,
			cases[i].maximum, &number))
			fail_msg("taken: '%s'", cases[i].text);
	}
}

static void
test_vsock_taken(void **state)
{
	/* Fails if a valid vsock address is refused or misread. */
	static const struct {
		const char *text;
		uint32_t cid, port;
	} cases[] = {
	    {"3:1200", 3, 1200},
	    {"0:0", 0, 0},
	    {"1:1", 1, 1},
	    {"88:65536", 88, 65536},
	    {"4294967294:4294967294", UINT32_MAX - 1, UINT32_MAX - 1},
	    {"4294967295:4294967295", UINT32_MAX, UINT32_MAX},
	    {"007:0042", 7, 42},
	    {"any:0", VMADDR_CID_ANY, 0},
	    {"any:4294967295", VMADDR_CID_ANY, VMADDR_PORT_ANY},
	    {"local:1", 1, 1},
	    {"host:9000", 2, 9000},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address address;

		if (!address_parse_vsock(
			cases[i].text, UINT32_MAX, true, &address))
			fail_msg("refused: '%s'", cases[i].text);
		assert_int_equal(address.length, sizeof(address.vm));
		assert_int_equal(address.any.sa_family, AF_VSOCK);
		assert_int_equal(address.vm.svm_cid, cases[i].cid);
		assert_int_equal(address.vm.svm_port, cases[i].port);
		assert_int_equal(address_port(&address), cases[i].port);
		assert_true(address_parse_vsock(
		    cases[i].text, UINT32_MAX, false, &address));
		assert_int_equal(address.vm.svm_port, cases[i].port);
	}
}

static void
test_vsock_refused(void **state)
{
	/* Fails if a typing error passes for a vsock address. */
	static const char *const cases[] = {"", ":", "3:", ":3", "::", "3::4",
	    "3:4:5", "3:4:", ":3:4", " 3:4", "3 :4", "3: 4", "3:4 ", "+3:4",
	    "3:+4", "-3:4", "3:-4", "-1:4", "3:-1", "0x3:4", "3:0x4", "3.4",
	    "3,4", "3;4", "3/4", "3:4\n", "a:4", "3:a", "4294967296:4",
	    "3:4294967296", "18446744073709551619:4", "3:18446744073709551620",
	    "Any:4", "ANY:4", "anyx:4", "an:4", "any :4", " any:4", "any::4",
	    "any:any", "3:any", "hypervisor:4", "localhost:4", "hosts:4",
	    "local:", "host:", "any:", "vsock:3:4", "vsock://3:4",
	    "127.0.0.1:80", "[::1]:80", "*:4", "3:*",
	    /* Texts that are longer than the longest number, and far longer. */
	    "0000000000000003:4", ZEROS_16 "3:", "any" ZEROS_16 ":4",
	    "3:4" ZEROS_16 ZEROS_16 ZEROS_16, NAME_253 ":4", NAME_253 NAME_253,
	    "3:" NAME_253};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address address;

		if (address_parse_vsock(cases[i], UINT32_MAX, true, &address))
			fail_msg("taken: '%s'", cases[i]);
		/* What has a colon is no CID alone, either. */
		if (strchr(cases[i], ':') != NULL &&
		    address_parse_vsock(cases[i], UINT32_MAX, false, &address))
			fail_msg("taken with an optional port: '%s'", cases[i]);
	}
}

static void
test_cid_alone(void **state)
{
	/* Fails if the port can't be left out where it doesn't matter. */
	static const struct {
		const char *text;
		uint32_t cid;
	} cases[] = {{"88", 88}, {"0", 0}, {"4294967295", UINT32_MAX},
	    {"any", VMADDR_CID_ANY}, {"local", 1}, {"host", 2}};
	static const char *const bad[] = {"", " ", "-1", "+1", "1.5", "one",
	    "4294967296", "88 ", " 88", "anyone", "Host", NAME_253};
	struct address address;

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		if (!address_parse_vsock(
			cases[i].text, UINT32_MAX, false, &address))
			fail_msg("refused: '%s'", cases[i].text);
		assert_int_equal(address.vm.svm_cid, cases[i].cid);
		assert_int_equal(address.vm.svm_port, 0);
		assert_int_equal(address.any.sa_family, AF_VSOCK);
		if (address_parse_vsock(
			cases[i].text, UINT32_MAX, true, &address))
			fail_msg("taken without a port: '%s'", cases[i].text);
	}
	for (size_t i = 0; i < LENGTH(bad); i++) {
		if (address_parse_vsock(bad[i], UINT32_MAX, false, &address))
			fail_msg("taken: '%s'", bad[i]);
	}
}

static void
test_vsock_maximum(void **state)
{
	/* Fails if what stands for any CID or port can be an upstream. */
	static const char *const good[] = {
	    "4294967294:4294967294", "local:1", "host:0", "3:1"};
	static const char *const bad[] = {
	    "any:1", "4294967295:1", "3:4294967295", "any:4294967295"};
	struct address address;

	(void)state;
	for (size_t i = 0; i < 2 * LENGTH(good); i++) {
		if (!address_parse_vsock(
			good[i / 2], UINT32_MAX - 1, i % 2 == 0, &address))
			fail_msg("refused: '%s'", good[i / 2]);
	}
	for (size_t i = 0; i < 2 * LENGTH(bad); i++) {
		if (address_parse_vsock(
			bad[i / 2], UINT32_MAX - 1, i % 2 == 0, &address))
			fail_msg("taken: '%s'", bad[i / 2]);
	}
	assert_false(
	    address_parse_vsock("any", UINT32_MAX - 1, false, &address));
}

static void
test_host_port_taken(void **state)
{
	/* Fails if a valid host and port is refused or misread. */
	static const struct {
		const char *host, *port, *text;
	} cases[] = {
	    {"127.0.0.1", "80", "127.0.0.1:80"},
	    {"0.0.0.0", "0", "0.0.0.0:0"},
	    {"255.255.255.255", "65535", "255.255.255.255:65535"},
	    {"::", "0", "[::]:0"},
	    {"::1", "443", "[::1]:443"},
	    {"2001:db8::1:2", "1", "[2001:db8::1:2]:1"},
	    {"2001:DB8::A", "1", "[2001:DB8::A]:1"},
	    {"::ffff:192.0.2.1", "1", "[::ffff:192.0.2.1]:1"},
	    {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "65535",
		"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535"},
	    {"localhost", "4000", "localhost:4000"},
	    {"x", "1", "x:1"},
	    {"example.com", "443", "example.com:443"},
	    {"example.com.", "443", "example.com.:443"},
	    {"EXAMPLE.Com", "443", "EXAMPLE.Com:443"},
	    {"_srv._tcp.example", "1", "_srv._tcp.example:1"},
	    {"xn--bcher-kva.example", "1", "xn--bcher-kva.example:1"},
	    {"4chan.org", "1", "4chan.org:1"},
	    {"1.2.3.4.example", "1", "1.2.3.4.example:1"},
	    {"1a", "1", "1a:1"},
	    {"7e3", "1", "7e3:1"},
	    {"a-", "1", "a-:1"},
	    {NAME_253, "65535", NAME_253 ":65535"},
	    {"a", "0080", "a:0080"},
	    {NAME_253, ZEROS_16 "1", NAME_253 ":" ZEROS_16 "1"},
	};

	(void)state;
	assert_int_equal(strlen(NAME_253), 253);
	assert_int_equal(
	    strlen(cases[LENGTH(cases) - 1].text), ADDRESS_TEXT_SIZE - 1);
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct host_port host_port;

		if (!host_port_parse(cases[i].text, 0, &host_port))
			fail_msg("refused: '%s'", cases[i].text);
		assert_string_equal(host_port.host, cases[i].host);
		assert_string_equal(host_port.port, cases[i].port);
		assert_ptr_equal(host_port.text, cases[i].text);
		/* The first come without a resolver. */
		assert_int_equal(host_port.is_name, i >= 9);
	}
}

static void
test_host_port_minimum(void **state)
{
	/* Fails if an upstream of port 0 is taken, or one of port 1 is not. */
	struct host_port host_port;

	(void)state;
	assert_true(host_port_parse("a:1", 1, &host_port));
	assert_true(host_port_parse("[::1]:65535", 1, &host_port));
	assert_false(host_port_parse("a:0", 1, &host_port));
	assert_false(host_port_parse("a:000", 1, &host_port));
	assert_false(host_port_parse("[::1]:0", 1, &host_port));
}

static void
assert_host_port_refused(const char *const *cases, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct host_port host_port;

		if (host_port_parse(cases[i], 0, &host_port))
			fail_msg("taken: '%s'", cases[i]);
	}
}

static void
test_host_port_refused(void **state)
{
	/* Fails if a typing error passes for a host and port. */
	static const char *const cases[] = {/* no host, no port */
	    "", ":", ":80", "localhost", "127.0.0.1",
	    "127.0.0.1:", "localhost:", "[::1]", "[::1]:", "[]:80", "[:80",
	    "]:80", "[]", "[",
	    /* ports */
	    "a:65536", "a:99999", "a:4294967376", "a:18446744073709551696",
	    "a:-1", "a:+80", "a: 80", "a:80 ", "a:0x50", "a:http", "a:80a",
	    "a:8 0", "a:80\n", "a:80:", "a:80:90", "1.2.3.4:65536",
	    "[::1]:65536", "[::1]:-1", "[::1]: 80",
	    /* brackets */
	    "::1:80", "2001:db8::1:80", "[::1]80", "[::1:80", "::1]:80",
	    "[[::1]]:80", "[::1]]:80", "[::1] :80", "[ ::1]:80", "[::1 ]:80",
	    "[127.0.0.1]:80", "[localhost]:80", "[::1%lo]:80", "[::1%1]:80",
	    "[::g]:80", "[:::1]:80", "[1:2:3:4:5:6:7]:80",
	    "[1:2:3:4:5:6:7:8:9]:80", "[12345::]:80", "[::256.0.0.1]:80",
	    "[::1.2.3]:80", "x[::1]:80", "[::1]x:80",
	    /* names */
	    " a:80", "a :80", "a b:80", "a\t:80", "-a:80", ".a:80", ".:80",
	    "a..b:80", "a..:80", "..:80", "a/b:80", "http://a:80", "a@b:80",
	    "*:80", "a,b:80", "a;b:80", "a'b:80", "a\"b:80", "a=b:80", "a%b:80",
	    "a\\b:80",
	    "b\xc3\xbc"
	    "cher.example:80",
	    "a\x7f:80",
	    /* longer than a name may be, and than a text */
	    "x" NAME_253 ":80", NAME_253 "." NAME_253 ":80",
	    "a:" ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16
		ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16
		    ZEROS_16 ZEROS_16 ZEROS_16 "80",
	    NAME_253 ":" ZEROS_16 "01"};

	(void)state;
	assert_host_port_refused(cases, LENGTH(cases));
}

static void
test_mistyped_ipv4_refused(void **state)
{
	/* Fails if a mistyped IPv4 address is looked up as a name, or read as
	 * inet_aton(3) reads it: 127.1 as 127.0.0.1, 010.0.0.1 as 8.0.0.1. */
	static const char *const cases[] = {"1:80", "0:80", "127.1:80",
	    "127.0.1:80", "2130706433:80", "256.0.0.1:80", "1.2.3.256:80",
	    "1.2.3.4.5:80", "1.2.3.:80", "1.2.3.4.:80", "01.2.3.4:80",
	    "1.2.3.04:80", "010.0.0.1:80", "1.2.3.0:65536", "1..2.3:80",
	    "1.2.3.999:80", "999.2.3.4:80", "a.1:80", "1.2.3.4a.5:80"};

	(void)state;
	assert_host_port_refused(cases, LENGTH(cases));
}

static void
test_hexadecimal_ipv4_refused(void **state)
{
	/* Fails if a hexadecimal number is looked up as a name: resolvers read
	 * it as inet_aton(3) does, 0x7f.0x1 as 127.0.0.1. */
	static const char *const cases[] = {"0x7f000001:80", "0X7F000001:80",
	    "127.0.0.0x1:80", "127.0x1:80", "0x7f.0x1:80", "0x7f.1:80"};

	(void)state;
	assert_host_port_refused(cases, LENGTH(cases));
}

static void
test_port(void **state)
{
	/* Fails if the bytes of a port are swapped, or cut. */
	static const uint8_t bytes[16] = {0};
	struct address address = address_ip(AF_INET, bytes, 443);

	(void)state;
	assert_int_equal(address_port(&address), 443);
	address = address_ip(AF_INET6, bytes, 65535);
	assert_int_equal(address_port(&address), 65535);
	address = vsock_address(UINT32_MAX, 70000);
	assert_int_equal(address_port(&address), 70000);
}

static void
assert_formats_as(struct address address, const char *expected)
{
	char text[ADDRESS_TEXT_SIZE];

	memset(text, 'x', sizeof(text));
	address_format(&address, text, sizeof(text));
	assert_string_equal(text, expected);
}

static void
test_format(void **state)
{
	/* Fails if the log names an address wrongly. */
	static const uint8_t none[16], ones[4] = {255, 255, 255, 255};
	static const uint8_t four[4] = {10, 0, 0, 7};
	static const uint8_t zeros_inside[16] = {
	    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2};
	uint8_t full[16];

	(void)state;
	memset(full, 0xee, sizeof(full));
	assert_formats_as(address_ip(AF_INET, four, 80), "10.0.0.7:80");
	assert_formats_as(address_ip(AF_INET, none, 0), "0.0.0.0:0");
	assert_formats_as(
	    address_ip(AF_INET, ones, 65535), "255.255.255.255:65535");
	assert_formats_as(address_ip(AF_INET6, none, 1), "[::]:1");
	assert_formats_as(
	    address_ip(AF_INET6, zeros_inside, 8080), "[2001:db8::1:2]:8080");
	assert_formats_as(address_ip(AF_INET6, full, 65535),
	    "[eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535");
	assert_formats_as(
	    address_ip(AF_INET6, bytes_of_mapped, 9), "[::ffff:192.0.2.1]:9");
	assert_formats_as(vsock_address(3, 1200), "3:1200");
	assert_formats_as(
	    vsock_address(UINT32_MAX, UINT32_MAX - 1), "any:4294967294");
	/* ip-to-vsock-transparent takes any port. */
	assert_formats_as(vsock_address(88, VMADDR_PORT_ANY), "88:*");
	assert_formats_as(vsock_address(UINT32_MAX, VMADDR_PORT_ANY), "any:*");
}

static void
test_round_trip(void **state)
{
	/* Fails if what the log says can't be given back as an option. */
	struct noise noise = {1};
	uint8_t bytes[18], parsed[16];
	char text[ADDRESS_TEXT_SIZE];
	struct host_port host_port;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		struct address address, again;
		uint32_t cid;
		uint16_t port;

		noise_fill(&noise, bytes, sizeof(bytes));
		if (i % 3 == 0) /* runs of zeros, which "::" stands for */
			memset(bytes + bytes[0] % 8, 0, bytes[1] % 9);
		memcpy(&port, bytes + 16, sizeof(port));
		address = i % 2 == 0 ? address_ip(AF_INET, bytes, port)
				     : address_ip(AF_INET6, bytes, port);
		address_format(&address, text, sizeof(text));
		assert_true(host_port_parse(text, 0, &host_port));
		assert_int_equal(
		    inet_pton(address.any.sa_family, host_port.host, parsed),
		    1);
		assert_memory_equal(parsed, bytes, i % 2 == 0 ? 4 : 16);
		assert_int_equal(strtoul(host_port.port, NULL, 10), port);

		memcpy(&cid, bytes, sizeof(cid));
		address = vsock_address(cid, port);
		address_format(&address, text, sizeof(text));
		assert_true(
		    address_parse_vsock(text, UINT32_MAX, true, &again));
		assert_int_equal(again.vm.svm_cid, cid);
		assert_int_equal(again.vm.svm_port, port);
	}
}

static void
test_unmap(void **state)
{
	/* Fails if IPv4 over a dual-stack listener isn't seen as IPv4, or real
	 * IPv6 is. */
	uint8_t bytes[16];
	struct address address = address_ip(AF_INET6, bytes_of_mapped, 4711);
	struct address ipv4 = address_ip(AF_INET, bytes_of_mapped + 12, 4711);

	(void)state;
	address_unmap(&address);
	assert_int_equal(address.length, sizeof(struct sockaddr_in));
	assert_memory_equal(&address.in, &ipv4.in, sizeof(ipv4.in));
	assert_formats_as(address, "192.0.2.1:4711");
	address_unmap(&address);
	assert_formats_as(address, "192.0.2.1:4711");

	/* One bit off the prefix, at each of its bytes. */
	for (size_t i = 0; i < 12; i++) {
		memcpy(bytes, bytes_of_mapped, sizeof(bytes));
		bytes[i] ^= 1;
		address = address_ip(AF_INET6, bytes, 1);
		address_unmap(&address);
		assert_int_equal(address.any.sa_family, AF_INET6);
		assert_int_equal(address.length, sizeof(struct sockaddr_in6));
		assert_memory_equal(&address.in6.sin6_addr, bytes, 16);
	}
	/* What isn't address and port is nothing to compare. */
	address.in6.sin6_flowinfo = address.in6.sin6_scope_id = 2;
	address_unmap(&address);
	assert_int_equal(address.in6.sin6_flowinfo, 0);
	assert_int_equal(address.in6.sin6_scope_id, 0);
	address = vsock_address(0, 0xffff);
	address_unmap(&address);
	assert_formats_as(address, "0:65535");
}

static void
test_prefix_taken(void **state)
{
	/* Fails if a prefix is misread. What each names: unit tests of access.
	 */
	static const struct {
		const char *text;
		sa_family_t family;
		uint32_t bits;
		uint8_t bytes[16];
	} cases[] = {
	    {"10.0.0.0/8", AF_INET, 8, {10}},
	    {"0.0.0.0/0", AF_INET, 0, {0}},
	    {"192.0.2.1", AF_INET, 32, {192, 0, 2, 1}},
	    {"192.0.2.1/32", AF_INET, 32, {192, 0, 2, 1}},
	    {"::/0", AF_INET6, 0, {0}},
	    {"2001:DB8::/32", AF_INET6, 32, {0x20, 1, 0xd, 0xb8}},
	    {"::1", AF_INET6, 128, {[15] = 1}},
	    {"::ffff:0:0/96", AF_INET, 0, {0}},
	    {"::ffff:192.0.2.1", AF_INET, 32, {192, 0, 2, 1}},
	    {"::ffff:192.0.2.128/121", AF_INET, 25, {192, 0, 2, 128}},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address_prefix p;
		char text[64];

		(void)snprintf(text, sizeof(text), "%s", cases[i].text);
		if (!address_parse_prefix(text, &p))
			fail_msg("refused: '%s'", cases[i].text);
		assert_int_equal(p.family, cases[i].family);
		assert_int_equal(p.bits, cases[i].bits);
		assert_memory_equal(p.bytes, cases[i].bytes,
		    p.family == AF_INET ? 4 : sizeof(p.bytes));
	}
}

static void
test_prefix_refused(void **state)
{
	/* Fails if a typing error passes for a prefix. */
	static const char *const cases[] = {"", "/", "/8", "10.0.0.0/",
	    "10.0.0.0/33", "10.0.0.1/31", "10.0.0.0/4294967304", "10.0.0.0/8/8",
	    "10.0.0/8", "010.0.0.0/8", "::/129", "::1/127", "::ffff:0:0/95",
	    "[::]/0", "::%lo", "any", "10.0.0.0 /8", "10.0.0.0/ 8"};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address_prefix p;
		char text[64];

		(void)snprintf(text, sizeof(text), "%s", cases[i]);
		if (address_parse_prefix(text, &p))
			fail_msg("taken: '%s'", cases[i]);
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_number_taken),
	    cmocka_unit_test(test_number_refused),
	    cmocka_unit_test(test_vsock_taken),
	    cmocka_unit_test(test_vsock_refused),
	    cmocka_unit_test(test_cid_alone),
	    cmocka_unit_test(test_vsock_maximum),
	    cmocka_unit_test(test_host_port_taken),
	    cmocka_unit_test(test_host_port_minimum),
	    cmocka_unit_test(test_host_port_refused),
	    cmocka_unit_test(test_mistyped_ipv4_refused),
	    cmocka_unit_test(test_hexadecimal_ipv4_refused),
	    cmocka_unit_test(test_port),
	    cmocka_unit_test(test_format),
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_unmap),
	    cmocka_unit_test(test_prefix_taken),
	    cmocka_unit_test(test_prefix_refused),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
