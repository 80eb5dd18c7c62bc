/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bridge is one program, or two in a row, with a client of the test in front
 * and an upstream of the test behind, so that one test serves all programs.
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <stddef.h>

#include "program.h"

enum route {
	/* One program each. */
	IP_TO_VSOCK,
	VSOCK_TO_IP,
	IP_TO_VSOCK_TRANSPARENT,
	VSOCK_TO_IP_TRANSPARENT,
	PORT_TO_VSOCK_TRANSPARENT,
	/* ip-to-vsock, vsock-to-ip */
	CHAIN_FIXED,
	/* ip-to-vsock-transparent, vsock-to-ip-transparent */
	CHAIN_TRANSPARENT,
	/* port-to-vsock-transparent, vsock-to-ip */
	CHAIN_PORT,
	ROUTES
};

/* Rows for a test whose *state is the route of one program. */
#define EACH_PROGRAM(function)                                                 \
	TEST_WITH(function, "ip-to-vsock", IP_TO_VSOCK),                       \
	    TEST_WITH(function, "vsock-to-ip", VSOCK_TO_IP),                   \
	    TEST_WITH(                                                         \
		function, "ip-to-vsock-transparent", IP_TO_VSOCK_TRANSPARENT), \
	    TEST_WITH(                                                         \
		function, "vsock-to-ip-transparent", VSOCK_TO_IP_TRANSPARENT), \
	    TEST_WITH(function, "port-to-vsock-transparent",                   \
		PORT_TO_VSOCK_TRANSPARENT)

/* How options are written; all forms mean the same. */
struct bridge_spelling {
	bool long_names;  /* --ip-addr instead of -i */
	const char *glue; /* between name and value; NULL: two arguments */
};

struct bridge {
	/* Set before bridge_open(); 0 or NULL: as usual. */
	enum route route;
	const char *target; /* of the transparent ones: TARGET_IPV4, and
			       OTHER_IPV4 for port-to-vsock-transparent */
	char *const *extra; /* more arguments, for every program */
	char *const *extra_first, *const *extra_last; /* for one of two */
	const char *below;                            /* see program.h */
	char *const *env;                             /* likewise */
	bool has_header;  /* the first one sends that of --send-proxy-v2 */
	bool no_upstream; /* nobody listens there: see bridge_listen() */
	struct bridge_spelling spelling;
	const char *upstream_host; /* of vsock-to-ip: 127.0.0.1 */
	/* Set by bridge_open(). */
	struct program *first,
	    *last;    /* seen from the client; may be the same */
	int listener; /* the upstream's; -1: none */
	bool client_is_tcp, upstream_is_tcp;
	uint16_t listen_port; /* TCP port of the first, if client_is_tcp */
	uint32_t vsock_port;  /* of the first if the client is on vsock, of the
				 upstream if that is, else in between */
	uint16_t upstream_port; /* of the target, or of a fixed TCP upstream */
};

/* The route's programs in words: "ip-to-vsock", "chain-fixed"... */
const char *bridge_name(enum route route);

/*
 * Starts the programs, waits until they listen, then makes the upstream's
 * listener.
 */
void bridge_open(struct bridge *bridge);

/* Starts the first program once more, with the same arguments. Doesn't wait. */
struct program *bridge_start_again(const struct bridge *bridge);

/* The namespace of a route's clients, of its upstream. */
enum side bridge_side(enum route route, bool upstream);

/* Makes the upstream's listener after bridge_open() with no_upstream. */
void bridge_listen(struct bridge *bridge);

/*
 * Connects as a client: redirected where the program wants that; towards
 * vsock-to-ip-transparent, sends the preamble. Returns the socket.
 */
int bridge_connect(const struct bridge *bridge);

/* The same without a preamble, and failures return -1. */
int bridge_try(const struct bridge *bridge);

/*
 * Accepts as the upstream; from ip-to-vsock-transparent, expects the preamble,
 * and drops a header. Returns the socket.
 */
int bridge_accept(const struct bridge *bridge);

/* Both of the above: a connection all the way through. */
void bridge_pair(const struct bridge *bridge, int *client, int *upstream);

/* Fails the test unless all programs run and a new connection echoes. */
void bridge_expect_service(const struct bridge *bridge);

/*
 * Writes the preamble of an IPv4 (6 bytes) or IPv6 (22 bytes) target: what the
 * tests believe the format to be. Returns its size.
 */
size_t bridge_preamble(const char *address, uint16_t port, uint8_t bytes[22]);

#endif
