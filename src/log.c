/* SPDX-License-Identifier: Apache-2.0 */
/* Formats on the stack: a stdio stream would split a line into many writes. */
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *log_program = "";
unsigned log_threshold = LEVEL_INFO;
const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};

void
log_line(enum log_level level, const char *format, ...)
{
	/* Whose turn it is to write: others can't take the room it sees. */
	static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
	static atomic_uint lost; /* lines */
	struct pollfd room = {STDERR_FILENO, POLLOUT, 0};
	char text[1024], note[20];
	struct timespec limit, now;
	struct tm utc;
	va_list arguments;
	size_t length;
	ssize_t written = -1;
	unsigned n;
	time_t ms;

	if (level > log_threshold && level != LEVEL_ANY)
		return;
	/* That nobody reads is no reason to stop: a second in all, once. */
	(void)clock_gettime(CLOCK_REALTIME, &limit); /* can't fail */
	limit.tv_sec += lost == 0;
	while (pthread_mutex_timedlock(&turn, &limit) != 0) {
		if (poll(&room, 1, 0) == 0) {
			lost++;
			return;
		}
		limit.tv_sec++; /* there is room: others write */
	}
	n = lost;
	(void)snprintf(note, sizeof(note), "lost=%u ", n);
	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &utc); /* can't fail before 2^31 */
	length = strftime(text, sizeof(text), "ts=%FT%T", &utc);
	(void)snprintf(text + length, sizeof(text) - length,
	    ".%03dZ level=%s prog=%s %s", (int)(now.tv_nsec / 1000000),
	    log_levels[level == LEVEL_ANY ? LEVEL_INFO : level], log_program,
	    n != 0 ? note : "");
	length = strlen(text); /* it may have been cut */
	va_start(arguments, format);
	(void)vsnprintf(
	    text + length, sizeof(text) - length, format, arguments);
	va_end(arguments);
	length = strlen(text);
	text[length] = '\n'; /* instead of the final null byte */
	ms = (limit.tv_sec - now.tv_sec) * 1000 +
	     (limit.tv_nsec - now.tv_nsec) / 1000000;
	if (ms < 0 || ms > 1000) /* the clock was set */
		ms = 0;
	/* A pipe that has room has it for a line: pipe(7). */
	while (poll(&room, 1, (int)ms) != 0 &&
	       (written = write(STDERR_FILENO, text, length + 1)) == -1 &&
	       errno == EINTR)
		continue;
	lost += written == -1 ? 1 : -n; /* others may have lost some */
	pthread_mutex_unlock(&turn);
}
