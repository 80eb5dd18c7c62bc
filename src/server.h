/* SPDX-License-Identifier: Apache-2.0 */
/* What the five programs share: listen, accept, a thread for each connection,
 * the connection limit, back-off, and one log line for each connection. */
#pragma once
#include "address.h"

struct connection;
/* Gets the upstream for a client: may block, in the connection's own thread.
 * Returns the connected socket, or -1 with c->reason set. */
typedef int dial_function(struct connection *c);

/* A connection. A dial function reads client and sets what is below it. */
struct connection {
	uint64_t number;
	uint64_t accepted;                /* clock_ms() */
	struct address peer;              /* the client's address */
	int client;                       /* the accepted socket */
	char upstream[ADDRESS_TEXT_SIZE]; /* "-" while unknown */
	char target[ADDRESS_TEXT_SIZE];   /* "-": there is none */
	const char *end;    /* "no-upstream", or set to "no-target": static */
	const char *reason; /* why dialling failed: static */
};

/* For dial functions: the original destination of a redirected client, noted
 * in c->target. Returns 0, or -1 with c->reason and c->end set. */
int server_target(struct connection *c, struct address *target);

/* For them, too: connects, and notes c->upstream. Returns as they do. */
int server_connect(struct connection *c, const struct address *upstream);

/* Serves, as the settings say, until the process is ended; exits 1, after a
 * log line, if it can't listen or accept for good. upstream: for the log. */
_Noreturn void server_run(const char *upstream, dial_function *dial);
