/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads share two sockets. The first failure is recorded before anybody
 * is woken; an end-of-file is passed on only after a look at that record. Of a
 * side that fails, the direction that reads from it ends both: when what came
 * before is delivered. */
#include "relay.h"
#include "clock.h"
#include "stream.h"
#include "worker.h"

#include <errno.h>
#include <poll.h>

#define WATCH_MS 900
#define GONE_MS 60000 /* what TCP gives a socket that nobody has any more */

struct direction {
	struct relay *relay;
	struct direction *opposite;
	int from, to;
	struct copy_way way;
	enum relay_end from_error, to_error;
	_Atomic uint64_t *moved;
	uint64_t gone_at;         /* clock_ms(): see hidden_error() */
	bool seen_last;           /* the last look needs none after it */
	atomic_bool write_closed; /* `to` was, or is about to be, shut down */
	atomic_bool ended;        /* nothing is copied any more */
};

/* Every failure but EPIPE, which on vsock means only that the peer doesn't read
 * any more, is the end of a socket: time runs for what is on its way. */
static void
record(struct relay *relay, enum relay_end end, int error)
{
	int none = 0;

	(void)atomic_compare_exchange_strong(
	    &relay->failure, &none, (int)end << 16 | error);
	if (error != EPIPE)
		copy_set_deadline(&relay->deadline);
}

void
relay_fail(struct relay *relay, enum relay_end end, int error)
{
	record(relay, end, error);
	if (atomic_exchange(&relay->deadline, 1) == 1)
		return;
	stream_reset(relay->client);
	stream_reset(relay->upstream);
}

/* After a failure, which is recorded: when what both kernels took is delivered,
 * nothing is left to do. */
static void
end_both(struct relay *relay)
{
	copy_set_deadline(&relay->deadline);
	while (!copy_is_over(&relay->deadline) &&
	       !(stream_delivered(relay->client) &&
		   stream_delivered(relay->upstream)))
		(void)poll(NULL, 0, 10);
	relay_fail(relay, RELAY_ENDS, ECONNRESET);
}

/* An end-of-file may be a reset in disguise: the kernel reports an error once,
 * and the thread that writes to this socket may have been told and not have
 * recorded it yet; a vsock socket whose peer machine died reports end-of-file
 * to all but those asleep; and vsock's abort is a full close. Waits so long, or
 * for such news. Returns 0 for a clean end, or an errno. */
static int
hidden_error(struct direction *d, int ms)
{
	struct pollfd state = {.fd = d->from};
	int error = 0;

	d->seen_last = d->opposite->ended; /* asked first */
	while (poll(&state, 1, d->seen_last ? 0 : ms) == -1)
		continue;
	/* By the opposite direction, which is about to end. */
	d->seen_last |= (state.revents & POLLHUP) != 0;
	if (state.revents & POLLERR)
		error = stream_error(d->from);
	/* A TCP socket that we have not shut down hangs up only by a reset. */
	if (error == 0 && state.revents & POLLHUP && !d->opposite->write_closed)
		error = ECONNRESET;
	/* This question is asked before the note is looked at. */
	if (error != 0 || !stream_gone(d->from) || d->opposite->write_closed)
		return error;
	if (d->relay->paired)
		return EPIPE;
	/* It may have sent all and left, and the other side still work on it.
	 */
	if (d->gone_at == 0 && stream_delivered(d->to))
		d->gone_at = clock_ms();
	return d->gone_at != 0 && clock_ms() - d->gone_at >= GONE_MS ? EPIPE
								     : 0;
}

/* Unless there is a failure: then both are ended, by the opposite direction if
 * it is of `to`, from which that reads. */
static void
pass_on_eof(struct direction *d)
{
	/* Who has given up before our end-of-file must not look as after it. */
	if (d->relay->failure != 0 || (d->relay->paired && stream_gone(d->to)))
		return;
	d->write_closed = true;
	/* ENOTCONN: reset, and nobody has noticed yet. */
	if (shutdown(d->to, SHUT_WR) == -1)
		record(d->relay, d->to_error,
		    errno == ENOTCONN ? ECONNRESET : errno);
}

static void
run_direction(void *argument)
{
	struct direction *d = argument;
	struct relay *relay = d->relay;
	enum copy_end end =
	    copy_run(d->from, d->to, d->way, d->moved, &relay->deadline);
	int error = errno; /* from now on that of `from` */

	if (end == COPY_WRITE_FAILED) {
		/* TCP says EPIPE when the reset was told already. */
		if (error == EPIPE && !stream_gone(d->to))
			error = ECONNRESET;
		record(relay, d->to_error, error);
		/* It may have answered before, which the opposite direction
		 * hands out. These don't tell that it is gone. */
		if (error == ENOMEM || error == ENOBUFS || error == EIO)
			end_both(relay);
		error = 0;
	} else if (end == COPY_OVER) {
		/* Else there is a record of why, or whoever was told of the
		 * error instead is about to make it. */
		error = stream_error(d->from);
	} else {
		/* Linux 4.14 says ENOTCONN at the end of a vsock stream. After
		 * a TCP reset it means that the error was told elsewhere. */
		if (end == COPY_EOF || error == ENOTCONN)
			error = hidden_error(d, 0);
		if (error == 0)
			pass_on_eof(d);
	}
	d->ended = true;
	/* The opposite direction, which only writes to `from`, may be idle: who
	 * else would notice if that fails now, or just before that ended? */
	while (error == 0 && !d->seen_last && !copy_is_over(&relay->deadline))
		error = hidden_error(d, WATCH_MS);
	if (error != 0)
		record(relay, d->from_error, error);
	if (relay->failure != 0)
		end_both(relay);
	(void)sem_post(&relay->ended); /* now d may be gone */
}

void
relay_run(struct relay *relay, struct copy_way up_way, struct copy_way down_way)
{
	struct direction down,
	    up = {relay, &down, relay->client, relay->upstream, up_way,
		RELAY_CLIENT_ERROR, RELAY_UPSTREAM_ERROR, .moved = &relay->up};
	int error;

	down = (struct direction){relay, &up, relay->upstream, relay->client,
	    down_way, RELAY_UPSTREAM_ERROR, RELAY_CLIENT_ERROR,
	    .moved = &relay->down};
	relay->job = (struct worker_job){run_direction, &down};
	(void)sem_init(&relay->ended, 0, 0); /* can't fail */
	error = worker_start(&relay->job);
	if (error != 0) {
		relay_fail(relay, RELAY_NO_RESOURCES, error);
		return;
	}
	run_direction(&up);
	for (int directions = 2; directions > 0;)
		directions -= sem_wait(&relay->ended) == 0; /* or EINTR */
}
