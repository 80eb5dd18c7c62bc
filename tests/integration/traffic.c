/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Word n of a stream is a hash of the seed and n, so a receiver needs no more
 * than its offset to know what must come next.
 */
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#define CHUNK 65536
#define STEPS_MAX 7

/* Sends all. Returns how many bytes went; errno if not all did. */
static size_t
send_all(int fd, const void *bytes, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = send(
		    fd, (const char *)bytes + done, size - done, MSG_NOSIGNAL);

		if (n == -1)
			break;
		done += (size_t)n;
	}
	return done;
}

/*
 * recv(2), except that ENOTCONN is end-of-file: vsock says so when both sides
 * have shut down, the peer first (vsock_shutdown() resets SOCK_DONE).
 */
static ssize_t
receive(int fd, void *bytes, size_t size)
{
	ssize_t n = recv(fd, bytes, size, 0);

	return n == -1 && errno == ENOTCONN ? 0 : n;
}

/* Receives until size or the end. Returns how many bytes came, errno set to 0
 * at end-of-file. */
static size_t
receive_all(int fd, void *bytes, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = receive(fd, (char *)bytes + done, size - done);

		if (n == 0)
			errno = 0;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return done;
}

static const char *
reason(int error)
{
	if (error == EAGAIN)
		return "nothing happened until the deadline";
	return error == 0 ? "end-of-file" : strerror(error);
}

void
traffic_send(int fd, const void *bytes, size_t size)
{
	size_t done = send_all(fd, bytes, size);

	if (done < size)
		fail_msg(
		    "sent %zu of %zu bytes: %s", done, size, reason(errno));
}

size_t
traffic_receive(int fd, void *bytes, size_t size)
{
	size_t done = receive_all(fd, bytes, size);

	if (done < size && errno != 0)
		fail_msg(
		    "received %zu of %zu bytes: %s", done, size, reason(errno));
	return done;
}

/* The offset of the first difference; size: there is none. */
static size_t
first_difference(const char *a, const char *b, size_t size)
{
	size_t i = 0;

	if (memcmp(a, b, size) == 0)
		return size;
	while (a[i] == b[i])
		i++;
	return i;
}

void
traffic_expect(int fd, const void *bytes, size_t size)
{
	char *received = malloc(size + 1);
	size_t done, same;

	assert_non_null(received);
	done = receive_all(fd, received, size);
	same = first_difference(received, bytes, done);
	free(received);
	if (same < done)
		fail_msg("byte %zu of %zu is wrong", same, size);
	if (done < size)
		fail_msg(
		    "received %zu of %zu bytes: %s", done, size, reason(errno));
}

void
traffic_echo(int client, int upstream)
{
	traffic_send(client, "to upstream", 11);
	traffic_expect(upstream, "to upstream", 11);
	traffic_send(upstream, "and back", 8);
	traffic_expect(client, "and back", 8);
}

void
traffic_half_close(int fd)
{
	if (shutdown(fd, SHUT_WR) == -1)
		fail_msg("shutdown: %s", strerror(errno));
}

void
traffic_reset(int fd)
{
	const struct linger reset = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
}

enum traffic_end
traffic_wait_end(int fd, uint64_t *dropped)
{
	char bytes[CHUNK];
	uint64_t count = 0;
	ssize_t n;

	while ((n = receive(fd, bytes, sizeof(bytes))) > 0)
		count += (uint64_t)n;
	if (dropped != NULL)
		*dropped = count;
	if (n == 0)
		return TRAFFIC_EOF;
	if (errno != ECONNRESET && errno != EPIPE)
		fail_msg("no end after %llu bytes: %s",
		    (unsigned long long)count, reason(errno));
	return TRAFFIC_RESET;
}

void
traffic_expect_end(int fd)
{
	uint64_t dropped;

	traffic_wait_end(fd, &dropped);
	if (dropped != 0)
		fail_msg("%llu bytes instead of an end",
		    (unsigned long long)dropped);
}

void
traffic_expect_eof(int fd)
{
	uint64_t dropped;

	if (traffic_wait_end(fd, &dropped) != TRAFFIC_EOF)
		fail_msg("a reset instead of end-of-file");
	if (dropped != 0)
		fail_msg("%llu bytes instead of end-of-file",
		    (unsigned long long)dropped);
}

void
traffic_end_pair(int client, int upstream)
{
	traffic_half_close(client);
	traffic_expect_eof(upstream);
	close(upstream);
	traffic_expect_eof(client);
	close(client);
}

bool
traffic_readable(int fd, int ms)
{
	struct pollfd state = {.fd = fd, .events = POLLIN};

	return poll(&state, 1, ms) > 0;
}

