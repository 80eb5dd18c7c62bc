/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a test orders faults from a program that is linked with fault.c: both map
 * one file, whose path the program finds in $FAULT. Without that variable the
 * program is as always.
 */
#ifndef FAULT_H
#define FAULT_H

#include <stdatomic.h>
#include <stdbool.h>

/* What can be made to fail; a libc function, or some of its calls. */
enum fault_call {
	FAULT_ACCEPT4,
	FAULT_CONNECT,
	FAULT_FCNTL,
	FAULT_GETADDRINFO,
	FAULT_GETSOCKNAME,
	FAULT_GETSOCKOPT,
	FAULT_MALLOC, /* and calloc(3) */
	FAULT_MMAP,
	FAULT_PIPE2,
	FAULT_POLL,
	FAULT_PTHREAD_CREATE,
	FAULT_RECV,
	FAULT_SEND,
	FAULT_SETSOCKOPT,
	FAULT_SHUTDOWN,
	FAULT_SOCKET,
	FAULT_SPLICE_IN,  /* splice(2) from a socket */
	FAULT_SPLICE_OUT, /* splice(2) to a socket */
	FAULT_WRITE,
	FAULT_CALLS
};

/* How a call fails: an errno (or what the function returns in its stead), */
enum {
	FAULT_NOTHING = -1, /* or it returns 0, */
	FAULT_SHORT = -2,   /* or it moves but one byte: splice, send, recv */
};

struct fault_rule {
	enum fault_call call;
	unsigned nth; /* call, counted from 1; 0: none */
	int error;
	/* Written by the program: how many calls there were; whether the nth
	 * has failed. */
	atomic_uint count;
	atomic_bool fired;
};

/*
 * While armed, calls are counted of the main thread and of all threads that
 * were made since. The second rule counts from when the first has fired.
 */
struct fault {
	atomic_bool armed;
	struct fault_rule rules[2];
	/* No socket can be disconnected (EBUSY), as on kernels of mid-2023
	 * where a thread waits in it; and how often one could not. */
	atomic_bool busy;
	atomic_uint refused;
	/* Threads whose job has ended may wait for the next; else they end, and
	 * each job has a new one. How many got one, with EDOM as errno; and how
	 * many had a signal mask, a name or a state of cancellation before that
	 * no new thread has. */
	atomic_bool threads_wait;
	atomic_uint jobs_taken, leftovers;
	/* How far CLOCK_MONOTONIC is ahead. */
	atomic_uint ahead_s;
	/* What the program has of mmap(2) and malloc(3), and not given back. */
	atomic_int mappings, allocations;
};

#endif
