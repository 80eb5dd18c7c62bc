/* SPDX-License-Identifier: Apache-2.0 */
/* Both directions of a connection: half-close, and abort, which must show. */
#pragma once
#include "copy.h"

/* How a connection ended. */
enum relay_end {
	RELAY_EOF,            /* each side ended and everything was delivered */
	RELAY_CLIENT_ERROR,   /* the client's socket failed */
	RELAY_UPSTREAM_ERROR, /* the upstream's socket failed */
	RELAY_NO_RESOURCES,   /* no thread */
};

struct relay_result {
	enum relay_end end;
	int error;     /* errno of what ended it; 0 for RELAY_EOF */
	uint64_t up;   /* bytes from the client that upstream's kernel took */
	uint64_t down; /* bytes from upstream that the client's kernel took */
};

/* Relays between two connected stream sockets, in this thread and a second
 * one, until both directions have ended. End-of-file from one side becomes
 * shutdown(SHUT_WR) of the other when all data is delivered; the opposite
 * direction goes on without a time limit. Any error ends both directions, and
 * stream_reset() both sockets. They stay open. Needs 160 KiB of stack. */
struct relay_result
relay_run(int client, int upstream, struct copy_way up, struct copy_way down);
