/* SPDX-License-Identifier: Apache-2.0 */
/* Word n of a stream is a hash of the connection, the side and n, so that a
 * byte that is lost, doubled, out of order or another's is noticed. */
#include "plan.h"

#include <string.h>

#define WORD sizeof(uint64_t)
#define GOLDEN 0x9e3779b97f4a7c15

static uint64_t seed;

/* The finalizer of SplitMix64. */
static uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

void
plan_seed(uint64_t new_seed)
{
	seed = mix(new_seed + GOLDEN);
}

uint64_t
plan_random(uint64_t *state, uint64_t limit)
{
	*state += GOLDEN;
	return mix(*state) % limit;
}

uint64_t
plan_state(uint64_t number, enum side side)
{
	return mix(seed + number * 4 + side);
}

/* Mostly short; 33 KiB on average, 2 MiB at most. */
static uint64_t
random_length(uint64_t *state)
{
	uint64_t bits = plan_random(state, 18);

	if (plan_random(state, 32) == 0)
		bits = 18 + plan_random(state, 3);
	return plan_random(state, 2 << bits);
}

void
plan_make(struct plan *plan, uint64_t number, bool early, uint64_t most)
{
	uint64_t state = plan_state(number, NOBODY);
	uint64_t dice = plan_random(&state, 32), first = sizeof(struct header);
	uint64_t order = plan_random(&state, 4);

	plan->length[CLIENT] = first + random_length(&state) % (most + 1);
	plan->length[SERVER] = random_length(&state) % (most + 1);
	plan->order = order > SERVER_FIRST ? BOTH_AT_ONCE : (enum order)order;
	plan->resetter = NOBODY;
	if (dice >= 9)
		return;
	plan->resetter = dice < 5 ? CLIENT : SERVER;
	plan->reset_sent =
	    plan_random(&state, plan->length[plan->resetter] + 1);
	plan->reset_received =
	    plan_random(&state, plan->length[!plan->resetter] + 1);
	/* Half of them depend on what they have sent alone. */
	if (plan_random(&state, 2) == 0)
		plan->reset_received = 0;
	if (dice == 0 && early) {
		plan->reset_sent = plan_random(&state, first);
		plan->reset_received = 0;
	} else if (plan->resetter == CLIENT && plan->reset_sent < first) {
		plan->reset_sent = first;
	} else if (plan->resetter == SERVER && plan->reset_received < first) {
		plan->reset_received = first; /* it can't have less */
	}
}

void
plan_fill(
    uint64_t number, enum side side, uint64_t offset, void *bytes, size_t size)
{
	uint64_t base = mix(plan_state(number, side));
	unsigned char *to = bytes;

	while (size > 0) {
		uint64_t word = mix(base + offset / WORD * GOLDEN);
		size_t skip = offset % WORD;
		size_t n = size < WORD - skip ? size : WORD - skip;

		memcpy(to, (unsigned char *)&word + skip, n);
		to += n;
		offset += n;
		size -= n;
	}
}
