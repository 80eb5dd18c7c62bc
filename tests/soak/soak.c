/* SPDX-License-Identifier: Apache-2.0 */
/* Thousands of connections at once through a chain: a client, ip-to-vsock,
 * vsock-to-ip, a server. Broken if a byte is wrong or lost, an end or a reset
 * does not arrive, a connection gets stuck, anything is not given back, or the
 * logs do not tell what happened.
 * usage: soak FOLDER SECONDS CONNECTIONS SEED, checked by tools/soak */
#include "soak.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define PRINTED 20  /* failures */
#define HOPELESS 50 /* as many end the test */
#define REPORT_MS 30000
#define BRIEF 1000 /* bytes each way of the last round's connections */
/* How much more there may be after the last round, all of 2,000 connections:
 * much less than each of them holds. */
#define MEMORY_SLACK 750 /* KiB */

static const char *const check_words[CHECKS] = {
    [CHECK_LEVEL] = "as many connections as asked for were open at once",
    [CHECK_BYTES] = "every byte was right, and in its place",
    [CHECK_ENDS] = "where nobody reset, both ends were clean and complete",
    [CHECK_RESETS] = "where somebody reset, the other was told in time",
    [CHECK_STUCK] = "no connection was stuck",
    [CHECK_LOG] = "the logs have a line for each connection, and no other",
    [CHECK_COUNTERS] = "the counters agree with the logs and the traffic",
    [CHECK_REST] = "sockets, descriptors and threads were given back",
    [CHECK_MEMORY] = "memory was given back",
    [CHECK_EXIT] = "SIGTERM ended both programs at once, with status 0",
};

uint64_t patience_ms = 60000;

static unsigned failures[CHECKS], failures_in_all;
/* In the order of the chain. */
static struct proxy proxies[2];
static struct proxy *const entry = &proxies[0], *const leave = &proxies[1];

uint64_t
now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t); /* can't fail */
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void
give_up(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("soak: GIVING UP: ");
	vprintf(format, arguments);
	printf("\n0 passed, 1 failed\n");
	va_end(arguments);
	exit(1); /* and with us the programs */
}

void
failed(enum check check, const char *format, ...)
{
	va_list arguments;

	failures[check]++;
	if (++failures_in_all <= PRINTED) {
		va_start(arguments, format);
		printf("soak: FAILED: ");
		vprintf(format, arguments);
		printf("\n");
		va_end(arguments);
	}
	if (failures_in_all == HOPELESS)
		give_up("there are too many failures");
}

/* Lets things happen, and says so at times. */
static void
turn(const char *phase)
{
	static uint64_t reported;

	load_turn();
	proxy_read(entry);
	proxy_read(leave);
	if (now_ms() - reported < REPORT_MS)
		return;
	if (reported != 0)
		printf("soak: %s: %" PRIu64 " connections so far; %u open, %u "
		       "of them have reached the server; %" PRIu64 " MB\n",
		    phase, load.connected, load.alive, load.established,
		    (load.received[CLIENT] + load.received[SERVER]) / 1000000);
	reported = now_ms();
}

/* Opens as many as there are to be, all held when they have reached the server;
 * lets them go, and for so long replaces those that end; waits for the last. */
static void
run(const char *name, uint64_t seconds)
{
	uint64_t begin = now_ms();

	load_hold(true);
	load.refill = true;
	load.most = seconds > 0 ? UINT64_MAX - 1 : BRIEF;
	while (load.established < load.level)
		turn(name);
	for (int i = 0; i < 2; i++) {
		proxy_count(&proxies[i]);
		if (proxy_number(proxies[i].counters, "active") != load.level)
			failed(CHECK_LEVEL, "not %u: %s", load.level,
			    proxies[i].counters);
	}
	printf("soak: %s: %u open after %" PRIu64 " ms\n", name, load.level,
	    now_ms() - begin);
	/* When all wake at once, one may have to wait for the others. */
	if (patience_ms < 4 * (now_ms() - begin))
		patience_ms = 4 * (now_ms() - begin);
	load_hold(false);
	load.refill = seconds > 0;
	begin = now_ms();
	while (now_ms() - begin < seconds * 1000)
		turn(name);
	load.refill = false;
	begin = now_ms();
	while (load.alive > 0)
		turn(name);
	printf("soak: %s: the last one ended after %" PRIu64 " ms\n", name,
	    now_ms() - begin);
}

