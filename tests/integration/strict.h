/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the strict group share: they test what the original
 * doesn't promise, from the words of a usage error to the last descriptor.
 * Helpers fail the test as those of harness.h do.
 */
#ifndef STRICT_H
#define STRICT_H

#include "harness.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* A NULL-terminated list of arguments; lives as long as the block. */
#define ARGS(...) ((char *const[]){__VA_ARGS__, NULL})

#define MIB (1024 * 1024)

/* Of a program without connections: standard streams, the listener, signals,
 * and a wake-up from threads. */
#define IDLE_DESCRIPTORS 6

/* A user that nobody is. */
#define STRANGER 54321

/* The line at the start. */
#define LISTENING_KEYS                                            \
	"ts level prog msg listen upstream copy max-connections " \
	"limited-by allow-client allow-target deny-target"

/* The line before it, with --log-level debug. */
#define CONFINED_KEYS                                                   \
	"ts level prog msg descriptors core no-new-privs bounding-set " \
	"capabilities files tcp scopes"

/* A name that no resolver asks anybody about: its label is too long. */
#define UNRESOLVABLE \
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

/* The parts of the group. Return the number of failed tests. */
int strict_usage_run(void);
int strict_listen_run(void);
int strict_log_run(void);
int strict_dial_run(void);
int strict_target_run(void);
int strict_header_run(void);
int strict_access_run(void);
int strict_end_run(void);
int strict_chain_run(void);
int strict_confine_run(void);
int strict_load_run(void);
int strict_stop_run(void);
int strict_service_run(void);
int strict_limits_run(void);
int strict_hostile_run(void);

/*
 * Writes the header of --send-proxy-v2 of a client that connected to this
 * address and port: what the tests believe it to be. Returns its size.
 */
#define HEADER_MAX 52
size_t strict_make_header(
    int client, const char *to, uint16_t port, uint8_t bytes[HEADER_MAX]);

/* Opens a bridge; extra: more arguments, or NULL. */
struct bridge strict_bridge(enum route route, char *const *extra);

/*
 * The number that the first program of a bridge gives to the test's first
 * connection: finding out whether it listens on vsock takes one.
 */
unsigned strict_first(const struct bridge *bridge);

/* For a struct program_options: makes the new process one of STRANGER's. */
bool strict_drop_privileges(const void *unused);

/*
 * A UNIX datagram socket in the present network namespace; path: '@' in front
 * makes it abstract. Fails the test if there is none to be had.
 */
int strict_bind_unix(const char *path);

/* For a struct program_options: system calls that fail in the new process. */
struct strict_forbidden {
	int error;
	unsigned short count;
	int calls[4];
};
bool strict_forbid(const void *forbidden);

/* Starts one of the five, and waits until its log says that it listens. */
struct program *
strict_start(enum side side, const char *name, char *const *args);

/*
 * The same with an /etc of its own, where these sources of nsswitch.conf(5)
 * tell names: "files" for hosts(5), which has this text, or "dns" for a server
 * at 127.0.0.1. strict_set_hosts() replaces the text.
 */
struct program *strict_start_with_etc(enum side side, const char *sources,
    const char *hosts, const char *name, char *const *args);
void strict_set_hosts(const struct program *p, const char *hosts);

/*
 * Makes sure that lines written at one moment don't overwrite each other: the
 * kernel doesn't guard the position in memfd_create(2)'s files
 * (FMODE_ATOMIC_POS in fs/file.c), but O_APPEND does. Those that strict_...()
 * functions start are guarded.
 */
void strict_guard_log(const struct program *p);

/* How many times a byte is in a text. */
size_t strict_count(const char *text, char byte);

/* Expects that a text is logfmt, with these keys (spaces between) in order. */
void strict_expect_keys(const char *line, const char *keys);

/* Expects a key's value; wanted may be several with | in between. */
void strict_expect_value(const char *line, const char *key, const char *wanted);

/*
 * Waits for the last line of a connection, expects that it is whole, and that
 * it ended in this way. reason: as for strict_expect_value(), NULL: there must
 * be none. Returns the line.
 */
const char *strict_expect_end(
    struct program *p, unsigned number, const char *end, const char *reason);

/* The address of a socket (or its peer's) as a log has it. */
const char *strict_own_name(int fd);

/*
 * A TCP listener that answers nobody, as its backlog is full. *filler: close
 * it after accepting, to make room.
 */
int strict_black_hole(
    enum side side, const char *address, uint16_t port, int *filler);

/* Both ends send a stream, receive the other's, and end. */
void strict_exchange(int client, int upstream, uint64_t size);

/* The end of a bridge of one program that is on TCP, and the other. */
void strict_sort_ends(const struct bridge *bridge, int client, int upstream,
    int *tcp, int *vsock);

/* Waits until the log says that this end of the first connection failed. */
void strict_expect_tcp_failed(const struct bridge *bridge, const char *reason);

/*
 * Expects a line of counters: msg=counters or msg=stopped. counts: those that
 * aren't 0, e.g. "accepted=2 eof=1"; longest-ms may be anything.
 */
void strict_expect_counts(const char *line, const char *counts);

/* Asks for such a line, and expects these counts. */
const char *strict_count_now(struct program *p, const char *counts);

/* Waits until a program has at least so many threads. */
void strict_await_threads(struct program *p, unsigned long least);

/* Stops a program, waits until all of it stands still; lets it go on. */
void strict_stop(const struct program *p);
void strict_continue(const struct program *p);

/* Expects that a program, when it has done what there was to do, uses next to
 * no CPU time for so long. */
void strict_expect_quiet(const struct program *p, int ms);

/* Sends until nothing moves any more. Returns how many bytes went. */
uint64_t strict_fill(int fd);

/* Nanoseconds, of a clock that is never set. */
uint64_t strict_now_ns(void);

/* How long round trips of an honest client took. */
struct strict_trips {
	size_t count;
	uint64_t ns[16384];
};

/* Makes one more, of 64 bytes. */
void strict_trip(int client, int upstream, struct strict_trips *trips);

/*
 * The mean of all but the slowest tenth, in which the machine had other things
 * to do. Not the median: on a loaded machine trips are quick or slow, and about
 * half of them are either. Sorts them.
 */
unsigned strict_mean_us(struct strict_trips *trips);

/*
 * Prints the means of those that somebody disturbed, and of those that nobody
 * did; expects that the first is under twice the second, but with sanitizers:
 * what one takes for each thread and call is not the program's.
 */
void strict_expect_under_twice(const char *what, struct strict_trips *disturbed,
    struct strict_trips *undisturbed);

#endif
