/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes for connected sockets. A stream of pseudo-random bytes is known by its
 * seed, and any part of it can be made again, so a receiver says at which
 * offset the first wrong byte was. A flow moves a stream in a thread.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../bytes.h"

enum traffic_end {
	TRAFFIC_EOF,
	TRAFFIC_RESET, /* ECONNRESET or EPIPE */
};

/* Send exactly these bytes. */
void traffic_send(int fd, const void *bytes, size_t size);
void traffic_send_stream(int fd, uint64_t seed, size_t size);

/* Receive so many bytes, and fail the test unless they are these. */
void traffic_expect(int fd, const void *bytes, size_t size);
void traffic_expect_stream(int fd, uint64_t seed, size_t size);

/* Receives what comes until size bytes or end-of-file. Returns how many. */
size_t traffic_receive(int fd, void *bytes, size_t size);

/* Sends a short text one way, a second the other way, and expects both. */
void traffic_echo(int client, int upstream);

/* shutdown(SHUT_WR). */
void traffic_half_close(int fd);

/* Closes, with a reset where the family knows one (TCP). */
void traffic_reset(int fd);

/* Expects end-of-file, and no byte before it. */
void traffic_expect_eof(int fd);

/* Expects the end, of whichever kind, and no byte before it. */
void traffic_expect_end(int fd);

/*
 * Reads and drops what comes until the end. Returns which it was; *dropped (if
 * not NULL) is how many bytes came before it.
 */
enum traffic_end traffic_wait_end(int fd, uint64_t *dropped);

/* Whether a byte, an end or an error waits to be read within ms. */
bool traffic_readable(int fd, int ms);

struct flow;

/*
 * Starts a thread that sends a stream, chunk bytes a call (0: 64 KiB), and then
 * does shutdown(SHUT_WR).
 */
struct flow *flow_send(int fd, uint64_t seed, uint64_t size, size_t chunk);

/* Starts a thread that expects exactly such a stream, then end-of-file. */
struct flow *flow_receive(int fd, uint64_t seed, uint64_t size);

/* Waits for a flow, and fails the test if it failed. Frees it. */
void flow_finish(struct flow *flow);

/*
 * Waits for a flow and frees it. Returns 0 if all went well, or the errno of
 * its failure (EAGAIN: it was stuck until the deadline), ENODATA for too early
 * an end, EBADMSG for wrong bytes or too many.
 */
int flow_wait(struct flow *flow);

/* Joins and frees what a failed test left. For the teardown. */
void flow_finish_all(void);

#endif
