/* SPDX-License-Identifier: Apache-2.0 */
/* Clients and server, in one epoll loop. An end knows its peer only by what
 * comes over the wire; that both are here serves to judge what comes: once an
 * end has reset, the other may see less than all, before that it may not. */
#include "../bytes.h"
#include "soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x6b616f73
#define CHUNK 65536
#define TURN_MS 20
#define PAUSES 2
#define PAUSE_MS 4000
#define EVENTS 256
/* Connections that are on their way to the server at once, at most: fewer than
 * a backlog takes. */
#define OPENING 200
/* What was sent before a reset is given up after 10 s, not before. */
#define DELIVERY_MS 5000
#define WAKE_MS 3  /* between ends that are held no more */
#define SOURCES 32 /* 127.0.0.x, so that there are enough ports */

struct connection;

/* One end of a connection. */
struct end {
	struct end *next, *previous; /* of those open */
	struct end *next_closed;
	struct connection *connection; /* NULL: the header has not come yet */
	enum side side;
	int fd;
	uint32_t events; /* 0: it pauses */
	bool connected, shut, eof;
	uint64_t sent, received, random;
	uint64_t wake_at, pause_at; /* by the clock; when so much has moved */
	uint64_t woken_at;
	unsigned pauses;
	uint64_t begun; /* for those without a connection */
	struct header header;
};

struct connection {
	uint64_t number;
	struct plan plan;
	struct end *ends[2];
	bool established;
	uint64_t moved_at, reset_at; /* 0: nobody has reset */
	uint64_t sent_before;        /* the reset, by who did it; all arrived */
};

struct load load;

static const char *const side_words[] = {"client", "server"};
static struct connection *slots;
static struct end all = {.next = &all, .previous = &all};
static struct end *closed; /* to be freed after this turn */
static unsigned sockets;
static uint64_t next_number, now;
static bool held;
static int epoll = -1, listener = -1;
static struct sockaddr_in target;

/* Prints a failure with the state of its connection, and drops that. */
static void
drop(struct connection *c, enum check check, const char *what, enum side side);

static void
watch(struct end *e, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = e};
	int operation = e->events == 0 ? EPOLL_CTL_ADD
			: events == 0  ? EPOLL_CTL_DEL
				       : EPOLL_CTL_MOD;

	if (events == e->events)
		return;
	if (epoll_ctl(epoll, operation, e->fd, &event) == -1)
		give_up("epoll_ctl: %s", strerror(errno));
	e->events = events;
}

