/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the soak test: soak.c has its phases and its verdict, load.c the
 * connections, both ends of each; plan.c what they do; proxy.c the two
 * programs. One thread. */
#pragma once
#include "plan.h"

#include <stdbool.h>

/* How long something that should move may not: a minute, and more on a machine
 * that is slow; soak.c says how much. */
extern uint64_t patience_ms;

/* What is checked; soak.c has the words. */
enum check {
	CHECK_LEVEL,
	CHECK_BYTES,
	CHECK_ENDS,
	CHECK_RESETS,
	CHECK_STUCK,
	CHECK_LOG,
	CHECK_COUNTERS,
	CHECK_REST,
	CHECK_MEMORY,
	CHECK_EXIT,
	CHECKS,
};

/* Says what went wrong. After too many, ends the test. */
__attribute__((format(printf, 2, 3))) void
failed(enum check check, const char *format, ...);

/* Ends the test, for what makes it pointless. */
__attribute__((format(printf, 1, 2))) _Noreturn void
give_up(const char *format, ...);

/* Of CLOCK_MONOTONIC; the time of the last load_turn() is good enough for most,
 * and costs nothing. */
uint64_t now_ms(void);

/* load.c */

/* What all connections add up to. */
struct load {
	unsigned level;       /* connections to have at once; set it */
	uint64_t most;        /* bytes each way; set it */
	bool refill;          /* whether an ended one is replaced; set it */
	unsigned alive;       /* slots taken */
	unsigned established; /* those that have reached the server */
	uint64_t connected, accepted;  /* by clients; by the server */
	uint64_t sent[2], received[2]; /* by side */
	uint64_t clean, half_closes;   /* ended so; while the other sent */
	uint64_t resets[2], early, headless; /* early: before the server knew */
	uint64_t longest_ms, longest_reset_ms; /* no progress; until told */
};

extern struct load load;

/* Starts the server on 127.0.0.1. Returns its port. */
uint16_t load_listen(void);

/* What clients connect to, on 127.0.0.1. */
void load_target(uint16_t port);

/* While it is held, a connection stops when it has reached the server. Then all
 * go on, one after the other. */
void load_hold(bool hold);

/* Handles what has happened; waits 20 ms at most. */
void load_turn(void);

/* How many sockets are open, the listener aside. */
unsigned load_sockets(void);

/* proxy.c */

struct proxy {
	const char *name;
	int pid, log;
	uint64_t closed, failed, up, down;  /* as its log says, line by line */
	unsigned descriptors, threads, rss; /* at rest; KiB */
	char listening[512], counters[512]; /* the last line of each kind */
	char text[8192];                    /* of the log, not whole yet */
	unsigned length;
};

/* Starts a program of a folder, and waits until it listens. */
void proxy_start(struct proxy *p, const char *folder, const char *name,
    const char *flag, const char *listen, const char *other_flag,
    const char *upstream);

/* The port that it listens on. Ends the test if it allows itself fewer
 * connections than that. */
uint32_t proxy_port(const struct proxy *p, unsigned connections);

/* Reads what has been logged by now. */
void proxy_read(struct proxy *p);

/* Has it log its counters, and waits for them. */
void proxy_count(struct proxy *p);

/* The number behind a key in a line. Ends the test if there is none. */
uint64_t proxy_number(const char *line, const char *key);

/* What it holds now. */
unsigned proxy_descriptors(const struct proxy *p);
unsigned proxy_status(const struct proxy *p, const char *key);

/* Sends SIGTERM, and waits for a clean end. */
void proxy_stop(struct proxy *p);
