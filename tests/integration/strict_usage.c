/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line. Listeners are given addresses that cannot be bound: a
 * command line that is taken ends with exit status 1 and a line in the log, one
 * that is refused with 2 and a usage error, and nothing has to be stopped.
 */
#include "strict.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define BATCH 32
#define ARGS_MAX 16
#define HINT "\n\nFor more information, try '--help'.\n"

enum kind {
	LISTEN_IP,
	UPSTREAM_IP,
	LISTEN_VSOCK,
	UPSTREAM_VSOCK,
	UPSTREAM_CID,
	NUMBER,
	TIME,
	CHUNK,
	BUFFER,
	LEVEL,
	MODE,
	NO_VALUE
};

/* Bad values of any host and port, and of any CID and port. */
#define BAD_IP                                                                 \
	"", ":", ":80", "80", "localhost", "1.2.3.4",                          \
	    "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:99999999999999999999",       \
	    "1.2.3.4:-1", "1.2.3.4:+80", "1.2.3.4: 80", "1.2.3.4:80 ",         \
	    " 1.2.3.4:80", "1.2.3.4:8o", "1.2.3.4:0x50", "1.2.3.4:http",       \
	    "1.2.3.4:80:90", "256.2.3.4:80", "1.2.3:80", "1.2.3.4.5:80",       \
	    "16909060:80", "0x1020304:80", "1.2.3.0x4:80", "::1:80", "::1",    \
	    "[::1]", "[::1]80", "[::1:80", "::1]:80", "[]:80", "[1.2.3.4]:80", \
	    "[localhost]:80", "[::1%lo]:80", "[::g]:80", "a b:80", "a/b:80",   \
	    "a..b:80", ".a:80", "-a:80"
#define BAD_VSOCK                                                             \
	"", ":", ":1", "x:1", "1:x", "1:2:3", "4294967296:1", "1:4294967296", \
	    "18446744073709551617:1", "-1:1", "1:-1", " 1:1", "1: 1", "1:1 ", \
	    "+1:1", "0x1:1", "1:0x1", "1.0:1", "ANY:1", "loca:1",             \
	    "localhost:1", "hosts:1", "127.0.0.1:80", "1:"

/* For each kind: the words in the error, and values; the first good one is
 * what other tests give. */
static const struct {
	const char *expected;
	const char *good[10];
	const char *bad[48];
} kinds[] = {
    [LISTEN_IP] = {"expected IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
		   "with a port of 0 to 65535",
	{"203.0.113.9:1", "203.0.113.9:0", "203.0.113.9:65535",
	    "[2001:db8:ffff::1]:1", "[::ffff:203.0.113.9]:1", UNRESOLVABLE ":1",
	    UNRESOLVABLE ".a-b_c.example.:1"},
	{BAD_IP}},
    [UPSTREAM_IP] = {"expected IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
		     "with a port of 1 to 65535",
	{"127.0.0.1:7", "127.0.0.1:1", "127.0.0.1:65535", "[::1]:7", "[::]:7",
	    "name.example:7", "a:7"},
	{BAD_IP, "127.0.0.1:0", "[::1]:0", "name.example:0"}},
    [LISTEN_VSOCK] = {"expected CID:PORT, both 0 to 4294967295, "
		      "or any, local or host for the CID",
	{"99:7", "99:0", "99:4294967295", "4294967294:7"},
	{BAD_VSOCK, "1", "any"}},
    [UPSTREAM_VSOCK] = {"expected CID:PORT, both 0 to 4294967294, "
			"or local or host for the CID",
	{"1:7", "0:0", "4294967294:4294967294", "local:7", "host:7"},
	{BAD_VSOCK, "1", "any:7", "4294967295:7", "1:4294967295"}},
    [UPSTREAM_CID] = {"expected a CID of 0 to 4294967294, or local or host",
	{"1", "0", "4294967294", "local", "host", "88:1200", "88:0"},
	{BAD_VSOCK, "any", "any:7", "4294967295", "4294967296", "x", "-1"}},
    [NUMBER] = {"expected a whole number of 1 to 1000000",
	{"2", "1", "1000000"},
	{"", "0", "00", "1000001", "4294967297", "18446744073709551617", "-1",
	    "+1", " 1", "1 ", "1.5", "1s", "0x1", "ten"}},
    [TIME] = {"expected a whole number of 0 to 1000000",
	{"2", "0", "1", "1000000"},
	{"", "1000001", "4294967296", "18446744073709551616", "-1", "-0", "+0",
	    " 0", "0 ", "0.5", "0s", "0x0", "never"}},
    [CHUNK] = {"expected a whole number of 4096 to 1048576",
	{"4096", "1048576", "32769"},
	{"", "0", "4095", "1048577", "4294971392", "-4096", "32k", "8192 "}},
    [BUFFER] = {"expected a whole number of 262144 to 1073741824",
	{"262144", "1073741824"},
	{"", "0", "262143", "1073741825", "4295229440", "-262144", "1M"}},
    [LEVEL] = {"expected error, warn, info or debug",
	{"info", "error", "warn", "debug"},
	{"", "INFO", "inf", "infos", "info ", "trace", "2"}},
    [MODE] = {"expected auto, splice or buffer", {"auto", "splice", "buffer"},
	{"", "Auto", "splic", "buffer,splice", "none", "1"}},
};

