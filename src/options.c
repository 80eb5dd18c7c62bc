/* SPDX-License-Identifier: Apache-2.0 */
/* getopt_long(3) would accept abbreviations and repeated options; this parser
 * is strict, and its texts are like those that users of the original know. */
#include "options.h"
#include "access.h"
#include "log.h"
#include "service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 20
#define HINT "\n\nFor more information, try '--help'.\n"

struct settings settings = {.connect_timeout = 10,
    .preamble_timeout = 10,
    .grace = 8, /* supervisord kills after 10 */
    .copy = COPY_AUTO,
    .vsock_chunk = 32768};

const char *const copy_words[] = {"auto", "splice", "buffer", NULL};
#define LEVELS "error, warn, info or debug"
#define MODES "auto, splice or buffer"
#define CLIENTS                                                    \
	"CID, CID-CID, local or host on vsock, on TCP ADDRESS or " \
	"ADDRESS/BITS without bits behind those, commas between"
#define TARGETS                                                               \
	"local, private, *, IPv4, IPv4/BITS, [IPv6] or [IPv6/BITS], without " \
	"bits behind those, perhaps with :PORT or :PORT-PORT, commas between"

/* 1000000 seconds fit an int as ms. */
static const struct option common_table[] = {
    {OPTION_ALLOW_CLIENT, 0, "allow-client", "LIST",
	"serve these clients only [default: all]", .expected = CLIENTS},
    {OPTION_ALLOW_TARGET, 0, "allow-target", "LIST",
	"serve these targets only [default: all]", .expected = TARGETS},
    {OPTION_DENY_TARGET, 0, "deny-target", "LIST",
	"don't serve these targets [default: none]", .expected = TARGETS},
    {OPTION_SETTING("connect-timeout", "SECONDS", connect_timeout, 1, 1000000,
	"give up connecting to the upstream after this long [default: 10]")},
    {OPTION_SETTING("idle-timeout", "SECONDS", idle_timeout, 0, 1000000,
	"end connections on which no byte moves for so long, 0: never "
	"[default: 0]")},
    {OPTION_SETTING("tcp-user-timeout", "SECONDS", user_timeout, 0, 1000000,
	"end TCP connections whose peer takes no data for so long, 0: when the "
	"kernel does [default: 0]")},
    {OPTION_SETTING("grace", "SECONDS", grace, 0, 1000000,
	"let connections finish for so long after SIGTERM [default: 8]")},
    {OPTION_SETTING("max-connections", "N", max_connections, 1, 1000000,
	"serve at most so many at once, others wait "
	"[default: what the limits allow]")},
    {OPTION_SETTING("stats-interval", "SECONDS", stats_interval, 0, 1000000,
	"log counters at this interval, if they have changed, 0: never "
	"[default: 0]")},
    {OPTION_WORD, 0, "log-level", "LEVEL", "log " LEVELS " [default: info]",
	&log_threshold, LEVELS, .words = log_levels},
    {OPTION_WORD, 0, "copy", "MODE", "move bytes by " MODES " [default: auto]",
	&settings.copy, MODES, .words = copy_words},
    {OPTION_SETTING("vsock-chunk", "BYTES", vsock_chunk, 4096, 1048576,
	"hand vsock at most so many bytes at once [default: 32768]")},
    {OPTION_SETTING("vsock-buffer", "BYTES", vsock_buffer, 262144, 1073741824,
	"let vsock sockets take in so much ahead [default: the kernel's]")},
    {OPTION_FLAG, 0, "paired", NULL,
	"the vsock peer is one of these programs: give up where it does",
	.number = &settings.paired},
    {OPTION_HELP, 'h', "help", .help = "Print help"},
    {OPTION_VERSION, 'V', "version", .help = "Print version"},
    {.name = NULL},
};

/* What the value of an address's option looks like. */
static const char *const address_forms[] = {
    [OPTION_LISTEN_IP] = "IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
			 "with a port of 0 to 65535",
    [OPTION_UPSTREAM_IP] = "IPv4:PORT, [IPv6]:PORT or NAME:PORT, "
			   "with a port of 1 to 65535",
    [OPTION_LISTEN_VSOCK] = "CID:PORT, both 0 to 4294967295, "
			    "or any, local or host for the CID",
    [OPTION_UPSTREAM_VSOCK] = "CID:PORT, both 0 to 4294967294, "
			      "or local or host for the CID",
    [OPTION_UPSTREAM_CID] = "a CID of 0 to 4294967294, or local or host",
};

#define USAGE_ERROR(format, ...) \
	((void)fprintf(stderr, "error: " format HINT, __VA_ARGS__), exit(2))

/* Ends after --help or --version. */
_Noreturn static void
end_of_output(void)
{
	if (fflush(stdout) == 0 && ferror(stdout) == 0)
		exit(0);
	perror("error: cannot write to standard output");
	exit(1);
}

/* --name, or --name <METAVAR>. Static, until the next call. */
static const char *
long_form(const struct option *o)
{
	static char text[64];

	(void)snprintf(text, sizeof(text),
	    o->metavar == NULL ? "--%s" : "--%s <%s>", o->name, o->metavar);
	return text;
}

_Noreturn static void
print_help(const struct option *options)
{
	printf("Usage: %s [OPTIONS]", log_program);
	for (const struct option *o = options; o->name != NULL; o++) {
		if (o->type <= OPTION_REQUIRED)
			printf(" %s", long_form(o));
	}
	printf("\n\nOptions:\n");
	for (const struct option *o = options; o->name != NULL; o++) {
		printf(o->letter == '\0' ? "      " : "  -%c, ", o->letter);
		/* None is longer than --tcp-user-timeout <SECONDS>. */
		printf("%-28s  %s\n", long_form(o), o->help);
	}
	end_of_output();
}

