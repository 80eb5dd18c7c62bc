/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: a table for each program, from which both parsing and
 * --help are made, and the options that all programs share. */
#pragma once
#include "address.h"

enum copy_mode { COPY_AUTO, COPY_SPLICE, COPY_BUFFER };
extern const char *const copy_words[]; /* by mode; NULL at the end */

/* Set before any thread starts, constant from then on. Times in seconds. */
struct settings {
	bool listens_on_tcp;    /* else on vsock */
	bool listener_passed;   /* by a service manager */
	struct host_port host;  /* of the TCP side, if one was given */
	struct address vsock;   /* likewise */
	bool upstream_has_port; /* OPTION_UPSTREAM_CID: a port was given */
	unsigned connect_timeout, preamble_timeout, grace;
	unsigned idle_timeout;    /* 0: none */
	unsigned stats_interval;  /* likewise */
	unsigned max_connections; /* 0: what the limits allow */
	unsigned copy;            /* enum copy_mode */
	unsigned vsock_chunk;     /* most bytes handed to vsock in one call */
	unsigned vsock_buffer;    /* see stream.h */
	unsigned user_timeout;    /* likewise */
	unsigned send_proxy_v2;   /* a header first: see proxy_header.h */
	/* The vsock peer is one of these programs, too: where it gives up, so
	 * do we. A program that sets it before it parses has no such option. */
	unsigned paired;
	bool has_targets; /* likewise: without it, no rules for them */
};

extern struct settings settings;

enum option_type {
	OPTION_LISTEN_IP,                    /* HOST:PORT, to settings.host */
	OPTION_LISTEN_VSOCK,                 /* CID:PORT, to settings.vsock */
	OPTION_LISTEN = OPTION_LISTEN_VSOCK, /* up to here */
	OPTION_UPSTREAM_IP,    /* HOST:PORT, not port 0, to settings.host */
	OPTION_UPSTREAM_VSOCK, /* CID:PORT, neither any, to settings.vsock */
	OPTION_UPSTREAM_CID,   /* CID or CID:PORT, likewise */
	OPTION_REQUIRED = OPTION_UPSTREAM_CID, /* up to here */
	OPTION_NUMBER, /* minimum to maximum, to *number; so are these: */
	OPTION_WORD,   /* its place among words */
	OPTION_FLAG,   /* no value: 1 */
	OPTION_HELP,
	OPTION_VERSION,
	OPTION_RULES, /* in the order of enum access_kind, often: */
	OPTION_ALLOW_TARGET = OPTION_RULES,
	OPTION_DENY_TARGET,
	OPTION_ALLOW_CLIENT,
};

struct option {
	enum option_type type;
	char letter; /* '\0': none */
	const char *name;
	const char *metavar; /* what --help calls the value; NULL: no value */
	const char *help;
	/* Of values that aren't addresses: */
	unsigned *number;     /* where they go */
	const char *expected; /* what they have to be */
	unsigned minimum, maximum;
	const char *const *words; /* NULL at the end */
	bool seen;                /* on this command line */
};

/* The fields of the row of a number among the settings. */
#define OPTION_SETTING(name, metavar, field, lo, hi, help)                \
	OPTION_NUMBER, 0, name, metavar, help " [" #lo " to " #hi "]",    \
	    &settings.field, "a whole number of " #lo " to " #hi, lo, hi, \
	    NULL, false

/* The row of more than one program, but not of all. */
#define OPTION_SEND_PROXY_V2                                           \
	OPTION_FLAG, 0, "send-proxy-v2", NULL,                         \
	    "tell the upstream, which has to expect it, the client's " \
	    "address first: PROXY protocol, version 2",                \
	    .number = &settings.send_proxy_v2

/* Parses the command line against a program's own table, whose first row is the
 * listener's, and the last one's name NULL, and the common options. Ends the
 * process after --help and --version (exit status 0) and after an error: one
 * line that names the value and what was expected, exit status 2. */
void options_parse(const char *program, const struct option *table, int argc,
    char *const argv[]);
