/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads share two sockets. The first failure is recorded before anybody
 * is woken; an end-of-file is passed on only after a look at that record. */
#include "relay.h"
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>

/* Of the second thread, as a part of the first one's: it has ended by then, and
 * a connection costs one mapping less to make. It needs a tenth of this, which
 * is the least that glibc takes on aarch64. */
#ifndef STACK_SIZE /* sanitizers need more */
#define STACK_SIZE 131072
#endif

struct direction {
	struct relay *relay;
	struct direction *opposite;
	int from, to;
	struct copy_way way;
	enum relay_end from_error, to_error;
	_Atomic uint64_t *moved;
	atomic_bool write_closed; /* `to` was, or is about to be, shut down */
};

bool
relay_fail(struct relay *relay, enum relay_end end, int error)
{
	int none = 0;

	if (error != 0 && atomic_compare_exchange_strong(
			      &relay->failure, &none, (int)end << 16 | error)) {
		stream_reset(relay->client);
		stream_reset(relay->upstream);
	}
	return relay->failure != 0;
}

/* An end-of-file may be a reset in disguise: the kernel reports an error once,
 * and the thread that writes to this socket may have been told and not have
 * recorded it yet; a vsock socket whose peer machine died reports end-of-file
 * to all but those asleep. Waits so long, or for such news. Returns 0 for a
 * clean end, or an errno. */
static int
hidden_error(const struct direction *d, int ms)
{
	struct pollfd state = {.fd = d->from};
	int error = 0;

	if (poll(&state, 1, ms) <= 0)
		return 0;
	if (state.revents & POLLERR)
		error = stream_error(d->from);
	/* A TCP socket that we have not shut down hangs up only by a reset. */
	if (error == 0 && state.revents & POLLHUP && !d->opposite->write_closed)
		error = ECONNRESET;
	return error;
}

static void
pass_on_eof(struct direction *d)
{
	int error = hidden_error(d, 0);

	if (relay_fail(d->relay, d->from_error, error))
		return;
	d->write_closed = true;
	/* ENOTCONN: reset, and nobody has noticed yet. */
	if (shutdown(d->to, SHUT_WR) == -1)
		relay_fail(d->relay, d->to_error,
		    errno == ENOTCONN ? ECONNRESET : errno);
	/* The opposite direction, which only writes to it, may be idle: who
	 * else would notice if `from` is reset now? */
	while (!relay_fail(d->relay, d->from_error, error) &&
	       !d->opposite->write_closed)
		error = hidden_error(d, 1000);
}

static void *
run_direction(void *argument)
{
	struct direction *d = argument;
	enum copy_end end = copy_run(d->from, d->to, d->way, d->moved);

	/* Linux 4.14 says ENOTCONN at the end of a vsock stream. After a TCP
	 * reset it means that the error was reported elsewhere. */
	if (end == COPY_EOF || (end == COPY_READ_FAILED && errno == ENOTCONN))
		pass_on_eof(d);
	else
		relay_fail(d->relay,
		    end == COPY_READ_FAILED ? d->from_error : d->to_error,
		    errno);
	return NULL;
}

void
relay_run(struct relay *relay, struct copy_way up_way, struct copy_way down_way)
{
	struct direction down,
	    up = {relay, &down, relay->client, relay->upstream, up_way,
		RELAY_CLIENT_ERROR, RELAY_UPSTREAM_ERROR, &relay->up, false};
	_Alignas(max_align_t) char stack[STACK_SIZE];
	pthread_attr_t attr;
	pthread_t thread;
	int error;

	down = (struct direction){relay, &up, relay->upstream, relay->client,
	    down_way, RELAY_UPSTREAM_ERROR, RELAY_CLIENT_ERROR, &relay->down,
	    false};
	(void)pthread_attr_init(&attr); /* can't fail on Linux */
	(void)pthread_attr_setstack(&attr, stack, sizeof(stack));
	error = pthread_create(&thread, &attr, run_direction, &down);
	if (error != 0) {
		relay_fail(relay, RELAY_NO_RESOURCES, error);
		return;
	}
	(void)run_direction(&up);
	pthread_join(thread, NULL);
}