static bool
at_rest(const struct proxy *p, uint64_t connections)
{
	return p->closed + p->failed == connections &&
	       proxy_status(p, "\nThreads:") == p->threads &&
	       proxy_descriptors(p) == p->descriptors;
}

/* Waits until all is given back. */
static void
rest(void)
{
	uint64_t begin = now_ms();

	do {
		turn("rest");
	} while ((!at_rest(entry, load.connected) ||
		     !at_rest(leave, load.connected) || load_sockets() > 0) &&
		 now_ms() - begin < patience_ms);
	if (load_sockets() > 0)
		failed(CHECK_REST, "the server has %u sockets", load_sockets());
	if (load.accepted != load.connected)
		failed(CHECK_REST, "%" PRIu64 " of %" PRIu64 " came through",
		    load.accepted, load.connected);
	for (struct proxy *p = proxies; p < proxies + 2; p++) {
		unsigned descriptors = proxy_descriptors(p);
		unsigned threads = proxy_status(p, "\nThreads:");

		if (descriptors != p->descriptors || threads != p->threads)
			failed(CHECK_REST,
			    "%s has %u descriptors, %u threads, had %u, %u",
			    p->name, descriptors, threads, p->descriptors,
			    p->threads);
		if (p->closed + p->failed != load.connected)
			failed(CHECK_LOG,
			    "%s: %" PRIu64 " closed, %" PRIu64 " failed of "
			    "%" PRIu64,
			    p->name, p->closed, p->failed, load.connected);
	}
	printf("soak: at rest after %" PRIu64 " ms\n", now_ms() - begin);
}

static void
expect(const struct proxy *p, const char *key, uint64_t least, uint64_t most)
{
	uint64_t n = proxy_number(p->counters, key);

	if (n < least || n > most)
		failed(CHECK_COUNTERS,
		    "%s is not from %" PRIu64 " to %" PRIu64 ": %s", key, least,
		    most, p->counters);
}

static void
check_counters(struct proxy *p)
{
	static const char *const none[] = {"active", "no-resources",
	    "idle-timeout", "no-upstream", "no-target", "not-allowed",
	    "stopped"};
	uint64_t n = load.connected, resets;

	proxy_count(p);
	resets = load.resets[CLIENT] + load.resets[SERVER];
	/* A reset may look like an end to who is further away. */
	if (p->failed > resets)
		failed(CHECK_LOG,
		    "%s: %" PRIu64 " failed, but %" PRIu64 " were reset",
		    p->name, p->failed, resets);
	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
		expect(p, none[i], 0, 0);
	expect(p, "accepted", n, n);
	expect(p, "eof", p->closed, p->closed);
	n = p->failed - proxy_number(p->counters, "client-error");
	expect(p, "upstream-error", n, n);
	expect(p, "up", p->up, p->up);
	expect(p, "up", load.received[SERVER], load.sent[CLIENT]);
	expect(p, "down", p->down, p->down);
	expect(p, "down", load.received[CLIENT], load.sent[SERVER]);
}

static void
check_memory(const struct proxy *p)
{
	unsigned rss = proxy_status(p, "\nVmRSS:");

	printf("soak: %s has %u KiB of memory, %u before the last round\n",
	    p->name, rss, p->rss);
	if (rss > p->rss + MEMORY_SLACK)
		failed(
		    CHECK_MEMORY, "%s has %u KiB more", p->name, rss - p->rss);
}

/* The test needs two sockets a connection, and the programs four descriptors;
 * besides those of connections that have just ended. */
