/* SPDX-License-Identifier: Apache-2.0 */
/* Formats on the stack: a stdio stream would split a line into many writes. */
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *log_program = "";
static enum log_level log_threshold = LEVEL_INFO;

void
log_open(const char *program, enum log_level threshold)
{
	log_program = program;
	log_threshold = threshold;
}

void
log_line(enum log_level level, const char *format, ...)
{
	static const char *const names[] = {
	    "error", "warn", "info", "debug", "info"};
	static atomic_uint lost; /* lines */
	struct pollfd room = {STDERR_FILENO, POLLOUT, 0};
	char text[1024], note[20] = "";
	unsigned n;
	struct timespec now;
	struct tm utc;
	va_list arguments;
	size_t length;

	if (level > log_threshold && level != LEVEL_ANY)
		return;
	/* That nobody reads is no reason to stop. A pipe that has room has it
	 * for a line: pipe(7). */
	if (poll(&room, 1, lost != 0 ? 0 : 1000) == 0) {
		lost++;
		return;
	}
	n = atomic_exchange(&lost, 0);
	if (n != 0)
		(void)snprintf(note, sizeof(note), "lost=%u ", n);
	(void)clock_gettime(CLOCK_REALTIME, &now); /* can't fail */
	(void)gmtime_r(&now.tv_sec, &utc);         /* nor this before 2^31 */
	(void)snprintf(text, sizeof(text),
	    "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03dZ level=%s prog=%s %s",
	    utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour,
	    utc.tm_min, utc.tm_sec, (int)(now.tv_nsec / 1000000), names[level],
	    log_program, note);
	length = strlen(text); /* it may have been cut */
	va_start(arguments, format);
	(void)vsnprintf(
	    text + length, sizeof(text) - length, format, arguments);
	va_end(arguments);
	length = strlen(text);
	text[length] = '\n'; /* instead of the final null byte */
	/* A log that can't be written has nowhere to complain. */
	while (write(STDERR_FILENO, text, length + 1) == -1 && errno == EINTR)
		;
}
