/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What glibc's _FORTIFY_SOURCE makes of calls that a test wraps: they check
 * what they have to, and go on to the test's wrapper. Where nothing is wrapped,
 * or the libc is another one, nobody calls them.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Weak: a test has some of them. */
#pragma weak __wrap_open
#pragma weak __wrap_poll
#pragma weak __wrap_recv
int __wrap_open(const char *path, int flags, ...);
int __wrap___open_2(const char *path, int flags);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int
__wrap___poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room);
ssize_t __wrap_recv(int fd, void *bytes, size_t size, int flags);
ssize_t
__wrap___recv_chk(int fd, void *bytes, size_t size, size_t room, int flags);

int
__wrap___open_2(const char *path, int flags)
{
	if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE)
		abort(); /* it needs a mode */
	return __wrap_open(path, flags);
}

int
__wrap___poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room)
{
	if (count > room / sizeof(*fds))
		abort();
	return __wrap_poll(fds, count, timeout);
}

ssize_t
__wrap___recv_chk(int fd, void *bytes, size_t size, size_t room, int flags)
{
	if (size > room)
		abort();
	return __wrap_recv(fd, bytes, size, flags);
}