struct flag {
	char letter; /* 0: none */
	const char *name, *metavar;
	enum kind kind;
	bool required;
};

/* Behind all that have values, as NO_VALUE ends loops over them. */
#define PAIRED_FLAG 0, "paired", "", NO_VALUE, false
#define HEADER_FLAG 0, "send-proxy-v2", "", NO_VALUE, false
/* Likewise what may be given often: strict_access.c. */
#define CLIENT_FLAG 0, "allow-client", " <LIST>", NO_VALUE, false
#define ALLOW_FLAG 0, "allow-target", " <LIST>", NO_VALUE, false
#define DENY_FLAG 0, "deny-target", " <LIST>", NO_VALUE, false
#define COMMON_FLAGS                                            \
	{0, "connect-timeout", " <SECONDS>", NUMBER, false},    \
	    {0, "idle-timeout", " <SECONDS>", TIME, false},     \
	    {0, "tcp-user-timeout", " <SECONDS>", TIME, false}, \
	    {0, "grace", " <SECONDS>", TIME, false},            \
	    {0, "stats-interval", " <SECONDS>", TIME, false},   \
	    {0, "max-connections", " <N>", NUMBER, false},      \
	    {0, "log-level", " <LEVEL>", LEVEL, false},         \
	    {0, "copy", " <MODE>", MODE, false},                \
	    {0, "vsock-chunk", " <BYTES>", CHUNK, false},       \
	    {0, "vsock-buffer", " <BYTES>", BUFFER, false},     \
	    {'h', "help", "", NO_VALUE, false},                 \
	{                                                       \
		'V', "version", "", NO_VALUE, false             \
	}

static const struct synopsis {
	const char *program;
	struct flag flags[20]; /* up to one without a name */
} synopses[] = {
    {"ip-to-vsock",
	{{'i', "ip-addr", " <IP_ADDR>", LISTEN_IP, true},
	    {'v', "vsock-addr", " <VSOCK_ADDR>", UPSTREAM_VSOCK, true},
	    COMMON_FLAGS, {CLIENT_FLAG}, {PAIRED_FLAG}, {HEADER_FLAG}}},
    {"vsock-to-ip", {{'v', "vsock-addr", " <VSOCK_ADDR>", LISTEN_VSOCK, true},
			{'i', "ip-addr", " <IP_ADDR>", UPSTREAM_IP, true},
			COMMON_FLAGS, {CLIENT_FLAG}, {PAIRED_FLAG}}},
    {"ip-to-vsock-transparent",
	{{'i', "ip-addr", " <IP_ADDR>", LISTEN_IP, true},
	    {'v', "vsock-addr", " <VSOCK_ADDR>", UPSTREAM_VSOCK, true},
	    COMMON_FLAGS, {CLIENT_FLAG}, {ALLOW_FLAG}, {DENY_FLAG}}},
    {"vsock-to-ip-transparent",
	{{'v', "vsock-addr", " <VSOCK_ADDR>", LISTEN_VSOCK, true},
	    {0, "preamble-timeout", " <SECONDS>", NUMBER, false}, COMMON_FLAGS,
	    {CLIENT_FLAG}, {ALLOW_FLAG}, {DENY_FLAG}}},
    {"port-to-vsock-transparent",
	{{'i', "ip-addr", " <IP_ADDR>", LISTEN_IP, true},
	    {'v', "vsock", " <VSOCK>", UPSTREAM_CID, true}, COMMON_FLAGS,
	    {CLIENT_FLAG}, {ALLOW_FLAG}, {DENY_FLAG}, {PAIRED_FLAG},
	    {HEADER_FLAG}}},
};

