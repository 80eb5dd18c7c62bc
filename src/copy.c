/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes go through a buffer, or a pipe and splice(2). Little is read at once
 * until a read is full: then there is more to come, and until the flow pauses,
 * more is read at once. An idle connection holds a page of data at most. */
#include "copy.h"
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define SMALL 4096
#define LARGE 262144 /* about what a vsock socket's queue holds */
#define LAST_MS 10000

struct engine {
	int from, to;
	size_t chunk, large_size;
	_Atomic uint64_t *moved;
	copy_deadline *deadline;
	char *small, *large; /* the buffers, if not spliced */
	bool splice, bulk_splice, bulk;
	int pipe_fds[2];
};

void
copy_set_deadline(copy_deadline *deadline)
{
	uint64_t none = 0;

	(void)atomic_compare_exchange_strong(
	    deadline, &none, clock_ms() + LAST_MS);
}

bool
copy_is_over(const copy_deadline *deadline)
{
	return *deadline != 0 && clock_ms() >= *deadline;
}

/* Lets calls that wait for a socket say EAGAIN after so many seconds; 0: never.
 * Where it fails, memory is given back late, and resets are noticed late. */
static void
limit_wait(int fd, int option, time_t seconds)
{
	struct timeval limit = {.tv_sec = seconds};

	(void)setsockopt(fd, SOL_SOCKET, option, &limit, sizeof(limit));
}

/* From now on reads more at once, if there is memory for it. */
static void
begin_bulk(struct engine *e)
{
	e->large_size = e->chunk > LARGE ? e->chunk : LARGE;
	/* EPERM: this user has many pipes; a small one does. */
	if (e->bulk_splice)
		(void)fcntl(e->pipe_fds[0], F_SETPIPE_SZ, (int)e->large_size);
	else
		e->large = mmap(NULL, e->large_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	e->bulk = e->bulk_splice || e->large != MAP_FAILED;
	if (e->bulk)
		limit_wait(e->from, SO_RCVTIMEO, 1);
}

static void
end_bulk(struct engine *e)
{
	if (!e->bulk)
		return;
	limit_wait(e->from, SO_RCVTIMEO, 0);
	if (!e->bulk_splice)
		munmap(e->large, e->large_size);
	e->bulk = false;
}

/* Waits until `to` may take more, and looks whether `from` fails: nobody reads
 * from it meanwhile, so nobody else would notice. */
static void
wait_for_room(const struct engine *e)
{
	struct pollfd fds[] = {{e->to, POLLOUT, 0}, {e->from, 0, 0}};

	/* A vsock peer that has closed shows only in a write: try at times. */
	if (poll(fds, 2, 1000) <= 0 || fds[0].revents != 0)
		return;
	if (fds[1].revents & POLLERR) /* the error is left for the next read */
		copy_set_deadline(e->deadline);
	/* That, or closed both ways: look away. */
	(void)poll(fds, 1, 1000);
}

/* Delivers n bytes of a buffer or, if that is NULL, of the pipe: never more
 * than are there, since a splice out of an empty one waits for ever. */
static enum copy_end
deliver(const struct engine *e, const char *bytes, size_t n)
{
	for (size_t done = 0; done < n;) {
		size_t most = n - done < e->chunk ? n - done : e->chunk;
		ssize_t sent;

		if (copy_is_over(e->deadline))
			return COPY_OVER;
		errno = EIO; /* for 0, which was never seen */
		sent = bytes == NULL
			   ? splice(e->pipe_fds[0], NULL, e->to, NULL, most, 0)
			   : send(e->to, bytes + done, most,
				 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0) {
			done += (size_t)sent;
			*e->moved += (uint64_t)sent;
		} else if (sent == -1 && errno == EAGAIN) {
			wait_for_room(e);
		} else if (sent == 0 || errno != EINTR) {
			return COPY_WRITE_FAILED;
		}
	}
	return COPY_EOF;
}

static enum copy_end
copy_loop(struct engine *e)
{
	enum copy_end end = COPY_EOF;

	while (end == COPY_EOF) {
		size_t most = e->bulk ? e->large_size : SMALL;
		bool piped = e->bulk ? e->bulk_splice : e->splice;
		char *bytes = piped ? NULL : e->bulk ? e->large : e->small;
		ssize_t n = bytes != NULL ? recv(e->from, bytes, most, 0)
					  : splice(e->from, NULL,
						e->pipe_fds[1], NULL, most, 0);

		if (n == 0 && !piped)
			return COPY_EOF;
		if (n > 0) {
			end = deliver(e, bytes, (size_t)n);
			if (end == COPY_EOF && !e->bulk && n == SMALL)
				begin_bulk(e);
		} else if (piped && (n == 0 || errno == EINVAL ||
					errno == ENOSYS || errno == EPERM)) {
			/* 0 may be an urgent mark. vsock before Linux 5.1. */
			end_bulk(e);
			e->splice = e->bulk_splice = false;
		} else if (errno == EAGAIN) { /* a pause */
			end_bulk(e);
		} else if (errno != EINTR) {
			end = COPY_READ_FAILED;
		}
	}
	return end;
}

enum copy_end
copy_run(int from, int to, struct copy_way way, _Atomic uint64_t *moved,
    copy_deadline *deadline)
{
	char small[SMALL];
	struct engine e = {.from = from,
	    .to = to,
	    .chunk = way.chunk != 0 ? way.chunk : LARGE,
	    .moved = moved,
	    .deadline = deadline,
	    .small = small};
	bool piped = way.splice && pipe2(e.pipe_fds, O_CLOEXEC) == 0;
	enum copy_end end;
	int error;

	e.splice = piped;
	e.bulk_splice = piped && way.bulk_splice;
	if (piped) /* a splice that waits doesn't watch `from` */
		limit_wait(to, SO_SNDTIMEO, 1);
	end = copy_loop(&e);
	error = errno;
	end_bulk(&e);
	if (piped) {
		close(e.pipe_fds[0]);
		close(e.pipe_fds[1]);
	}
	errno = error;
	return end;
}
