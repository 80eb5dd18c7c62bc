/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what parses and formats addresses. The input is a text. What is taken
 * must mean what a simpler look at it says, and what is formatted must be taken
 * again, as the same.
 */
#include "address.h"
#include "../address_ip.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Formats into memory of just the promised size. */
static char *
format(const struct address *address)
{
	char *text = malloc(ADDRESS_TEXT_SIZE);

	assert(text != NULL);
	address_format(address, text, ADDRESS_TEXT_SIZE);
	return text;
}

static void
check_number(const char *text, uint32_t minimum, uint32_t maximum)
{
	uint32_t number = 0, again = 0;
	unsigned long long expected;
	bool digits = *text != '\0' && text[strspn(text, "0123456789")] == '\0';
	char decimal[32];

	errno = 0;
	expected = strtoull(text, NULL, 10);
	if (!address_parse_number(text, minimum, maximum, &number)) {
		assert(!digits || errno == ERANGE || expected < minimum ||
		       expected > maximum);
		return;
	}
	assert(digits && errno == 0 && number == expected);
	assert(number >= minimum && number <= maximum);
	(void)snprintf(decimal, sizeof(decimal), "%llu", expected);
	assert(address_parse_number(decimal, minimum, maximum, &again));
	assert(again == number);
}

static void
check_vsock(const char *text)
{
	struct address address, again;
	bool has_port = strchr(text, ':') != NULL;
	char *formatted;

	if (!address_parse_vsock(text, UINT32_MAX, false, &address)) {
		assert(!address_parse_vsock(text, UINT32_MAX, true, &address));
		return;
	}
	assert(address_parse_vsock(text, UINT32_MAX, true, &again) == has_port);
	assert(address_parse_vsock(text, UINT32_MAX - 1, false, &again) ==
	       (address.vm.svm_cid != VMADDR_CID_ANY &&
		   address.vm.svm_port != VMADDR_PORT_ANY));
	assert(address.any.sa_family == AF_VSOCK);
	assert(address.length == sizeof(struct sockaddr_vm));
	assert(has_port || address.vm.svm_port == 0);
	assert(address_port(&address) == address.vm.svm_port);
	if (address.vm.svm_port == VMADDR_PORT_ANY)
		return; /* written as *, which no user writes */
	formatted = format(&address);
	assert(address_parse_vsock(formatted, UINT32_MAX, true, &again));
	assert(memcmp(&again.vm, &address.vm, sizeof(again.vm)) == 0);
	free(formatted);
}

/* Bytes and a port become an address, that a text, and that the same bytes. */
static void
check_bytes(sa_family_t family, const uint8_t *bytes, uint16_t port)
{
	size_t length = family == AF_INET ? 4 : 16;
	struct address address = address_ip(family, bytes, port);
	char *text = format(&address);
	struct host_port parsed;
	uint8_t again[16];

	assert(address.any.sa_family == family);
	assert(address_port(&address) == port);
	assert(host_port_parse(text, 0, &parsed));
	assert(inet_pton(family, parsed.host, again) == 1);
	assert(memcmp(again, bytes, length) == 0);
	assert(strtoul(parsed.port, NULL, 10) == port);
	free(text);
	address_unmap(&address);
	assert(address_port(&address) == port);
	if (address.any.sa_family != family) {
		assert(IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)again));
		check_bytes(AF_INET, bytes + 12, port);
	}
}

static void
check_host_port(const char *text)
{
	struct host_port parsed;
	uint8_t bytes[16];
	struct in_addr lax;
	char whole[ADDRESS_TEXT_SIZE];
	uint32_t port = 0;
	bool bracket = text[0] == '[';

	if (!host_port_parse(text, 0, &parsed))
		return;
	assert(parsed.text == text);
	assert(strlen(parsed.host) > 0);
	assert(strlen(parsed.host) < sizeof(parsed.host));
	assert(address_parse_number(parsed.port, 0, UINT16_MAX, &port));
	assert(host_port_parse(text, 1, &parsed) == (port > 0));
	(void)snprintf(whole, sizeof(whole), bracket ? "[%s]:%s" : "%s:%s",
	    parsed.host, parsed.port);
	assert(strcmp(whole, text) == 0);
	if (inet_pton(AF_INET, parsed.host, bytes) == 1)
		check_bytes(AF_INET, bytes, (uint16_t)port);
	else /* the resolver would take it for an address */
		assert(inet_aton(parsed.host, &lax) == 0);
	if (inet_pton(AF_INET6, parsed.host, bytes) == 1) {
		assert(bracket);
		check_bytes(AF_INET6, bytes, (uint16_t)port);
	} else {
		assert(!bracket);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	assert(text != NULL);
	memcpy(text, data, size);
	if (size > 0 && text[size - 1] == '\n') /* as of a text file */
		size--;
	text[size] = '\0';
	check_number(text, 0, UINT32_MAX);
	check_number(text, 0, UINT16_MAX);
	check_number(text, 4096, 1048576);
	check_vsock(text);
	check_host_port(text);
	if (size >= 18) {
		check_bytes(
		    AF_INET6, data, (uint16_t)(data[16] << 8 | data[17]));
		check_bytes(
		    AF_INET, data, (uint16_t)(data[16] << 8 | data[17]));
	}
	free(text);
	return 0;
}