/* Those of them that have no value, and do something. */
static const char *const switches[] = {"paired", "send-proxy-v2"};

/* One row for each program. */
#define TEST_EACH(function)                                    \
	TEST_WITH(function, "ip-to-vsock", 0),                 \
	    TEST_WITH(function, "vsock-to-ip", 1),             \
	    TEST_WITH(function, "ip-to-vsock-transparent", 2), \
	    TEST_WITH(function, "vsock-to-ip-transparent", 3), \
	    TEST_WITH(function, "port-to-vsock-transparent", 4)

struct arguments {
	char *list[ARGS_MAX];
	size_t count;
};

/* Runs of a program, several at a time, and what to think of them. */
struct batch {
	const struct synopsis *synopsis;
	bool accepted; /* whether its arguments should be taken */
	size_t count, total;
	struct attempt {
		struct program *program;
		const char *arguments;      /* for messages */
		const char *first, *second; /* words in the error */
	} attempts[BATCH];
};

static void
add(struct arguments *a, const char *argument)
{
	assert_true(a->count + 1 < ARGS_MAX);
	a->list[a->count++] = harness_text("%s", argument);
}

/* Adds the required flags, except one (by number), with good values. */
static void
add_required(struct arguments *a, const struct synopsis *s, size_t except)
{
	for (size_t i = 0; s->flags[i].required; i++) {
		if (i == except)
			continue;
		add(a, harness_text("--%s", s->flags[i].name));
		add(a, kinds[s->flags[i].kind].good[0]);
	}
}

/* Adds a flag with a value, written in one of several forms. */
static void
add_flag(struct arguments *a, const struct flag *f, const char *v, size_t form)
{
	bool dashed = v[0] == '-' && (v[1] < '1' || v[1] > '9');

	switch (form % (f->letter == 0 ? 2 : 5)) {
	case 0:
		if (dashed)
			break;
		add(a, harness_text("--%s", f->name));
		add(a, v);
		return;
	case 2:
		if (dashed)
			break;
		add(a, harness_text("-%c", f->letter));
		add(a, v);
		return;
	case 3: add(a, harness_text("-%c=%s", f->letter, v)); return;
	case 4:
		if (*v == '\0')
			break;
		add(a, harness_text("-%c%s", f->letter, v));
		return;
	default: break;
	}
	add(a, harness_text("--%s=%s", f->name, v));
}

static void
expect_usage_error(struct attempt *a)
{
	const char *out = program_out(a->program);
	const char *err = program_err(a->program);
	const char *end = strchr(err, '\n');

	if (program_wait_end(a->program) != 2 || *out != '\0' || end == NULL ||
	    strcmp(end, HINT) != 0 || strncmp(err, "error: ", 7) != 0 ||
	    strstr(err, a->first) == NULL || strstr(err, a->second) == NULL)
		fail_msg("after%s\nno usage error with: %s ... %s\n"
			 "but exit status %d and:\n%s%s",
		    a->arguments, a->first, a->second,
		    program_wait_end(a->program), out, err);
}

static void
expect_accepted(struct attempt *a)
{
	const char *err = program_err(a->program);

	if (program_wait_end(a->program) != 1 ||
	    strstr(err, " msg=\"cannot listen\" ") == NULL ||
	    strstr(err, "error: ") != NULL || *program_out(a->program) != '\0')
		fail_msg("after%s\nnot taken, but:\n%s", a->arguments, err);
}

static void
judge(struct batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		program_wait_end(b->attempts[i].program);
		if (b->accepted)
			expect_accepted(&b->attempts[i]);
		else
			expect_usage_error(&b->attempts[i]);
	}
	b->total += b->count;
	b->count = 0;
	program_stop_all();
}

/* Runs with these arguments; two texts must be in the error's first line. */
static void
try(struct batch *b, struct arguments *a, const char *first, const char *second)
{
	struct attempt *attempt = &b->attempts[b->count++];
	const char *text = "";

	for (size_t i = 0; i < a->count; i++)
		text = harness_text("%s '%s'", text, a->list[i]);
	a->list[a->count] = NULL;
	attempt->arguments = text;
	attempt->first = first;
	attempt->second = second;
	attempt->program = program_start(&(struct program_options){
	    .side = HOST, .name = b->synopsis->program, .args = a->list});
	if (b->count == BATCH)
		judge(b);
}