struct flow {
	struct flow *next;
	pthread_t thread;
	int fd;
	uint64_t out, in; /* seeds */
	size_t chunk;     /* of a call at most */
	struct step steps[STEPS_MAX + 1];
	_Atomic uint64_t received;
	struct outcome outcome;
	char words[128]; /* on the error */
};

static struct flow *flows;

/* Notes why a flow failed. Any thread. */
__attribute__((format(printf, 3, 4))) static void
flow_fail(struct flow *f, int error, const char *format, ...)
{
	va_list arguments;

	f->outcome.error = error;
	va_start(arguments, format);
	vsnprintf(f->words, sizeof(f->words), format, arguments);
	va_end(arguments);
}

/* What is left of size, or the size of a piece of a flow. */
static size_t
piece(const struct flow *f, uint64_t left)
{
	return left < f->chunk ? (size_t)left : f->chunk;
}

static void
send_stream(struct flow *f, uint64_t size)
{
	uint64_t *sent = &f->outcome.sent;
	const uint64_t goal = *sent + size;
	char bytes[CHUNK];

	while (*sent < goal) {
		size_t n = piece(f, goal - *sent), done;

		bytes_fill(f->out, *sent, bytes, n);
		done = send_all(f->fd, bytes, n);
		*sent += done;
		if (done < n) {
			flow_fail(f, errno, "sent %llu of %llu bytes: %s",
			    (unsigned long long)*sent, (unsigned long long)goal,
			    reason(errno));
			return;
		}
	}
}

static void
pour(struct flow *f, uint64_t unused)
{
	static const char bytes[CHUNK];

	(void)unused;
	while (send_all(f->fd, bytes, CHUNK) == CHUNK)
		continue;
	flow_fail(f, errno, "poured: %s", reason(errno));
}

/*
 * Receives once, at most so many bytes, and fails unless they are the next ones
 * of the stream. Returns how many; 0 at end-of-file and after an error.
 */
static size_t
take(struct flow *f, size_t most)
{
	char received[CHUNK], expected[CHUNK];
	ssize_t n = receive(f->fd, received, most);
	size_t same;

	if (n == -1)
		flow_fail(f, errno, "received %llu bytes: %s",
		    (unsigned long long)f->received, reason(errno));
	if (n <= 0)
		return 0;
	bytes_fill(f->in, f->received, expected, (size_t)n);
	same = first_difference(received, expected, (size_t)n);
	f->received += same;
	if (same < (size_t)n)
		flow_fail(f, EBADMSG, "byte %llu is wrong",
		    (unsigned long long)f->received);
	return same;
}

static void
expect_stream(struct flow *f, uint64_t size)
{
	const uint64_t goal = f->received + size;

	while (f->outcome.error == 0 && f->received < goal)
		if (take(f, piece(f, goal - f->received)) == 0 &&
		    f->outcome.error == 0)
			flow_fail(f, ENODATA,
			    "received %llu of %llu bytes: end-of-file",
			    (unsigned long long)f->received,
			    (unsigned long long)goal);
}

static void
drain(struct flow *f, uint64_t nap_ms)
{
	do
		poll(NULL, 0, (int)nap_ms);
	while (
	    take(f, nap_ms == 0 ? CHUNK : 4096) > 0 && f->outcome.error == 0);
}

static void
expect_eof(struct flow *f, uint64_t unused)
{
	char byte;
	ssize_t n = receive(f->fd, &byte, 1);

	(void)unused;
	if (n != 0)
		flow_fail(f, n == 1 ? EBADMSG : errno,
		    "after all %llu bytes, instead of an end: %s",
		    (unsigned long long)f->received,
		    n == 1 ? "one more" : reason(errno));
}

static void
half_close(struct flow *f, uint64_t unused)
{
	(void)unused;
	if (shutdown(f->fd, SHUT_WR) == -1)
		flow_fail(f, errno, "shutdown: %s", strerror(errno));
}

static void
settle(struct flow *f, uint64_t unused)
{
	uint64_t begin = harness_now_ms();
	int queued = 0;

	(void)unused;
	while (ioctl(f->fd, SIOCOUTQ, &queued) == 0 && queued > 0) {
		if (harness_now_ms() - begin > DEADLINE_MS) {
			flow_fail(
			    f, EAGAIN, "%d bytes are still queued", queued);
			return;
		}
		poll(NULL, 0, 1);
	}
}

static void
pause_for(struct flow *f, uint64_t ms)
{
	(void)f;
	poll(NULL, 0, (int)ms);
}

