/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a connection, in a thread of its own, from the accepted socket to
 * the log line; and the list of those that are alive, with what the others have
 * added up to. */
#pragma once
#include "address.h"
#include "relay.h"

/* How a connection ended, after the relay's own: enum relay_end. */
enum {
	END_NO_UPSTREAM = RELAY_ENDS, /* it could not be reached */
	END_NO_TARGET,                /* what to connect to is unknown */
	END_NOT_ALLOWED,              /* the rules deny it: access.h */
	END_STOPPED,                  /* the program ended first */
	ENDS,
};

/* A connection. A dial function reads peer and relay.client, and sets what is
 * below. */
struct connection {
	struct connection *next, *previous; /* of those alive */
	uint64_t number;
	uint64_t accepted;        /* clock_ms() */
	uint64_t moved, moved_at; /* bytes at the last look; clock_ms() */
	struct address peer;      /* the client's address */
	struct relay relay;       /* upstream: -1 while there is none */
	unsigned end;             /* enum relay_end, or one of these */
	bool denied, quiet;       /* the target; no line in the log */
	unsigned unlogged;        /* denied clients before, without a line */
	char upstream[ADDRESS_TEXT_SIZE]; /* "-" while unknown */
	char target[ADDRESS_TEXT_SIZE];   /* "-": there is none */
	const char *reason;               /* why dialling failed: static */
};

/* Gets the upstream for a client: may block, in the connection's own thread.
 * Returns the connected socket, or -1 with c->reason set. */
typedef int dial_function(struct connection *c);

/* For dial functions: notes a target, if the rules allow it. Returns 0, or -1
 * with c->reason set. */
int connection_check(struct connection *c, const struct address *target);

/* For them, too: connects, notes c->upstream, and sends what comes before any
 * byte of the client (size 0: nothing). Returns as they do; of an upstream that
 * closed and didn't take it, still the socket: what it had said is relayed. */
int connection_connect(struct connection *c, const struct address *upstream,
    const uint8_t *first, size_t size);

/* The rest is for the main thread, and not from signal handlers. */

/* Call it once, first. Returns a descriptor that becomes readable when there
 * are fewer connections than the limit again, or -1, errno of eventfd(2). */
int connection_open(dial_function *dial);

/* Sets the limit. Returns how many connections there are. */
unsigned connection_count(unsigned limit);

/* Serves an accepted socket, and closes it: at once if the rules don't allow
 * the client. c is of malloc(3), and freed here. Returns 0, or an errno for
 * want of threads: it is reset, which is logged. */
int connection_start(struct connection *c, int fd, const struct address *peer);

/* Ends connections on which no byte has moved for so long. Call it often. */
void connection_end_idle(uint64_t ms);

enum connection_report {
	REPORT_ASKED,  /* a line in any case */
	REPORT_CHANGE, /* only if the numbers aren't those of the last line */
	REPORT_END,    /* the process is going to end now, which resets those
			  alive: logs these as well. No call may follow */
};

/* Logs what all connections add up to. Returns the same, short, for people to
 * read, until the next call; NULL: nothing was to be logged. */
const char *connection_report(enum connection_report why);
