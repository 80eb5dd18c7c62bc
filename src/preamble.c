/* SPDX-License-Identifier: Apache-2.0 */
/* The reader trusts nothing: a sender may stop, dribble or send noise, and
 * what follows the preamble belongs to the connection. */
#include "preamble.h"
#include "clock.h"
#include "stream.h"

#include <byteswap.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

size_t
preamble_encode(const struct address *target, uint8_t bytes[PREAMBLE_SIZE_IPV6])
{
	struct address plain = *target;
	uint32_t port = address_port(target), ipv4;

	bytes[4] = (uint8_t)port;
	bytes[5] = (uint8_t)(port >> 8);
	address_unmap(&plain);
	if (plain.any.sa_family == AF_INET) {
		/* In the order opposite to the network's. */
		ipv4 = bswap_32(plain.in.sin_addr.s_addr);
		memcpy(bytes, &ipv4, sizeof(ipv4));
		return PREAMBLE_SIZE_IPV4;
	}
	if (IN6_IS_ADDR_LINKLOCAL(&plain.in6.sin6_addr))
		return 0;
	memset(bytes, 0xff, 4);
	memcpy(bytes + PREAMBLE_SIZE_IPV4, &plain.in6.sin6_addr, 16);
	return PREAMBLE_SIZE_IPV6;
}

const char *
preamble_receive(int fd, unsigned timeout_ms, struct address *target)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	uint64_t now = clock_ms(), deadline = now + timeout_ms;
	uint8_t bytes[PREAMBLE_SIZE_IPV6];
	size_t size = PREAMBLE_SIZE_IPV4;
	uint16_t port;
	ssize_t n;

	for (size_t have = 0; have < size; now = clock_ms()) {
		if (now >= deadline ||
		    poll(&readable, 1, (int)(deadline - now)) == 0)
			return "no whole preamble came in time";
		n = recv(fd, bytes + have, size - have, MSG_DONTWAIT);
		if (n == -1 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n == -1)
			return stream_reason(AF_UNSPEC, errno);
		if (n == 0)
			return "the client ended before its preamble was whole";
		have += (size_t)n;
		if (have == PREAMBLE_SIZE_IPV4 &&
		    memcmp(bytes, "\xff\xff\xff\xff", 4) == 0)
			size = PREAMBLE_SIZE_IPV6;
	}
	port = (uint16_t)(bytes[4] | bytes[5] << 8);
	*target = address_ip(AF_INET, bytes, port);
	target->in.sin_addr.s_addr = bswap_32(target->in.sin_addr.s_addr);
	if (size == PREAMBLE_SIZE_IPV6)
		*target =
		    address_ip(AF_INET6, bytes + PREAMBLE_SIZE_IPV4, port);
	address_unmap(target);
	return port == 0 ? "the preamble names port 0" : NULL;
}
