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
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK 65536

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
	uint64_t seed, size;
	size_t chunk;
	int error;       /* see flow_wait() */
	char words[128]; /* on the error */
};

static struct flow *flows;

/* Notes why a flow failed. Any thread. */
__attribute__((format(printf, 3, 4))) static void
flow_fail(struct flow *f, int error, const char *format, ...)
{
	va_list arguments;

	f->error = error;
	va_start(arguments, format);
	vsnprintf(f->words, sizeof(f->words), format, arguments);
	va_end(arguments);
}

/* The size of the next piece of a flow. */
static size_t
piece(const struct flow *f, uint64_t done)
{
	return f->size - done < f->chunk ? (size_t)(f->size - done) : f->chunk;
}

static void
send_stream(struct flow *f)
{
	uint64_t done = 0;
	char bytes[CHUNK];

	while (done < f->size) {
		size_t n = piece(f, done);

		bytes_fill(f->seed, done, bytes, n);
		if (send_all(f->fd, bytes, n) < n) {
			flow_fail(f, errno, "sent %llu of %llu bytes: %s",
			    (unsigned long long)done,
			    (unsigned long long)f->size, reason(errno));
			return;
		}
		done += n;
	}
}

static void
expect_stream(struct flow *f)
{
	char received[CHUNK], expected[CHUNK];
	uint64_t done = 0;

	while (done < f->size) {
		ssize_t n = receive(f->fd, received, piece(f, done));
		size_t same;

		if (n <= 0) {
			flow_fail(f, n == 0 ? ENODATA : errno,
			    "received %llu of %llu bytes: %s",
			    (unsigned long long)done,
			    (unsigned long long)f->size,
			    reason(n == 0 ? 0 : errno));
			return;
		}
		bytes_fill(f->seed, done, expected, (size_t)n);
		same = first_difference(received, expected, (size_t)n);
		done += same;
		if (same < (size_t)n) {
			flow_fail(f, EBADMSG, "byte %llu of %llu is wrong",
			    (unsigned long long)done,
			    (unsigned long long)f->size);
			return;
		}
	}
}

static void *
run_send(void *argument)
{
	struct flow *f = argument;

	send_stream(f);
	if (f->error == 0 && shutdown(f->fd, SHUT_WR) == -1)
		flow_fail(f, errno, "shutdown: %s", strerror(errno));
	return NULL;
}

static void *
run_receive(void *argument)
{
	struct flow *f = argument;
	ssize_t n;
	char byte;

	expect_stream(f);
	if (f->error != 0)
		return NULL;
	n = receive(f->fd, &byte, 1);
	if (n != 0)
		flow_fail(f, n == 1 ? EBADMSG : errno,
		    "after all %llu bytes, instead of an end: %s",
		    (unsigned long long)f->size,
		    n == 1 ? "one more" : reason(errno));
	return NULL;
}

static struct flow
make_flow(int fd, uint64_t seed, uint64_t size, size_t chunk)
{
	return (struct flow){.fd = fd,
	    .seed = seed,
	    .size = size,
	    .chunk = chunk == 0 || chunk > CHUNK ? CHUNK : chunk};
}

static struct flow *
start(struct flow flow, void *(*run)(void *))
{
	struct flow *f = malloc(sizeof(*f));

	assert_non_null(f);
	*f = flow;
	if (pthread_create(&f->thread, NULL, run, f) != 0) {
		free(f);
		fail_msg("cannot start a thread");
	}
	f->next = flows;
	flows = f;
	return f;
}

struct flow *
flow_send(int fd, uint64_t seed, uint64_t size, size_t chunk)
{
	return start(make_flow(fd, seed, size, chunk), run_send);
}

struct flow *
flow_receive(int fd, uint64_t seed, uint64_t size)
{
	return start(make_flow(fd, seed, size, 0), run_receive);
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

int
flow_wait(struct flow *flow)
{
	return join(flow).error;
}

/* Fails the test if a flow has failed. */
static void
judge(const struct flow *f)
{
	if (f->error != 0)
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
	struct flow f = make_flow(fd, seed, size, 0);

	send_stream(&f);
	judge(&f);
}

void
traffic_expect_stream(int fd, uint64_t seed, size_t size)
{
	struct flow f = make_flow(fd, seed, size, 0);

	expect_stream(&f);
	judge(&f);
}
