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
	COPY_EOF,          /* end-of-file, all that came before is delivered */
	COPY_READ_FAILED,  /* errno of reading; what came before is delivered */
	COPY_WRITE_FAILED, /* errno of writing; what was read last is lost */
	COPY_OVER, /* the deadline has passed; what was read last is lost */
};

/* clock_ms() at which a connection ends, whatever is still on its way. 0: there
 * is no such time. Shared by all its threads. */
typedef _Atomic uint64_t copy_deadline;

/* It is in 10 s, unless there is one. */
void copy_set_deadline(copy_deadline *deadline);

/* Whether it has passed. */
bool copy_is_over(const copy_deadline *deadline);

/* Copies from one blocking stream socket to another until end-of-file or an
 * error, in the calling thread; neither is closed or shut down. Where splice(2)
 * can't be had, the buffer takes over, and nothing is lost. SIGPIPE must be
 * ignored. *moved grows by what the kernel has taken for delivery; other
 * threads may read it at any time. When `from` has failed while `to` takes
 * nothing, which is noticed within two seconds, the deadline is set: what came
 * before has so long. On failure errno is set. */
enum copy_end copy_run(int from, int to, struct copy_way way,
    _Atomic uint64_t *moved, copy_deadline *deadline);
