/* SPDX-License-Identifier: Apache-2.0 */
/* A connection leaves the list before its sockets are closed, so that those in
 * the list can be reset from outside, and is counted until it is logged. */
#include "connection.h"
#include "access.h"
#include "clock.h"
#include "log.h"
#include "options.h"
#include "stream.h"
#include "worker.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const char *const end_words[] = {
    [RELAY_EOF] = "eof",
    [RELAY_CLIENT_ERROR] = "client-error",
    [RELAY_UPSTREAM_ERROR] = "upstream-error",
    [RELAY_NO_RESOURCES] = "no-resources",
    [RELAY_IDLE] = "idle-timeout",
    [END_NO_UPSTREAM] = "no-upstream",
    [END_NO_TARGET] = "no-target",
    [END_NOT_ALLOWED] = "not-allowed",
    [END_STOPPED] = "stopped",
};

static dial_function *dial_upstream;
static struct copy_way ways[2]; /* to TCP, to vsock */
static int freed;               /* eventfd(2): count fell below limit */
static atomic_uint count, limit;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for these: */
static struct connection all = {.next = &all, .previous = &all};
static uint64_t accepted, ended[ENDS], up, down; /* up, down: of the ended */

int
connection_check(struct connection *c, const struct address *target)
{
	address_format(target, c->target, sizeof(c->target));
	c->reason = access_check(ALLOW_TARGET, target, stream_is_local);
	c->denied = c->reason != NULL;
	return c->denied ? -1 : 0;
}

int
connection_connect(struct connection *c, const struct address *upstream,
    const uint8_t *first, size_t size)
{
	int fd = stream_connect(upstream, settings.connect_timeout * 1000);

	if (fd == -1) {
		c->reason = stream_reason(upstream->any.sa_family, errno);
	} else if (size != 0 && stream_send(fd, first, size) == -1) {
		c->reason = stream_reason(AF_UNSPEC, errno);
		/* It gave up, but what it had said is still to be relayed. */
		c->relay.paired = stream_gone(fd);
		if (!c->relay.paired) {
			close(fd);
			fd = -1;
		}
	}
	address_format(upstream, c->upstream, sizeof(c->upstream));
	return fd;
}

static void
log_connection(const struct connection *c)
{
	char client[ADDRESS_TEXT_SIZE];
	bool stopped = c->end == END_STOPPED, eof = c->end == RELAY_EOF;
	bool dialling = stopped && c->relay.upstream == -1; /* maybe still */
	const char *reason = stopped || eof ? NULL : c->reason;
	int error = c->relay.failure & 0xffff;
	bool left = c->end == RELAY_CLIENT_ERROR && /* as clients may */
		    (error == ECONNRESET || error == EPIPE);
	char unlogged[32] = "";

	if (c->unlogged != 0)
		(void)snprintf(
		    unlogged, sizeof(unlogged), " unlogged=%u", c->unlogged);
	address_format(&c->peer, client, sizeof(client));
	log_line(eof || left ? LEVEL_INFO : LEVEL_WARN,
	    "msg=%s conn=%" PRIu64 " client=%s upstream=%s target=%s "
	    "up=%" PRIu64 " down=%" PRIu64 " ms=%" PRIu64 " end=%s%s%s%s%s",
	    eof ? "closed" : "failed", c->number, client,
	    dialling ? "-" : c->upstream, dialling ? "-" : c->target,
	    c->relay.up, c->relay.down, clock_ms() - c->accepted,
	    end_words[c->end], unlogged, reason != NULL ? " reason=\"" : "",
	    reason != NULL ? reason : "", reason != NULL ? "\"" : "");
}

static void
end_connection(struct connection *c)
{
	pthread_mutex_lock(&lock);
	c->next->previous = c->previous;
	c->previous->next = c->next;
	if (c->relay.upstream != -1) { /* nobody can fail it any more */
		c->end = (unsigned)c->relay.failure >> 16;
		c->reason = stream_reason(AF_UNSPEC, c->relay.failure & 0xffff);
	}
	ended[c->end]++;
	up += c->relay.up;
	down += c->relay.down;
	pthread_mutex_unlock(&lock);
	close(c->relay.client);
	if (c->relay.upstream != -1)
		close(c->relay.upstream);
	if (!c->quiet)
		log_connection(c);
	free(c);
	if (atomic_fetch_sub(&count, 1) == limit)
		(void)eventfd_write(freed, 1); /* it can't be full */
}

static void
run_connection(void *argument)
{
	struct connection *c = argument;
	bool to_vsock = settings.listens_on_tcp;
	int upstream = dial_upstream(c);

	pthread_mutex_lock(&lock);
	c->relay.upstream = upstream;
	c->moved_at = clock_ms();
	/* Whoever knows where to connect to has noted it. */
	c->end = c->denied               ? END_NOT_ALLOWED
		 : c->upstream[0] == '-' ? END_NO_TARGET
					 : END_NO_UPSTREAM;
	pthread_mutex_unlock(&lock);
	if (upstream != -1) {
		log_line(LEVEL_DEBUG,
		    "msg=connected conn=%" PRIu64 " upstream=%s target=%s",
		    c->number, c->upstream, c->target);
		relay_run(&c->relay, ways[to_vsock], ways[!to_vsock]);
		if (c->relay.failure == 0 &&
		    (stream_complete(c->relay.client, true) == -1 ||
			stream_complete(c->relay.upstream, true) == -1))
			relay_fail(&c->relay, RELAY_NO_RESOURCES, errno);
	}
	end_connection(c);
}

