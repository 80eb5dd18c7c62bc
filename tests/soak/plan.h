/* SPDX-License-Identifier: Apache-2.0 */
/* What each connection does and carries: all of it follows from the seed and
 * the connection's number, so either end knows it when it knows the number. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum side { CLIENT, SERVER, NOBODY };

/* The client's stream begins with it. */
struct header {
	uint32_t magic, slot;
	uint64_t number;
};

/* Who sends when. FIRST: the other one waits for the end of that stream, but
 * for the header. */
enum order { BOTH_AT_ONCE, CLIENT_FIRST, SERVER_FIRST };

struct plan {
	uint64_t length[2]; /* of each side's stream; the header counts */
	enum order order;
	/* Resets the connection when it has sent and received so much. */
	enum side resetter;
	uint64_t reset_sent, reset_received;
};

/* Everything random is derived from it. */
void plan_seed(uint64_t seed);

/* A random number below a limit. */
uint64_t plan_random(uint64_t *state, uint64_t limit);

/* Where the random numbers of an end start; the seed of its stream, too, in
 * which the header is the caller's. */
uint64_t plan_state(uint64_t number, enum side side);

/* early: it may also reset before the server knows of it. Not more than `most`
 * bytes each way, besides the header. */
void plan_make(struct plan *plan, uint64_t number, bool early, uint64_t most);
