/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two loops do the same: splice(2) through a pipe of our own, which moves TCP
 * pages without copying them, and read/write through a buffer. Where splice
 * turns out not to work, the buffer loop takes over and loses nothing.
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* A default pipe's capacity, and the most that is read at once. */
#define READ_MAX 65536
/*
 * The most that is handed to a socket in one call: some hypervisors corrupt
 * vsock packets of more than 32 KiB.
 */
#define WRITE_MAX 32768

enum copy_mode
copy_choose(enum copy_mode mode)
{
	int pipe_fds[2], fd;

	if (mode != COPY_AUTO)
		return mode;
	mode = COPY_SPLICE;
	fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return mode;
	if (pipe2(pipe_fds, O_CLOEXEC) == 0) {
		/* Not connected: ENOTCONN if vsock has splice_read at all. */
		if (splice(fd, NULL, pipe_fds[1], NULL, 1, 0) == -1 &&
		    (errno == EINVAL || errno == ENOSYS))
			mode = COPY_BUFFER;
		close(pipe_fds[0]);
		close(pipe_fds[1]);
	}
	close(fd);
	return mode;
}

static size_t
at_most(size_t length, size_t limit)
{
	return length < limit ? length : limit;
}

/* Writes all of it, or returns -1 with errno. */
static int
write_all(int to, const char *bytes, size_t length, _Atomic uint64_t *moved)
{
	while (length > 0) {
		ssize_t n =
		    send(to, bytes, at_most(length, WRITE_MAX), MSG_NOSIGNAL);

		if (n == -1) {
			if (errno == EINTR)
				continue;
			return -1;
		}
		bytes += n;
		length -= (size_t)n;
		*moved += (uint64_t)n;
	}
	return 0;
}

/*
 * Reads from a socket or a pipe until end-of-file, or until `limit` bytes have
 * been moved.
 */
static enum copy_end
copy_buffered(
    int from, int to, char *buffer, uint64_t limit, _Atomic uint64_t *moved)
{
	while (limit > 0) {
		ssize_t n = read(from, buffer, at_most(limit, READ_MAX));

		if (n == 0)
			break;
		if (n == -1) {
			if (errno == EINTR)
				continue;
			return COPY_READ_FAILED;
		}
		if (write_all(to, buffer, (size_t)n, moved) == -1)
			return COPY_WRITE_FAILED;
		limit -= (uint64_t)n;
	}
	return COPY_EOF;
}

static bool
splice_unsupported(void)
{
	return errno == EINVAL || errno == ENOSYS;
}

/*
 * Moves bytes until end-of-file or an error. *stuck is the number of bytes
 * that are in the pipe and not delivered.
 */
static enum copy_end
copy_spliced(int from, int to, const int pipe_fds[2], size_t *stuck,
    _Atomic uint64_t *moved)
{
	struct pollfd readable = {.fd = from, .events = POLLIN};
	bool full = false;

	for (;;) {
		/* Since Linux 6.5 a splice that waits for input holds pages
		 * for all that it might read. Let poll(2) wait instead. Its
		 * failure doesn't matter: splice then waits. */
		if (!full)
			(void)poll(&readable, 1, -1);
		ssize_t n = splice(from, NULL, pipe_fds[1], NULL, READ_MAX, 0);

		if (n == 0)
			return COPY_EOF;
		if (n == -1) {
			if (errno == EINTR)
				continue;
			return COPY_READ_FAILED;
		}
		full = n >= WRITE_MAX;
		*stuck = (size_t)n;
		/* Never more than the pipe holds: a splice out of an empty
		 * pipe would wait for ever. */
		while (*stuck > 0) {
			n = splice(pipe_fds[0], NULL, to, NULL,
			    at_most(*stuck, WRITE_MAX), 0);
			if (n == -1 && errno == EINTR)
				continue;
			if (n <= 0) {
				if (n == 0) /* never seen; don't spin on it */
					errno = EIO;
				return COPY_WRITE_FAILED;
			}
			*stuck -= (size_t)n;
			*moved += (uint64_t)n;
		}
	}
}

enum copy_end
copy_run(int from, int to, enum copy_mode mode, _Atomic uint64_t *moved)
{
	enum copy_end end;
	char *buffer = MAP_FAILED;
	int pipe_fds[2] = {-1, -1}, saved;
	size_t stuck = 0;

	if (mode != COPY_BUFFER) {
		if (pipe2(pipe_fds, O_CLOEXEC) == -1)
			return COPY_NO_RESOURCES;
		end = copy_spliced(from, to, pipe_fds, &stuck, moved);
		if (end == COPY_EOF || !splice_unsupported())
			goto done;
	}
	end = COPY_NO_RESOURCES;
	/* Pages are used as far as they are written to. */
	buffer = mmap(NULL, READ_MAX, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		goto done;
	end = copy_buffered(pipe_fds[0], to, buffer, stuck, moved);
	if (end == COPY_EOF)
		end = copy_buffered(from, to, buffer, UINT64_MAX, moved);
done:
	saved = errno;
	if (buffer != MAP_FAILED)
		munmap(buffer, READ_MAX);
	if (pipe_fds[0] != -1) {
		close(pipe_fds[0]);
		close(pipe_fds[1]);
	}
	errno = saved;
	return end;
}
