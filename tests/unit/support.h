/* SPDX-License-Identifier: Apache-2.0 */
/* What the unit tests share: TCP connections over loopback, threads that end
 * in time, random bytes. What asserts belongs to the main thread; the rest
 * says so. Nothing here waits for longer than DEADLINE_S, and no test runs for
 * longer than TEST_LIMIT_S. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../address_ip.h"
#include "address.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <execinfo.h>
#endif

#define LENGTH(array) (sizeof(array) / sizeof(*(array)))

/* Far more than anything takes, also in an emulator or under valgrind. */
#define DEADLINE_S 30
/* For one test, whatever it waits for. */
#define TEST_LIMIT_S 120
/* Of a test program. */
#define TESTS_MAX 64

/* All tests, and the one that runs. */
static struct CMUnitTest limited_tests[TESTS_MAX];
static const struct CMUnitTest *running_test;
static pthread_t main_thread;

/* Where this thread is: addresses for addr2line(1). */
static inline void
print_frames(void)
{
#ifdef __GLIBC__
	void *frames[32];

	backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
#endif
}

/* Ends the program when a test hangs, and says which one, and where. */
static inline void
give_up(int number)
{
	static const char failed[] = "[  FAILED  ] ",
			  hangs[] = ": it hangs, and the others don't run\n";
	const char *name = running_test->name;

	if (!pthread_equal(pthread_self(), main_thread)) {
		(void)pthread_kill(main_thread, number);
		return;
	}
	if (write(STDERR_FILENO, failed, sizeof(failed) - 1) > 0 &&
	    write(STDERR_FILENO, name, strlen(name)) > 0)
		(void)!write(STDERR_FILENO, hangs, sizeof(hangs) - 1);
	print_frames();
	_exit(1);
}

static inline void
run_limited(void **state)
{
	running_test = *state;
	*state = NULL;
	alarm(TEST_LIMIT_S);
	running_test->test_func(state);
}

/* Gives each of the tests that many seconds. They have no state of their own.
 */
static inline void
limit_tests(struct CMUnitTest *tests, size_t count)
{
	assert_in_range(count, 1, TESTS_MAX);
	main_thread = pthread_self();
#ifdef __GLIBC__
	(void)backtrace(&(void *){NULL}, 1); /* the first time, it allocates */
#endif
	(void)signal(SIGALRM, give_up);
	for (size_t i = 0; i < count; i++) {
		limited_tests[i] = tests[i];
		tests[i].test_func = run_limited;
		tests[i].initial_state = &limited_tests[i];
	}
}

/* Milliseconds of CLOCK_MONOTONIC. Any thread. */
static inline long
now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* For something that takes as long as it takes. Any thread. */
static inline void
pause_ms(long ms)
{
	struct timespec span = {ms / 1000, ms % 1000 * 1000000};

	while (nanosleep(&span, &span) == -1)
		;
}

/* Waits until a condition holds; fails if that takes too long. */
#define AWAIT(condition)                                         \
	do {                                                     \
		long await_limit = now_ms() + DEADLINE_S * 1000; \
		while (!(condition)) {                           \
			if (now_ms() >= await_limit)             \
				fail_msg("not: %s", #condition); \
			pause_ms(1);                             \
		}                                                \
	} while (0)

/* Threads of the process, those of an emulator or a sanitizer included. */
static inline unsigned
count_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned count = 0;

	assert_non_null(tasks);
	for (const struct dirent *i; (i = readdir(tasks)) != NULL;)
		count += i->d_name[0] != '.';
	closedir(tasks);
	return count;
}

static inline void *
note_own_threads(void *count)
{
	*(unsigned *)count = count_threads() - 1;
	return NULL;
}

/* What an emulator or a sanitizer has, and the main thread: the sanitizer's own
 * comes with the first other. Call it first in main(). 0: no thread. */
static inline unsigned
count_own_threads(void)
{
	unsigned count = 0;
	pthread_t first;

	if (pthread_create(&first, NULL, note_own_threads, &count) == 0)
		(void)pthread_join(first, NULL);
	return count;
}

/* Whether a thread of the process sleeps. */
static inline bool
thread_sleeps(pid_t thread)
{
	char path[64], state = '?';
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	if (fscanf(file, "%*d %*s %c", &state) != 1)
		state = '?';
	fclose(file);
	return state == 'S';
}

/* Descriptors in use: what leaks shows as a difference. Any thread. */
static inline int
open_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) != -1;
	return count;
}

static inline struct address
vsock_address(uint32_t cid, uint32_t port)
{
	return (struct address){
	    .vm = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port},
	    .length = sizeof(struct sockaddr_vm)};
}