/* Whether a synopsis has a flag of this name. */
static bool
has_flag(const struct synopsis *s, const char *name)
{
	for (const struct flag *f = s->flags; f->name != NULL; f++)
		if (strcmp(f->name, name) == 0)
			return true;
	return false;
}

/*
 * Whether a flag is the first of its name with values of its kind. All others
 * get every third of the bad values only: a run takes its time in an emulated
 * guest.
 */
static bool
is_first(const struct flag *flag)
{
	for (size_t i = 0; i < COUNT(synopses); i++)
		for (const struct flag *f = synopses[i].flags; f->name; f++)
			if (f->kind == flag->kind &&
			    strcmp(f->name, flag->name) == 0)
				return f == flag;
	return false;
}

static void
test_bad_values(void **state)
{
	/* Broken: a mistyped address, found out when the first client comes or
	 * never. */
	struct batch b = {.synopsis = &synopses[(uintptr_t)*state]};
	size_t form = 0;

	for (size_t i = 0; b.synopsis->flags[i].kind != NO_VALUE; i++) {
		const struct flag *f = &b.synopsis->flags[i];
		size_t step = is_first(f) ? 1 : 3;
		size_t j = step == 1 ? 0 : ((uintptr_t)*state + i) % step;

		for (; j < COUNT(kinds[0].bad); j += step) {
			const char *bad = kinds[f->kind].bad[j];
			struct arguments a = {.count = 0};

			if (bad == NULL)
				break;
			add_required(&a, b.synopsis, i);
			add_flag(&a, f, bad, form++);
			try(&b, &a,
			    harness_text("invalid value '%s' for '--%s%s': ",
				bad, f->name, f->metavar),
			    kinds[f->kind].expected);
		}
	}
	judge(&b);
	assert_true(b.total > 12);
}

static void
test_good_values(void **state)
{
	/* Broken: what the manual says is refused: a form of a flag, a value at
	 * the edge of its range. */
	struct batch b = {
	    .synopsis = &synopses[(uintptr_t)*state], .accepted = true};

	for (size_t i = 0; b.synopsis->flags[i].kind != NO_VALUE; i++) {
		const struct flag *f = &b.synopsis->flags[i];
		const char *const *good = kinds[f->kind].good;
		size_t form = 0, forms = f->letter == 0 ? 2 : 5;

		while (*good != NULL || form < forms) {
			struct arguments a = {.count = 0};

			/* Also ahead of the others. */
			if (form % 2 == 1)
				add_required(&a, b.synopsis, i);
			add_flag(&a, f, *good == NULL ? good[-1] : *good, form);
			if (form++ % 2 == 0)
				add_required(&a, b.synopsis, i);
			try(&b, &a, "", "");
			if (*good != NULL)
				good++;
		}
	}
	for (size_t i = 0; i < COUNT(switches); i++) {
		struct arguments a = {.count = 0};

		if (!has_flag(b.synopsis, switches[i]))
			continue;
		add(&a, harness_text("--%s", switches[i]));
		add_required(&a, b.synopsis, SIZE_MAX);
		try(&b, &a, "", "");
	}
	judge(&b);
	assert_true(b.total > 12);
}

static void
test_missing(void **state)
{
	/* Broken: a service runs with an address that nobody chose. */
	struct batch b = {.synopsis = &synopses[(uintptr_t)*state]};

	for (size_t i = 0; b.synopsis->flags[i].kind != NO_VALUE; i++) {
		const struct flag *f = &b.synopsis->flags[i];
		const char *flag =
		    harness_text("'--%s%s'", f->name, f->metavar);
		const char *expected = kinds[f->kind].expected;
		struct arguments a = {.count = 0};

		add_required(&a, b.synopsis, i);
		if (f->required) {
			try(&b, &a, harness_text("%s is missing: ", flag),
			    expected);
		}
		add(&a, harness_text("--%s", f->name));
		try(&b, &a, harness_text("no value for %s: ", flag), expected);
		add(&a, "--log-level");
		add(&a, "info");
		try(&b, &a, harness_text("no value for %s: ", flag), expected);
		if (f->letter == 0)
			continue;
		a.list[a.count - 3] = harness_text("-%c", f->letter);
		try(&b, &a, harness_text("no value for %s: ", flag), expected);
	}
	try(&b, &(struct arguments){.count = 0},
	    harness_text("'--%s%s' is missing: ", b.synopsis->flags[0].name,
		b.synopsis->flags[0].metavar),
	    kinds[b.synopsis->flags[0].kind].expected);
	judge(&b);
	assert_true(b.total > 12);
}

