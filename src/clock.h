/* SPDX-License-Identifier: Apache-2.0 */
/* Time for deadlines and durations: milliseconds of CLOCK_MONOTONIC. */
#pragma once
#include <stdint.h>
#include <time.h>

static inline uint64_t
clock_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* can't fail */
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
