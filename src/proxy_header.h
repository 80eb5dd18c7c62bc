/* SPDX-License-Identifier: Apache-2.0 */
/* The header that tells a service who its client is, ahead of the data: PROXY
 * protocol, version 2 (HAProxy's doc/proxy-protocol.txt). No I/O. */
#pragma once
#include "address.h"

#define PROXY_HEADER_SIZE_IPV4 28
#define PROXY_HEADER_SIZE_IPV6 52

/* Writes the header of a TCP connection, whose ends are both IPv4 or both IPv6,
 * not IPv4-mapped. Returns its size. */
size_t proxy_header_encode(const struct address *source,
    const struct address *destination, uint8_t bytes[PROXY_HEADER_SIZE_IPV6]);