static void
test_given_twice(void **state)
{
	/* Broken: one of two contradicting addresses wins silently. */
	struct batch b = {.synopsis = &synopses[(uintptr_t)*state]};

	for (size_t i = 0; b.synopsis->flags[i].kind != NO_VALUE; i++) {
		const struct flag *f = &b.synopsis->flags[i];
		const char *const *good = kinds[f->kind].good;

		/* Once more the same value, then another one. */
		for (size_t form = 0; form < (f->letter == 0 ? 2 : 5); form++) {
			struct arguments a = {.count = 0};

			add_required(&a, b.synopsis, i);
			add_flag(&a, f, good[0], form);
			add_flag(&a, f, good[form % 2], form + 1);
			try(&b, &a,
			    harness_text(
				"'--%s%s' is given twice", f->name, f->metavar),
			    harness_text(
				"'%s': expected once", good[form % 2]));
		}
	}
	for (size_t i = 0; i < COUNT(switches); i++) {
		const char *flag = harness_text("--%s", switches[i]);
		struct arguments a = {.count = 0};

		if (!has_flag(b.synopsis, switches[i]))
			continue;
		add(&a, flag);
		add_required(&a, b.synopsis, SIZE_MAX);
		add(&a, flag);
		try(&b, &a, harness_text("'%s' is given twice", flag),
		    "expected once");
	}
	judge(&b);
	assert_true(b.total > 12);
}

static void
test_unknown(void **state)
{
	/* Broken: a mistyped flag does nothing, or something else. */
	static const char *const strays[] = {"--bogus", "--bogus=1", "-x", "-",
	    "--", "---help", "--=", "extra", "", "127.0.0.1:80", "--helpx",
	    "--hel", "--versions", "--ip", "--vsock-add", "--vsock-addrs",
	    "--copyx=auto", "--log", "--log_level", "--LOG-LEVEL", "-I", "-c",
	    "-?", "--connect-timeou=1", "\xc3\xa4"};
	static const char *const others[] = {"ip-addr", "vsock-addr", "vsock",
	    "preamble-timeout", "paired", "send-proxy-v2", "allow-target",
	    "deny-target"};
	struct batch b = {.synopsis = &synopses[(uintptr_t)*state]};

	for (size_t i = 0; i < COUNT(strays) + COUNT(others); i++) {
		const char *stray =
		    i < COUNT(strays)
			? strays[i]
			: harness_text("--%s", others[i - COUNT(strays)]);
		struct arguments a = {.count = 0};

		if (i >= COUNT(strays) && has_flag(b.synopsis, stray + 2))
			continue;
		/* Before or behind what is right. */
		if (i % 2 == 0)
			add(&a, stray);
		add_required(&a, b.synopsis, SIZE_MAX);
		if (i % 2 == 1)
			add(&a, stray);
		try(&b, &a, harness_text("unexpected argument '%s'", stray),
		    "expected an option");
	}
	judge(&b);
	assert_true(b.total > 12);
}

static void
test_unwanted_value(void **state)
{
	/* Broken: a mistyped flag prints help and exits with success. */
	static const char *const flags[][4] = {
	    {"--help=yes", "'yes'", "'--help'"},
	    {"--help=", "''", "'--help'"},
	    {"-hi", "'i'", "'--help'"},
	    {"-help", "'elp'", "'--help'"},
	    {"--version=1", "'1'", "'--version'"},
	    {"-V1", "'1'", "'--version'"},
	    {"-Vh", "'h'", "'--version'"},
	    /* Which not all programs have. */
	    {"--paired=1", "'1'", "'--paired'", "paired"},
	    {"--send-proxy-v2=", "''", "'--send-proxy-v2'", "send-proxy-v2"},
	};
	struct batch b = {.synopsis = &synopses[(uintptr_t)*state]};
	size_t count = 0;

	for (size_t i = 0; i < COUNT(flags); i++) {
		struct arguments a = {.count = 0};

		if (flags[i][3] != NULL && !has_flag(b.synopsis, flags[i][3]))
			continue;
		count++;
		add(&a, flags[i][0]);
		add_required(&a, b.synopsis, SIZE_MAX);
		try(&b, &a,
		    harness_text(
			"unexpected value %s for %s", flags[i][1], flags[i][2]),
		    "expected none");
	}
	judge(&b);
	assert_int_equal(b.total, count);
}

