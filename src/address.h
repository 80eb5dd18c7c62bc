/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: parsing what a user writes, formatting what a log says. No I/O. */
#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <linux/vm_sockets.h>

/* A socket address of any of our families. */
struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
	};
	socklen_t length; /* 0: no address */
};

/* Those that begin with these bits. Of AF_VSOCK: all. */
struct address_prefix {
	sa_family_t family;
	uint32_t bits;
	uint8_t bytes[16];
};

/* HOST:PORT, checked but not resolved. */
struct host_port {
	char host[254];   /* name or literal, without brackets */
	const char *port; /* decimal; points into text */
	const char *text; /* as written; not copied */
	bool is_name;     /* a resolver is needed */
};

/* Holds any text that address_format() makes or host_port_parse() takes. */
#define ADDRESS_TEXT_SIZE 272

/* Parses an unsigned decimal, digits only. False: it isn't one in bounds. */
bool address_parse_number(
    const char *text, uint32_t minimum, uint32_t maximum, uint32_t *number);

/* Parses CID:PORT, both unsigned decimals up to a maximum; the CID may be one
 * of the words any (4294967295), local (1) and host (2): vsock(7). Unless it
 * needs a port, CID alone will do, with port 0. False: it isn't one. */
bool address_parse_vsock(const char *text, uint32_t maximum, bool needs_port,
    struct address *address);

/* Parses ADDRESS or ADDRESS/BITS, no bit set behind those, and cuts the text
 * up. IPv4-mapped prefixes become IPv4. False: it isn't one. */
bool address_parse_prefix(char *text, struct address_prefix *prefix);

/* The 4 or 16 bytes of an IP address, in network order: a part of it. */
const uint8_t *address_bytes(const struct address *address);

/* Whether an address, which isn't IPv4-mapped, begins with a prefix. */
bool address_has_prefix(
    const struct address *address, const struct address_prefix *prefix);

/* Parses a.b.c.d:PORT, [IPv6]:PORT or NAME:PORT, port minimum to 65535. A name
 * whose last label is all digits is a mistyped IPv4 address, and isn't taken;
 * nor are the short forms that inet_aton(3) knows. False: it isn't one. */
bool host_port_parse(
    const char *text, uint32_t minimum, struct host_port *host_port);

/* The port in host order: 16 bits for TCP, 32 for vsock. */
uint32_t address_port(const struct address *address);

/* Turns an IPv4-mapped IPv6 address into the IPv4 address that it means, and
 * takes scope and flow label off other IPv6 addresses. */
void address_unmap(struct address *address);

/* Writes IPv4:PORT, [IPv6]:PORT or CID:PORT (any for VMADDR_CID_ANY, * for
 * VMADDR_PORT_ANY). size: ADDRESS_TEXT_SIZE. */
void address_format(const struct address *address, char *text, size_t size);
