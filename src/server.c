/* SPDX-License-Identifier: Apache-2.0 */
/* The accept loop does nothing that can wait for a peer: that happens in the
 * connection's thread. The limit on connections is taken before accept(2), so
 * that the excess waits in the kernel's backlog. */
#include "server.h"
#include "clock.h"
#include "log.h"
#include "options.h"
#include "relay.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* getaddrinfo(3) needs room; only the pages used are backed by memory. */
#define STACK_SIZE 262144
#define RESERVED 10 /* connections fewer, for what the process itself needs */

static sem_t slots; /* free places for connections */
static dial_function *dial_upstream;
static pthread_attr_t attr; /* of threads */
static struct copy_way to_tcp, to_vsock;

int
server_target(struct connection *c, struct address *target)
{
	if (stream_original_destination(c->client, target) == 0) {
		address_format(target, c->target, sizeof(c->target));
		return 0;
	}
	c->end = "no-target";
	c->reason = stream_reason(AF_INET, errno);
	if (errno == ENOENT || errno == ENOPROTOOPT) /* the latter: no NAT */
		c->reason = "not redirected, it has no original destination";
	return -1;
}

int
server_connect(struct connection *c, const struct address *upstream)
{
	int fd = stream_connect(upstream, settings.connect_timeout * 1000);

	if (fd == -1)
		c->reason = stream_reason(upstream->any.sa_family, errno);
	address_format(upstream, c->upstream, sizeof(c->upstream));
	return fd;
}

static void
log_connection(const struct connection *c, const struct relay_result *result)
{
	char client[ADDRESS_TEXT_SIZE];
	bool failed = c->reason != NULL;

	address_format(&c->peer, client, sizeof(client));
	log_line(failed ? LEVEL_WARN : LEVEL_INFO,
	    "msg=%s conn=%" PRIu64 " client=%s upstream=%s target=%s "
	    "up=%" PRIu64 " down=%" PRIu64 " ms=%" PRIu64 " end=%s%s%s%s",
	    failed ? "failed" : "closed", c->number, client, c->upstream,
	    c->target, result->up, result->down, clock_ms() - c->accepted,
	    c->end, failed ? " reason=\"" : "", failed ? c->reason : "",
	    failed ? "\"" : "");
}

static void *
run_connection(void *argument)
{
	static const char *const ends[] = {
	    [RELAY_EOF] = "eof",
	    [RELAY_CLIENT_ERROR] = "client-error",
	    [RELAY_UPSTREAM_ERROR] = "upstream-error",
	    [RELAY_NO_RESOURCES] = "no-resources",
	};
	struct connection *c = argument;
	struct relay_result result = {0};
	bool from_tcp = settings.listen_host.text != NULL;
	int upstream;

	upstream = dial_upstream(c);
	if (upstream == -1) {
		stream_reset(c->client); /* an end would look like an answer */
	} else {
		log_line(LEVEL_DEBUG,
		    "msg=connected conn=%" PRIu64 " upstream=%s target=%s",
		    c->number, c->upstream, c->target);
		result = relay_run(c->client, upstream,
		    from_tcp ? to_vsock : to_tcp, from_tcp ? to_tcp : to_vsock);
		close(upstream);
		c->end = ends[result.end];
		c->reason = result.end == RELAY_EOF
				? NULL
				: stream_reason(AF_UNSPEC, result.error);
	}
	close(c->client);
	log_connection(c, &result);
	free(c);
	sem_post(&slots);
	return NULL;
}

/* Serves an accepted socket. Returns 0, or an errno: it is reset and logged. */
static int
serve_client(int fd, const struct address *peer)
{
	static uint64_t number;
	struct connection *c = malloc(sizeof(*c));
	struct connection failed = {.number = ++number,
	    .accepted = clock_ms(),
	    .peer = *peer,
	    .client = fd,
	    .upstream = "-",
	    .target = "-",
	    .end = "no-upstream"};
	pthread_t thread;
	int error = ENOMEM;

	address_unmap(&failed.peer);
	if (c != NULL) {
		*c = failed;
		error = pthread_create(&thread, &attr, run_connection, c);
	}
	if (error != 0) {
		free(c);
		stream_reset(fd);
		close(fd);
		failed.end = "no-resources";
		failed.reason = stream_reason(AF_UNSPEC, error);
		log_connection(&failed, &(struct relay_result){0});
	}
	return error;
}

/* Waits before the next attempt, longer each time; *delay_ms starts at 0. */
static void
back_off(unsigned *delay_ms)
{
	*delay_ms = *delay_ms == 0 ? 5 : *delay_ms < 500 ? *delay_ms * 2 : 1000;
	(void)poll(NULL, 0, (int)*delay_ms); /* EINTR: sooner does no harm */
}

