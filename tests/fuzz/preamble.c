/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what reads the preamble. The input is what comes over the connection,
 * the preamble and what follows; a hash of it says how it is cut into pieces,
 * and whether a sender that stops short ends the connection.
 */
#include "preamble.h"
#include "../address_ip.h"
#include "stream.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
ssize_t __real_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);

/* Bit i: byte i starts a new piece; after the bits come calls that fail. */
static uint64_t cuts;
static size_t taken; /* bytes, so far */

/* Reads no further than to the next cut. */
ssize_t
__wrap_recv(int fd, void *buffer, size_t size, int flags)
{
	size_t most = 1;
	ssize_t n;

	if (cuts >> 62 & 1) { /* once */
		cuts &= ~((uint64_t)1 << 62);
		errno = cuts >> 61 & 1 ? EINTR : EAGAIN;
		return -1;
	}
	while (most < size && (cuts >> (taken + most) & 1) == 0)
		most++;
	n = __real_recv(fd, buffer, most, flags);
	if (n > 0)
		taken += (size_t)n;
	return n;
}

static uint64_t
hash(const uint8_t *data, size_t size)
{
	uint64_t value = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < size; i++)
		value = (value ^ data[i]) * 0x100000001b3;
	return value ^ value >> 29;
}

static bool
same(const struct address *a, const struct address *b)
{
	return a->length == b->length && memcmp(a, b, a->length) == 0;
}

static bool
is_link_local(const struct address *target)
{
	return target->any.sa_family == AF_INET6 &&
	       target->in6.sin6_addr.s6_addr[0] == 0xfe &&
	       target->in6.sin6_addr.s6_addr[1] >> 6 == 2;
}

/* A target must survive being encoded, sent and received. */
static void
check_target(const struct address *target)
{
	struct address plain = *target, again;
	uint8_t *bytes = malloc(PREAMBLE_SIZE_IPV6), received[32];
	int ends[2];
	size_t size;

	assert(bytes != NULL);
	address_unmap(&plain);
	size = preamble_encode(target, bytes);
	if (is_link_local(&plain)) {
		assert(size == 0);
		goto out;
	}
	assert(size == (plain.any.sa_family == AF_INET ? PREAMBLE_SIZE_IPV4
						       : PREAMBLE_SIZE_IPV6));
	/* No destination of TCP, and so never sent. */
	if (plain.any.sa_family == AF_INET &&
	    plain.in.sin_addr.s_addr == INADDR_BROADCAST)
		goto out;
	assert(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	assert(stream_send(ends[0], bytes, size) == 0);
	assert(__real_recv(ends[1], received, sizeof(received), 0) ==
	       (ssize_t)size);
	assert(memcmp(received, bytes, size) == 0);
	assert(stream_send(ends[0], bytes, size) == 0);
	assert(preamble_receive(ends[1], 30000, &again) == NULL);
	assert(same(&again, &plain));
	assert(__real_recv(ends[1], received, 1, MSG_DONTWAIT) == -1);
	close(ends[0]);
	close(ends[1]);
out:
	free(bytes);
}

/* What is received must be what was meant, and encodes to the same bytes. */
static void
check_whole(const struct address *target, const uint8_t *data, size_t size)
{
	uint8_t encoded[PREAMBLE_SIZE_IPV6], network[16];
	struct address decoded;

	if (size == PREAMBLE_SIZE_IPV6)
		memcpy(network, data + 6, 16);
	for (size_t i = 0; size == PREAMBLE_SIZE_IPV4 && i < 4; i++)
		network[i] = data[3 - i];
	decoded = address_ip(size == PREAMBLE_SIZE_IPV6 ? AF_INET6 : AF_INET,
	    network, (uint16_t)(data[4] | data[5] << 8));
	address_unmap(&decoded);
	assert(same(&decoded, target));
	/* But for a mapped address, which has a form of its own, and those that
	 * we don't send. */
	if (size == PREAMBLE_SIZE_IPV4 ||
	    (target->any.sa_family == AF_INET6 && !is_link_local(target))) {
		assert(preamble_encode(target, encoded) == size);
		assert(memcmp(encoded, data, size) == 0);
	}
	check_target(target);
}

/* All that is left to read must be these bytes. */
static void
check_rest(int fd, const uint8_t *data, size_t size)
{
	uint8_t *rest = malloc(size + 1);
	ssize_t n = __real_recv(fd, rest, size + 1, MSG_DONTWAIT);

	assert(rest != NULL);
	if (n == -1) {
		assert(errno == EAGAIN);
		n = 0;
	}
	assert(n == (ssize_t)size && memcmp(rest, data, size) == 0);
	free(rest);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mark[] = {0xff, 0xff, 0xff, 0xff};
	size_t whole = size >= 4 && memcmp(data, mark, 4) == 0 ? 22 : 6;
	bool ends_early, is_whole = size >= whole;
	struct address target;
	const char *reason;
	size_t so_far;
	int ends[2];

	if (size > 4096) /* a socket takes that at once */
		return 0;
	cuts = hash(data, size);
	ends_early = cuts >> 63 & 1;
	taken = 0;
	assert(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	assert(send(ends[0], data, size, 0) == (ssize_t)size);
	if (ends_early)
		assert(shutdown(ends[0], SHUT_WR) == 0);
	reason = preamble_receive(
	    ends[1], is_whole || ends_early ? 30000 : 1, &target);
	if (!is_whole) {
		assert(reason != NULL);
		assert(strstr(reason, ends_early ? "ended" : "time") != NULL);
	} else if (data[4] == 0 && data[5] == 0) {
		assert(reason != NULL && strstr(reason, "port 0") != NULL);
	} else {
		assert(reason == NULL);
		so_far = taken;
		check_whole(&target, data, whole);
		taken = so_far;
	}
	assert(taken == (is_whole ? whole : size) || !ends_early);
	check_rest(ends[1], data + taken, size - taken);
	close(ends[0]);
	close(ends[1]);
	return 0;
}
