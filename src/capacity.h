/* SPDX-License-Identifier: Apache-2.0 */
/* How many connections the system lets this process have. */
#pragma once
#define CAPACITY_SPARE 10 /* connections fewer, for the process itself */

/* Raises the soft limit on descriptors to the hard one. Returns how many
 * connections fit, at least 1, with so many descriptors and two threads each:
 * getrlimit(2), cgroups(7), and threads-max in proc(5). *name is the limit that
 * is met first; static. */
unsigned capacity_connections(unsigned descriptors, const char **name);
