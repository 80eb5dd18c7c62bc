/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of log. write(2) is wrapped: it keeps what would be written, so
 * that lines and calls can be told apart; the wall clock and poll(2) are
 * wrapped, too. */
#include "log.h"

#include "support.h"

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t __real_write(int fd, const void *bytes, size_t size);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);

#define MOST_WRITES 4096
#define LINE_MAX_BYTES 1024 /* with the newline */

/* What was written to standard error since the last start_catching(). */
static struct {
	char bytes[2 * LINE_MAX_BYTES];
	size_t size;
} writes[MOST_WRITES];
static _Atomic size_t written;
static _Atomic bool catching;
/* errno of the next calls, up to a 0. */
static int write_errors[4];
static const struct timespec *wall_clock; /* NULL: the real one */
static _Atomic int longest_wait;          /* in ms, of all that were allowed */
static _Atomic int write_ms;              /* how long a caught write(2) takes */
static _Atomic int window; /* in ms, between a poll(2) and what it leads to */

static void
start_catching(void)
{
	memset(write_errors, 0, sizeof(write_errors));
	written = 0;
	catching = true;
}

static void
stop_catching(void)
{
	catching = false;
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	if (clock != CLOCK_REALTIME || wall_clock == NULL)
		return __real_clock_gettime(clock, now);
	*now = *wall_clock;
	return 0;
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	int ready;

	longest_wait += timeout;
	ready = __real_poll(fds, count, timeout);
	if (window != 0 && ready != 0)
		pause_ms(window);
	return ready;
}

ssize_t
__wrap_write(int fd, const void *bytes, size_t size)
{
	size_t i;

	if (fd != STDERR_FILENO || !catching)
		return __real_write(fd, bytes, size);
	if (write_ms != 0)
		pause_ms(write_ms);
	i = written++;
	if (i < MOST_WRITES) {
		writes[i].size = size;
		memcpy(writes[i].bytes, bytes,
		    size < sizeof(writes[i].bytes) ? size
						   : sizeof(writes[i].bytes));
	}
	if (i < LENGTH(write_errors) && write_errors[i] != 0) {
		errno = write_errors[i];
		return -1;
	}
	return (ssize_t)size;
}

static void
assert_written(const char *expected)
{
	assert_int_equal(written, 1);
	assert_int_equal(writes[0].size, strlen(expected));
	assert_memory_equal(writes[0].bytes, expected, strlen(expected));
}

static void
set_log(const char *program, enum log_level threshold)
{
	log_program = program;
	log_threshold = threshold;
}

/* 2009-02-13 23:31:30.007 */
static const struct timespec some_time = {1234567890, 7654321};

static void
test_line(void **state)
{
	/* Fails if what reads the log no longer finds its fields. */
	(void)state;
	wall_clock = &some_time;
	set_log("unit", LEVEL_INFO);
	start_catching();
	log_line(LEVEL_INFO, "msg=\"hello world\" n=%d text=%s", 5, "a%sb");
	stop_catching();
	assert_written("ts=2009-02-13T23:31:30.007Z level=info prog=unit "
		       "msg=\"hello world\" n=5 text=a%sb\n");
}

static void
test_timestamps(void **state)
{
	/* Fails if times are not UTC, or lose their zeros. */
	static const struct {
		struct timespec time;
		const char *text;
	} cases[] = {
	    {{0, 0}, "1970-01-01T00:00:00.000Z"},
	    {{951782400, 999999999}, "2000-02-29T00:00:00.999Z"},
	    {{1735689599, 50000000}, "2024-12-31T23:59:59.050Z"},
	    {{1751362629, 1000000}, "2025-07-01T09:37:09.001Z"}, /* summer */
	    {{2147483647, 0}, "2038-01-19T03:14:07.000Z"},
	};
	char expected[128];

	(void)state;
	set_log("p", LEVEL_INFO);
	for (size_t i = 0; i < LENGTH(cases); i++) {
		wall_clock = &cases[i].time;
		start_catching();
		log_line(LEVEL_ERROR, "msg=x");
		stop_catching();
		(void)snprintf(expected, sizeof(expected),
		    "ts=%s level=error prog=p msg=x\n", cases[i].text);
		assert_written(expected);
	}
}