/* Whether both name the same IP address and port. */
static inline bool
same_address(const struct address *a, const struct address *b)
{
	if (a->any.sa_family != b->any.sa_family ||
	    a->in.sin_port != b->in.sin_port)
		return false;
	if (a->any.sa_family == AF_INET)
		return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	return a->any.sa_family == AF_INET6 &&
	       memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr,
		   sizeof(a->in6.sin6_addr)) == 0;
}

/* Bytes that can be made again, to be compared. */
struct noise {
	uint32_t state;
};

static inline void
noise_fill(struct noise *noise, uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		noise->state = noise->state * 1664525 + 1013904223;
		bytes[i] = (uint8_t)(noise->state >> 24);
	}
}

/* Whether the next bytes of the noise are these. Any thread. */
static inline bool
noise_is(struct noise *noise, const uint8_t *bytes, size_t size)
{
	uint8_t expected[4096];
	size_t n;

	for (; size > 0; size -= n, bytes += n) {
		n = size < sizeof(expected) ? size : sizeof(expected);
		noise_fill(noise, expected, n);
		if (memcmp(bytes, expected, n) != 0)
			return false;
	}
	return true;
}

/* Makes reads and writes that block end with EAGAIN. Any thread. */
static inline void
limit_time(int fd)
{
	const struct timeval limit = {.tv_sec = DEADLINE_S};

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* That a socket has this limit of time. qemu-user 10 doesn't tell, and says so
 * by a length of 0. */
static inline void
assert_time_limit(int fd, int option, long seconds)
{
	struct timeval limit = {-1, -1};
	socklen_t length = sizeof(limit);

	assert_int_equal(
	    getsockopt(fd, SOL_SOCKET, option, &limit, &length), 0);
	if (length == 0)
		return;
	assert_int_equal(limit.tv_sec, seconds);
	assert_int_equal(limit.tv_usec, 0);
}

/* Makes close(2) send a reset, as it does for sockets of stream. Any thread. */
static inline void
reset_on_close(int fd)
{
	const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

/* Any thread. */
static inline void
reset(int fd)
{
	reset_on_close(fd);
	close(fd);
}

/* A socket bound to 127.0.0.1; *address is where. */
static inline int
bind_loopback(struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)address, length), 0);
	assert_int_equal(
	    getsockname(fd, (struct sockaddr *)address, &length), 0);
	return fd;
}

static inline int
listen_loopback(struct sockaddr_in *address)
{
	int fd = bind_loopback(address);

	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

/* Connects to 127.0.0.1, with a limit of time. -1: it failed. Any thread. */
static inline int
connect_loopback(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	limit_time(fd);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) ==
	    -1) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A TCP connection: `ours` goes to the code under test, `peer` (with a limit
 * of time) is the other end. */
struct pair {
	int ours, peer;
};

static inline struct pair
make_pair(void)
{
	struct sockaddr_in address;
	int listener = listen_loopback(&address);
	struct pair pair = {.peer = connect_loopback(&address)};

	assert_true(pair.peer >= 0);
	pair.ours = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(pair.ours >= 0);
	close(listener);
	return pair;
}

/* Closes both ends, but for those that are -1. */
static inline void
close_pair(struct pair pair)
{
	if (pair.ours != -1)
		close(pair.ours);
	if (pair.peer != -1)
		close(pair.peer);
}

/* Ends a connection with a reset that `ours` receives. */
static inline void
reset_peer(struct pair *pair)
{
	reset(pair->peer);
	pair->peer = -1;
}

/* Writes all, or returns an errno. Any thread. */
static inline int
write_all(int fd, const void *bytes, size_t size)
{
	const char *position = bytes;

	while (size > 0) {
		ssize_t n = send(fd, position, size, MSG_NOSIGNAL);

		if (n == -1)
			return errno;
		position += n;
		size -= (size_t)n;
	}
	return 0;
}

/* Reads that many bytes; less if the end comes first. Any thread. */
static inline size_t
read_all(int fd, void *bytes, size_t size)
{
	size_t count = 0;

	while (count < size) {
		ssize_t n = recv(fd, (char *)bytes + count, size - count, 0);

		if (n <= 0)
			break;
		count += (size_t)n;
	}
	return count;
}

/* Reads to the end and returns how that looked: 0 for end-of-file, or an
 * errno. *count, if not NULL, is what came before. Any thread. */
static inline int
read_to_end(int fd, size_t *count)
{
	char bytes[65536];
	size_t total = 0;
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		total += (size_t)n;
	if (count != NULL)
		*count = total;
	return n == 0 ? 0 : errno;
}

