/* SPDX-License-Identifier: Apache-2.0 */
/* What a service manager and its services say to each other: sd_notify(3) and
 * sd_listen_fds(3), without their library. */
#pragma once
#include <stdbool.h>

/* Connects to the manager, if there is one to be told: once, and before files
 * and other processes' sockets are out of reach. */
void service_open(void);

/* Sends a state, e.g. "READY=1", if the manager wants to hear it. waits: one
 * that is busy is waited for, as it kills what it doesn't know to be ready; but
 * for a second at most, because nobody is served meanwhile, and no signal
 * heard. */
void service_notify(const char *state, bool waits);

/* The first descriptor that a manager passes. */
#define PASSED_LISTENER 3

/* How many listeners the manager has passed to this process: LISTEN_FDS as
 * text. NULL: it is not for this process. */
const char *service_listeners(void);
