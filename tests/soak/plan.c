/* SPDX-License-Identifier: Apache-2.0 */
/* All that is random is a hash of the seed, the connection's number, and the
 * side. */
#include "plan.h"
#include "../bytes.h"

static uint64_t seed;

void
plan_seed(uint64_t new_seed)
{
	seed = bytes_mix(new_seed + BYTES_GOLDEN);
}

uint64_t
plan_random(uint64_t *state, uint64_t limit)
{
	*state += BYTES_GOLDEN;
	return bytes_mix(*state) % limit;
}

uint64_t
plan_state(uint64_t number, enum side side)
{
	return bytes_mix(seed + number * 4 + side);
}

/* Mostly short; 33 KiB on average, 2 MiB at most. */
static uint64_t
random_length(uint64_t *state)
{
	uint64_t bits = plan_random(state, 18);

	if (plan_random(state, 32) == 0)
		bits = 18 + plan_random(state, 3);
	return plan_random(state, 2U << bits);
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
