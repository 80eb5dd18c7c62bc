/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of conversations that end badly, for make check-enclave.
 *
 * usage: talk serve PORT
 *        talk WHAT NAME ADDRESS PORT TIMES
 *
 * WHAT  what the client and the server do
 * early the client sends without end; the server reads a little, answers and
 *       closes
 * cut   the server answers, and when all is acknowledged, resets
 * pour  the server sends without end
 * ask   the client half-closes; nothing more is said
 * tell  the server half-closes; nothing more is said
 *
 * Each end prints how it ended for it: "NAME WHAT client BYTES HOW", the bytes
 * that it got, and "end" for an end-of-file, "reset" for a reset or another
 * error's name; after the end-of-file of ask and tell both, one after the
 * other. Of pour it prints "NAME pour client begun" when bulk has moved. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#define REQUEST 4096 /* what the server reads of one that goes on */
#define ANSWER 20000
#define BULK 100000
/* An enclave that is emulated twice is slow; but nobody waits for ever. */
#define PATIENCE 600

/* What a client sends first. */
struct greeting {
	char what[8], name[24];
};

struct talk {
	struct greeting greeting;
	const char *end;
	bool half_closes, waits; /* at once; at last, for a reset */
	int fd;
	uint64_t left, got; /* bytes to send, bytes received */
};

static _Noreturn void
die(const char *what)
{
	perror(what);
	exit(1);
}

static bool
is(const struct talk *talk, const char *what)
{
	return strcmp(talk->greeting.what, what) == 0;
}

/* One write, for other processes write to the same file. */
static void
say(const struct talk *talk, const char *text)
{
	char line[128];
	int size = snprintf(line, sizeof(line), "%s %s %s %s\n",
	    talk->greeting.name, talk->greeting.what, talk->end, text);

	if (write(STDOUT_FILENO, line, (size_t)size) != size)
		die("write");
}

static void
say_end(const struct talk *talk, int error)
{
	const char *how = error == 0 ? "end" : strerror(error);
	char text[96];

	if (error == ECONNRESET || error == EPIPE)
		how = "reset";
	snprintf(
	    text, sizeof(text), "%llu %s", (unsigned long long)talk->got, how);
	say(talk, text);
}

/* Waits until something happens to a connection that is silent. */
static void
await_reset(const struct talk *talk)
{
	struct pollfd state = {.fd = talk->fd};
	int error = 0;
	socklen_t size = sizeof(error);

	if (poll(&state, 1, -1) == -1 ||
	    getsockopt(talk->fd, SOL_SOCKET, SO_ERROR, &error, &size) == -1)
		die("await_reset");
	say_end(talk, error);
}

/* Sends a piece of what is left. Returns an errno. */
static int
send_piece(struct talk *talk)
{
	static const char zeros[16384];
	size_t size = talk->left < sizeof(zeros) ? talk->left : sizeof(zeros);
	ssize_t n = send(talk->fd, zeros, size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n == -1)
		return errno == EAGAIN ? 0 : errno;
	talk->left -= (uint64_t)n;
	return 0;
}

/* Sends what is left, and receives, until the end. What is there to be received
 * is looked at first: it can tell an end-of-file before a reset, sending can't.
 */
static void
converse(struct talk *talk)
{
	static char data[65536];
	struct pollfd state = {.fd = talk->fd};
	int error = 0;
	uint64_t before;
	ssize_t n;

	if (talk->half_closes)
		(void)shutdown(talk->fd, SHUT_WR); /* or reading tells */
	for (;;) {
		state.events = talk->left > 0 ? POLLIN | POLLOUT : POLLIN;
		if (error == 0 && poll(&state, 1, -1) == -1)
			die("poll");
		n = recv(talk->fd, data, sizeof(data), MSG_DONTWAIT);
		if (n == 0 || (n == -1 && errno != EAGAIN))
			break;
		before = talk->got;
		talk->got += n == -1 ? 0 : (uint64_t)n;
		if (is(talk, "pour") && before < BULK && talk->got >= BULK)
			say(talk, "begun");
		/* After an error there is only what had come before. */
		if (n == -1 && error == 0 && talk->left > 0)
			error = send_piece(talk);
	}
	if (n == -1)
		error = errno;
	say_end(talk, error);
	if (error == 0 && talk->waits)
		await_reset(talk);
}

