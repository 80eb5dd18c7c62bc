/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes go through a pipe of our own with splice(2), which moves TCP pages
 * without copying them, or through a buffer with read and send. Where splice
 * turns out not to work, the buffer takes over and nothing is lost. */
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
/* The most sent at once: some hypervisors corrupt larger vsock packets. */
#define WRITE_MAX 32768

struct engine {
	int from, to;
	int pipe_fds[2];
	char *buffer; /* NULL as long as the pipe is used */
};

enum copy_mode
copy_choose(enum copy_mode mode)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), pipe_fds[2];

	if (mode != COPY_AUTO)
		goto done;
	mode = COPY_SPLICE;
	if (pipe2(pipe_fds, O_CLOEXEC) == -1)
		goto done;
	/* Not connected: ENOTCONN, if vsock can be spliced from at all. */
	if (splice(fd, NULL, pipe_fds[1], NULL, 1, 0) == -1 && errno == EINVAL)
		mode = COPY_BUFFER;
	close(pipe_fds[0]);
	close(pipe_fds[1]);
done:
	if (fd != -1)
		close(fd);
	return mode;
}

/* Whether a call failed because this kernel can't splice this socket. */
static bool
splice_unsupported(const struct engine *e)
{
	return e->buffer == NULL && (errno == EINVAL || errno == ENOSYS);
}

static int
use_buffer(struct engine *e)
{
	/* Pages are used as far as they are written to. */
	void *buffer = mmap(NULL, READ_MAX, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffer == MAP_FAILED)
		return -1;
	e->buffer = buffer;
	return 0;
}

/* Waits for input, or for the end of `to`: while the opposite direction waits
 * for its own target to read, nobody else would notice a reset of `to`. And
 * since Linux 6.5 a splice that waits holds pages for all that it might read.
 * Returns whether `to` has failed, with errno set. */
static bool
wait_for_input(const struct engine *e)
{
	struct pollfd fds[] = {{e->from, POLLIN, 0}, {e->to, 0, 0}};
	int error = 0;
	socklen_t length = sizeof(error);

	/* Not shut down as yet, `to` hangs up only by a reset. */
	if (poll(fds, 2, -1) <= 0 ||
	    (fds[1].revents & (POLLERR | POLLHUP)) == 0)
		return false;
	(void)getsockopt(e->to, SOL_SOCKET, SO_ERROR, &error, &length);
	/* EPIPE: a reset that came after end-of-file. */
	errno = error == 0 || error == EPIPE ? ECONNRESET : error;
	return true;
}

/* Reads what there is into the pipe or the buffer. */
static ssize_t
take_in(const struct engine *e)
{
	return e->buffer != NULL
		   ? read(e->from, e->buffer, READ_MAX)
		   : splice(e->from, NULL, e->pipe_fds[1], NULL, READ_MAX, 0);
}

/* Sends some of the n bytes that are in the pipe, or in the buffer at offset.
 * Never more than the pipe holds: a splice out of an empty one never ends. */
static ssize_t
give_out(const struct engine *e, size_t offset, size_t n)
{
	if (n > WRITE_MAX)
		n = WRITE_MAX;
	return e->buffer == NULL
		   ? splice(e->pipe_fds[0], NULL, e->to, NULL, n, 0)
		   : send(e->to, e->buffer + offset, n, MSG_NOSIGNAL);
}

/* Delivers n bytes that were taken in. */
static enum copy_end
deliver(struct engine *e, size_t n, _Atomic uint64_t *moved)
{
	size_t done = 0;

	while (done < n) {
		ssize_t sent = give_out(e, done, n - done);

		if (sent > 0) {
			done += (size_t)sent;
			*moved += (uint64_t)sent;
		} else if (sent == -1 && splice_unsupported(e)) {
			/* One read empties a pipe of ours. */
			if (use_buffer(e) == -1 ||
			    read(e->pipe_fds[0], e->buffer + done, n - done) !=
				(ssize_t)(n - done))
				return COPY_NO_RESOURCES;
		} else if (sent == 0) { /* never seen; don't spin on it */
			errno = EIO;
			return COPY_WRITE_FAILED;
		} else if (errno != EINTR) {
			return COPY_WRITE_FAILED;
		}
	}
	return COPY_EOF;
}

static enum copy_end
copy_loop(struct engine *e, _Atomic uint64_t *moved)
{
	enum copy_end end;
	ssize_t n = 0;

	for (;;) {
		/* After a full chunk there is more, most likely. */
		if (n < WRITE_MAX && wait_for_input(e))
			return COPY_WRITE_FAILED;
		n = take_in(e);
		if (n == 0)
			return COPY_EOF;
		if (n > 0) {
			end = deliver(e, (size_t)n, moved);
			if (end != COPY_EOF)
				return end;
		} else if (splice_unsupported(e)) {
			if (use_buffer(e) == -1)
				return COPY_NO_RESOURCES;
		} else if (errno != EINTR) {
			return COPY_READ_FAILED;
		}
	}
}

enum copy_end
copy_run(int from, int to, enum copy_mode mode, _Atomic uint64_t *moved)
{
	struct engine e = {from, to, {-1, -1}, NULL};
	enum copy_end end = COPY_NO_RESOURCES;
	int saved;

	if (mode == COPY_BUFFER ? use_buffer(&e) == 0
				: pipe2(e.pipe_fds, O_CLOEXEC) == 0)
		end = copy_loop(&e, moved);
	saved = errno;
	if (e.buffer != NULL)
		munmap(e.buffer, READ_MAX);
	if (e.pipe_fds[0] != -1) {
		close(e.pipe_fds[0]);
		close(e.pipe_fds[1]);
	}
	errno = saved;
	return end;
}