static void
test_real_clock(void **state)
{
	/* Fails if the log doesn't tell the present time. */
	struct tm utc = {0};
	time_t before, told;

	(void)state;
	wall_clock = NULL;
	set_log("p", LEVEL_INFO);
	before = time(NULL);
	start_catching();
	log_line(LEVEL_INFO, "msg=x");
	stop_catching();
	assert_int_equal(written, 1);
	assert_int_equal(sscanf(writes[0].bytes, "ts=%d-%d-%dT%d:%d:%d",
			     &utc.tm_year, &utc.tm_mon, &utc.tm_mday,
			     &utc.tm_hour, &utc.tm_min, &utc.tm_sec),
	    6);
	utc.tm_year -= 1900;
	utc.tm_mon -= 1;
	told = timegm(&utc);
	/* time(2) may lag behind clock_gettime(2) by a tick. */
	assert_in_range(told, before, time(NULL) + 1);
}

static void
test_levels(void **state)
{
	/* Fails if --log-level shows too much or hides too much. */
	static const char *const names[] = {"error", "warn", "info", "debug"};
	char expected[128];

	(void)state;
	wall_clock = &some_time;
	for (unsigned threshold = 0; threshold < 4; threshold++) {
		set_log("unit", (enum log_level)threshold);
		for (unsigned level = 0; level < 4; level++) {
			start_catching();
			log_line((enum log_level)level, "msg=x");
			stop_catching();
			if (level > threshold) {
				assert_int_equal(written, 0);
				continue;
			}
			(void)snprintf(expected, sizeof(expected),
			    "ts=2009-02-13T23:31:30.007Z level=%s prog=unit "
			    "msg=x\n",
			    names[level]);
			assert_written(expected);
		}
		start_catching();
		log_line(LEVEL_ANY, "msg=x");
		stop_catching();
		assert_written("ts=2009-02-13T23:31:30.007Z level=info "
			       "prog=unit msg=x\n");
	}
}

static void
test_long_line_cut(void **state)
{
	/* Fails if a long line has no end, runs out of its buffer, or becomes
	 * two lines. */
	static const char prefix[] =
	    "ts=2009-02-13T23:31:30.007Z level=info prog=unit ";
	static const size_t lengths[] = {1, 1022, 1023, 1024, 1025, 5000};
	static char text[5001], expected[6000];

	(void)state;
	wall_clock = &some_time;
	set_log("unit", LEVEL_INFO);
	for (size_t i = 0; i < LENGTH(lengths); i++) {
		/* A line of this length, but for the newline. */
		size_t length = lengths[i] > strlen(prefix)
				    ? lengths[i] - strlen(prefix)
				    : 0;

		memset(text, 'x', length);
		text[length] = '\0';
		(void)snprintf(
		    expected, sizeof(expected), "%s%s", prefix, text);
		if (strlen(expected) > LINE_MAX_BYTES - 1)
			expected[LINE_MAX_BYTES - 1] = '\0';
		expected[strlen(expected) + 1] = '\0';
		expected[strlen(expected)] = '\n';
		start_catching();
		log_line(LEVEL_INFO, "%s", text);
		stop_catching();
		assert_written(expected);
	}
}

static void
test_long_program_name(void **state)
{
	/* Fails if a long name of the program runs out of the buffer. */
	static char name[1100]; /* near enough for a sanitizer to see */

	(void)state;
	wall_clock = &some_time;
	memset(name, 'n', sizeof(name) - 1);
	set_log(name, LEVEL_INFO);
	start_catching();
	log_line(LEVEL_INFO, "msg=%s", "hello");
	stop_catching();
	set_log("unit", LEVEL_INFO);
	assert_int_equal(written, 1);
	assert_int_equal(writes[0].size, LINE_MAX_BYTES);
	assert_int_equal(writes[0].bytes[LINE_MAX_BYTES - 2], 'n');
	assert_int_equal(writes[0].bytes[LINE_MAX_BYTES - 1], '\n');
}

static void
test_interrupted(void **state)
{
	/* Fails if a signal loses a line. */
	(void)state;
	wall_clock = &some_time;
	set_log("unit", LEVEL_INFO);
	start_catching();
	write_errors[0] = write_errors[1] = EINTR;
	log_line(LEVEL_INFO, "msg=x");
	stop_catching();
	assert_int_equal(written, 3);
	assert_int_equal(writes[2].size, writes[0].size);
	assert_memory_equal(writes[2].bytes, writes[0].bytes, writes[0].size);
}

