/* SPDX-License-Identifier: Apache-2.0 */
/* The main thread waits in one place, for signals, clients, and room for them;
 * nothing here waits for a peer. The limit on connections is looked at before
 * accept(2), so that the excess waits in the kernel's backlog. */
#include "server.h"
#include "access.h"
#include "capacity.h"
#include "clock.h"
#include "confine.h"
#include "log.h"
#include "options.h"
#include "service.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define IDLE_CHECK_MS 500
#define PAUSE_MS 100 /* after a failure: long enough not to spin */

static int listener = -1; /* -1: stopping */
static int signals;       /* signalfd(2) */
static int freed;         /* see connection_open() */
static unsigned most;     /* connections */
/* clock_ms(): when to accept again, after a failure or if no connection ends
 * before; to complain again; and to end. */
static uint64_t paused_until, full_until, quiet_until, deadline;

/* Says why nothing is accepted, at most once a second. */
static void
complain(enum log_level level, const char *reason)
{
	if (clock_ms() < quiet_until)
		return;
	quiet_until = clock_ms() + 1000;
	log_line(level, "msg=\"cannot accept\" reason=\"%s\"", reason);
}

_Noreturn static void
finish(int status)
{
	(void)connection_report(REPORT_END);
	_exit(status); /* exit() would run what other threads may be in */
}

/* Errors of one connection pass, and so do those of resources that others may
 * give back; but a filter of system calls may say the same for ever. */
static void
handle_accept_error(int error)
{
	bool fatal = error == EBADF || error == EINVAL || error == ENOTSOCK ||
		     error == EFAULT;

	if (error == EAGAIN || error == EINTR || error == ECONNABORTED)
		return;
	if (fatal)
		quiet_until = 0;
	complain(LEVEL_ERROR, stream_reason(AF_UNSPEC, error));
	if (fatal)
		finish(1);
	paused_until = clock_ms() + PAUSE_MS;
}

static void
accept_client(void)
{
	struct address peer = {.length = sizeof(peer.in6)};
	struct connection *c;
	int fd = -1;

	if (connection_count(most) >= most) {
		complain(LEVEL_WARN, "as many connections as are allowed");
		full_until = clock_ms() + 1000;
		return;
	}
	c = malloc(sizeof(*c)); /* first: without memory the client waits */
	if (c != NULL)
		fd = accept4(listener, &peer.any, &peer.length, SOCK_CLOEXEC);
	if (fd != -1 && settings.listener_passed) /* it may have come before */
		stream_prepare(fd, peer.any.sa_family);
	if (fd == -1) {
		handle_accept_error(errno);
		free(c);
	} else if (connection_start(c, fd, &peer) != 0) {
		paused_until = clock_ms() + PAUSE_MS;
	}
}

/* To the log, and the service manager, if anything has changed. */
static void
report_changes(void)
{
	const char *numbers = connection_report(REPORT_CHANGE);
	char state[192];

	if (numbers == NULL || listener == -1)
		return;
	(void)snprintf(state, sizeof(state), "STATUS=Serving: %s", numbers);
	service_notify(state, false);
}

