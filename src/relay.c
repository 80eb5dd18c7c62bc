/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads share two sockets. The first failure is recorded before anybody
 * is woken; an end-of-file is passed on only after a look at that record. */
#include "relay.h"
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct direction {
	struct relay *relay;
	struct direction *opposite;
	int from, to;
	enum relay_end from_error, to_error;
	_Atomic uint64_t moved;
	atomic_bool write_closed; /* `to` was, or is about to be, shut down */
};

struct relay {
	enum copy_mode mode;
	struct direction up, down;
	pthread_mutex_t lock; /* guards the record of the first failure: */
	enum relay_end end;
	int error;
};

/* Records the first failure, or asks (RELAY_EOF). Returns if there is one. */
static bool
fail(struct relay *relay, enum relay_end end, int error)
{
	bool failed, first;

	pthread_mutex_lock(&relay->lock);
	failed = relay->end != RELAY_EOF;
	first = !failed && end != RELAY_EOF;
	if (first) {
		relay->end = end;
		relay->error = error;
	}
	pthread_mutex_unlock(&relay->lock);
	if (first) {
		stream_reset(relay->up.from);
		stream_reset(relay->up.to);
	}
	return failed || first;
}

/* An end-of-file may be a reset in disguise: the kernel reports an error once,
 * and the thread that writes to this socket may have been told and not have
 * recorded it yet; a vsock socket whose peer machine died reports end-of-file
 * to all but those asleep. Returns 0 for a clean end, or an errno. */
static int
hidden_error(const struct direction *d)
{
	struct pollfd state = {.fd = d->from};
	int error = 0;
	socklen_t length = sizeof(error);

	if (poll(&state, 1, 0) <= 0)
		return 0;
	if (state.revents & POLLERR &&
	    getsockopt(d->from, SOL_SOCKET, SO_ERROR, &error, &length) == 0 &&
	    error != 0)
		return error;
	/* A TCP socket that we have not shut down hangs up only by a reset. */
	if (state.revents & POLLHUP && !d->opposite->write_closed)
		return ECONNRESET;
	return 0;
}

static void
pass_on_eof(struct direction *d)
{
	int error = hidden_error(d);

	if (fail(d->relay, error == 0 ? RELAY_EOF : d->from_error, error))
		return;
	d->write_closed = true;
	/* ENOTCONN: reset, and nobody has noticed yet. */
	if (shutdown(d->to, SHUT_WR) == -1)
		fail(d->relay, d->to_error,
		    errno == ENOTCONN ? ECONNRESET : errno);
}

static void *
run_direction(void *argument)
{
	struct direction *d = argument;

	switch (copy_run(d->from, d->to, d->relay->mode, &d->moved)) {
	case COPY_EOF: pass_on_eof(d); break;
	case COPY_READ_FAILED:
		/* Linux 4.14 says so at the end of a vsock stream. After a TCP
		 * reset it means that the error was reported elsewhere. */
		if (errno == ENOTCONN)
			pass_on_eof(d);
		else
			fail(d->relay, d->from_error, errno);
		break;
	case COPY_WRITE_FAILED: fail(d->relay, d->to_error, errno); break;
	case COPY_NO_RESOURCES:
		fail(d->relay, RELAY_NO_RESOURCES, errno);
		break;
	}
	return NULL;
}

struct relay_result
relay_run(int client, int upstream, enum copy_mode mode)
{
	struct relay relay = {
	    .mode = mode,
	    .up = {&relay, &relay.down, client, upstream, RELAY_CLIENT_ERROR,
		RELAY_UPSTREAM_ERROR, 0, false},
	    .down = {&relay, &relay.up, upstream, client, RELAY_UPSTREAM_ERROR,
		RELAY_CLIENT_ERROR, 0, false},
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	    .end = RELAY_EOF,
	};
	pthread_t thread;
	int error = pthread_create(&thread, NULL, run_direction, &relay.down);

	if (error == 0) {
		(void)run_direction(&relay.up);
		pthread_join(thread, NULL);
	} else {
		fail(&relay, RELAY_NO_RESOURCES, error);
	}
	return (struct relay_result){
	    relay.end, relay.error, relay.up.moved, relay.down.moved};
}