static struct end *
new_end(int fd, enum side side)
{
	struct end *e = calloc(1, sizeof(*e));
	int on = 1, seconds = 5;

	if (e == NULL)
		give_up("no memory");
	*e = (struct end){all.next, &all, .side = side, .fd = fd, .begun = now};
	all.next = e->next->previous = e;
	sockets++;
	/* Or short pieces wait for the acknowledgement of those before. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* A reset is sent once, and can get lost: who only waits must ask. */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(
	    fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
	(void)setsockopt(
	    fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
	return e;
}

static void
close_end(struct end *e)
{
	close(e->fd);
	e->fd = -1;
	e->next->previous = e->previous;
	e->previous->next = e->next;
	e->next_closed = closed;
	closed = e;
	sockets--;
	if (e->connection != NULL)
		e->connection->ends[e->side] = NULL;
}

static void
free_closed(void)
{
	while (closed != NULL) {
		struct end *e = closed;

		closed = e->next_closed;
		free(e);
	}
}

/* Makes an end part of a connection. */
static void
join(struct end *e, struct connection *c)
{
	const uint64_t *length = c->plan.length;

	e->connection = c;
	e->random = plan_state(c->number, e->side);
	e->pauses = (unsigned)plan_random(&e->random, PAUSES + 1);
	e->pause_at =
	    plan_random(&e->random, length[CLIENT] + length[SERVER] + 1);
	c->ends[e->side] = e;
	c->moved_at = now;
}

static void
open_connection(struct connection *c)
{
	struct sockaddr_in source = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	*c = (struct connection){.number = ++next_number};
	plan_make(&c->plan, c->number, !held, load.most);
	source.sin_addr.s_addr =
	    htonl(INADDR_LOOPBACK + (uint32_t)(c->number % SOURCES));
	if (fd == -1 ||
	    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on,
		sizeof(on)) == -1 ||
	    bind(fd, (struct sockaddr *)&source, sizeof(source)) == -1)
		give_up("a client's socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&target, sizeof(target)) == -1 &&
	    errno != EINPROGRESS)
		give_up("connect: %s", strerror(errno));
	join(new_end(fd, CLIENT), c);
	c->ends[CLIENT]->header =
	    (struct header){MAGIC, (uint32_t)(c - slots), c->number};
	load.alive++;
	watch(c->ends[CLIENT], EPOLLOUT);
}

/* An end has done its part. */
static void
finish(struct end *e)
{
	struct connection *c = e->connection;

	close_end(e);
	if (c->ends[CLIENT] != NULL || c->ends[SERVER] != NULL)
		return;
	load.alive--;
	load.established -= c->established;
	load.clean += c->plan.resetter == NOBODY;
	c->number = 0;
}

static void
drop(struct connection *c, enum check check, const char *what, enum side side)
{
	static const char *const orders[] = {
	    "both at once", "client first", "server first"};
	char text[512];
	int n = snprintf(text, sizeof(text),
	    "connection %" PRIu64 ", %s: %s; %s; resetter: %s%s; "
	    "%" PRIu64 " ms ago it moved",
	    c->number, side_words[side], what, orders[c->plan.order],
	    c->plan.resetter == NOBODY ? "none" : side_words[c->plan.resetter],
	    c->reset_at != 0 ? ", has reset" : "", now - c->moved_at);
	struct end *ends[2] = {c->ends[CLIENT], c->ends[SERVER]};

	for (int i = CLIENT; i <= SERVER; i++) {
		const struct end *e = ends[i];
		uint64_t theirs = c->plan.length[!i];

		n += snprintf(text + n, sizeof(text) - (size_t)n, "; %s %s",
		    side_words[i], e == NULL ? "is gone" : "has");
		if (e != NULL)
			n += snprintf(text + n, sizeof(text) - (size_t)n,
			    " sent %" PRIu64 " of %" PRIu64 "%s, received "
			    "%" PRIu64 " of %" PRIu64 "%s%s",
			    e->sent, c->plan.length[i],
			    e->shut ? " and the end" : "", e->received, theirs,
			    e->eof ? " and the end" : "",
			    e->wake_at != 0 ? ", pauses" : "");
	}
	failed(check, "%s", text);
	c->plan.resetter = CLIENT; /* it was not clean, whoever is to blame */
	for (int i = CLIENT; i <= SERVER; i++)
		if (ends[i] != NULL)
			finish(ends[i]);
}

/* An end is told that the connection has failed, or is cut off. */
static void
told(struct end *e, const char *how)
{
	struct connection *c = e->connection;
	/* It does not look while it pauses. */
	uint64_t since = e->woken_at > c->reset_at ? e->woken_at : c->reset_at;

	if (c->reset_at == 0) {
		drop(c, CHECK_ENDS, how, e->side);
		return;
	}
	if (now - since > load.longest_reset_ms)
		load.longest_reset_ms = now - since;
	finish(e);
}

/* Resets instead of ending. */
static void
reset(struct end *e)
{
	struct connection *c = e->connection;
	struct linger linger = {.l_onoff = 1};

	if (setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) ==
	    -1)
		give_up("SO_LINGER: %s", strerror(errno));
	load.early += !c->established;
	load.resets[e->side]++;
	c->reset_at = now;
	c->sent_before = e->sent;
	finish(e);
}

static void
pause_end(struct end *e, uint64_t until)
{
	e->wake_at = until;
	watch(e, 0);
}

static bool
may_send(const struct end *e)
{
	const struct connection *c = e->connection;
	enum order first = e->side == CLIENT ? SERVER_FIRST : CLIENT_FIRST;

	if (e->sent == c->plan.length[e->side])
		return false;
	if (e->side == CLIENT && e->sent < sizeof(struct header))
		return true;
	return c->plan.order != first || e->eof;
}

/* What an end does next, after anything has happened. */
static void
go_on(struct end *e)
{
	struct connection *c = e->connection;
	const struct plan *plan = &c->plan;
	uint64_t moved = e->sent + e->received;
	uint64_t whole = plan->length[CLIENT] + plan->length[SERVER];
	int queued = 0;

	if (held && moved >= sizeof(struct header)) {
		pause_end(e, UINT64_MAX);
		return;
	}
	if (e->pauses > 0 && moved >= e->pause_at) {
		e->pauses--;
		e->pause_at =
		    moved + plan_random(&e->random, whole - moved + 1);
		pause_end(e, now + 1 + plan_random(&e->random, PAUSE_MS));
		return;
	}
	if (plan->resetter == e->side && e->sent >= plan->reset_sent &&
	    e->received >= plan->reset_received) {
		if (ioctl(e->fd, TIOCOUTQ, &queued) == 0 && queued > 0)
			pause_end(e, now + TURN_MS); /* it would be lost */
		else if (c->established ||
			 plan->reset_sent < sizeof(struct header))
			reset(e);
		else /* until the server knows of it */
			watch(e, EPOLLIN);
		return;
	}
	if (e->sent == plan->length[e->side] && !e->shut) {
		if (shutdown(e->fd, SHUT_WR) == -1) {
			told(e, strerror(errno));
			return;
		}
		e->shut = true;
		load.half_closes += !e->eof;
	}
	if (e->shut && e->eof)
		finish(e);
	else
		watch(e, (e->eof ? 0 : EPOLLIN) | (may_send(e) ? EPOLLOUT : 0));
}