static void
handle_signal(void)
{
	struct signalfd_siginfo info;

	if (read(signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR1) {
		(void)connection_report(REPORT_ASKED);
		return;
	}
	if (listener == -1) /* the second one */
		finish(0);
	close(listener); /* first: whoever reads of it finds the port free */
	listener = -1;
	deadline = clock_ms() + (uint64_t)settings.grace * 1000;
	log_line(LEVEL_INFO, "msg=stopping active=%u grace=%u",
	    connection_count(1), settings.grace);
	service_notify(
	    "STOPPING=1\nSTATUS=Waiting for connections to finish", true);
}

_Noreturn static void
serve(void)
{
	uint64_t idle_ms = (uint64_t)settings.idle_timeout * 1000;
	uint64_t stats_ms = (uint64_t)settings.stats_interval * 1000;
	uint64_t now, wait, resume, next_check = 0;
	uint64_t next_stats = clock_ms() + stats_ms;

	for (;;) {
		/* If poll(2) fails: none of the three waits. */
		struct pollfd fds[] = {{signals, POLLIN, POLLIN},
		    {freed, POLLIN, POLLIN}, {listener, POLLIN, POLLIN}};

		now = clock_ms();
		resume = paused_until > full_until ? paused_until : full_until;
		if (idle_ms != 0 && now >= next_check) {
			connection_end_idle(idle_ms);
			next_check = now + IDLE_CHECK_MS;
		}
		if (stats_ms != 0 && now >= next_stats) {
			report_changes();
			/* Without drift, and without what was missed. */
			next_stats =
			    now + stats_ms - (now - next_stats) % stats_ms;
		}
		wait = idle_ms != 0 ? next_check - now : INT_MAX;
		if (stats_ms != 0 && next_stats - now < wait)
			wait = next_stats - now;
		if (listener == -1) {
			if (connection_count(1) == 0 || now >= deadline)
				finish(0);
			if (deadline - now < wait)
				wait = deadline - now;
		} else if (now < resume) {
			fds[2].fd = -1;
			if (resume - now < wait)
				wait = resume - now;
		}
		if (poll(fds, 3, (int)wait) == -1 && errno != EINTR) {
			complain(LEVEL_ERROR, stream_reason(AF_UNSPEC, errno));
			(void)usleep(PAUSE_MS * 1000);
		}
		if (fds[0].revents != 0)
			handle_signal();
		if (fds[1].revents != 0 &&
		    eventfd_read(freed, &(eventfd_t){0}) == 0)
			full_until = 0;
		if (fds[2].revents != 0 && fds[2].fd != -1 && listener != -1)
			accept_client();
	}
}

/* Opens the listener; text: its address, for the log. Exits on failure. */
static void
open_listener(char *text, size_t size)
{
	bool is_vsock = !settings.listens_on_tcp;
	struct address address = settings.vsock;
	const char *reason = is_vsock ? "descriptor 3 is no vsock listener"
				      : "descriptor 3 is no TCP listener";

	if (settings.listener_passed) {
		(void)snprintf(text, size, "LISTEN_FDS");
		listener = stream_adopt(PASSED_LISTENER, is_vsock);
	} else if (is_vsock) {
		listener = stream_listen(&address);
		reason = stream_reason(AF_VSOCK, errno);
		address_format(&address, text, size);
	} else {
		listener = stream_open(&settings.host, 0, text, &reason);
	}
	if (listener == -1) {
		log_line(LEVEL_ERROR,
		    "msg=\"cannot listen\" listen=%s reason=\"%s\"", text,
		    reason);
		exit(1);
	}
	if (stream_local_address(listener, &address) == 0)
		address_format(&address, text, size);
	(void)fcntl(listener, F_SETFL, O_NONBLOCK); /* can't fail */
}

static void
end_early(int number)
{
	(void)number;
	_exit(0);
}

/* What has to be so before the first line of the log: the next socket would get
 * the number of a closed stream, and a log without a reader would kill. And
 * what signals do until serve(), while a resolver takes its time. */
static void
prepare_process(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGUSR1, SIG_IGN);
	(void)signal(SIGTERM, end_early); /* who has PID 1 needs a handler */
	(void)signal(SIGINT, end_early);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) == -1)
			(void)open("/", O_PATH); /* takes the number, too */
	}
}

void
server_run(dial_function *dial)
{
	/* Two sockets, and pipes: in each copy mode. */
	static const unsigned descriptors[] = {4, 6, 2};
	char text[ADDRESS_TEXT_SIZE], upstream[ADDRESS_TEXT_SIZE] = "*:*";
	bool resolves = !settings.listens_on_tcp && settings.host.is_name;
	unsigned rules[ACCESS_KINDS] = {0};
	const char *limit;
	sigset_t set;

	prepare_process();
	most = capacity_connections(descriptors[settings.copy], &limit);
	if (settings.max_connections != 0) {
		most = settings.max_connections;
		limit = "--max-connections";
	}
	stream_vsock_buffer = settings.vsock_buffer;
	stream_stall_ms = settings.user_timeout * 1000;
	if (settings.upstream_has_port)
		log_line(LEVEL_WARN, "msg=\"the port of --vsock is ignored\"");
	open_listener(text, sizeof(text));
	/* Signals, ignored or not, wait from now on, in all threads. */
	(void)sigemptyset(&set); /* none of these can fail */
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	service_open();
	signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	freed = connection_open(dial);
	if (signals == -1 || freed == -1) {
		log_line(LEVEL_ERROR, "msg=\"cannot start\" reason=\"%s\"",
		    stream_reason(AF_UNSPEC, errno));
		exit(1);
	}
	/* All up to the one made last are in use; resolvers may take two. */
	confine_process(!settings.listens_on_tcp, resolves,
	    (rlim_t)freed +
		(rlim_t)(descriptors[settings.copy] + 2 * resolves) *
		    (most + CAPACITY_SPARE));
	if (settings.listens_on_tcp)
		address_format(&settings.vsock, upstream, sizeof(upstream));
	else if (settings.host.text != NULL)
		(void)snprintf(
		    upstream, sizeof(upstream), "%s", settings.host.text);
	for (struct access_rule *r = access_rules; r != NULL; r = r->next) {
		log_line(LEVEL_DEBUG, "msg=rule rule=\"%s\"", r->text);
		rules[r->kind]++;
	}
	if (upstream[0] == '*' && rules[ALLOW_TARGET] + rules[DENY_TARGET] == 0)
		log_line(LEVEL_WARN, "msg=\"connects to any target: see "
				     "--deny-target and --allow-target\"");
	log_line(LEVEL_INFO,
	    "msg=listening listen=%s upstream=%s copy=%s max-connections=%u "
	    "limited-by=%s allow-client=%u allow-target=%u deny-target=%u",
	    text, upstream, copy_words[settings.copy], most, limit,
	    rules[ALLOW_CLIENT], rules[ALLOW_TARGET], rules[DENY_TARGET]);
	service_notify("READY=1\nSTATUS=Serving", true);
	serve();
}
