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

/* The client ends, then the upstream, as a pair of these programs does: on
 * vsock, who closes both ways before the other has ended gives up. Closes both.
 */
void traffic_end_pair(int client, int upstream);

/* Expects the end, of whichever kind, and no byte before it. */
void traffic_expect_end(int fd);

/*
 * Reads and drops what comes until the end. Returns which it was; *dropped (if
 * not NULL) is how many bytes came before it.
 */
enum traffic_end traffic_wait_end(int fd, uint64_t *dropped);

/* Whether a byte, an end or an error waits to be read within ms. */
bool traffic_readable(int fd, int ms);

/* What a flow does, one after the other, until it is done or a step fails. */
struct step {
	enum {
		FLOW_DONE,
		FLOW_SEND,    /* the next n bytes of its own stream */
		FLOW_POUR,    /* anything, until that fails */
		FLOW_RECEIVE, /* exactly the next n bytes of the other's */
		FLOW_DRAIN,   /* what comes of it until end-of-file; 4 KiB every
				 n ms, 0: as fast as it can */
		FLOW_EOF,     /* expects end-of-file, and no byte before it */
		FLOW_HALF_CLOSE,
		FLOW_SETTLE, /* waits until TCP's peer has acknowledged all: a
				reset may overtake it, on another CPU */
		FLOW_UNREAD, /* waits until there is something to read */
		FLOW_PAUSE,  /* n ms */
		FLOW_BREAK,  /* waits until TCP was reset, n ms at most */
		FLOW_CLOSE,
		FLOW_RESET /* as traffic_reset() */
	} deed;
	uint64_t n;
};

/* A list of them; lives as long as the block. */
#define STEPS(...) ((const struct step[]){__VA_ARGS__, {FLOW_DONE, 0}})

struct outcome {
	uint64_t sent, received;
	int error;      /* see flow_wait(); a flow that drains fails, too, with
			   ECONNRESET if it is reset */
	uint64_t at_ms; /* harness_now_ms() at the end */
};

struct flow;

/* Starts a thread that takes steps. out, in: the seeds of what it sends, and of
 * what it should receive. Several flows may share a socket. */
struct flow *
flow_start(int fd, uint64_t out, uint64_t in, const struct step *steps);

/* How much a flow has received as yet. */
uint64_t flow_received(const struct flow *flow);

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

/* Waits for a flow, however it ended, and frees it. */
struct outcome flow_outcome(struct flow *flow);

/* Joins and frees what a failed test left. For the teardown. */
void flow_finish_all(void);

#endif
