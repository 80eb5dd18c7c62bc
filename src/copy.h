/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: moves the bytes of one direction from one socket to another. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a direction's bytes are moved. */
struct copy_way {
	bool splice;      /* with splice(2), else through a buffer */
	bool bulk_splice; /* bulk, too */
	size_t chunk; /* most bytes handed over by one call; 0: any number */
};

/* Where a direction ended. */
enum copy_end {
	COPY_EOF,         /* end-of-file, all that came before is delivered */
	COPY_READ_FAILED, /* errno of reading; what was read last may be lost */
	COPY_WRITE_FAILED, /* errno of writing; what was read last is lost */
};

/* Copies from one blocking stream socket to another until end-of-file or an
 * error, in the calling thread; neither is closed or shut down. Where splice(2)
 * can't be had, the buffer takes over, and nothing is lost. SIGPIPE must be
 * ignored. *moved grows by what the kernel has taken for delivery; other
 * threads may read it at any time. A failure of `from` is noticed also while
 * `to` takes nothing, with splice(2) within two seconds. On failure errno is
 * set. */
enum copy_end
copy_run(int from, int to, struct copy_way way, _Atomic uint64_t *moved);