static void
test_unwritable(void **state)
{
	/* Fails if a log that can't be written holds up the proxy, or lines get
	 * lost in silence. */
	static const int errors[] = {EAGAIN, EPIPE, ENOSPC, EIO, EBADF};

	(void)state;
	wall_clock = &some_time;
	set_log("unit", LEVEL_INFO);
	for (size_t i = 0; i < LENGTH(errors); i++) {
		for (int j = 0; j < 2; j++) {
			start_catching();
			write_errors[0] = errors[i];
			log_line(LEVEL_INFO, "msg=x");
			stop_catching();
			assert_int_equal(written, 1);
		}
		start_catching();
		log_line(LEVEL_INFO, "msg=y");
		stop_catching();
		assert_written("ts=2009-02-13T23:31:30.007Z level=info "
			       "prog=unit lost=2 msg=y\n");
	}
}

#define PAGE 4096

/* Standard error as a pipe of so many bytes. */
static int saved, ends[2];

static void
divert(int size)
{

	saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	assert_true(saved >= 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(fcntl(ends[1], F_SETPIPE_SZ, size), size);
	assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
}

static void
restore(void)
{
	(void)dup2(saved, STDERR_FILENO);
	close(saved);
	close(ends[0]);
	close(ends[1]);
}

static void
test_not_read(void **state)
{
	/* Fails if a log that nobody reads holds up the proxy for more than a
	 * second in all; or lines get lost in silence. */
	static const char filler[2 * PAGE];
	char text[2 * PAGE + 1];
	int allowed;
	long begin, waited;
	ssize_t n, m;

	(void)state;
	wall_clock = &some_time;
	set_log("unit", LEVEL_INFO);
	divert(2 * PAGE);
	assert_int_equal(write(ends[1], filler, 2 * PAGE), 2 * PAGE);
	longest_wait = 0;
	begin = now_ms();
	log_line(LEVEL_INFO, "msg=1");
	waited = now_ms() - begin;
	log_line(LEVEL_INFO, "msg=2");
	log_line(LEVEL_INFO, "msg=3");
	allowed = longest_wait;
	n = read(ends[0], text, 2 * PAGE);
	log_line(LEVEL_INFO, "msg=4");
	log_line(LEVEL_INFO, "msg=5");
	m = read(ends[0], text, sizeof(text) - 1);
	restore();
	assert_true(waited >= 999); /* both are cut to milliseconds */
	assert_int_equal(allowed, 1000);
	assert_int_equal(n, 2 * PAGE);
	assert_true(m > 0);
	text[m] = '\0';
	assert_string_equal(text,
	    "ts=2009-02-13T23:31:30.007Z level=info prog=unit lost=3 msg=4\n"
	    "ts=2009-02-13T23:31:30.007Z level=info prog=unit msg=5\n");
}

/* Threads that log a long line each at the same time. */
static struct waiting {
	struct job job;
	_Atomic long ms; /* how long that took */
} waiting[8];

static void
log_long_line(void *argument)
{
	struct waiting *w = argument;
	long begin = now_ms();

	log_line(LEVEL_INFO, "msg=x filler=%0*d", 900, 0);
	w->ms = now_ms() - begin;
}

/* What comes of the log now: lines that were written, and that were lost. */
static unsigned
count_lines(void)
{
	char text[PAGE + 1], *position = text;
	struct pollfd readable = {ends[0], POLLIN, 0};
	unsigned count = 0, lost;
	ssize_t n;

	if (__real_poll(&readable, 1, 0) == 0)
		return 0;
	n = read(ends[0], text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	while ((position = strstr(position, "prog=unit ")) != NULL) {
		position += strlen("prog=unit ");
		count++;
		if (sscanf(position, "lost=%u ", &lost) == 1)
			count += lost;
	}
	return count;
}

static bool
all_ended(void)
{
	for (size_t i = 0; i < LENGTH(waiting); i++) {
		if (!job_has_ended(&waiting[i].job))
			return false;
	}
	return true;
}

/* Logs with all of them at once. At first there is room for one line, and again
 * whenever the log is read: every read_ms, or when all hang. */
static void
check_wait(long read_ms)
{
	const long begin = now_ms();
	unsigned lines = 0;

	wall_clock = NULL;
	set_log("unit", LEVEL_INFO);
	divert(PAGE); /* for poll(2), one line fills it */
	window = 20;
	for (size_t i = 0; i < LENGTH(waiting); i++)
		job_start(&waiting[i].job, log_long_line, &waiting[i]);
	for (long next = begin + read_ms; !all_ended(); pause_ms(1)) {
		if (now_ms() < next)
			continue;
		lines += count_lines();
		next += read_ms;
	}
	for (size_t i = 0; i < LENGTH(waiting); i++)
		job_end(&waiting[i].job);
	window = 0;
	lines += count_lines();
	log_line(LEVEL_INFO, "msg=last");
	lines += count_lines();
	restore();
	for (size_t i = 0; i < LENGTH(waiting); i++)
		assert_in_range(waiting[i].ms, 0, 1600);
	assert_int_equal(lines, LENGTH(waiting) + 1);
}

static void
test_threads_wait(void **state)
{
	/* Fails if threads that have seen the same room for a line hang when
	 * nobody reads the log. */
	(void)state;
	check_wait(5000);
}

static void
test_threads_wait_in_turn(void **state)
{
	/* Fails if a log that is read slowly holds up who comes last for as
	 * long as all that came before. */
	(void)state;
	check_wait(600);
}

static void
test_crowd(void **state)
{
	/* Fails if lines get lost that are many at once, but for which there
	 * is room. */
	static struct waiting crowd[60];

	(void)state;
	wall_clock = NULL;
	set_log("unit", LEVEL_INFO);
	start_catching();
	write_ms = 30; /* in all, longer than a line waits for room */
	for (size_t i = 0; i < LENGTH(crowd); i++)
		job_start(&crowd[i].job, log_long_line, &crowd[i]);
	for (size_t i = 0; i < LENGTH(crowd); i++)
		job_end(&crowd[i].job);
	write_ms = 0;
	stop_catching();
	assert_int_equal(written, LENGTH(crowd));
	for (size_t i = 0; i < written; i++)
		assert_null(strstr(writes[i].bytes, " lost="));
}

#define THREADS 8
#define LINES_EACH 100

static void
log_lines(void *argument)
{
	int thread = *(const int *)argument;

	for (int line = 0; line < LINES_EACH; line++)
		log_line(LEVEL_INFO, "msg=x thread=%d line=%d filler=%0*d",
		    thread, line, line, 7);
}

static void
test_threads(void **state)
{
	/* Fails if lines of different threads mix, or get lost. */
	static struct job jobs[THREADS];
	static int numbers[THREADS];
	static bool seen[THREADS][LINES_EACH];

	(void)state;
	wall_clock = NULL;
	set_log("unit", LEVEL_INFO);
	start_catching();
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i;
		job_start(&jobs[i], log_lines, &numbers[i]);
	}
	for (int i = 0; i < THREADS; i++)
		job_end(&jobs[i]);
	stop_catching();
	assert_int_equal(written, THREADS * LINES_EACH);
	for (size_t i = 0; i < written; i++) {
		char tail[LINE_MAX_BYTES], *text = writes[i].bytes;
		int thread, line;

		assert_true(writes[i].size < sizeof(tail));
		text[writes[i].size] = '\0';
		assert_ptr_equal(strchr(text, '\n'), text + writes[i].size - 1);
		assert_int_equal(sscanf(text,
				     "ts=%*s level=info prog=unit msg=x "
				     "thread=%d line=%d",
				     &thread, &line),
		    2);
		assert_in_range(thread, 0, THREADS - 1);
		assert_in_range(line, 0, LINES_EACH - 1);
		assert_false(seen[thread][line]);
		seen[thread][line] = true;
		(void)snprintf(tail, sizeof(tail), "filler=%0*d\n", line, 7);
		assert_string_equal(strstr(text, "filler="), tail);
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_line),
	    cmocka_unit_test(test_timestamps),
	    cmocka_unit_test(test_real_clock),
	    cmocka_unit_test(test_levels),
	    cmocka_unit_test(test_long_line_cut),
	    cmocka_unit_test(test_long_program_name),
	    cmocka_unit_test(test_interrupted),
	    cmocka_unit_test(test_unwritable),
	    cmocka_unit_test(test_not_read),
	    cmocka_unit_test(test_threads_wait),
	    cmocka_unit_test(test_threads_wait_in_turn),
	    cmocka_unit_test(test_crowd),
	    cmocka_unit_test(test_threads),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