/* Returns false when the end is closed; so do those below. */
static bool
send_some(struct end *e)
{
	static char bytes[CHUNK];
	struct connection *c = e->connection;
	size_t first = sizeof(struct header);
	uint64_t left = c->plan.length[e->side] - e->sent;
	uint64_t most = 2U << plan_random(&e->random, 16);
	ssize_t n;

	/* Not too many pieces, and not past where it stops. */
	if (most < c->plan.length[e->side] / 16)
		most = CHUNK;
	if (e->side == CLIENT && e->sent < first && held)
		left = first - e->sent;
	if (c->plan.resetter == e->side && e->sent < c->plan.reset_sent &&
	    left > c->plan.reset_sent - e->sent)
		left = c->plan.reset_sent - e->sent;
	if (left > most)
		left = most;
	bytes_fill(plan_state(c->number, e->side), e->sent, bytes, left);
	if (e->side == CLIENT && e->sent < first)
		memcpy(bytes, (char *)&e->header + e->sent,
		    left < first - e->sent ? left : first - e->sent);
	n = send(e->fd, bytes, left, MSG_NOSIGNAL);
	if (n == -1 && errno != EAGAIN) {
		told(e, strerror(errno));
		return false;
	}
	if (n > 0) {
		e->sent += (uint64_t)n;
		load.sent[e->side] += (uint64_t)n;
		c->moved_at = now;
	}
	return true;
}

static bool
check_bytes(const struct end *e, const char *bytes, size_t n)
{
	static char expected[CHUNK];
	struct connection *c = e->connection;
	char text[64];
	size_t i = 0;

	bytes_fill(plan_state(c->number, !e->side), e->received, expected, n);
	if (memcmp(bytes, expected, n) == 0)
		return true;
	while (bytes[i] == expected[i])
		i++;
	(void)snprintf(
	    text, sizeof(text), "byte %" PRIu64 " is wrong", e->received + i);
	drop(c, CHECK_BYTES, text, e->side);
	return false;
}

static bool
receive_some(struct end *e)
{
	static char bytes[CHUNK];
	struct connection *c = e->connection;
	uint64_t left = c->plan.length[!e->side] - e->received;
	ssize_t n = recv(e->fd, bytes, 2U << plan_random(&e->random, 16), 0);

	if (n == -1 && errno == EAGAIN)
		return true;
	if (n == -1) {
		if (errno == ECONNRESET && c->reset_at != 0 &&
		    e->received < c->sent_before &&
		    now - c->reset_at < DELIVERY_MS)
			drop(c, CHECK_RESETS, "less came than was sent",
			    e->side);
		else
			told(e, strerror(errno));
		return false;
	}
	if ((uint64_t)n > left) {
		drop(c, CHECK_BYTES, "more than was sent came", e->side);
		return false;
	}
	if (n == 0 && left > 0) {
		/* On vsock, a reset looks like an end to who has half-closed.
		 */
		if (e->shut)
			told(e, "the end came too early");
		else
			drop(c, CHECK_RESETS, "a clean end of half a stream",
			    e->side);
		return false;
	}
	if (now - c->moved_at > load.longest_ms)
		load.longest_ms = now - c->moved_at;
	c->moved_at = now;
	e->eof = n == 0;
	if (!check_bytes(e, bytes, (size_t)n))
		return false;
	e->received += (uint64_t)n;
	load.received[e->side] += (uint64_t)n;
	return true;
}

/* The server gets to know which connection it has. */
static void
receive_header(struct end *e)
{
	struct connection *c;
	ssize_t n = recv(e->fd, (char *)&e->header + e->received,
	    sizeof(e->header) - e->received, 0);

	if (n == -1 && errno == EAGAIN)
		return;
	if (n <= 0) {
		/* A client has reset it before. */
		if (++load.headless > load.early)
			failed(CHECK_ENDS, "a connection without a header: %s",
			    n == 0 ? "the end" : strerror(errno));
		close_end(e);
		return;
	}
	e->received += (uint64_t)n;
	load.received[SERVER] += (uint64_t)n;
	if (e->received < sizeof(e->header))
		return;
	c = e->header.slot < load.level ? &slots[e->header.slot] : NULL;
	if (c == NULL || e->header.magic != MAGIC || c->ends[SERVER] != NULL ||
	    c->number != e->header.number || c->established) {
		failed(CHECK_BYTES, "the server gets a wrong header");
		close_end(e);
		return;
	}
	join(e, c);
	c->established = true;
	load.established++;
	if (c->ends[CLIENT]->events != 0) /* it may have waited */
		go_on(c->ends[CLIENT]);
	if (e->fd != -1)
		go_on(e);
}

