/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of pseudo-random bytes: a byte that is lost, doubled, out of order or
 * another stream's is noticed, and any part can be made again. Any thread.
 */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BYTES_GOLDEN 0x9e3779b97f4a7c15 /* 2^64 over the golden ratio */

/* The finalizer of SplitMix64: a hash of one word. */
static inline uint64_t
bytes_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Writes size bytes of a seed's stream from an offset on. */
static inline void
bytes_fill(uint64_t seed, uint64_t offset, void *bytes, size_t size)
{
	uint64_t base = bytes_mix(seed + BYTES_GOLDEN);
	unsigned char *to = bytes;

	while (size > 0) {
		uint64_t word =
		    bytes_mix(base + offset / sizeof(word) * BYTES_GOLDEN);
		size_t skip = offset % sizeof(word);
		size_t left = sizeof(word) - skip;
		size_t n = size < left ? size : left;

		memcpy(to, (unsigned char *)&word + skip, n);
		to += n;
		offset += n;
		size -= n;
	}
}

#endif