/* How a row of --help starts. */
static const char *
help_row(const struct flag *f)
{
	return f->letter == 0
		   ? harness_text("\n      --%s%s  ", f->name, f->metavar)
		   : harness_text(
			 "\n  -%c, --%s%s  ", f->letter, f->name, f->metavar);
}

/* Where something is in the help; fails the test if it isn't there. */
static const char *
find(const char *help, const char *text)
{
	const char *found = strstr(help, text);

	if (found == NULL)
		fail_msg("no '%s' in:\n%s", text, help);
	return found;
}

static void
test_help(void **state)
{
	/* Broken: users don't find a flag, or asking for help looks like a
	 * failure. */
	static char *const forms[] = {"--help", "-h"};
	const struct synopsis *s = &synopses[(uintptr_t)*state];
	const char *out = NULL, *usage;
	size_t count = 0, column = 0;

	for (size_t i = 0; i < COUNT(forms); i++) {
		/* Before what comes after it. */
		struct program *p = program_run_args(
		    HOST, s->program, forms[i], "--bogus", NULL);

		assert_int_equal(program_wait_end(p), 0);
		assert_string_equal(program_err(p), "");
		out = program_out(p);
		usage = find(out, harness_text("Usage: %s ", s->program));
		assert_ptr_equal(usage, out);
	}
	usage = harness_text("%.*s", (int)strcspn(out, "\n"), out);
	for (const struct flag *f = s->flags; f->name != NULL; f++, count++) {
		size_t start = strlen(help_row(f));
		const char *row = find(out, help_row(f));
		const char *line =
		    harness_text("%.*s", (int)strcspn(row + 1, "\n"), row + 1);

		/* All help texts stand in one column. */
		start += strspn(row + start, " ");
		if (count == 0)
			column = start;
		assert_int_equal(start, column);
		if (f->required)
			find(usage,
			    harness_text(" --%s%s", f->name, f->metavar));
		if (f->kind == NUMBER &&
		    strcmp(f->name, "max-connections") != 0)
			find(line, "[default: 10]");
		if (f->kind == TIME)
			find(line, strcmp(f->name, "grace") == 0
				       ? "[default: 8]"
				       : "[default: 0]");
		if (f->kind == CHUNK)
			find(line, "[default: 32768]");
	}
	/* The usage, an empty line, a headline, the rows. */
	assert_int_equal(strict_count(out, '\n'), 3 + count);
}

static void
test_version(void **state)
{
	/* Broken: nobody can tell which release of which program runs. */
	static char *const forms[] = {"--version", "-V"};
	const char *program = synopses[(uintptr_t)*state].program;

	for (size_t i = 0; i < COUNT(forms); i++) {
		struct program *p =
		    program_run_args(HOST, program, forms[i], "--bogus", NULL);

		assert_int_equal(program_wait_end(p), 0);
		assert_string_equal(program_err(p), "");
		assert_string_equal(
		    program_out(p), harness_text("%s %s\n", program, VERSION));
	}
}

static void
test_output_lost(void **state)
{
	/* Broken: a script takes cut-off or missing output for the whole. */
	const char *program = synopses[(uintptr_t)*state].program;
	const char *path = program_path(program);
	static char *const forms[] = {"--help", "--version"};
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	assert_int_not_equal(full, -1);
	for (size_t i = 0; i < COUNT(forms); i++) {
		struct program *p =
		    program_run(&(struct program_options){.name = program,
			.args = ARGS(forms[i]),
			.stdout_fd = full});

		assert_int_equal(program_wait_end(p), 1);
		assert_int_equal(strict_count(program_err(p), '\n'), 1);
		p = program_run_args(HOST, "sh", "-c",
		    harness_text("'%s' %s >&-", path, forms[i]), NULL);
		assert_int_equal(program_wait_end(p), 1);
		assert_int_equal(strict_count(program_err(p), '\n'), 1);
	}
}

int
strict_usage_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST_EACH(test_bad_values),
	    TEST_EACH(test_good_values),
	    TEST_EACH(test_missing),
	    TEST_EACH(test_given_twice),
	    TEST_EACH(test_unknown),
	    TEST_EACH(test_unwanted_value),
	    TEST_EACH(test_help),
	    TEST_EACH(test_version),
	    TEST_EACH(test_output_lost),
	};

	return cmocka_run_group_tests_name("strict: usage", tests, NULL, NULL);
}