static void
finish_connect(struct end *e)
{
	int error = 0;
	socklen_t length = sizeof(error);

	(void)getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error != 0) {
		told(e, strerror(error));
		return;
	}
	e->connected = true;
	load.connected++;
	go_on(e);
}

static void
handle(struct end *e, uint32_t events)
{
	bool writable = (events & EPOLLOUT) != 0;

	if (e->fd == -1) {
		return; /* closed in this very turn */
	} else if (e->connection == NULL) {
		receive_header(e);
	} else if (!e->connected) {
		finish_connect(e);
	} else {
		/* Anything but room to write is for recv(2) to tell. */
		if ((events & ~(uint32_t)EPOLLOUT) != 0 && !receive_some(e))
			return;
		if (writable && may_send(e) && !send_some(e))
			return;
		go_on(e);
	}
}

static void
accept_all(void)
{
	for (;;) {
		int fd =
		    accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct end *e;

		if (fd == -1 && errno == EAGAIN)
			return;
		if (fd == -1)
			give_up("accept: %s", strerror(errno));
		e = new_end(fd, SERVER);
		e->connected = true;
		load.accepted++;
		watch(e, EPOLLIN);
	}
}

/* Wakes those whose pause is over; finds those that are stuck. */
static void
look_at_all(void)
{
	for (struct end *e = all.next, *next; e != &all; e = next) {
		struct connection *c = e->connection;

		next = e->next; /* if it gets closed, too, it still leads on */
		if (e->fd == -1) {
			continue;
		} else if (c == NULL) {
			if (now - e->begun < patience_ms)
				continue;
			failed(CHECK_STUCK, "a header does not come");
			close_end(e);
		} else if (e->wake_at != 0 && now >= e->wake_at) {
			e->wake_at = 0;
			e->woken_at = c->moved_at = now;
			go_on(e);
		}
	}
	for (struct connection *c = slots; c < slots + load.level; c++) {
		enum side side = c->ends[CLIENT] == NULL;
		bool is_reset = c->reset_at > c->moved_at;

		if (c->number == 0 || (held && c->established))
			continue;
		/* What was sent before a reset still has to come through. */
		if (now - (is_reset ? c->reset_at : c->moved_at) < patience_ms)
			continue;
		if (c->reset_at != 0)
			drop(c, CHECK_RESETS, "was not told", side);
		else
			drop(c, CHECK_STUCK, "is stuck", side);
	}
}

void
load_turn(void)
{
	static uint64_t looked_at;
	struct epoll_event events[EVENTS];
	struct connection *c = slots;
	int n = epoll_wait(epoll, events, EVENTS, TURN_MS);

	now = now_ms();
	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == NULL)
			accept_all();
		else
			handle(events[i].data.ptr, events[i].events);
	}
	if (now - looked_at >= TURN_MS) {
		look_at_all();
		looked_at = now;
	}
	free_closed();
	while (load.refill && load.alive < load.level &&
	       load.alive - load.established < OPENING) {
		for (; c->number != 0; c++)
			; /* there is a free one */
		open_connection(c);
	}
}

void
load_hold(bool hold)
{
	uint64_t wake_at;

	held = hold;
	now = wake_at = now_ms();
	for (struct end *e = all.next; e != &all && !hold; e = e->next) {
		if (e->wake_at == UINT64_MAX)
			e->wake_at = wake_at += WAKE_MS;
		if (e->connection != NULL)
			e->connection->moved_at = now;
	}
}

unsigned
load_sockets(void)
{
	return sockets;
}

void
load_target(uint16_t port)
{
	target = (struct sockaddr_in){.sin_family = AF_INET,
	    .sin_port = htons(port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

uint16_t
load_listen(void)
{
	struct sockaddr_in a = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(a);
	struct epoll_event event = {.events = EPOLLIN};

	slots = calloc(load.level, sizeof(*slots));
	epoll = epoll_create1(EPOLL_CLOEXEC);
	listener =
	    socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (slots == NULL || epoll == -1 || listener == -1 ||
	    bind(listener, (struct sockaddr *)&a, length) == -1 ||
	    listen(listener, SOMAXCONN) == -1 ||
	    getsockname(listener, (struct sockaddr *)&a, &length) == -1 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) == -1)
		give_up("cannot listen: %s", strerror(errno));
	return ntohs(a.sin_port);
}
