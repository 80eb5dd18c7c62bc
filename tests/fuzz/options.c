/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the command lines of the five programs, whose main() functions run up
 * to where they would start to serve. The input is a text: its first character
 * chooses the program, then come the arguments, one on each line.
 */
#include "options.h"
#include "../rules.h"
#include "log.h"

#include <assert.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGUMENTS_MAX 64
#define SERVES (-1) /* in place of an exit status */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
_Noreturn void __real_exit(int status);
_Noreturn void __wrap_exit(int status);
_Noreturn void __wrap_server_run(void);
int __wrap_socket(void);

/* The Makefile gives main() these names. */
int main_ip_to_vsock(int argc, char *argv[]);
int main_ip_to_vsock_transparent(int argc, char *argv[]);
int main_port_to_vsock_transparent(int argc, char *argv[]);
int main_vsock_to_ip(int argc, char *argv[]);
int main_vsock_to_ip_transparent(int argc, char *argv[]);

static int (*const mains[])(int, char *[]) = {main_ip_to_vsock,
    main_ip_to_vsock_transparent, main_port_to_vsock_transparent,
    main_vsock_to_ip, main_vsock_to_ip_transparent};

static jmp_buf end;
static bool is_running;

_Noreturn void
__wrap_exit(int status)
{
	if (!is_running)
		__real_exit(status);
	longjmp(end, status == 0 ? 256 : status); /* which can't be 0 */
}

/* It has parameters; nothing is to be learnt from them. */
_Noreturn void
__wrap_server_run(void)
{
	longjmp(end, SERVES);
}

/* Nothing here may reach the network. */
int
__wrap_socket(void)
{
	abort();
}

/* What a run has printed. */
struct output {
	FILE *file;
	char *text;
	size_t size;
};

/* Runs a program. Returns its exit status, or SERVES. */
static int
run(size_t program, int argc, char *argv[], struct output *out,
    struct output *err)
{
	static struct settings initial;
	static bool has_initial;
	FILE *const streams[] = {stdout, stderr};
	int status;

	if (!has_initial)
		initial = settings;
	has_initial = true;
	settings = initial;
	forget_rules();
	log_threshold = LEVEL_INFO;
	stdout = out->file = open_memstream(&out->text, &out->size);
	stderr = err->file = open_memstream(&err->text, &err->size);
	is_running = true;
	status = setjmp(end);
	if (status == 0)
		status = mains[program](argc, argv); /* doesn't return */
	is_running = false;
	stdout = streams[0];
	stderr = streams[1];
	assert(fclose(out->file) == 0 && fclose(err->file) == 0);
	return status == 256 ? 0 : status;
}

/* The same, where only the status counts. */
static int
status_of(size_t program, int argc, char *argv[])
{
	struct output out, err;
	int status = run(program, argc, argv, &out, &err);

	free(out.text);
	free(err.text);
	return status;
}

static void
check_port(const char *text, uint32_t minimum)
{
	uint32_t port;

	assert(address_parse_number(text, minimum, UINT16_MAX, &port));
}

/* What any command line that is taken has set. */
static void
check_settings(size_t program)
{
	const struct settings *s = &settings;

	assert(s->vsock.length != 0);
	assert(s->listens_on_tcp ==
	       (mains[program] != main_vsock_to_ip &&
		   mains[program] != main_vsock_to_ip_transparent));
	assert((s->host.text == NULL) ==
	       (mains[program] == main_vsock_to_ip_transparent));
	if (s->host.text != NULL)
		check_port(s->host.port, s->listens_on_tcp ? 0 : 1);
	if (s->listens_on_tcp) {
		assert(s->vsock.vm.svm_cid != VMADDR_CID_ANY);
		/* There, it stands for that of the original destination. */
		assert((s->vsock.vm.svm_port == VMADDR_PORT_ANY) ==
		       (mains[program] == main_port_to_vsock_transparent));
	}
	assert(s->connect_timeout >= 1 && s->connect_timeout <= 1000000);
	assert(s->max_connections <= 1000000);
	assert(log_threshold <= LEVEL_DEBUG);
	assert(s->copy <= COPY_BUFFER);
	assert(s->vsock_chunk >= 4096 && s->vsock_chunk <= 1048576);
	assert(s->vsock_buffer == 0 ||
	       (s->vsock_buffer >= 262144 && s->vsock_buffer <= 1073741824));
	assert(s->paired <= 1);
	assert(s->send_proxy_v2 <= 1);
	assert(s->send_proxy_v2 == 0 || mains[program] == main_ip_to_vsock ||
	       mains[program] == main_port_to_vsock_transparent);
	assert(s->paired == 1 ||
	       (mains[program] != main_ip_to_vsock_transparent &&
		   mains[program] != main_vsock_to_ip_transparent));
}

/* A command line that is taken is complete, and no option is given twice. */
static void
check_more(size_t program, int argc, char *argv[])
{
	char *more[2 * ARGUMENTS_MAX + 1];
	int count = argc;

	assert(argc > 1);
	memcpy(more, argv, (size_t)argc * sizeof(*argv));
	more[argc] = (char[]){"--version"};
	more[argc + 1] = NULL;
	assert(status_of(program, argc + 1, more) == 0);
	for (int i = 1; i < argc; i++)
		more[count++] = argv[i];
	more[count] = NULL;
	assert(status_of(program, count, more) == 2);
	assert(status_of(program, 1, (char *[]){argv[0], NULL}) == 2);
}

/* What it says must be fit for the user. */
static void
check_output(int status, const struct output *out, const struct output *err)
{
	static const char last[] = "\n\nFor more information, try '--help'.\n";
	size_t length = strlen(err->text);

	assert(status == 0 || status == 2 || status == SERVES);
	assert((status == 0) == (out->size > 0));
	assert((status == 2) == (err->size > 0));
	if (status != 2)
		return;
	assert(strncmp(err->text, "error: ", 7) == 0);
	assert(length > sizeof(last));
	assert(strcmp(err->text + length - strlen(last), last) == 0);
	assert(strstr(err->text, ": expected ") != NULL);
	assert(strchr(err->text, '\n') == err->text + length - strlen(last));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[ARGUMENTS_MAX + 1] = {(char[]){"program"}};
	struct output out, err;
	char *text, *line, *rest;
	int argc = 1, status;
	size_t program;

	if (size == 0)
		return 0;
	program = (uint8_t)(data[0] - '0') % (sizeof(mains) / sizeof(*mains));
	text = rest = malloc(size);
	assert(text != NULL);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	while (argc < ARGUMENTS_MAX && (line = strsep(&rest, "\n")) != NULL &&
	       (rest != NULL || *line != '\0'))
		argv[argc++] = strdup(line); /* so that its end is guarded */
	status = run(program, argc, argv, &out, &err);
	check_output(status, &out, &err);
	free(out.text);
	free(err.text);
	if (status == SERVES) {
		check_settings(program);
		check_more(program, argc, argv);
	}
	while (argc > 1)
		free(argv[--argc]);
	free(text);
	return 0;
}