static bool
parse_value(const struct option *o, const char *value)
{
	bool is_upstream = o->type > OPTION_LISTEN;

	switch (o->type) {
	case OPTION_LISTEN_IP:
	case OPTION_UPSTREAM_IP:
		return host_port_parse(value, is_upstream, &settings.host);
	case OPTION_UPSTREAM_CID:
		settings.upstream_has_port = strchr(value, ':') != NULL;
		/* fall through */
	case OPTION_LISTEN_VSOCK:
	case OPTION_UPSTREAM_VSOCK:
		return address_parse_vsock(value, UINT32_MAX - is_upstream,
		    o->type != OPTION_UPSTREAM_CID, &settings.vsock);
	case OPTION_NUMBER:
		return address_parse_number(
		    value, o->minimum, o->maximum, o->number);
	case OPTION_WORD:
		for (unsigned i = 0; o->words[i] != NULL; i++) {
			*o->number = i;
			if (strcmp(o->words[i], value) == 0)
				return true;
		}
		return false;
	default: *o->number = true; return true; /* OPTION_FLAG */
	}
}

/* Takes one of the options; value: NULL if there is none. */
static void
take(const struct option *options, struct option *o, const char *value)
{
	const char *form = long_form(o), *expected = o->expected, *wrong;

	if (o->type <= OPTION_REQUIRED)
		expected = address_forms[o->type];
	if (o->metavar == NULL && value != NULL)
		USAGE_ERROR("unexpected value '%s' for '%s': expected none",
		    value, form);
	if (o->type == OPTION_HELP)
		print_help(options);
	if (o->type == OPTION_VERSION) {
		printf("%s %s\n", log_program, VERSION);
		end_of_output();
	}
	if (o->metavar != NULL && value == NULL)
		USAGE_ERROR("no value for '%s': expected %s", form, expected);
	if (o->type >= OPTION_RULES) {
		wrong = access_add(o->type - OPTION_RULES,
		    !settings.listens_on_tcp, o->name, value);
		if (wrong == NULL)
			return;
		USAGE_ERROR("invalid item '%.*s' for '%s': expected %s",
		    (int)strcspn(wrong, ","), wrong, form, expected);
	}
	if (o->seen && value == NULL)
		USAGE_ERROR("'%s' is given twice: expected once", form);
	if (o->seen)
		USAGE_ERROR("'%s' is given twice, now with '%s': expected once",
		    form, value);
	if (!parse_value(o, value))
		USAGE_ERROR("invalid value '%s' for '%s': expected %s", value,
		    form, expected);
	o->seen = true;
}

/* Finds the option, from o on, of an argument: --name, --name=VALUE, -l,
 * -lVALUE or -l=VALUE. *value is NULL if the argument doesn't hold one. */
static struct option *
find(struct option *o, const char *argument, const char **value)
{
	bool is_long = strncmp(argument, "--", 2) == 0;
	size_t end = is_long ? strcspn(argument, "=") : 2;

	for (; o->name != NULL && argument[0] == '-'; o++) {
		if (is_long ? strlen(o->name) != end - 2 ||
				  strncmp(o->name, argument + 2, end - 2) != 0
			    : o->letter == '\0' || o->letter != argument[1])
			continue;
		*value = argument + end;
		if (**value == '=')
			(*value)++;
		else if (**value == '\0')
			*value = NULL;
		return o;
	}
	USAGE_ERROR("unexpected argument '%s': expected an option", argument);
}

void
options_parse(const char *program, const struct option *table, int argc,
    char *const argv[])
{
	struct option options[MAX_OPTIONS + 1] = {{.name = NULL}}, *o = options;
	const char *value, *listeners = service_listeners();

	log_program = program;
	settings.listens_on_tcp = table->type == OPTION_LISTEN_IP;
	for (; table->name != NULL; table++)
		*o++ = *table;
	for (table = common_table; table->name != NULL; table++) {
		/* What the program has set by itself is no option of it. */
		if ((table->type != OPTION_FLAG || !*table->number) &&
		    (settings.has_targets || table->type < OPTION_RULES ||
			table->type == OPTION_ALLOW_CLIENT))
			*o++ = *table;
	}
	for (int i = 1; i < argc; i++) {
		o = find(options, argv[i], &value);
		/* A value starts with a dash only if it's a negative number. */
		if (value == NULL && o->metavar != NULL && i + 1 < argc &&
		    (argv[i + 1][0] != '-' ||
			strchr("123456789", argv[i + 1][1])))
			value = argv[++i];
		take(options, o, value);
	}
	if (listeners != NULL && strcmp(listeners, "1") != 0)
		USAGE_ERROR("LISTEN_FDS is '%s': expected 1", listeners);
	settings.listener_passed = listeners != NULL;
	for (o = options; o->name != NULL; o++) {
		bool passed = listeners != NULL && o->type <= OPTION_LISTEN;

		if (passed && o->seen)
			USAGE_ERROR("'%s' is given, and a listener was passed "
				    "(LISTEN_FDS): expected one of them",
			    long_form(o));
		if (o->type <= OPTION_REQUIRED && !passed && !o->seen)
			USAGE_ERROR("'%s' is missing: expected %s",
			    long_form(o), address_forms[o->type]);
	}
}
