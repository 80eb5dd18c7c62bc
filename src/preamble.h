/* SPDX-License-Identifier: Apache-2.0 */
/* The preamble: the bytes that carry a redirected connection's target from
 * ip-to-vsock-transparent to vsock-to-ip-transparent, ahead of the data.
 * DESIGN.md has the format. */
#pragma once
#include "address.h"

#define PREAMBLE_SIZE_IPV4 6
#define PREAMBLE_SIZE_IPV6 22

/* Writes the preamble of an IPv4 or IPv6 target. Returns its size, or 0: it is
 * a link-local IPv6 address, and there is no room for the link. */
size_t preamble_encode(
    const struct address *target, uint8_t bytes[PREAMBLE_SIZE_IPV6]);

/* Reads a preamble and not one byte more, however it is cut, for at most
 * timeout_ms milliseconds in all. Returns NULL, or why there is no target:
 * static text. */
const char *
preamble_receive(int fd, unsigned timeout_ms, struct address *target);
