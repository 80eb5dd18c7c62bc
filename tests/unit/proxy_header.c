/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of proxy_header: the bytes, written out from the specification. */
#include "proxy_header.h"

#include "support.h"

/* Both start with the signature, and version 2 with the command PROXY. */
#define START                                                             \
	0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, \
	    0x0a, 0x21

/* 192.0.2.9:50112 to 198.51.100.8:443 */
static const uint8_t ipv4_golden[PROXY_HEADER_SIZE_IPV4] = {
    START, 0x11, 0, 12, 192, 0, 2, 9, 198, 51, 100, 8, 0xc3, 0xc0, 0x01, 0xbb};
/* [2001:db8::9]:258 to [2001:db8:1112:1314:1516:1718:191a:1b1c]:8080 */
static const uint8_t ipv6_golden[PROXY_HEADER_SIZE_IPV6] = {START, 0x21, 0, 36,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x20, 0x01,
    0x0d, 0xb8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a,
    0x1b, 0x1c, 0x01, 0x02, 0x1f, 0x90};

/* What is written, and not one byte more. */
static void
assert_header(const struct address *source, const struct address *destination,
    const uint8_t *golden, size_t size)
{
	uint8_t bytes[PROXY_HEADER_SIZE_IPV6 + 1];

	memset(bytes, 0xa5, sizeof(bytes));
	assert_int_equal(proxy_header_encode(source, destination, bytes), size);
	assert_memory_equal(bytes, golden, size);
	for (size_t i = size; i < sizeof(bytes); i++)
		assert_int_equal(bytes[i], 0xa5);
}

static void
test_ipv4(void **state)
{
	/* Fails if a service behind an IPv4 listener doesn't understand who its
	 * client is, or takes the listener for it. */
	struct address source = address_ip(AF_INET, ipv4_golden + 16, 50112);
	struct address destination = address_ip(AF_INET, ipv4_golden + 20, 443);

	(void)state;
	assert_header(&source, &destination, ipv4_golden, sizeof(ipv4_golden));
}

static void
test_ipv6(void **state)
{
	/* Fails if a service behind an IPv6 listener doesn't. */
	struct address source = address_ip(AF_INET6, ipv6_golden + 16, 258);
	struct address destination =
	    address_ip(AF_INET6, ipv6_golden + 32, 8080);

	(void)state;
	assert_header(&source, &destination, ipv6_golden, sizeof(ipv6_golden));
	/* There is no room for those, and they mean nothing elsewhere. */
	source.in6.sin6_scope_id = destination.in6.sin6_flowinfo = 7;
	assert_header(&source, &destination, ipv6_golden, sizeof(ipv6_golden));
}

static void
test_mapped(void **state)
{
	/* Fails if a service sees two forms of one client's address, depending
	 * on the listener. */
	uint8_t mapped[2][16] = {{[10] = 0xff, 0xff}, {[10] = 0xff, 0xff}};
	struct address source, destination;

	(void)state;
	memcpy(mapped[0] + 12, ipv4_golden + 16, 4);
	memcpy(mapped[1] + 12, ipv4_golden + 20, 4);
	source = address_ip(AF_INET6, mapped[0], 50112);
	destination = address_ip(AF_INET6, mapped[1], 443);
	/* As those do that know the addresses. */
	address_unmap(&source);
	address_unmap(&destination);
	assert_header(&source, &destination, ipv4_golden, sizeof(ipv4_golden));
}

static void
test_ports(void **state)
{
	/* Fails if ports are swapped, or their bytes are. */
	struct address source = address_ip(AF_INET, ipv4_golden + 16, 0);
	struct address destination = source;
	uint8_t bytes[PROXY_HEADER_SIZE_IPV6];

	(void)state;
	for (unsigned port = 0; port <= UINT16_MAX; port++) {
		source.in.sin_port = htons((uint16_t)port);
		destination.in.sin_port = htons((uint16_t)~port);
		assert_int_equal(
		    proxy_header_encode(&source, &destination, bytes),
		    PROXY_HEADER_SIZE_IPV4);
		assert_int_equal(bytes[24] << 8 | bytes[25], port);
		assert_int_equal(bytes[26] << 8 | bytes[27], (uint16_t)~port);
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ipv4),
	    cmocka_unit_test(test_ipv6),
	    cmocka_unit_test(test_mapped),
	    cmocka_unit_test(test_ports),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("proxy_header", tests, NULL, NULL);
}
