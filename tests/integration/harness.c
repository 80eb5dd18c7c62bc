/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A test may fail at any line, by a longjmp. So its descriptors, threads,
 * processes and texts are found and disposed of by the teardown.
 */
#include "harness.h"

#include <dirent.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NAP_NS 2000000
#define DESCRIPTORS_MAX 65536
/* For what a test that hangs has to show. */
#define SHOW_SECONDS 10
#define CALLS_MAX 32

struct text {
	struct text *next;
	char bytes[];
};

static struct text *texts;
static bool open_before[DESCRIPTORS_MAX];
static unsigned tests;

uint64_t
harness_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool
harness_wait(bool (*condition)(void *), void *argument)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	uint64_t deadline = harness_now_ms() + DEADLINE_MS;
	bool last = false;

	for (;;) {
		if (condition(argument))
			return true;
		if (last)
			return false;
		nanosleep(&nap, NULL);
		last = harness_now_ms() >= deadline;
	}
}

char *
harness_text(const char *format, ...)
{
	va_list arguments;
	struct text *text;
	int length;

	va_start(arguments, format);
	length = vsnprintf(NULL, 0, format, arguments);
	va_end(arguments);
	text = malloc(sizeof(*text) + (size_t)length + 1);
	assert_non_null(text);
	text->next = texts;
	texts = text;
	va_start(arguments, format);
	vsnprintf(text->bytes, (size_t)length + 1, format, arguments);
	va_end(arguments);
	return text->bytes;
}

static void
free_texts(void)
{
	while (texts != NULL) {
		struct text *next = texts->next;

		free(texts);
		texts = next;
	}
}

/* Calls a function with each of our descriptors. */
static void
for_each_descriptor(void (*function)(int fd))
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;

	assert_non_null(folder);
	while ((entry = readdir(folder)) != NULL) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(folder) &&
		    fd < DESCRIPTORS_MAX)
			function(fd);
	}
	closedir(folder);
}

static void
note(int fd)
{
	open_before[fd] = true;
}

static void
wake(int fd)
{
	if (!open_before[fd])
		shutdown(fd, SHUT_RDWR);
}

static void
dispose(int fd)
{
	if (!open_before[fd])
		close(fd);
}

/* Much here isn't for a signal handler. If it hangs itself, a second alarm ends
 * it, without the rest of what it prints. */
static void
give_up(int number)
{
	static const char message[] =
	    "\nThe test has exceeded its time; the suite ends here.\n";

#ifdef __GLIBC__
	void *calls[CALLS_MAX];
#endif

	(void)number;
	alarm(SHOW_SECONDS);
	if (write(STDERR_FILENO, message, sizeof(message) - 1) == -1)
		_exit(2);
#ifdef __GLIBC__ /* addr2line(1) tells the lines */
	backtrace_symbols_fd(calls, backtrace(calls, CALLS_MAX), STDERR_FILENO);
#endif
	program_show_all();
	_exit(1); /* and with us, by PR_SET_PDEATHSIG, all programs */
}

int
harness_setup(void **state)
{
	/* The second one has the default action: it ends us. */
	const struct sigaction hopeless = {.sa_handler = give_up,
	    .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};

	(void)state;
	tests++;
	memset(open_before, 0, sizeof(open_before));
	for_each_descriptor(note);
	sigaction(SIGALRM, &hopeless, NULL);
	alarm(TEST_LIMIT_SECONDS);
	return 0;
}

int
harness_teardown(void **state)
{
	(void)state;
	for_each_descriptor(wake);
	flow_finish_all();
	network_reset();
	program_stop_all();
	for_each_descriptor(dispose);
	free_texts();
	alarm(0);
	return program_faults();
}

unsigned
harness_tests(void)
{
	return tests;
}
