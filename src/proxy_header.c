/* SPDX-License-Identifier: Apache-2.0 */
/* A signature that no other protocol begins with, the version and the command
 * (PROXY), the families, the length of what follows, two addresses and their
 * ports, in network order. */
#include "proxy_header.h"

#include <string.h>

size_t
proxy_header_encode(const struct address *source,
    const struct address *destination, uint8_t bytes[PROXY_HEADER_SIZE_IPV6])
{
	bool is_ipv4 = source->any.sa_family == AF_INET;
	size_t size = is_ipv4 ? 4 : 16;
	uint8_t *ports = bytes + 16 + 2 * size;

	memcpy(bytes, "\r\n\r\n\0\r\nQUIT\n\x21", 13);
	bytes[13] = is_ipv4 ? 0x11 : 0x21; /* over TCP */
	bytes[14] = 0;
	bytes[15] = (uint8_t)(2 * size + 4);
	memcpy(bytes + 16, address_bytes(source), size);
	memcpy(bytes + 16 + size, address_bytes(destination), size);
	memcpy(ports, &source->in.sin_port, 2); /* at the same place in in6 */
	memcpy(ports + 2, &destination->in.sin_port, 2);
	return is_ipv4 ? PROXY_HEADER_SIZE_IPV4 : PROXY_HEADER_SIZE_IPV6;
}