/* Sends text, and reads the same text at the other end. */
static inline void
assert_passes(int from, int to, const char *text)
{
	char read[256] = "";

	assert_int_equal(write_all(from, text, strlen(text)), 0);
	assert_int_equal(read_all(to, read, strlen(text)), strlen(text));
	assert_string_equal(read, text);
}

/* How many bytes wait in a socket because its peer's window is used up, and
 * none are on their way; else 0. From /proc, because an emulator of single
 * programs knows no TCP_INFO. */
static inline unsigned
held_back(int fd)
{
	struct sockaddr_in own, peer;
	socklen_t length = sizeof(own);
	unsigned queued = 0, timer = 0;
	FILE *table = fopen("/proc/net/tcp", "re");
	char wanted[64], line[256];
	const char *found;

	assert_non_null(table);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &length), 0);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &length), 0);
	(void)snprintf(wanted, sizeof(wanted), " %08X:%04X %08X:%04X ",
	    own.sin_addr.s_addr, ntohs(own.sin_port), peer.sin_addr.s_addr,
	    ntohs(peer.sin_port));
	while (fgets(line, sizeof(line), table) != NULL) {
		if ((found = strstr(line, wanted)) != NULL)
			(void)sscanf(found + strlen(wanted),
			    "%*x %x:%*x %x:", &queued, &timer);
	}
	fclose(table);
	return timer == 4 ? queued : 0; /* 4: probes the window, proc(5) */
}

/* Sends until a socket takes nothing more before its peer reads: the same one,
 * or one that is written to by who reads what is sent here. Returns how many
 * bytes were sent. */
static inline size_t
fill_connection(int from, int to)
{
	static const char zeros[65536];
	const int least = 1; /* the kernel takes a little more */
	long limit = now_ms() + DEADLINE_S * 1000;
	size_t count = 0;
	ssize_t n;

	for (bool full = false;; pause_ms(1)) {
		while ((n = send(from, zeros, sizeof(zeros),
			    MSG_NOSIGNAL | MSG_DONTWAIT)) > 0)
			count += (size_t)n;
		assert_int_equal(errno, EAGAIN);
		if (full)
			return count;
		if (now_ms() >= limit)
			fail_msg("%d still takes more", to);
		if (held_back(to) < 2 * sizeof(zeros))
			continue;
		/* A timer makes use of what is left of the window, up to a
		 * segment: that makes no room then. */
		full = true;
		assert_int_equal(setsockopt(to, SOL_SOCKET, SO_SNDBUF, &least,
				     sizeof(least)),
		    0);
	}
}

/* Waits for these events of poll(2), or an error; false: nothing came. Any
 * thread. */
static inline bool
wait_for(int fd, short events)
{
	struct pollfd state = {.fd = fd, .events = events};

	return poll(&state, 1, DEADLINE_S * 1000) == 1;
}

/* The next of a listener's, with a limit of time. */
static inline int
accept_in_time(int listener)
{
	int fd;

	assert_true(wait_for(listener, POLLIN));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	limit_time(fd);
	return fd;
}

/* A function that runs in a thread of its own. Make them static. */
struct job {
	void (*run)(void *argument);
	void *argument;
	pthread_t thread;
	sem_t done;
};

static inline void *
job_main(void *argument)
{
	struct job *job = argument;

	job->run(job->argument);
	(void)sem_post(&job->done);
	return NULL;
}

static inline void
job_start(struct job *job, void (*run)(void *argument), void *argument)
{
	pthread_attr_t attributes;

	job->run = run;
	job->argument = argument;
	assert_int_equal(sem_init(&job->done, 0, 0), 0);
	/* With sanitizers, musl's default would be too little. */
	assert_int_equal(pthread_attr_init(&attributes), 0);
	assert_int_equal(pthread_attr_setstacksize(&attributes, 1 << 22), 0);
	assert_int_equal(
	    pthread_create(&job->thread, &attributes, job_main, job), 0);
	assert_int_equal(pthread_attr_destroy(&attributes), 0);
}

static inline bool
job_has_ended(struct job *job)
{
	int value = 0;

	(void)sem_getvalue(&job->done, &value);
	return value > 0;
}

/* Waits for its end; fails if that doesn't come in time. */
static inline void
job_end(struct job *job)
{
	struct timespec limit;

	(void)clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += DEADLINE_S;
	while (sem_timedwait(&job->done, &limit) == -1) {
		if (errno != EINTR)
			fail_msg("a thread still waits after %d s", DEADLINE_S);
	}
	assert_int_equal(pthread_join(job->thread, NULL), 0);
	(void)sem_destroy(&job->done);
}

#endif
