/* SPDX-License-Identifier: Apache-2.0 */
/* Takes from the process, for good, what it doesn't need to proxy. */
#pragma once
#include <stdbool.h>
#include <sys/resource.h>

/* Call it when everything is open, before the first thread: most of it is of
 * the calling one, and of those that it makes. What stays: connecting TCP,
 * reading files (for a resolver), so many descriptors. Never fails: what the
 * kernel lacks or forbids is left out. Logs what holds, at LEVEL_DEBUG. */
void confine_process(bool connects, bool reads, rlim_t descriptors);