static void
await_break(struct flow *f, uint64_t most_ms)
{
	struct pollfd state = {.fd = f->fd};

	if (poll(&state, 1, (int)most_ms) == 0)
		flow_fail(f, EAGAIN, "not broken after %llu ms",
		    (unsigned long long)most_ms);
}

static void
await_unread(struct flow *f, uint64_t unused)
{
	(void)unused;
	if (!traffic_readable(f->fd, DEADLINE_MS))
		flow_fail(f, EAGAIN, "nothing came");
}

static void
close_fd(struct flow *f, uint64_t unused)
{
	(void)unused;
	close(f->fd);
}

static void
reset_fd(struct flow *f, uint64_t unused)
{
	(void)unused;
	traffic_reset(f->fd);
}

static void (*const deeds[])(struct flow *f, uint64_t n) = {
    [FLOW_SEND] = send_stream,
    [FLOW_POUR] = pour,
    [FLOW_RECEIVE] = expect_stream,
    [FLOW_DRAIN] = drain,
    [FLOW_EOF] = expect_eof,
    [FLOW_HALF_CLOSE] = half_close,
    [FLOW_SETTLE] = settle,
    [FLOW_UNREAD] = await_unread,
    [FLOW_PAUSE] = pause_for,
    [FLOW_BREAK] = await_break,
    [FLOW_CLOSE] = close_fd,
    [FLOW_RESET] = reset_fd,
};

static void *
run_steps(void *argument)
{
	struct flow *f = argument;
	const struct step *step = f->steps;

	while (step->deed != FLOW_DONE && f->outcome.error == 0) {
		deeds[step->deed](f, step->n);
		step++;
	}
	f->outcome.at_ms = harness_now_ms();
	return NULL;
}

static struct flow
make_flow(int fd, uint64_t out, uint64_t in, size_t chunk)
{
	return (struct flow){.fd = fd,
	    .out = out,
	    .in = in,
	    .chunk = chunk == 0 || chunk > CHUNK ? CHUNK : chunk};
}

static struct flow *
start(struct flow flow, const struct step *steps)
{
	struct flow *f = malloc(sizeof(*f));

	assert_non_null(f);
	*f = flow;
	for (size_t i = 0; steps[i].deed != FLOW_DONE; i++) {
		assert_true(i < STEPS_MAX);
		f->steps[i] = steps[i];
	}
	if (pthread_create(&f->thread, NULL, run_steps, f) != 0) {
		free(f);
		fail_msg("cannot start a thread");
	}
	f->next = flows;
	flows = f;
	return f;
}

struct flow *
flow_start(int fd, uint64_t out, uint64_t in, const struct step *steps)
{
	return start(make_flow(fd, out, in, 0), steps);
}

struct flow *
flow_send(int fd, uint64_t seed, uint64_t size, size_t chunk)
{
	return start(make_flow(fd, seed, 0, chunk),
	    STEPS({FLOW_SEND, size}, {FLOW_HALF_CLOSE, 0}));
}

struct flow *
flow_receive(int fd, uint64_t seed, uint64_t size)
{
	return start(make_flow(fd, 0, seed, 0),
	    STEPS({FLOW_RECEIVE, size}, {FLOW_EOF, 0}));
}

uint64_t
flow_received(const struct flow *flow)
{
	return flow->received;
}

/* Joins and frees a flow. Returns a copy. */
static struct flow
join(struct flow *flow)
{
	struct flow **link = &flows, copy;

	pthread_join(flow->thread, NULL);
	while (*link != flow)
		link = &(*link)->next;
	*link = flow->next;
	copy = *flow;
	free(flow);
	return copy;
}

struct outcome
flow_outcome(struct flow *flow)
{
	struct flow copy = join(flow);

	copy.outcome.received = copy.received;
	return copy.outcome;
}

int
flow_wait(struct flow *flow)
{
	return flow_outcome(flow).error;
}

/* Fails the test if a flow has failed. */
static void
judge(const struct flow *f)
{
	if (f->outcome.error != 0)
		fail_msg("%s", f->words);
}

void
flow_finish(struct flow *flow)
{
	struct flow copy = join(flow);

	judge(&copy);
}

void
flow_finish_all(void)
{
	while (flows != NULL) {
		struct flow *next = flows->next;

		pthread_join(flows->thread, NULL);
		free(flows);
		flows = next;
	}
}

void
traffic_send_stream(int fd, uint64_t seed, size_t size)
{
	struct flow f = make_flow(fd, seed, 0, 0);

	send_stream(&f, size);
	judge(&f);
}

void
traffic_expect_stream(int fd, uint64_t seed, size_t size)
{
	struct flow f = make_flow(fd, 0, seed, 0);

	expect_stream(&f, size);
	judge(&f);
}