int
connection_open(dial_function *dial)
{
	dial_upstream = dial;
	/* DESIGN.md says why. */
	ways[0].splice = settings.copy != COPY_BUFFER;
	ways[0].bulk_splice = settings.copy == COPY_SPLICE;
	ways[1].splice = ways[1].bulk_splice = ways[0].bulk_splice;
	ways[1].chunk = settings.vsock_chunk;
	freed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return freed;
}

unsigned
connection_count(unsigned new_limit)
{
	limit = new_limit; /* first: count may reach it from now on */
	return count;
}

int
connection_start(struct connection *c, int fd, const struct address *peer)
{
	static uint64_t quiet_until;
	static unsigned unlogged;
	int error;

	pthread_mutex_lock(&lock);
	*c = (struct connection){.next = all.next,
	    .previous = &all,
	    .number = ++accepted,
	    .accepted = clock_ms(),
	    .peer = *peer,
	    .relay = {.client = fd,
		.upstream = -1,
		.paired = settings.paired,
		.job = {run_connection, c}},
	    .upstream = "-",
	    .target = "-"};
	address_unmap(&c->peer);
	all.next = c->next->previous = c;
	count++;
	pthread_mutex_unlock(&lock);
	c->reason = access_check(ALLOW_CLIENT, &c->peer, NULL);
	if (c->reason != NULL) { /* one line a second */
		c->end = END_NOT_ALLOWED;
		c->quiet = c->accepted < quiet_until;
		c->unlogged = unlogged;
		unlogged = c->quiet ? unlogged + 1 : 0;
		if (!c->quiet)
			quiet_until = c->accepted + 1000;
		end_connection(c);
		return 0;
	}
	error = worker_start(&c->relay.job);
	if (error != 0) {
		c->end = RELAY_NO_RESOURCES;
		c->reason = stream_reason(AF_UNSPEC, error);
		end_connection(c);
	}
	return error;
}

void
connection_end_idle(uint64_t ms)
{
	uint64_t now, moved;

	pthread_mutex_lock(&lock);
	now = clock_ms(); /* no moved_at is later */
	for (struct connection *c = all.next; c != &all; c = c->next) {
		moved = c->relay.up + c->relay.down;
		if (moved != c->moved) {
			c->moved = moved;
			c->moved_at = now;
		} else if (c->relay.upstream != -1 && now - c->moved_at >= ms) {
			relay_fail(&c->relay, RELAY_IDLE, ETIMEDOUT);
		}
	}
	pthread_mutex_unlock(&lock);
}

const char *
connection_report(enum connection_report why)
{
	static char numbers[160];
	static uint64_t before; /* the sum of all that only grows */
	uint64_t now = clock_ms(), oldest = now, all_up, all_down;
	uint64_t all_ended = 0, sum;
	unsigned alive = 0;
	char words[320] = "";
	size_t length = 0;

	pthread_mutex_lock(&lock);
	all_up = up;
	all_down = down;
	for (struct connection *c = all.next; c != &all; c = c->next) {
		all_up += c->relay.up;
		all_down += c->relay.down;
		oldest = c->accepted; /* the last is the first */
		alive++;
		if (why == REPORT_END) {
			c->end = END_STOPPED;
			ended[END_STOPPED]++;
			log_connection(c);
		}
	}
	/* Let others finish their lines; a log that nobody reads may wait. */
	for (int i = 0; why == REPORT_END && count > alive && i < 100; i++)
		(void)poll(NULL, 0, 10);
	for (unsigned i = 0; i < ENDS; i++) {
		all_ended += ended[i];
		length +=
		    (size_t)snprintf(words + length, sizeof(words) - length,
			" %s=%" PRIu64, end_words[i], ended[i]);
	}
	(void)snprintf(numbers, sizeof(numbers),
	    "%u active, %" PRIu64 " accepted, %" PRIu64 " failed, %" PRIu64
	    " bytes up, %" PRIu64 " down",
	    alive, accepted, all_ended - ended[RELAY_EOF], all_up, all_down);
	if (why != REPORT_END) /* as above; accepted is the main thread's */
		pthread_mutex_unlock(&lock);
	sum = accepted + all_ended + all_up + all_down;
	if (why == REPORT_CHANGE && sum == before)
		return NULL;
	before = sum;
	log_line(why == REPORT_END ? LEVEL_INFO : LEVEL_ANY,
	    "msg=%s accepted=%" PRIu64 " active=%u%s up=%" PRIu64
	    " down=%" PRIu64 " longest-ms=%" PRIu64,
	    why == REPORT_END ? "stopped" : "counters", accepted,
	    why == REPORT_END ? 0 : alive, words, all_up, all_down,
	    now - oldest);
	return numbers;
}