/* Whether a client has acknowledged all. */
static bool
acknowledged(int fd)
{
	int size;

	if (ioctl(fd, SIOCOUTQ, &size) == -1)
		die("SIOCOUTQ");
	return size == 0;
}

/* Answers, waits until all is acknowledged, and closes with more to be read,
 * which is a reset, or resets. */
static void
answer(struct talk *talk)
{
	char request[REQUEST];
	struct linger none = {.l_onoff = 1, .l_linger = 0};

	talk->left = ANSWER;
	if (is(talk, "early")) {
		if (recv(talk->fd, request, REQUEST, MSG_WAITALL) != REQUEST)
			die("recv");
	} else {
		(void)setsockopt(
		    talk->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	}
	while (talk->left > 0) {
		if (send_piece(talk) != 0)
			die("send");
	}
	while (!acknowledged(talk->fd))
		(void)poll(NULL, 0, 10);
	/* The client sends without end, so this comes. */
	if (is(talk, "early") && recv(talk->fd, request, 1, MSG_PEEK) != 1)
		die("recv");
}

static void
serve_client(int fd)
{
	struct talk talk = {.end = "server", .fd = fd};

	(void)alarm(PATIENCE);
	if (recv(fd, &talk.greeting, sizeof(talk.greeting), MSG_WAITALL) !=
	    sizeof(talk.greeting))
		die("recv");
	if (is(&talk, "early") || is(&talk, "cut")) {
		answer(&talk);
		return;
	}
	talk.half_closes = is(&talk, "tell");
	talk.waits = is(&talk, "ask");
	talk.left = is(&talk, "pour") ? UINT64_MAX : 0;
	converse(&talk);
}

/* Goes to the background when it listens. */
static void
serve(struct sockaddr_in *at)
{
	int yes = 1, fd, listener = socket(AF_INET, SOCK_STREAM, 0);

	(void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)at, sizeof(*at)) == -1 ||
	    listen(listener, 64) == -1 || daemon(1, 1) == -1)
		die("serve");
	(void)signal(SIGCHLD, SIG_IGN); /* no zombies */
	while ((fd = accept(listener, NULL, NULL)) != -1) {
		switch (fork()) {
		case -1: die("fork");
		case 0:
			(void)close(listener);
			serve_client(fd);
			(void)close(fd);
			exit(0);
		default: (void)close(fd);
		}
	}
	die("accept");
}

static void
call(struct talk *talk, struct sockaddr_in *at)
{
	talk->fd = socket(AF_INET, SOCK_STREAM, 0);
	talk->got = 0;
	talk->left = is(talk, "early") ? UINT64_MAX : 0;
	if (connect(talk->fd, (struct sockaddr *)at, sizeof(*at)) == -1)
		die("connect");
	if (send(talk->fd, &talk->greeting, sizeof(talk->greeting),
		MSG_NOSIGNAL) != sizeof(talk->greeting))
		die("send");
	talk->half_closes = is(talk, "ask");
	talk->waits = is(talk, "tell");
	converse(talk);
	(void)close(talk->fd);
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct talk talk = {.end = "client"};
	int times;

	if (argc == 3 && strcmp(argv[1], "serve") == 0) {
		address.sin_port = htons((uint16_t)atoi(argv[2]));
		serve(&address);
	}
	if (argc != 6 || inet_pton(AF_INET, argv[3], &address.sin_addr) != 1)
		return 2;
	address.sin_port = htons((uint16_t)atoi(argv[4]));
	snprintf(talk.greeting.what, sizeof(talk.greeting.what), "%s", argv[1]);
	snprintf(talk.greeting.name, sizeof(talk.greeting.name), "%s", argv[2]);
	(void)alarm(PATIENCE);
	for (times = atoi(argv[5]); times > 0; times--)
		call(&talk, &address);
	return 0;
}
