/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands between a program and libc (the linker's --wrap), and makes calls fail
 * as fault.h says.
 */
#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What the linker makes of a name: the real one, and its stand-in. */
#define WRAPPED(type, name, parameters) \
	type __real_##name parameters;  \
	type __wrap_##name parameters;  \
	type __wrap_##name parameters

/* A stand-in for a function that returns -1 and sets errno. What it then says
 * of this socket (-1: of none) becomes true. */
#define WRAP_IO(call, type, name, parameters, arguments, socket) \
	WRAPPED(type, name, parameters)                          \
	{                                                        \
		int saved = errno, how = due(call);              \
                                                                 \
		errno = saved; /* a success leaves it */         \
		if (how == FAULT_NOTHING)                        \
			return 0;                                \
		if (how > 0 && lose(socket, how)) {              \
			errno = how;                             \
			return -1;                               \
		}                                                \
		return __real_##name arguments;                  \
	}
#define WRAP(call, type, name, parameters, arguments) \
	WRAP_IO(call, type, name, parameters, arguments, -1)

/* The size to pass on. */
#define CUT(size) (how == FAULT_SHORT && (size) > 1 ? 1 : (size))

static struct fault none;
static struct fault *fault = &none;
static _Thread_local bool is_main;
static _Thread_local bool is_old; /* was there when the fault was armed */

/* A call is made. Returns how it has to fail; 0: not at all. */
static int
due(enum fault_call call)
{
	if (!fault->armed)
		is_old = !is_main;
	if (!fault->armed || is_old)
		return 0;
	for (int i = 0; i < 2; i++) {
		struct fault_rule *rule = &fault->rules[i];

		if (i == 1 && !fault->rules[0].fired)
			break;
		if (rule->call == call && ++rule->count == rule->nth) {
			rule->fired = true;
			return rule->error;
		}
	}
	return 0;
}

int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __real_getsockname(int fd, struct sockaddr *address, socklen_t *length);
int __real_shutdown(int fd, int side);

/* A connection that has gone, as the program will be told, has gone. Returns
 * false for what no kernel says: vsock always shuts down. */
static bool
lose(int fd, int error)
{
	static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	struct sockaddr_storage own = {0};
	socklen_t length = sizeof(own);

	if (fd == -1 ||
	    (error != EPIPE && error != ECONNRESET && error != ENOTCONN))
		return true;
	(void)__real_getsockname(fd, (struct sockaddr *)&own, &length);
	if (own.ss_family != AF_VSOCK)
		(void)__real_connect(fd, &nowhere, sizeof(nowhere));
	else if (error != ENOTCONN)
		(void)__real_shutdown(fd, SHUT_RDWR);
	return own.ss_family != AF_VSOCK || error != ENOTCONN;
}

WRAP(FAULT_ACCEPT4, int, accept4,
    (int fd, struct sockaddr *address, socklen_t *length, int flags),
    (fd, address, length, flags))
WRAPPED(
    int, connect, (int fd, const struct sockaddr *address, socklen_t length))
{
	int saved = errno, error = due(FAULT_CONNECT);

	if (error == 0 && fault->busy && address->sa_family == AF_UNSPEC) {
		error = EBUSY;
		fault->refused++;
	}
	errno = error == 0 ? saved : error;
	return error == 0 ? __real_connect(fd, address, length) : -1;
}

WRAP(FAULT_GETSOCKNAME, int, getsockname,
    (int fd, struct sockaddr *address, socklen_t *length),
    (fd, address, length))
WRAP(FAULT_GETSOCKOPT, int, getsockopt,
    (int fd, int level, int option, void *value, socklen_t *length),
    (fd, level, option, value, length))
WRAP(FAULT_PIPE2, int, pipe2, (int fds[2], int flags), (fds, flags))
WRAP(FAULT_POLL, int, poll, (struct pollfd * fds, nfds_t count, int ms),
    (fds, count, ms))
WRAP(FAULT_RECV, ssize_t, recv, (int fd, void *bytes, size_t size, int flags),
    (fd, bytes, CUT(size), flags))
WRAP_IO(FAULT_SEND, ssize_t, send,
    (int fd, const void *bytes, size_t size, int flags),
    (fd, bytes, CUT(size), flags), fd)
WRAP(FAULT_SETSOCKOPT, int, setsockopt,
    (int fd, int level, int option, const void *value, socklen_t length),
    (fd, level, option, value, length))
WRAP_IO(FAULT_SHUTDOWN, int, shutdown, (int fd, int side), (fd, side), fd)
WRAP(FAULT_SOCKET, int, socket, (int family, int type, int protocol),
    (family, type, protocol))
WRAP(FAULT_WRITE, ssize_t, write, (int fd, const void *bytes, size_t size),
    (fd, bytes, size))

WRAPPED(int, fcntl, (int fd, int command, ...))
{
	int error = due(FAULT_FCNTL);
	va_list arguments;
	int value;

	if (error != 0) {
		errno = error;
		return -1;
	}
	va_start(arguments, command);
	value = va_arg(arguments, int); /* if there is none, nobody looks */
	va_end(arguments);
	return __real_fcntl(fd, command, value);
}

WRAPPED(int, clock_gettime, (clockid_t id, struct timespec *now))
{
	int status = __real_clock_gettime(id, now);

	if (id == CLOCK_MONOTONIC)
		now->tv_sec += (time_t)fault->ahead_s;
	return status;
}

/* Of splice(2)'s two descriptors, the pipe has a size. */
WRAP_IO(
    __real_fcntl(out, F_GETPIPE_SZ) > 0 ? FAULT_SPLICE_IN : FAULT_SPLICE_OUT,
    ssize_t, splice,
    (int in, off_t *in_offset, int out, off_t *out_offset, size_t size,
	unsigned flags),
    (in, in_offset, out, out_offset, CUT(size), flags), out)

WRAPPED(int, getaddrinfo,
    (const char *host, const char *port, const struct addrinfo *hints,
	struct addrinfo **list))
{
	int error = due(FAULT_GETADDRINFO);

	return error != 0 ? error : __real_getaddrinfo(host, port, hints, list);
}

/* What of a thread a job could change for the next one. */
struct leftovers {
	sigset_t mask;
	char name[16];
	int cancel_state, cancel_type;
};

static struct leftovers fresh; /* a new thread's: like the main thread's */

static struct leftovers
look_at_thread(void)
{
	struct leftovers now;

	memset(&now, 0, sizeof(now));
	(void)pthread_sigmask(SIG_SETMASK, NULL, &now.mask);
	(void)prctl(PR_GET_NAME, now.name);
	(void)pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &now.cancel_state);
	(void)pthread_setcancelstate(now.cancel_state, NULL);
	(void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &now.cancel_type);
	(void)pthread_setcanceltype(now.cancel_type, NULL);
	return now;
}

