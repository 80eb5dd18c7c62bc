/* SPDX-License-Identifier: Apache-2.0 */
/* For tests, which write IP addresses as bytes; the programs don't. */
#ifndef ADDRESS_IP_H
#define ADDRESS_IP_H

#include "address.h"

#include <string.h>

/* AF_INET: from 4 bytes in network order and a port; AF_INET6: from 16. */
static inline struct address
address_ip(sa_family_t family, const uint8_t *bytes, uint16_t port)
{
	/* Family and port are at the same place in both. */
	struct address address = {
	    .in6 = {.sin6_family = family, .sin6_port = htons(port)},
	    .length =
		family == AF_INET ? sizeof(address.in) : sizeof(address.in6)};

	if (family == AF_INET)
		memcpy(&address.in.sin_addr, bytes, 4);
	else
		memcpy(&address.in6.sin6_addr, bytes, 16);
	return address;
}

#endif
