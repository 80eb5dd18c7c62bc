/* SPDX-License-Identifier: Apache-2.0 */
/* Parses strictly: what isn't exactly one of the documented forms is refused,
 * so that a typing error ends at start and not as a failing connection. */
#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DIGITS "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

bool
address_parse_number(
    const char *text, uint32_t minimum, uint32_t maximum, uint32_t *number)
{
	uint64_t value = strtoull(text, NULL, 10); /* its maximum, if larger */

	*number = (uint32_t)value;
	return *text != '\0' && text[strspn(text, DIGITS)] == '\0' &&
	       value >= minimum && value <= maximum;
}

bool
address_parse_vsock(const char *text, uint32_t maximum, bool needs_port,
    struct address *address)
{
	char cid[16] = "";
	size_t length = strcspn(text, ":");

	if (length >= sizeof(cid))
		return false;
	memcpy(cid, text, length);
	*address = (struct address){
	    .vm.svm_family = AF_VSOCK, .length = sizeof(address->vm)};
	return address_parse_number(strcmp(cid, "any") == 0     ? "4294967295"
				    : strcmp(cid, "local") == 0 ? "1"
				    : strcmp(cid, "host") == 0  ? "2"
								: cid,
		   0, maximum, &address->vm.svm_cid) &&
	       (text[length] == '\0' ? !needs_port
				     : address_parse_number(text + length + 1,
					   0, maximum, &address->vm.svm_port));
}

bool
address_parse_prefix(char *text, struct address_prefix *p)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	const char *ip = strsep(&text, "/"); /* text: the bits, or NULL */
	sa_family_t family = strchr(ip, ':') == NULL ? AF_INET : AF_INET6;
	uint32_t most = family == AF_INET ? 32 : 128;

	*p = (struct address_prefix){family, most, {0}};
	if (inet_pton(family, ip, p->bytes) != 1 ||
	    (text != NULL && !address_parse_number(text, 0, most, &p->bits)))
		return false;
	for (uint32_t i = p->bits; i < most; i++)
		if ((p->bytes[i / 8] << i % 8 & 0x80) != 0)
			return false;
	if (memcmp(p->bytes, mapped, sizeof(mapped)) == 0) { /* of 96 bits */
		p->family = AF_INET;
		p->bits -= 96;
		memcpy(p->bytes, p->bytes + 12, 4);
	}
	return true;
}

const uint8_t *
address_bytes(const struct address *a)
{
	return a->any.sa_family == AF_INET ? (const uint8_t *)&a->in.sin_addr
					   : a->in6.sin6_addr.s6_addr;
}

bool
address_has_prefix(const struct address *a, const struct address_prefix *p)
{
	const uint8_t *bytes = address_bytes(a);
	uint32_t n = p->bits / 8, rest = p->bits % 8;

	return a->any.sa_family == p->family &&
	       memcmp(bytes, p->bytes, n) == 0 &&
	       (rest == 0 || (bytes[n] ^ p->bytes[n]) >> (8 - rest) == 0);
}

/* What could be a host name. */
static bool
is_name(const char *host)
{
	size_t end = strlen(host), label;

	if (host[strspn(host, LETTERS DIGITS "-_.")] != '\0' ||
	    host[0] == '-' || host[0] == '.' || strstr(host, "..") != NULL)
		return false;
	if (host[end - 1] == '.') /* the root's dot */
		end--;
	for (label = end; label > 0 && host[label - 1] != '.';)
		label--;
	/* No domain, but what resolvers take for an address: inet_aton(3). */
	return label + strspn(host + label, DIGITS) != end &&
	       strncasecmp(host + label, "0x", 2) != 0;
}

bool
host_port_parse(const char *text, uint32_t minimum, struct host_port *host_port)
{
	const char *colon = strrchr(text, ':');
	size_t bracket = text[0] == '[', length;
	struct in6_addr ignored;
	uint32_t port;

	if (colon == NULL || strlen(text) >= ADDRESS_TEXT_SIZE ||
	    !address_parse_number(colon + 1, minimum, UINT16_MAX, &port))
		return false;
	length = (size_t)(colon - text) - 2 * bracket; /* "[:1": huge */
	if (length == 0 || length >= sizeof(host_port->host) ||
	    (bracket && colon[-1] != ']'))
		return false;
	memcpy(host_port->host, text + bracket, length);
	host_port->host[length] = '\0';
	host_port->port = colon + 1;
	host_port->text = text;
	host_port->is_name =
	    !bracket && inet_pton(AF_INET, host_port->host, &ignored) != 1;
	return bracket ? inet_pton(AF_INET6, host_port->host, &ignored) == 1
		       : !host_port->is_name || is_name(host_port->host);
}

uint32_t
address_port(const struct address *address)
{
	if (address->any.sa_family == AF_VSOCK)
		return address->vm.svm_port;
	return ntohs(address->in.sin_port); /* at the same place in in6 */
}

void
address_unmap(struct address *address)
{
	struct in6_addr ip = address->in6.sin6_addr;
	in_port_t port = address->in6.sin6_port; /* at the same place in in */

	if (address->any.sa_family != AF_INET6)
		return;
	if (IN6_IS_ADDR_V4MAPPED(&ip))
		*address = (struct address){
		    .in = {AF_INET, port, {ip.s6_addr32[3]}, {0}},
		    .length = sizeof(address->in)};
	else
		*address = (struct address){.in6 = {AF_INET6, port, 0, ip, 0},
		    .length = sizeof(address->in6)};
}

void
address_format(const struct address *address, char *text, size_t size)
{
	uint32_t port = address_port(address);
	sa_family_t family = address->any.sa_family;
	char host[INET6_ADDRSTRLEN] = "";

	/* inet_ntop() can't fail here, nor snprintf() cut: the sizes fit. */
	if (family == AF_VSOCK)
		(void)snprintf(host, sizeof(host),
		    address->vm.svm_cid == VMADDR_CID_ANY ? "any" : "%u",
		    address->vm.svm_cid);
	else
		inet_ntop(family, address_bytes(address), host, sizeof(host));
	(void)snprintf(text, size,
	    port == VMADDR_PORT_ANY ? "%s:*"
	    : family == AF_INET6    ? "[%s]:%u"
				    : "%s:%u",
	    host, port);
}
