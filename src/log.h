/* SPDX-License-Identifier: Apache-2.0 */
/* The log: logfmt on standard error, one write(2) a line, so that lines of
 * different threads never mix. Thread-safe. A line for which there is no room
 * within a second, from the call on, is left out; likewise at once those that
 * follow, until one is written. */
#pragma once
/* ANY: info that somebody waits for, whatever the threshold is. */
enum log_level { LEVEL_ERROR, LEVEL_WARN, LEVEL_INFO, LEVEL_DEBUG, LEVEL_ANY };
extern const char *const log_levels[]; /* but for ANY; NULL at the end */

/* Set before the first thread. */
extern const char *log_program; /* its name */
extern unsigned log_threshold;  /* the least severe level that is written */

/* Writes a line, unless its level is below the threshold: ts=, level=, prog=,
 * after some were left out lost= with their number, and then the format
 * (printf(3)), which starts with msg=. A value that may hold a space is quoted
 * there; none holds quotes. Cut after 1,023 bytes. */
__attribute__((format(printf, 2, 3))) void
log_line(enum log_level level, const char *format, ...);
