/* SPDX-License-Identifier: Apache-2.0 */
/* Both directions of a connection: half-close, and abort, which must show. */
#pragma once
#include "copy.h"
#include "worker.h"

#include <semaphore.h>

/* How a connection ended. */
enum relay_end {
	RELAY_EOF,            /* each side ended and everything was delivered */
	RELAY_CLIENT_ERROR,   /* the client's socket failed */
	RELAY_UPSTREAM_ERROR, /* the upstream's socket failed */
	RELAY_NO_RESOURCES,   /* no thread */
	RELAY_IDLE,           /* for relay_fail(): nothing moved for too long */
	RELAY_ENDS,
};

/* Zero but for the two connected stream sockets, which stay the caller's.
 * Other threads may read the rest at any time. */
struct relay {
	int client, upstream;
	_Atomic uint64_t up;   /* bytes that the upstream's kernel took */
	_Atomic uint64_t down; /* bytes that the client's kernel took */
	atomic_int failure; /* the first: its relay_end times 65,536, + errno */
	copy_deadline deadline; /* since there is a failure; 1: all was reset */
	bool paired; /* the vsock peer closes both ways only when it gives up */
	struct worker_job job; /* free before relay_run(), for the first one */
	sem_t ended;           /* how many directions have */
};

/* Relays in this thread and a second one, until both directions have ended.
 * End-of-file from one side becomes shutdown(SHUT_WR) of the other when all
 * data is delivered; the opposite direction goes on without a time limit. When
 * one side fails, what it had sent is delivered to the other, for 10 s at most;
 * then both sockets are stream_reset(), or closing them resets. */
void relay_run(
    struct relay *relay, struct copy_way up_way, struct copy_way down_way);

/* Records a failure, unless there was one before, and resets both sockets at
 * once. Doesn't wait. Any thread, as long as the sockets are open. */
void relay_fail(struct relay *relay, enum relay_end end, int error);
