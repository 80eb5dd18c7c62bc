/* SPDX-License-Identifier: Apache-2.0 */
/* getopt_long(3) would accept abbreviations and repeated options; this parser
 * is strict, and its texts are like those that users of the original know. */
#include "options.h"
#include "log.h"
#include "service.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 16

struct settings settings = {.connect_timeout = 10,
    .preamble_timeout = 10,
    .grace = 8, /* supervisord kills after 10 */
    .log_level = LEVEL_INFO,
    .copy = COPY_AUTO,
    .vsock_chunk = 32768};

static const struct option common_table[] = {
    {0, "connect-timeout", "SECONDS",
	"give up connecting to the upstream after this long [default: 10]",
	OPTION_NUMBER, &settings.connect_timeout},
    {0, "idle-timeout", "SECONDS",
	"end connections on which no byte moves for so long, 0: never "
	"[default: 0]",
	OPTION_TIME, &settings.idle_timeout},
    {0, "tcp-user-timeout", "SECONDS",
	"end TCP connections whose peer takes no data for so long, 0: when the "
	"kernel does [default: 0]",
	OPTION_TIME, &settings.user_timeout},
    {0, "grace", "SECONDS",
	"let connections finish for so long after SIGTERM [default: 8]",
	OPTION_TIME, &settings.grace},
    {0, "max-connections", "N",
	"serve at most so many at once, others wait "
	"[default: what the process's limits allow]",
	OPTION_NUMBER, &settings.max_connections},
    {0, "log-level", "LEVEL", "log error, warn, info or debug [default: info]",
	OPTION_LEVEL, &settings.log_level},
    {0, "copy", "MODE", "move bytes by auto, splice or buffer [default: auto]",
	OPTION_COPY, &settings.copy},
    {0, "vsock-chunk", "BYTES",
	"hand vsock at most so many bytes at once [default: 32768]",
	OPTION_CHUNK, &settings.vsock_chunk},
    {0, "vsock-buffer", "BYTES",
	"let vsock sockets take in so much ahead [default: the kernel's]",
	OPTION_BUFFER, &settings.vsock_buffer},
    {0, "paired", NULL,
	"the vsock peer is one of these programs, too: where it gives up, so "
	"do we",
	OPTION_FLAG, &settings.paired},
    {'h', "help", NULL, "Print help", OPTION_HELP, NULL},
    {'V', "version", NULL, "Print version", OPTION_VERSION, NULL},
    {.name = NULL},
};

static const char *const level_words[] = {
    "error", "warn", "info", "debug", NULL};
const char *const copy_words[] = {"auto", "splice", "buffer", NULL};

static const unsigned bounds[][2] = {
    [OPTION_NUMBER] = {1, 1000000}, /* seconds that fit an int as ms */
    [OPTION_TIME] = {0, 1000000},
    [OPTION_CHUNK] = {4096, 1048576},
    [OPTION_BUFFER] = {262144, 1073741824},
};

static const char *const expected[] = {
    [OPTION_LISTEN_IP] = "IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
			 "with a port of 0 to 65535",
    [OPTION_UPSTREAM_IP] = "IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
			   "with a port of 1 to 65535",
    [OPTION_LISTEN_VSOCK] = "CID:PORT, both 0 to 4294967295, "
			    "or any, local or host for the CID",
    [OPTION_UPSTREAM_VSOCK] = "CID:PORT, both 0 to 4294967294, "
			      "or local or host for the CID",
    [OPTION_UPSTREAM_CID] = "a CID of 0 to 4294967294, or local or host",
    [OPTION_NUMBER] = "a whole number of 1 to 1000000",
    [OPTION_TIME] = "a whole number of 0 to 1000000",
    [OPTION_CHUNK] = "a whole number of 4096 to 1048576",
    [OPTION_BUFFER] = "a whole number of 262144 to 1073741824",
    [OPTION_LEVEL] = "error, warn, info or debug",
    [OPTION_COPY] = "auto, splice or buffer",
};

/* One command line while it is parsed. */
struct parser {
	const char *program;
	const struct option *options[MAX_OPTIONS]; /* both tables */
	bool seen[MAX_OPTIONS];
	size_t count;
};

__attribute__((format(printf, 1, 2))) _Noreturn static void
usage_error(const char *format, ...)
{
	va_list arguments;

	(void)fputs("error: ", stderr);
	va_start(arguments, format);
	(void)vfprintf(stderr, format, arguments);
	va_end(arguments);
	(void)fputs("\n\nFor more information, try '--help'.\n", stderr);
	exit(2);
}

/* Ends after --help or --version. */
_Noreturn static void
end_of_output(void)
{
	if (fflush(stdout) == 0 && ferror(stdout) == 0)
		exit(0);
	perror("error: cannot write to standard output");
	exit(1);
}

/* --name, or --name <METAVAR>. Returns its length. */
static int
long_form(const struct option *o, char *text, size_t size)
{
	return snprintf(text, size, o->metavar == NULL ? "--%s" : "--%s <%s>",
	    o->name, o->metavar);
}

_Noreturn static void
print_help(const struct parser *p)
{
	char text[64];
	int width = 0, length;

	printf("Usage: %s [OPTIONS]", p->program);
	for (size_t i = 0; i < p->count; i++) {
		length = long_form(p->options[i], text, sizeof(text));
		if (p->options[i]->type <= OPTION_REQUIRED)
			printf(" %s", text);
		if (length > width)
			width = length;
	}
	printf("\n\nOptions:\n");
	for (size_t i = 0; i < p->count; i++) {
		const struct option *o = p->options[i];
		char letter[] = {'-', o->letter, ',', '\0'};

		(void)long_form(o, text, sizeof(text));
		printf("  %-3s %-*s  %s\n", o->letter == 0 ? "" : letter, width,
		    text, o->help);
	}
	end_of_output();
}