/* Logs a failed accept(2), at most once a second, and waits if need be. */
static void
handle_accept_error(int error, unsigned *delay_ms)
{
	/* Of one connection, not of the listener: accept(2). */
	static const unsigned char next[] = {EINTR, ECONNABORTED, EPROTO,
	    ENOPROTOOPT, ENETDOWN, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH,
	    EOPNOTSUPP, ETIMEDOUT, ECONNRESET, EPERM};
	/* Resources that other connections may give back. */
	static const unsigned char later[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM};
	static uint64_t quiet_until;
	bool fatal;

	if (memchr(next, error, sizeof(next)) != NULL)
		return;
	fatal = memchr(later, error, sizeof(later)) == NULL;
	if (fatal || clock_ms() >= quiet_until) {
		quiet_until = clock_ms() + 1000;
		log_line(LEVEL_ERROR, "msg=\"cannot accept\" reason=\"%s\"",
		    stream_reason(AF_UNSPEC, error));
	}
	if (fatal)
		exit(1);
	back_off(delay_ms);
}

_Noreturn static void
accept_loop(int listener)
{
	unsigned delay_ms = 0;

	for (;;) {
		struct address peer = {.length = sizeof(peer.in6)};
		int fd;

		while (sem_wait(&slots) == -1)
			; /* EINTR */
		fd = accept4(listener, &peer.any, &peer.length, SOCK_CLOEXEC);
		if (fd != -1 && serve_client(fd, &peer) == 0) {
			delay_ms = 0;
			continue;
		}
		if (fd == -1)
			handle_accept_error(errno, &delay_ms);
		else
			back_off(&delay_ms);
		sem_post(&slots);
	}
}

/* Opens the listener; text: its address, for the log. Exits on failure. */
static int
open_listener(char *text, size_t size)
{
	bool is_vsock = settings.listen_host.text == NULL;
	struct address address = settings.listen_vsock;
	char own_cid[32] = "";
	const char *reason;
	uint32_t cid;
	int fd;

	if (is_vsock) {
		fd = stream_listen(&address);
		reason = stream_reason(AF_VSOCK, errno);
		address_format(&address, text, size);
	} else {
		fd = stream_open(&settings.listen_host, 0, &address, &reason);
		(void)snprintf(text, size, "%s", settings.listen_host.text);
	}
	if (fd == -1) {
		if (is_vsock && stream_local_cid(&cid) == 0)
			(void)snprintf(
			    own_cid, sizeof(own_cid), " own-cid=%u", cid);
		log_line(LEVEL_ERROR,
		    "msg=\"cannot listen\" listen=%s reason=\"%s\"%s", text,
		    reason, own_cid);
		exit(1);
	}
	if (stream_local_address(fd, &address) == 0)
		address_format(&address, text, size);
	return fd;
}

/* Raises the soft limit on descriptors to the hard one. Returns how many
 * connections that and the limit on threads (two for each) allow. */
static unsigned
raise_limits(void)
{
	/* Two sockets, and pipes: in each mode. */
	static const unsigned descriptors[] = {4, 6, 2};
	struct rlimit files, threads;
	uint64_t most = INT_MAX; /* at most SEM_VALUE_MAX */

	/* prlimit(2) can't fail for these, and is smaller than setrlimit(3). */
	(void)prlimit(0, RLIMIT_NOFILE, NULL, &files);
	(void)prlimit(0, RLIMIT_NPROC, NULL, &threads);
	files.rlim_cur = files.rlim_max;
	(void)prlimit(0, RLIMIT_NOFILE, &files, NULL);
	if (files.rlim_cur / descriptors[settings.copy] < most)
		most = files.rlim_cur / descriptors[settings.copy];
	if (threads.rlim_cur / 2 < most)
		most = threads.rlim_cur / 2;
	return most > RESERVED ? (unsigned)most - RESERVED : 1;
}

/* The next socket would get the number of a closed one, and so the log. */
static void
open_standard_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) == -1)
			exit(1); /* nowhere to say why */
	}
}

void
server_run(const char *upstream, dial_function *dial)
{
	unsigned most = raise_limits();
	char text[ADDRESS_TEXT_SIZE];
	int listener;

	open_standard_streams();
	(void)signal(SIGPIPE, SIG_IGN); /* can't fail for this signal */
	(void)pthread_attr_init(&attr); /* can't fail; nor those: */
	(void)pthread_attr_setstacksize(&attr, STACK_SIZE);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	dial_upstream = dial;
	/* DESIGN.md says why. */
	to_tcp.splice = settings.copy != COPY_BUFFER;
	to_tcp.bulk_splice = settings.copy == COPY_SPLICE;
	to_vsock.splice = to_vsock.bulk_splice = to_tcp.bulk_splice;
	to_vsock.chunk = settings.vsock_chunk;
	stream_vsock_buffer = settings.vsock_buffer;
	if (settings.max_connections != 0)
		most = settings.max_connections;
	(void)sem_init(&slots, 0, most); /* within INT_MAX: can't fail */
	listener = open_listener(text, sizeof(text));
	log_line(LEVEL_INFO,
	    "msg=listening listen=%s upstream=%s copy=%s max-connections=%u",
	    text, upstream, copy_words[settings.copy], most);
	accept_loop(listener);
}
