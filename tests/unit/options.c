/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of options. options_parse() ends the process, so each command
 * line is parsed by a child, whose output is caught and whose settings come
 * back through shared memory. */
#include "options.h"

#include "access.h"
#include "log.h"
#include "support.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define HINT "\n\nFor more information, try '--help'.\n"
#define IP_EXPECTED "IPv4:PORT, [IPv6]:PORT or NAME:PORT, with a port of "
#define VSOCK_EXPECTED \
	"CID:PORT, both 0 to 4294967295, or any, local or host for the CID"
#define UPSTREAM_VSOCK_EXPECTED \
	"CID:PORT, both 0 to 4294967294, or local or host for the CID"
#define CID_EXPECTED "a CID of 0 to 4294967294, or local or host"
#define NUMBER_EXPECTED "a whole number of 1 to 1000000"
#define TIME_EXPECTED "a whole number of 0 to 1000000"
#define CHUNK_EXPECTED "a whole number of 4096 to 1048576"
#define BUFFER_EXPECTED "a whole number of 262144 to 1073741824"

/* Exit status of a child whose options_parse() has returned. */
#define RETURNED 100
/* For a command line; ends with NULL. */
#define ARGS(...) ((char *[]){"argv0", __VA_ARGS__})

/* What a child has parsed, and where its tables' values go. */
static struct parsed {
	struct settings settings;
	unsigned log_threshold, number;
	char rules[512]; /* each with a line */
} values, *parsed;

static const struct option ip_table[] = {
    {OPTION_LISTEN_IP, 'i', "ip-addr", "IP_ADDR", .help = "where to listen"},
    {OPTION_UPSTREAM_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "where to go"},
    {.name = NULL},
};

static const struct option vsock_table[] = {
    {OPTION_LISTEN_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "where to listen"},
    {OPTION_UPSTREAM_IP, 'i', "ip-addr", "IP_ADDR", .help = "where to go"},
    {OPTION_NUMBER, 0, "own-number", "N", "a number", &values.number,
	"a whole number of 1 to 10", 1, 10, NULL, false},
    {.name = NULL},
};

static const struct option cid_table[] = {
    {OPTION_UPSTREAM_CID, 'v', "vsock", "VSOCK", .help = "where to go"},
    {OPTION_SEND_PROXY_V2},
    {.name = NULL},
};

/* How a child ended, and what it wrote. */
static struct outcome {
	int status; /* exit status, or -1 */
	char out[8192], err[8192];
} outcome;

/* Whether the child's output goes out at once, and fails at once. */
static bool unbuffered;

/* The child's LISTEN_FDS, for itself, its parent, or nobody; NULL: unset. */
static const char *listen_fds;
static enum { FOR_CHILD, FOR_PARENT, FOR_NOBODY } listen_pid;

static void
pass_listeners(void)
{
	char pid[32];

	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	if (listen_fds != NULL)
		(void)setenv("LISTEN_FDS", listen_fds, 1);
	(void)snprintf(pid, sizeof(pid), "%d",
	    (int)(listen_pid == FOR_CHILD ? getpid() : getppid()));
	if (listen_pid != FOR_NOBODY)
		(void)setenv("LISTEN_PID", pid, 1);
}

/* The child: parses, and logs a line of each level. */
_Noreturn static void
be_child(const struct option *table, char *args[], int out, int err)
{
	int count = 0;

	alarm(TEST_LIMIT_S);
	(void)dup2(err, STDERR_FILENO);
	if (unbuffered)
		(void)setvbuf(stdout, NULL, _IONBF, 0);
	if (out == -1)
		close(STDOUT_FILENO);
	else
		(void)dup2(out, STDOUT_FILENO);
	while (args[count] != NULL)
		count++;
	pass_listeners();
	settings.has_targets = table == vsock_table;
	options_parse("unit", table, count, args);
	*parsed = values;
	parsed->settings = settings;
	parsed->log_threshold = log_threshold;
	for (struct access_rule *r = access_rules; r != NULL; r = r->next)
		(void)strcat(strcat(parsed->rules, r->text), "\n");
	log_line(LEVEL_ERROR, "msg=probe");
	log_line(LEVEL_WARN, "msg=probe");
	log_line(LEVEL_INFO, "msg=probe");
	log_line(LEVEL_DEBUG, "msg=probe");
	_exit(RETURNED);
}