/* Finds value among words, which end with NULL. */
static bool
parse_word(const char *const *words, const char *value, unsigned *index)
{
	for (*index = 0; words[*index] != NULL; (*index)++) {
		if (strcmp(words[*index], value) == 0)
			return true;
	}
	return false;
}

static bool
parse_value(const struct option *o, const char *value)
{
	struct address *vsock = &settings.upstream_vsock;
	uint64_t number = 0;
	bool valid;

	switch (o->type) {
	case OPTION_LISTEN_IP:
		return host_port_parse(value, &settings.listen_host);
	case OPTION_UPSTREAM_IP:
		return host_port_parse(value, &settings.upstream_host) &&
		       address_parse_number(
			   settings.upstream_host.port, 1, UINT16_MAX, &number);
	case OPTION_LISTEN_VSOCK:
		return address_parse_vsock(value, &settings.listen_vsock, NULL);
	case OPTION_UPSTREAM_VSOCK:
	case OPTION_UPSTREAM_CID:
		return address_parse_vsock(value, vsock,
			   o->type == OPTION_UPSTREAM_CID
			       ? &settings.upstream_has_port
			       : NULL) &&
		       vsock->vm.svm_cid != VMADDR_CID_ANY &&
		       vsock->vm.svm_port != VMADDR_PORT_ANY;
	case OPTION_NUMBER:
	case OPTION_TIME:
	case OPTION_CHUNK:
	case OPTION_BUFFER:
		valid = address_parse_number(
		    value, bounds[o->type][0], bounds[o->type][1], &number);
		*o->number = (unsigned)number;
		return valid;
	case OPTION_LEVEL: return parse_word(level_words, value, o->number);
	case OPTION_COPY: return parse_word(copy_words, value, o->number);
	case OPTION_FLAG: *o->number = true; return true;
	default: return false;
	}
}

/* Takes the option at index; value: NULL if there is none. */
static void
take(struct parser *p, size_t index, const char *value)
{
	const struct option *o = p->options[index];
	char text[64];

	(void)long_form(o, text, sizeof(text));
	if (o->metavar == NULL && value != NULL)
		usage_error("unexpected value '%s' for '%s': expected none",
		    value, text);
	if (o->type == OPTION_HELP)
		print_help(p);
	if (o->type == OPTION_VERSION) {
		printf("%s %s\n", p->program, VERSION);
		end_of_output();
	}
	if (value == NULL && o->metavar != NULL)
		usage_error(
		    "no value for '%s': expected %s", text, expected[o->type]);
	if (p->seen[index])
		usage_error(value == NULL ? "'%s' is given twice: expected once"
					  : "'%s' is given twice, now with "
					    "'%s': expected once",
		    text, value);
	if (!parse_value(o, value))
		usage_error("invalid value '%s' for '%s': expected %s", value,
		    text, expected[o->type]);
	p->seen[index] = true;
}

/* Finds the option of an argument: --name, --name=VALUE, -l, -lVALUE or
 * -l=VALUE. *value is NULL if the argument doesn't hold one. */
static size_t
find(const struct parser *p, const char *argument, const char **value)
{
	bool is_long = strncmp(argument, "--", 2) == 0;
	size_t end = is_long ? strcspn(argument, "=") : 2;

	for (size_t i = 0; i < p->count && argument[0] == '-'; i++) {
		const struct option *o = p->options[i];

		if (is_long ? strlen(o->name) != end - 2 ||
				  strncmp(o->name, argument + 2, end - 2) != 0
			    : o->letter == '\0' || o->letter != argument[1])
			continue;
		*value = argument + end;
		if (**value == '=')
			(*value)++;
		else if (**value == '\0')
			*value = NULL;
		return i;
	}
	usage_error("unexpected argument '%s': expected an option", argument);
}

void
options_parse(const char *program, const struct option *table, int argc,
    char *const argv[])
{
	struct parser p = {.program = program};
	const char *value, *listeners = service_listeners();
	char text[64];
	size_t index;

	for (; table->name != NULL; table++)
		p.options[p.count++] = table;
	for (table = common_table; table->name != NULL; table++) {
		/* What the program has set by itself is no option of it. */
		if (table->type != OPTION_FLAG || !*table->number)
			p.options[p.count++] = table;
	}
	for (int i = 1; i < argc; i++) {
		index = find(&p, argv[i], &value);
		/* A value starts with a dash only if it's a negative number. */
		if (value == NULL && p.options[index]->metavar != NULL &&
		    i + 1 < argc &&
		    (argv[i + 1][0] != '-' ||
			strchr("123456789", argv[i + 1][1])))
			value = argv[++i];
		take(&p, index, value);
	}
	if (listeners != NULL && strcmp(listeners, "1") != 0)
		usage_error("LISTEN_FDS is '%s': expected 1", listeners);
	settings.listener_passed = listeners != NULL;
	for (size_t i = 0; i < p.count; i++) {
		enum option_type type = p.options[i]->type;
		bool passed = listeners != NULL && type <= OPTION_LISTEN;

		(void)long_form(p.options[i], text, sizeof(text));
		if (type == OPTION_LISTEN_IP)
			settings.listens_on_tcp = true;
		if (passed && p.seen[i])
			usage_error("'%s' is given, and a listener was passed "
				    "(LISTEN_FDS): expected one of them",
			    text);
		if (type <= OPTION_REQUIRED && !passed && !p.seen[i])
			usage_error("'%s' is missing: expected %s", text,
			    expected[type]);
	}
	log_open(program, (enum log_level)settings.log_level);
}
