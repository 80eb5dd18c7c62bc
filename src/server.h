/* SPDX-License-Identifier: Apache-2.0 */
/* What the five programs share: listen, accept, signals, and the end. */
#pragma once
#include "connection.h"

/* Serves, as the settings say, until a signal ends it: README.md has them.
 * Exits 0 then, and 1, after a log line, if it can't listen, or accept. */
_Noreturn void server_run(dial_function *dial);