static void
read_text(int fd, char *text, size_t size)
{
	size_t length = 0;
	ssize_t n;

	while ((n = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)n;
	text[length] = '\0';
	close(fd);
}

/* Parses with this as standard output: a descriptor, or -1 for none. */
static void
parse_to(const struct option *table, char *args[], int out)
{
	int err[2], status;
	pid_t child;

	assert_int_equal(pipe2(err, O_CLOEXEC), 0);
	memset(parsed, 0, sizeof(*parsed));
	(void)fflush(NULL);
	child = fork();
	if (child == 0)
		be_child(table, args, out, err[1]);
	assert_true(child > 0);
	close(err[1]);
	read_text(err[0], outcome.err, sizeof(outcome.err));
	assert_int_equal(waitpid(child, &status, 0), child);
	outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
parse(const struct option *table, char *args[])
{
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	parse_to(table, args, out[1]);
	close(out[1]);
	read_text(out[0], outcome.out, sizeof(outcome.out));
}

static void
assert_returned(void)
{
	if (outcome.status != RETURNED)
		fail_msg("status %d: %s", outcome.status, outcome.err);
	assert_string_equal(outcome.out, "");
}

static void
assert_usage_error(const char *expected)
{
	assert_string_equal(outcome.err, expected);
	assert_string_equal(outcome.out, "");
	assert_int_equal(outcome.status, 2);
}

static void
test_forms(void **state)
{
	/* Fails if a command line that the original took is refused, or is read
	 * in another way. */
	static char *const forms[][5] = {
	    {"--ip-addr", "127.0.0.1:1200", "--vsock-addr", "3:1300"},
	    {"--ip-addr=127.0.0.1:1200", "--vsock-addr=3:1300"},
	    {"-i", "127.0.0.1:1200", "-v", "3:1300"},
	    {"-i127.0.0.1:1200", "-v3:1300"},
	    {"-i=127.0.0.1:1200", "-v=3:1300"},
	    {"-v", "3:1300", "--ip-addr", "127.0.0.1:1200"},
	    {"--vsock-addr=3:1300", "-i127.0.0.1:1200"},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(forms); i++) {
		const struct address *vsock = &parsed->settings.vsock;

		parse(ip_table, ARGS(forms[i][0], forms[i][1], forms[i][2],
				    forms[i][3], NULL));
		assert_returned();
		assert_string_equal(parsed->settings.host.host, "127.0.0.1");
		assert_string_equal(parsed->settings.host.port, "1200");
		assert_string_equal(
		    parsed->settings.host.text, "127.0.0.1:1200");
		assert_int_equal(vsock->any.sa_family, AF_VSOCK);
		assert_int_equal(vsock->vm.svm_cid, 3);
		assert_int_equal(vsock->vm.svm_port, 1300);
	}
}

static void
test_other_direction(void **state)
{
	/* Fails if the programs that listen on vsock misread their addresses.
	 */
	(void)state;
	parse(vsock_table, ARGS("-vany:5", "--ip-addr", "example.com:443",
			       "--own-number=7", NULL));
	assert_returned();
	assert_false(parsed->settings.listens_on_tcp);
	assert_int_equal(parsed->settings.vsock.vm.svm_cid, VMADDR_CID_ANY);
	assert_int_equal(parsed->settings.vsock.vm.svm_port, 5);
	assert_string_equal(parsed->settings.host.host, "example.com");
	assert_string_equal(parsed->settings.host.text, "example.com:443");
	assert_int_equal(parsed->number, 7);
}

static void
test_cid(void **state)
{
	/* Fails if a CID can't be given alone, or a port that is given along
	 * with it goes unnoticed. */
	(void)state;
	parse(cid_table, ARGS("-v", "88", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.vsock.vm.svm_cid, 88);
	assert_false(parsed->settings.upstream_has_port);
	parse(cid_table, ARGS("--vsock=host:80", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.vsock.vm.svm_cid, VMADDR_CID_HOST);
	assert_true(parsed->settings.upstream_has_port);
}

static void
test_port_0(void **state)
{
	/* Fails if no free port can be asked for, or port 0 can't be called. */
	(void)state;
	parse(ip_table, ARGS("-i[::1]:0", "-vlocal:0", NULL));
	assert_returned();
	assert_string_equal(parsed->settings.host.host, "::1");
	assert_string_equal(parsed->settings.host.port, "0");
	assert_int_equal(parsed->settings.vsock.vm.svm_cid, VMADDR_CID_LOCAL);
	assert_int_equal(parsed->settings.vsock.vm.svm_port, 0);
}

static void
test_defaults(void **state)
{
	/* Fails if a default changes unnoticed. */
	(void)state;
	parse(ip_table, ARGS("-ia:1", "-v3:1", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.connect_timeout, 10);
	assert_int_equal(parsed->settings.max_connections, 0);
	assert_int_equal(parsed->log_threshold, LEVEL_INFO);
	assert_int_equal(parsed->settings.copy, COPY_AUTO);
	assert_int_equal(parsed->settings.vsock_chunk, 32768);
	assert_int_equal(parsed->settings.vsock_buffer, 0);
	assert_int_equal(parsed->settings.preamble_timeout, 10);
	assert_int_equal(parsed->settings.grace, 8);
	assert_int_equal(parsed->settings.idle_timeout, 0);
	assert_int_equal(parsed->settings.user_timeout, 0);
	assert_int_equal(parsed->settings.stats_interval, 0);
	assert_int_equal(parsed->settings.paired, 0);
	assert_int_equal(parsed->settings.send_proxy_v2, 0);
	assert_false(parsed->settings.listener_passed);
}

static void
test_numbers(void **state)
{
	/* Fails if a number goes to the wrong place, or its bounds move. */
	(void)state;
	parse(cid_table, ARGS("-v3", "--connect-timeout", "1",
			     "--max-connections=1000000", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.connect_timeout, 1);
	assert_int_equal(parsed->settings.max_connections, 1000000);
	parse(cid_table, ARGS("-v3", "--vsock-chunk", "4096",
			     "--vsock-buffer=1073741824", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.vsock_chunk, 4096);
	assert_int_equal(parsed->settings.vsock_buffer, 1073741824);
	parse(cid_table, ARGS("-v3", "--vsock-chunk=1048576", "--vsock-buffer",
			     "262144", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.vsock_chunk, 1048576);
	assert_int_equal(parsed->settings.vsock_buffer, 262144);
}

static void
test_times(void **state)
{
	/* Fails if one limit of time is taken for another, can't be switched
	 * off, or has other bounds than it says. */
	static char *const names[] = {"--grace", "--idle-timeout",
	    "--tcp-user-timeout", "--stats-interval"};
	static char *const texts[] = {"0", "7", "1000000"};
	static const unsigned numbers[] = {0, 7, 1000000};
	static const unsigned defaults[] = {8, 0, 0, 0};

	(void)state;
	for (size_t i = 0; i < LENGTH(names) * LENGTH(texts); i++) {
		const struct settings *s = &parsed->settings;
		unsigned expected[LENGTH(defaults)];

		memcpy(expected, defaults, sizeof(defaults));
		expected[i / LENGTH(texts)] = numbers[i % LENGTH(texts)];
		parse(cid_table, ARGS("-v3", names[i / LENGTH(texts)],
				     texts[i % LENGTH(texts)], NULL));
		assert_returned();
		assert_int_equal(s->grace, expected[0]);
		assert_int_equal(s->idle_timeout, expected[1]);
		assert_int_equal(s->user_timeout, expected[2]);
		assert_int_equal(s->stats_interval, expected[3]);
		assert_int_equal(s->connect_timeout, 10);
		assert_int_equal(s->preamble_timeout, 10);
	}
}

static void
test_words(void **state)
{
	/* Fails if a word means something else than it says. */
	static char *const levels[] = {"error", "warn", "info", "debug"};
	static char *const modes[] = {
	    [COPY_AUTO] = "auto",
	    [COPY_SPLICE] = "splice",
	    [COPY_BUFFER] = "buffer",
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		parse(cid_table, ARGS("-v3", "--copy", modes[i], NULL));
		assert_returned();
		assert_int_equal(parsed->settings.copy, i);
	}
	for (size_t i = 0; i < LENGTH(levels); i++) {
		char expected[64];

		parse(cid_table, ARGS("-v3", "--log-level", levels[i], NULL));
		assert_returned();
		/* The log is open: the least severe line that is let through
		 * is of this level. */
		for (size_t j = 0; j < LENGTH(levels); j++) {
			(void)snprintf(expected, sizeof(expected),
			    " level=%s prog=unit msg=probe\n", levels[j]);
			assert_int_equal(
			    strstr(outcome.err, expected) != NULL, j <= i);
		}
	}
}

#define BAD_VALUE(value, option, expected)              \
	"error: invalid value '" value "' for '" option \
	"': expected " expected HINT
/* On macros in braces the versions of clang-format differ. */
/* clang-format off */
#define BAD_IP(value)             \
	{ip_table, {"-i", value}, \
	    BAD_VALUE(value, "--ip-addr <IP_ADDR>", IP_EXPECTED "0 to 65535")}
#define BAD_UPSTREAM_IP(value)       \
	{vsock_table, {"-i", value}, \
	    BAD_VALUE(value, "--ip-addr <IP_ADDR>", IP_EXPECTED "1 to 65535")}
#define BAD_VSOCK(value)             \
	{vsock_table, {"-v", value}, \
	    BAD_VALUE(value, "--vsock-addr <VSOCK_ADDR>", VSOCK_EXPECTED)}
#define BAD_UPSTREAM_VSOCK(value) \
	{ip_table, {"-v", value}, \
	    BAD_VALUE(            \
		value, "--vsock-addr <VSOCK_ADDR>", UPSTREAM_VSOCK_EXPECTED)}
#define BAD_CID(value)             \
	{cid_table, {"-v", value}, \
	    BAD_VALUE(value, "--vsock <VSOCK>", CID_EXPECTED)}
#define BAD_NUMBER(value)                                \
	{cid_table, {"-v3", "--max-connections", value}, \
	    BAD_VALUE(value, "--max-connections <N>", NUMBER_EXPECTED)}
#define BAD_TIME(option, value)                \
	{cid_table, {"-v3", option "=" value}, \
	    BAD_VALUE(value, option " <SECONDS>", TIME_EXPECTED)}
#define BAD_CHUNK(value)                             \
	{cid_table, {"-v3", "--vsock-chunk", value}, \
	    BAD_VALUE(value, "--vsock-chunk <BYTES>", CHUNK_EXPECTED)}
#define BAD_BUFFER(value)                             \
	{cid_table, {"-v3", "--vsock-buffer", value}, \
	    BAD_VALUE(value, "--vsock-buffer <BYTES>", BUFFER_EXPECTED)}
/* clang-format on */

/* A command line and what is said about it. */
struct mistake {
	const struct option *table;
	char *args[5];
	const char *message;
};

static void
assert_mistakes(const struct mistake *mistakes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char *const *args = mistakes[i].args;

		parse(mistakes[i].table,
		    ARGS(args[0], args[1], args[2], args[3], NULL));
		assert_usage_error(mistakes[i].message);
	}
}

static void
test_bad_values(void **state)
{
	/* Fails if a typing error starts a proxy, or isn't named. */
	static const struct mistake mistakes[] = {
	    BAD_IP("localhost"),
	    BAD_IP(""),
	    BAD_IP("127.0.0.1:65536"),
	    BAD_IP("::1:80"),
	    BAD_UPSTREAM_IP("localhost:0"),
	    BAD_UPSTREAM_IP("localhost:00"),
	    BAD_UPSTREAM_IP("127.1:80"),
	    BAD_VSOCK("3"),
	    BAD_VSOCK("4294967296:1"),
	    BAD_UPSTREAM_VSOCK("3"),
	    BAD_UPSTREAM_VSOCK("any:1"),
	    BAD_UPSTREAM_VSOCK("4294967295:1"),
	    BAD_UPSTREAM_VSOCK("3:4294967295"),
	    BAD_UPSTREAM_VSOCK("127.0.0.1:80"),
	    BAD_CID("any"),
	    BAD_CID("4294967295"),
	    BAD_CID("3:"),
	    BAD_CID("x"),
	    BAD_NUMBER("0"),
	    BAD_NUMBER("1000001"),
	    BAD_NUMBER("4294967297"),
	    BAD_NUMBER("18446744073709551617"),
	    BAD_NUMBER(" 5"),
	    BAD_NUMBER("5 "),
	    BAD_NUMBER("+5"),
	    BAD_NUMBER("1.5"),
	    BAD_NUMBER("ten"),
	    BAD_CHUNK("0"),
	    BAD_CHUNK("4095"),
	    BAD_CHUNK("1048577"),
	    BAD_CHUNK("4294971392"), /* 4096, in 32 bits */
	    BAD_CHUNK("32k"),
	    BAD_BUFFER("0"),
	    BAD_BUFFER("262143"),
	    BAD_BUFFER("1073741825"),
	    BAD_BUFFER("4295229440"), /* 262144, in 32 bits */
	    {cid_table, {"-v3", "--log-level=trace"},
		BAD_VALUE("trace", "--log-level <LEVEL>",
		    "error, warn, info or debug")},
	    {cid_table, {"-v3", "--log-level=Info"},
		BAD_VALUE("Info", "--log-level <LEVEL>",
		    "error, warn, info or debug")},
	    {cid_table, {"-v3", "--copy", "splic"},
		BAD_VALUE("splic", "--copy <MODE>", "auto, splice or buffer")},
	    {cid_table, {"-v3", "--copy="},
		BAD_VALUE("", "--copy <MODE>", "auto, splice or buffer")},
	    {vsock_table, {"--own-number=11"},
		BAD_VALUE(
		    "11", "--own-number <N>", "a whole number of 1 to 10")},
	    {cid_table, {"-v="},
		BAD_VALUE("", "--vsock <VSOCK>", CID_EXPECTED)},
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

static void
test_bad_times(void **state)
{
	/* Fails if a time that is none, or none that fits, is taken. */
	static const struct mistake mistakes[] = {
	    BAD_TIME("--idle-timeout", "1000001"),
	    BAD_TIME("--idle-timeout", "4294967297"),
	    BAD_TIME("--idle-timeout", "never"),
	    BAD_TIME("--grace", "1000001"),
	    BAD_TIME("--grace", ""),
	    BAD_TIME("--grace", "10s"),
	    BAD_TIME("--tcp-user-timeout", "1000001"),
	    BAD_TIME("--tcp-user-timeout", "0.5"),
	    BAD_TIME("--stats-interval", "1000001"),
	    BAD_TIME("--stats-interval", "-1"),
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

static void
test_bounds(void **state)
{
	/* Fails if one number has another's bounds, or its message does. */
	static const struct {
		const char *option, *form;
		unsigned least, most;
	} rows[] = {
	    {"--connect-timeout", "<SECONDS>", 1, 1000000},
	    {"--idle-timeout", "<SECONDS>", 0, 1000000},
	    {"--tcp-user-timeout", "<SECONDS>", 0, 1000000},
	    {"--grace", "<SECONDS>", 0, 1000000},
	    {"--stats-interval", "<SECONDS>", 0, 1000000},
	    {"--max-connections", "<N>", 1, 1000000},
	    {"--vsock-chunk", "<BYTES>", 4096, 1048576},
	    {"--vsock-buffer", "<BYTES>", 262144, 1073741824},
	};

	(void)state;
	for (size_t i = 0; i < 4 * LENGTH(rows); i++) {
		unsigned least = rows[i / 4].least, most = rows[i / 4].most;
		const unsigned edges[] = {least, most, most + 1, least - 1};
		unsigned value = edges[i % 4]; /* the last two are outside */
		char argument[64], message[256];

		(void)snprintf(argument, sizeof(argument), "%s=%u",
		    rows[i / 4].option, value);
		parse(cid_table, ARGS("-v3", argument, NULL));
		if (i % 4 < 2) {
			assert_returned();
			continue;
		}
		(void)snprintf(message, sizeof(message),
		    "error: invalid value '%u' for '%s %s': expected a whole "
		    "number of %u to %u" HINT,
		    value, rows[i / 4].option, rows[i / 4].form, least, most);
		assert_usage_error(message);
	}
}

static void
test_negative_numbers(void **state)
{
	/* Fails if a negative number is taken for an option and the message
	 * speaks of something else. */
	static const struct mistake mistakes[] = {
	    BAD_NUMBER("-1"),
	    BAD_NUMBER("-9999999999999999999999"),
	    BAD_TIME("--grace", "-1"),
	    BAD_CHUNK("-4096"),
	    BAD_BUFFER("-1"),
	    BAD_CID("-1"),
	    BAD_VSOCK("-1:5000"),
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

static void
test_values_missing(void **state)
{
	/* Fails if the next option is swallowed as a value, or a required
	 * option isn't missed. */
	static const struct mistake mistakes[] = {
	    {ip_table, {"-i"},
		"error: no value for '--ip-addr <IP_ADDR>': "
		"expected " IP_EXPECTED "0 to 65535" HINT},
	    {ip_table, {"--ip-addr", "--vsock-addr", "3:1"},
		"error: no value for '--ip-addr <IP_ADDR>': "
		"expected " IP_EXPECTED "0 to 65535" HINT},
	    {cid_table, {"-v3", "--max-connections", "-v"},
		"error: no value for '--max-connections <N>': "
		"expected " NUMBER_EXPECTED HINT},
	    {cid_table, {"-v3", "--grace"},
		"error: no value for '--grace <SECONDS>': "
		"expected " TIME_EXPECTED HINT},
	    {cid_table, {"-v3", "--vsock-chunk"},
		"error: no value for '--vsock-chunk <BYTES>': "
		"expected " CHUNK_EXPECTED HINT},
	    {cid_table, {"-v3", "--vsock-buffer"},
		"error: no value for '--vsock-buffer <BYTES>': "
		"expected " BUFFER_EXPECTED HINT},
	    {ip_table, {NULL},
		"error: '--ip-addr <IP_ADDR>' is missing: "
		"expected " IP_EXPECTED "0 to 65535" HINT},
	    {ip_table, {"-v3:1"},
		"error: '--ip-addr <IP_ADDR>' is missing: "
		"expected " IP_EXPECTED "0 to 65535" HINT},
	    {ip_table, {"-i", "a:1"},
		"error: '--vsock-addr <VSOCK_ADDR>' is missing: "
		"expected " UPSTREAM_VSOCK_EXPECTED HINT},
	    {vsock_table, {"-i", "a:1"},
		"error: '--vsock-addr <VSOCK_ADDR>' is missing: "
		"expected " VSOCK_EXPECTED HINT},
	    {vsock_table, {"-v", "3:1"},
		"error: '--ip-addr <IP_ADDR>' is missing: "
		"expected " IP_EXPECTED "1 to 65535" HINT},
	    {cid_table, {"--copy", "auto"},
		"error: '--vsock <VSOCK>' is missing: "
		"expected " CID_EXPECTED HINT},
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

#define TWICE(option, value)                                   \
	"error: '" option "' is given twice, now with '" value \
	"': expected once" HINT
#define UNEXPECTED(argument) \
	"error: unexpected argument '" argument "': expected an option" HINT
#define NO_VALUE_TAKEN(value, option)                      \
	"error: unexpected value '" value "' for '" option \
	"': expected none" HINT

static void
test_unexpected(void **state)
{
	/* Fails if an option that doesn't exist is ignored or guessed at, or
	 * one of two values silently wins. */
	static const struct mistake mistakes[] = {
	    {ip_table, {"--ip-addr=a:1", "-i", "a:1"},
		TWICE("--ip-addr <IP_ADDR>", "a:1")},
	    {cid_table, {"-v3", "--copy=auto", "--copy=buffer"},
		TWICE("--copy <MODE>", "buffer")},
	    {cid_table, {"-v3", "--vsock-chunk=4096", "--vsock-chunk=4096"},
		TWICE("--vsock-chunk <BYTES>", "4096")},
	    {cid_table, {"-v3", "--idle-timeout=0", "--idle-timeout=0"},
		TWICE("--idle-timeout <SECONDS>", "0")},
	    {ip_table, {"--ip"}, UNEXPECTED("--ip")},
	    {ip_table, {"--ip-addrs", "a:1"}, UNEXPECTED("--ip-addrs")},
	    {ip_table, {"--IP-ADDR=a:1"}, UNEXPECTED("--IP-ADDR=a:1")},
	    {ip_table, {"-x"}, UNEXPECTED("-x")},
	    {ip_table, {"-I", "a:1"}, UNEXPECTED("-I")},
	    {ip_table, {"-ip-addr=a:1"},
		BAD_VALUE("p-addr=a:1", "--ip-addr <IP_ADDR>",
		    IP_EXPECTED "0 to 65535")},
	    {ip_table, {"--"}, UNEXPECTED("--")},
	    {ip_table, {"-"}, UNEXPECTED("-")},
	    {ip_table, {""}, UNEXPECTED("")},
	    {ip_table, {"="}, UNEXPECTED("=")},
	    {ip_table, {"--=a:1"}, UNEXPECTED("--=a:1")},
	    {ip_table, {"-i", "a:1", "3:1"}, UNEXPECTED("3:1")},
	    {ip_table, {"-ia:1", "-v3:1", "extra"}, UNEXPECTED("extra")},
	    {cid_table, {"--own-number", "5"}, UNEXPECTED("--own-number")},
	    {cid_table, {"-v3", "--paired", "--grace=1", "--paired"},
		"error: '--paired' is given twice: expected once" HINT},
	    {cid_table, {"-v3", "--paired", "1"}, UNEXPECTED("1")},
	    {cid_table, {"-v3", "--pair"}, UNEXPECTED("--pair")},
	    {cid_table, {"--paired=1"}, NO_VALUE_TAKEN("1", "--paired")},
	    {cid_table, {"--paired="}, NO_VALUE_TAKEN("", "--paired")},
	    {cid_table, {"--help=yes"}, NO_VALUE_TAKEN("yes", "--help")},
	    {cid_table, {"--help="}, NO_VALUE_TAKEN("", "--help")},
	    {cid_table, {"-hV"}, NO_VALUE_TAKEN("V", "--help")},
	    {cid_table, {"--version=1"}, NO_VALUE_TAKEN("1", "--version")},
	    {cid_table, {"-V=1"}, NO_VALUE_TAKEN("1", "--version")},
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

/* Finds the row of an option in --help; NULL: there is none. Its help text
 * starts at *column. */
static const char *
find_row(const char *letter, const char *form, const char *help, size_t *column)
{
	char start[64], *row, *text;
	size_t length;

	length = (size_t)snprintf(
	    start, sizeof(start), "\n  %-3s %s ", letter, form);
	row = strstr(outcome.out, start);
	if (row == NULL)
		return NULL;
	text = row + length + strspn(row + length, " ");
	*column = (size_t)(text - row);
	return strncmp(text, help, strlen(help)) == 0 ? row : NULL;
}

static void
test_help(void **state)
{
	/* Fails if an option is left out of --help, or help isn't readable. */
	static const struct {
		const char *letter, *form, *help;
	} rows[] = {
	    {"-v,", "--vsock-addr <VSOCK_ADDR>", "where to listen\n"},
	    {"-i,", "--ip-addr <IP_ADDR>", "where to go\n"},
	    {"", "--own-number <N>", "a number\n"},
	    {"", "--allow-target <LIST>", ""},
	    {"", "--deny-target <LIST>", ""},
	    {"", "--allow-client <LIST>", ""},
	    {"", "--connect-timeout <SECONDS>", ""},
	    {"", "--idle-timeout <SECONDS>", ""},
	    {"", "--tcp-user-timeout <SECONDS>", ""},
	    {"", "--grace <SECONDS>", ""},
	    {"", "--max-connections <N>", ""},
	    {"", "--log-level <LEVEL>", ""},
	    {"", "--copy <MODE>", ""},
	    {"", "--vsock-chunk <BYTES>", ""},
	    {"", "--vsock-buffer <BYTES>", ""},
	    {"", "--paired", ""},
	    {"-h,", "--help", "Print help\n"},
	    {"-V,", "--version", "Print version\n"},
	};
	static const char usage[] = "Usage: unit [OPTIONS] --vsock-addr "
				    "<VSOCK_ADDR> --ip-addr <IP_ADDR>\n\n"
				    "Options:\n";
	static char *const forms[] = {"--help", "-h"};

	(void)state;
	for (size_t i = 0; i < LENGTH(forms); i++) {
		size_t column = 0, first_column = 0;

		parse(vsock_table, ARGS("-v3:1", forms[i], "rubbish", NULL));
		assert_int_equal(outcome.status, 0);
		assert_string_equal(outcome.err, "");
		assert_memory_equal(outcome.out, usage, strlen(usage));
		for (size_t j = 0; j < LENGTH(rows); j++) {
			if (find_row(rows[j].letter, rows[j].form, rows[j].help,
				&column) == NULL)
				fail_msg("no row for %s", rows[j].form);
			if (j == 0)
				first_column = column;
			assert_int_equal(column, first_column);
		}
	}
}

static void
test_paired(void **state)
{
	/* Fails if one of a pair doesn't know that it is one, or a program that
	 * can be nothing else lets users think that they choose. */
	(void)state;
	parse(cid_table, ARGS("--paired", "-v3", "--grace=1", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.paired, 1);
	assert_int_equal(parsed->settings.grace, 1);
	settings.paired = true;
	parse(cid_table, ARGS("-v3", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.paired, 1);
	parse(cid_table, ARGS("-v3", "--paired", NULL));
	assert_usage_error(UNEXPECTED("--paired"));
	parse(cid_table, ARGS("--help", NULL));
	assert_int_equal(outcome.status, 0);
	assert_null(strstr(outcome.out, "--paired"));
}

static void
test_send_proxy_v2(void **state)
{
	/* Fails if services get a header unasked, or a program that sends none
	 * lets users think that it does. */
	(void)state;
	parse(cid_table, ARGS("--send-proxy-v2", "-v3", NULL));
	assert_returned();
	assert_int_equal(parsed->settings.send_proxy_v2, 1);
	assert_int_equal(parsed->settings.paired, 0);
	parse(ip_table, ARGS("-ia:1", "-v3:1", "--send-proxy-v2", NULL));
	assert_usage_error(UNEXPECTED("--send-proxy-v2"));
}

#define CLIENTS_EXPECTED                                           \
	"CID, CID-CID, local or host on vsock, on TCP ADDRESS or " \
	"ADDRESS/BITS "                                            \
	"without bits behind those, commas between"
#define TARGETS_EXPECTED                                                      \
	"local, private, *, IPv4, IPv4/BITS, [IPv6] or [IPv6/BITS], without " \
	"bits behind those, perhaps with :PORT or :PORT-PORT, commas between"
/* On macros in braces the versions of clang-format differ. */
/* clang-format off */
#define BAD_ITEM(table, option, value, item, expected) \
	{table, {"--" option "=" value}, "error: invalid item '" item \
	    "' for '--" option " <LIST>': expected " expected HINT}
/* clang-format on */

static void
test_rules(void **state)
{
	/* Fails if a rule is taken for one of another kind, or lost. */
	(void)state;
	parse(vsock_table,
	    ARGS("-v3:1", "-ia:1", "--deny-target", "local,*:25",
		"--allow-client=16-31", "--deny-target=private",
		"--allow-target=10.0.0.0/8", "--allow-client", "local", NULL));
	assert_returned();
	assert_string_equal(parsed->rules, "--deny-target local\n"
					   "--deny-target *:25\n"
					   "--allow-client 16-31\n"
					   "--deny-target private\n"
					   "--allow-target 10.0.0.0/8\n"
					   "--allow-client local\n");
	parse(ip_table,
	    ARGS("-v3:1", "-ia:1", "--allow-client=::1,10.0.0.0/8", NULL));
	assert_returned();
	assert_string_equal(parsed->rules, "--allow-client ::1/128\n"
					   "--allow-client 10.0.0.0/8\n");
}

static void
test_bad_rules(void **state)
{
	/* Fails if what is wrong in a list isn't named, or starts a proxy. */
	static const struct mistake mistakes[] = {
	    BAD_ITEM(
		vsock_table, "allow-client", "16,17-", "17-", CLIENTS_EXPECTED),
	    BAD_ITEM(
		vsock_table, "allow-client", "any", "any", CLIENTS_EXPECTED),
	    BAD_ITEM(vsock_table, "allow-client", "", "", CLIENTS_EXPECTED),
	    BAD_ITEM(vsock_table, "allow-client", "10.0.0.0/8", "10.0.0.0/8",
		CLIENTS_EXPECTED),
	    BAD_ITEM(ip_table, "allow-client", "16", "16", CLIENTS_EXPECTED),
	    BAD_ITEM(ip_table, "allow-client", "10.0.0.1/8,x", "10.0.0.1/8",
		CLIENTS_EXPECTED),
	    BAD_ITEM(
		vsock_table, "allow-target", "local,,*", "", TARGETS_EXPECTED),
	    BAD_ITEM(vsock_table, "deny-target", "local,::1,*", "::1",
		TARGETS_EXPECTED),
	    BAD_ITEM(
		vsock_table, "deny-target", "local,", "", TARGETS_EXPECTED),
	    {vsock_table, {"--deny-target"},
		"error: no value for '--deny-target <LIST>': "
		"expected " TARGETS_EXPECTED HINT},
	    {vsock_table, {"--allow-target", "--grace=1"},
		"error: no value for '--allow-target <LIST>': "
		"expected " TARGETS_EXPECTED HINT},
	    {vsock_table, {"--allow-client"},
		"error: no value for '--allow-client <LIST>': "
		"expected " CLIENTS_EXPECTED HINT},
	    {ip_table, {"--allow-client"},
		"error: no value for '--allow-client <LIST>': "
		"expected " CLIENTS_EXPECTED HINT},
	    /* Where nothing has a target. */
	    {ip_table, {"--deny-target=local"},
		UNEXPECTED("--deny-target=local")},
	    {ip_table, {"--allow-target=local"},
		UNEXPECTED("--allow-target=local")},
	};

	(void)state;
	assert_mistakes(mistakes, LENGTH(mistakes));
}

static int
start_afresh(void **state)
{
	(void)state;
	settings.paired = false;
	listen_fds = NULL;
	listen_pid = FOR_NOBODY;
	return 0;
}

static void
test_family(void **state)
{
	/* Fails if a program takes its listener for one of the other kind, in
	 * how it adopts one and what it hands to vsock in pieces. */
	static const char *const passed[] = {NULL, "1"};

	(void)state;
	listen_pid = FOR_CHILD;
	for (size_t i = 0; i < LENGTH(passed); i++) {
		listen_fds = passed[i];
		parse(ip_table, passed[i] == NULL ? ARGS("-ia:1", "-v3:1", NULL)
						  : ARGS("-v3:1", NULL));
		assert_returned();
		assert_true(parsed->settings.listens_on_tcp);
		parse(vsock_table, passed[i] == NULL
				       ? ARGS("-v3:1", "-ia:1", NULL)
				       : ARGS("-ia:1", NULL));
		assert_returned();
		assert_false(parsed->settings.listens_on_tcp);
	}
}

static void
test_listener_passed(void **state)
{
	/* Fails if a socket that a service manager passes isn't taken, or not
	 * instead of an address. */
	(void)state;
	listen_pid = FOR_CHILD;
	listen_fds = "1";
	parse(ip_table, ARGS("-v3:1", NULL));
	assert_returned();
	assert_true(parsed->settings.listener_passed);
	assert_null(parsed->settings.host.text);
	parse(vsock_table, ARGS("-ia:1", NULL));
	assert_returned();
	assert_true(parsed->settings.listener_passed);
	assert_int_equal(parsed->settings.vsock.length, 0);
	/* The upstream must be given as ever. */
	parse(ip_table, ARGS("--copy=auto", NULL));
	assert_usage_error("error: '--vsock-addr <VSOCK_ADDR>' is missing: "
			   "expected " UPSTREAM_VSOCK_EXPECTED HINT);
	parse(vsock_table, ARGS("--copy=auto", NULL));
	assert_usage_error("error: '--ip-addr <IP_ADDR>' is missing: "
			   "expected " IP_EXPECTED "1 to 65535" HINT);
}

static void
test_two_listeners(void **state)
{
	/* Fails if one of two listeners silently wins. */
	static const struct mistake mistakes[] = {
	    {ip_table, {"-ia:1", "-v3:1"},
		"error: '--ip-addr <IP_ADDR>' is given, and a listener was "
		"passed (LISTEN_FDS): expected one of them" HINT},
	    {vsock_table, {"-v3:1", "-ia:1"},
		"error: '--vsock-addr <VSOCK_ADDR>' is given, and a listener "
		"was passed (LISTEN_FDS): expected one of them" HINT},
	};
	static const char *const numbers[] = {"0", "2", "", "1 ", "01", "-1"};

	(void)state;
	listen_pid = FOR_CHILD;
	listen_fds = "1";
	assert_mistakes(mistakes, LENGTH(mistakes));
	for (size_t i = 0; i < LENGTH(numbers); i++) {
		char expected[128];

		listen_fds = numbers[i];
		(void)snprintf(expected, sizeof(expected),
		    "error: LISTEN_FDS is '%s': expected 1" HINT, numbers[i]);
		parse(ip_table, ARGS("-v3:1", NULL));
		assert_usage_error(expected);
		/* Also if it would do without: nothing is left unsaid. */
		parse(ip_table, ARGS("-ia:1", "-v3:1", NULL));
		assert_usage_error(expected);
	}
	parse(ip_table, ARGS("--version", NULL)); /* what comes first counts */
	assert_int_equal(outcome.status, 0);
}

static void
test_listener_of_another(void **state)
{
	/* Fails if what a manager passed to the program that has started this
	 * one is taken, or in the way. */
	(void)state;
	for (int i = 0; i < 3; i++) {
		listen_pid = i == 0   ? FOR_PARENT
			     : i == 1 ? FOR_NOBODY
				      : FOR_CHILD;
		listen_fds = i == 2 ? NULL : "1";
		parse(ip_table, ARGS("-ia:1", "-v3:1", NULL));
		assert_returned();
		assert_false(parsed->settings.listener_passed);
		assert_string_equal(parsed->settings.host.text, "a:1");
		parse(ip_table, ARGS("-v3:1", NULL));
		assert_usage_error("error: '--ip-addr <IP_ADDR>' is missing: "
				   "expected " IP_EXPECTED "0 to 65535" HINT);
	}
}

static void
test_version(void **state)
{
	/* Fails if --version doesn't tell which version runs. */
	static char *const forms[] = {"--version", "-V"};

	(void)state;
	for (size_t i = 0; i < LENGTH(forms); i++) {
		parse(ip_table, ARGS(forms[i], NULL));
		assert_int_equal(outcome.status, 0);
		assert_string_equal(outcome.out, "unit " VERSION "\n");
		assert_string_equal(outcome.err, "");
	}
}

static void
test_first_counts(void **state)
{
	/* Fails if --help hides an error that stands before it. */
	(void)state;
	parse(ip_table, ARGS("-x", "--help", NULL));
	assert_usage_error(UNEXPECTED("-x"));
}

static void
test_output_fails(void **state)
{
	/* Fails if a help text that nobody got counts as success. */
	static const char said[] = "error: cannot write to standard output";
	static char *const forms[] = {"--help", "--version"};
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	(void)state;
	assert_true(full >= 0);
	for (size_t i = 0; i < 2 * LENGTH(forms); i++) {
		unbuffered = i % 2 == 1;
		parse_to(ip_table, ARGS(forms[i / 2], NULL), full);
		assert_int_equal(outcome.status, 1);
		assert_memory_equal(outcome.err, said, strlen(said));
		parse_to(ip_table, ARGS(forms[i / 2], NULL), -1);
		assert_int_equal(outcome.status, 1);
		assert_memory_equal(outcome.err, said, strlen(said));
	}
	unbuffered = false;
	close(full);
}

#define TEST(name) cmocka_unit_test_setup(name, start_afresh)

int
main(void)
{
	struct CMUnitTest tests[] = {
	    TEST(test_forms),
	    TEST(test_other_direction),
	    TEST(test_cid),
	    TEST(test_port_0),
	    TEST(test_defaults),
	    TEST(test_numbers),
	    TEST(test_times),
	    TEST(test_words),
	    TEST(test_bad_values),
	    TEST(test_bad_times),
	    TEST(test_bounds),
	    TEST(test_negative_numbers),
	    TEST(test_values_missing),
	    TEST(test_unexpected),
	    TEST(test_help),
	    TEST(test_paired),
	    TEST(test_send_proxy_v2),
	    TEST(test_rules),
	    TEST(test_bad_rules),
	    TEST(test_family),
	    TEST(test_listener_passed),
	    TEST(test_two_listeners),
	    TEST(test_listener_of_another),
	    TEST(test_version),
	    TEST(test_first_counts),
	    TEST(test_output_fails),
	};

	limit_tests(tests, LENGTH(tests));
	parsed = mmap(NULL, sizeof(*parsed), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (parsed == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
