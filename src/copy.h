/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: moves the bytes of one direction from one socket to another. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

enum copy_mode { COPY_AUTO, COPY_SPLICE, COPY_BUFFER };

/* Where a direction ended. */
enum copy_end {
	COPY_EOF,          /* end-of-file, all that came before is delivered */
	COPY_READ_FAILED,  /* errno of reading */
	COPY_WRITE_FAILED, /* errno of writing; what was read last is lost */
	COPY_NO_RESOURCES, /* errno of pipe2(2) or mmap(2) */
};

/* What a mode means on this kernel: COPY_AUTO is COPY_SPLICE, or COPY_BUFFER
 * where splice(2) can't read from vsock (Linux before 5.1). */
enum copy_mode copy_choose(enum copy_mode mode);

/* Copies from one blocking stream socket to another until end-of-file or an
 * error, in the calling thread; neither is closed or shut down. SIGPIPE must
 * be ignored. *moved grows by what the kernel has taken for delivery; other
 * threads may read it at any time. On failure errno is set. */
enum copy_end
copy_run(int from, int to, enum copy_mode mode, _Atomic uint64_t *moved);
