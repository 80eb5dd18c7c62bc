/* SPDX-License-Identifier: Apache-2.0 */
/* The reader trusts nothing: a sender may stop, dribble or send noise, and
 * what follows the preamble belongs to the connection. */
#include "preamble.h"
#include "clock.h"
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

size_t
preamble_encode(const struct address *target, uint8_t bytes[PREAMBLE_SIZE_IPV6])
{
	struct address plain = *target;
	uint32_t port = address_port(target);

	bytes[4] = (uint8_t)port;
	bytes[5] = (uint8_t)(port >> 8);
	address_unmap(&plain);
	if (plain.any.sa_family == AF_INET) {
		/* In the order opposite to the network's. */
		for (int i = 0; i < 4; i++)
			bytes[i] = address_bytes(&plain)[3 - i];
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
	struct in6_addr ip = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
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
	for (int i = 0; i < 4; i++) /* IPv4-mapped, unless it is IPv6 */
		ip.s6_addr[12 + i] = bytes[3 - i];
	if (size == PREAMBLE_SIZE_IPV6)
		memcpy(&ip, bytes + PREAMBLE_SIZE_IPV4, sizeof(ip));
	*target = (struct address){.in6 = {AF_INET6, htons(port), 0, ip, 0},
	    .length = sizeof(target->in6)};
	address_unmap(target);
	return port == 0 ? "the preamble names port 0" : NULL;
}