WRAPPED(int, pthread_create,
    (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *),
	void *argument))
{
	int error = due(FAULT_PTHREAD_CREATE);

	if (is_main)
		fresh = look_at_thread();
	return error != 0
		   ? error
		   : __real_pthread_create(thread, attributes, run, argument);
}

/* Only threads whose job has ended call this. */
WRAPPED(int, sem_timedwait, (sem_t * given, const struct timespec *until))
{
	struct leftovers now = look_at_thread();
	int result;

	if (until == NULL) /* musl's sem_wait(3) */
		return __real_sem_timedwait(given, until);
	if (fault != &none && !fault->threads_wait) {
		is_old = false;
		return sem_trywait(given); /* a job may be on its way */
	}
	if (memcmp(&now, &fresh, sizeof(now)) != 0)
		fault->leftovers++;
	result = __real_sem_timedwait(given, until);
	fault->jobs_taken += result == 0;
	is_old = false;
	errno = EDOM;
	return result;
}

WRAPPED(void *, mmap,
    (void *at, size_t size, int protection, int flags, int fd, off_t offset))
{
	int error = due(FAULT_MMAP);
	void *memory;

	if (error != 0) {
		errno = error;
		return MAP_FAILED;
	}
	memory = __real_mmap(at, size, protection, flags, fd, offset);
	if (memory != MAP_FAILED)
		fault->mappings++;
	return memory;
}

WRAPPED(int, munmap, (void *memory, size_t size))
{
	fault->mappings--;
	return __real_munmap(memory, size);
}

WRAPPED(void *, malloc, (size_t size))
{
	int error = due(FAULT_MALLOC);
	void *memory;

	if (error != 0) {
		errno = error;
		return NULL;
	}
	memory = __real_malloc(size);
	if (memory != NULL)
		fault->allocations++;
	return memory;
}

/* Not by the real one, which may itself be made of malloc(3). */
WRAPPED(void *, calloc, (size_t count, size_t size))
{
	size_t whole;
	void *memory = NULL;

	if (!__builtin_mul_overflow(count, size, &whole))
		memory = __wrap_malloc(whole);
	return memory == NULL ? NULL : memset(memory, 0, whole);
}

WRAPPED(void, free, (void *memory))
{
	if (memory != NULL)
		fault->allocations--;
	__real_free(memory);
}

/* Before main(). Orders that can't be read must not pass for none. */
__attribute__((constructor)) static void
find_orders(void)
{
	const char *path = getenv("FAULT");
	void *memory;
	int fd;

	is_main = true;
	if (path == NULL)
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	memory = __real_mmap(
	    NULL, sizeof(*fault), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		abort();
	close(fd);
	fault = memory;
}
