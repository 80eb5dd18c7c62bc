/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs under test, and tools like nft or curl, as child processes. What
 * they print goes to files in memory, so that it never blocks them.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "network.h"

struct program_limit {
	int resource; /* RLIMIT_... */
	struct rlimit value;
};

/* How to start one. What is 0 or NULL is left as it is. */
struct program_options {
	enum side side;    /* its namespace */
	const char *name;  /* see below */
	const char *below; /* the five are in this folder of their folder */
	char *const *args; /* after argv[0]; NULL-terminated */
	char *const *env;  /* NAME=VALUE..., added; NULL-terminated */
	const struct program_limit *limits;
	size_t limit_count;
	int listener;           /* passed as descriptor 3; stays the caller's */
	const char *listen_fds; /* sets LISTEN_FDS, and LISTEN_PID to its own */
	/* Called in the new process; after false, that ends. Must not use what
	 * threads share, like the heap. */
	bool (*prepare)(const void *argument);
	const void *argument;
	int stdout_fd; /* instead of the file; stays the caller's */
	int stderr_fd;
};

struct program {
	pid_t pid; /* stays as it was after the end */
	const char *name;
	bool ended;                /* set by the functions below; then */
	int wait_status;           /* as of waitpid(2) */
	int out, err;              /* the files */
	char *out_text, *err_text; /* what was read of them last */
};

/*
 * Sets where the five programs are: in $PROXY_DIR_HOST (ip-to-vsock,
 * port-to-vsock-transparent, vsock-to-ip-transparent) and $PROXY_DIR_ENCLAVE
 * (vsock-to-ip, ip-to-vsock-transparent), where not set in $PROXY_DIR, where
 * not set in folder.
 */
void program_set_folder(const char *folder);

/* Whether they are those of the folder that the above was given. */
bool program_folder_is_default(void);

/* The path of one of the five. Any other name is returned as it is. */
const char *program_path(const char *name);

/*
 * Starts one of the five, or what execvp(3) finds by that name. Doesn't wait
 * for anything. Its standard input is /dev/null. The struct lives until the end
 * of the test, and so does the process at most.
 */
struct program *program_start(const struct program_options *options);

/* The same with the arguments in line, NULL at the end. */
__attribute__((sentinel)) struct program *
program_start_args(enum side side, const char *name, ...);

/* Starts, and waits until it ended. */
struct program *program_run(const struct program_options *options);
__attribute__((sentinel)) struct program *
program_run_args(enum side side, const char *name, ...);

/*
 * Waits until it listens; fails the test if it ends instead. _tcp looks into
 * /proc, the program notices nothing. _vsock connects, ends its side and waits
 * until the program has ended the other: so no upstream may listen as yet.
 */
void program_wait_tcp(struct program *p, uint16_t port);
void program_wait_vsock(struct program *p, uint32_t port);

/* Whether it still runs. */
bool program_runs(struct program *p);

/* Waits for its end. Returns its exit status, or 128 + signal. */
int program_wait_end(struct program *p);

/* Sends SIGTERM, after DEADLINE_MS SIGKILL; waits; returns as above. */
int program_stop(struct program *p);

/* Prints what each that still runs has printed, where its threads and ours
 * wait, and the queues of its TCP sockets: of a test that hangs. */
void program_show_all(void);

/* Kills and forgets all. Faults are printed and counted. For the teardown. */
void program_stop_all(void);

/* How many had a fault since the last call: a crash, or a sanitizer's report.
 */
int program_faults(void);

/* What it has printed so far. Valid until the next call for this program. */
const char *program_out(struct program *p);
const char *program_err(struct program *p);

/* Descriptors and threads that it has now. */
unsigned long program_descriptors(const struct program *p);
unsigned long program_threads(const struct program *p);

/* KiB that it has mapped now: with a sanitizer more than an unsigned holds. */
unsigned long program_memory(const struct program *p);

/* The text of a file of /proc/PID (proc(5)); until the next call. */
const char *program_proc(const struct program *p, const char *name);

/* How often its main thread has waited for something. */
unsigned long program_waits(const struct program *p);

/* Wait until it has at most so many (DEADLINE_MS); return how many. */
unsigned long
program_wait_descriptors(const struct program *p, unsigned long most);
unsigned long program_wait_threads(const struct program *p, unsigned long most);
unsigned long program_wait_memory(const struct program *p, unsigned long most);

/*
 * Waits for a line on its standard error that contains a text, counting from
 * the start of the output; the nth of them (1: the first). Returns the line
 * without its end; it lives until the end of the test. Fails the test if the
 * deadline passes, or the program ends without it.
 */
const char *program_wait_log(struct program *p, const char *text, unsigned nth);

/* How many lines on its standard error contain a text by now. */
unsigned program_count_log(struct program *p, const char *text);

/* Waits for the line msg=closed or msg=failed of a connection. Returns it. */
const char *program_wait_connection(struct program *p, unsigned number);

/*
 * The value of a key in a logfmt line, without quotes; NULL: no such key. It
 * lives until the end of the test.
 */
const char *program_log_value(const char *line, const char *key);

/* The same for a value that must be a decimal number. */
uint64_t program_log_number(const char *line, const char *key);

#endif