static void
raise_limit(void)
{
	struct rlimit limit;
	rlim_t need = load.level * (rlim_t)8 + 1000;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
		give_up("getrlimit: %s", strerror(errno));
	if (limit.rlim_max < need)
		limit.rlim_max = need;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) == -1)
		give_up("%llu descriptors are needed, which we may not have",
		    (unsigned long long)need);
}

/* A vsock port that nobody uses, as an address. */
static void
free_vsock(char *text, size_t size)
{
	struct sockaddr_vm a = {.svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_LOCAL,
	    .svm_port = VMADDR_PORT_ANY};
	socklen_t length = sizeof(a);
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd == -1 || bind(fd, (struct sockaddr *)&a, length) == -1 ||
	    getsockname(fd, (struct sockaddr *)&a, &length) == -1)
		give_up("no vsock loopback: %s", strerror(errno));
	close(fd);
	(void)snprintf(text, size, "1:%u", a.svm_port);
}

static void
start(const char *folder)
{
	char server[32], vsock[32];
	unsigned need = load.level + load.level / 2 + 10;

	(void)snprintf(server, sizeof(server), "127.0.0.1:%u", load_listen());
	free_vsock(vsock, sizeof(vsock));
	proxy_start(leave, folder, "vsock-to-ip", "--vsock-addr", vsock,
	    "--ip-addr", server);
	proxy_start(entry, folder, "ip-to-vsock", "--ip-addr", "127.0.0.1:0",
	    "--vsock-addr", vsock);
	(void)proxy_port(leave, need);
	load_target((uint16_t)proxy_port(entry, need));
	for (struct proxy *p = proxies; p < proxies + 2; p++) {
		p->descriptors = proxy_descriptors(p);
		p->threads = proxy_status(p, "\nThreads:");
	}
}

/* Returns the exit status. */
static int
report(uint64_t seconds)
{
	unsigned bad = 0;

	for (int i = 0; i < CHECKS; i++) {
		bad += failures[i] != 0;
		printf("%s: %s\n", failures[i] == 0 ? "ok" : "FAILED",
		    check_words[i]);
	}
	printf("soak: %u at once for %" PRIu64 " s: %" PRIu64 " connections, "
	       "%" PRIu64 " ended clean, %" PRIu64 " MB up, %" PRIu64
	       " MB down, %" PRIu64 " resets (%" PRIu64 " early), %" PRIu64
	       " half-closes; longest wait %" PRIu64
	       " ms, for the news of a reset %" PRIu64 " ms\n",
	    load.level, seconds, load.connected, load.clean,
	    load.received[SERVER] / 1000000, load.received[CLIENT] / 1000000,
	    load.resets[CLIENT] + load.resets[SERVER], load.early,
	    load.half_closes, load.longest_ms, load.longest_reset_ms);
	printf("%u passed, %u failed\n", CHECKS - bad, bad);
	return bad == 0 ? 0 : 1;
}

int
main(int argc, char *argv[])
{
	uint64_t seconds;

	if (argc != 5) {
		(void)fprintf(stderr, "soak: make soak runs this\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	seconds = strtoull(argv[2], NULL, 10);
	load.level = (unsigned)strtoul(argv[3], NULL, 10);
	printf("soak: SEED=%s CONNECTIONS=%u SECONDS=%" PRIu64 "\n", argv[4],
	    load.level, seconds);
	plan_seed(strtoull(argv[4], NULL, 10));
	raise_limit();
	start(argv[1]);
	run("soak", seconds);
	rest();
	/* What the C library keeps has grown by now; what leaks grows on. */
	for (struct proxy *p = proxies; p < proxies + 2; p++)
		p->rss = proxy_status(p, "\nVmRSS:");
	run("last round", 0);
	rest();
	for (struct proxy *p = proxies; p < proxies + 2; p++) {
		check_counters(p);
		check_memory(p);
	}
	proxy_stop(entry);
	proxy_stop(leave);
	return report(seconds);
}
