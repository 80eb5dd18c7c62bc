/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of copy: both engines over real TCP connections, and every fault
 * that the kernel may answer with, through wrapped calls. EINVAL of splice(2)
 * is what a vsock socket says on Linux before 5.1. */
#include "copy.h"

#include "support.h"

#include <limits.h>
#include <signal.h>
#include <sys/mman.h>

void *
__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *
__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size);
int __real_pipe2(int fds[2], int flags);
int __wrap_pipe2(int fds[2], int flags);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t __real_read(int fd, void *buffer, size_t size);
ssize_t __wrap_read(int fd, void *buffer, size_t size);
ssize_t __real_send(int fd, const void *buffer, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t size, int flags);
int __real_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol);
ssize_t __real_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);
ssize_t __wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset,
    size_t size, unsigned flags);

/* What a call does; ALL_OF_IT is what it always does. */
#define FAIL(error) (-(error))
#define ALL_OF_IT 0
#define NOTHING INT_MIN /* of splice(2): returns 0 */
/* Anything above 0: so many bytes at most. */

/* A wrapped call: what it did, and what it does. */
struct call {
	/* The next calls, and how all that follow go. */
	int script[8], then;
	size_t count;   /* of calls */
	size_t largest; /* size that was asked for */
	unsigned flags; /* all that were given */
};

static _Atomic bool wrapping;
/* While wrapping they belong to the thread that copies. */
static struct {
	int from, to;
	struct call splice_in, splice_out, read, send, pipe2, mmap, poll;
	size_t mapped; /* bytes */
} calls;

/* What this call is to do. */
static int
next(struct call *call, size_t size, unsigned flags)
{
	size_t i = call->count++;

	if (size > call->largest)
		call->largest = size;
	call->flags |= flags;
	return i < LENGTH(call->script) && call->script[i] != ALL_OF_IT
		   ? call->script[i]
		   : call->then;
}

/* Cuts *size, or sets errno; returns whether the call fails. */
static bool
obey(int what, size_t *size)
{
	if (what < 0) {
		errno = -what;
		return true;
	}
	if (what > 0 && *size > (size_t)what)
		*size = (size_t)what;
	return false;
}

void *
__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	size_t whole = size;

	if (!wrapping)
		return __real_mmap(at, size, prot, flags, fd, offset);
	if (obey(next(&calls.mmap, size, 0), &whole))
		return MAP_FAILED;
	calls.mapped += size;
	return __real_mmap(at, size, prot, flags, fd, offset);
}

int
__wrap_munmap(void *at, size_t size)
{
	if (wrapping)
		calls.mapped -= size;
	return __real_munmap(at, size);
}

int
__wrap_pipe2(int fds[2], int flags)
{
	if (wrapping &&
	    obey(next(&calls.pipe2, 0, (unsigned)flags), &(size_t){0}))
		return -1;
	return __real_pipe2(fds, flags);
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	if (wrapping && obey(next(&calls.poll, 0, 0), &(size_t){0}))
		return -1;
	return __real_poll(fds, count, timeout);
}

ssize_t
__wrap_read(int fd, void *buffer, size_t size)
{
	if (wrapping && fd == calls.from &&
	    obey(next(&calls.read, size, 0), &size))
		return -1;
	return __real_read(fd, buffer, size);
}

ssize_t
__wrap_send(int fd, const void *buffer, size_t size, int flags)
{
	if (wrapping && fd == calls.to &&
	    obey(next(&calls.send, size, (unsigned)flags), &size))
		return -1;
	return __real_send(fd, buffer, size, flags);
}

/* Of socket(2), for vsock; 0: there is one, which is a TCP socket in truth. */
static int vsock_error;

int
__wrap_socket(int family, int type, int protocol)
{
	if (family != AF_VSOCK)
		return __real_socket(family, type, protocol);
	if (vsock_error != 0) {
		errno = vsock_error;
		return -1;
	}
	return __real_socket(AF_INET, type, protocol);
}

ssize_t
__wrap_splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size,
    unsigned flags)
{
	struct call *call =
	    in == calls.from ? &calls.splice_in : &calls.splice_out;

	if (wrapping) {
		int what = next(call, size, flags);

		if (what == NOTHING)
			return 0;
		if (obey(what, &size))
			return -1;
	}
	return __real_splice(in, in_offset, out, out_offset, size, flags);
}

/* A copy that runs in a thread of its own, between two connections. */
static struct {
	struct pair from, to;
	enum copy_mode mode;
	_Atomic uint64_t moved;
	enum copy_end end;
	int error;
	int descriptors; /* before all else */
	struct job job;
} copy;

static void
run_copy(void *argument)
{
	(void)argument;
	copy.end =
	    copy_run(copy.from.ours, copy.to.ours, copy.mode, &copy.moved);
	copy.error = errno;
}

/* Makes the connections; then scripts may be set. */
static void
prepare(enum copy_mode mode)
{
	memset(&calls, 0, sizeof(calls));
	copy.descriptors = open_descriptors();
	copy.from = make_pair();
	copy.to = make_pair();
	copy.mode = mode;
	copy.moved = 0;
	calls.from = copy.from.ours;
	calls.to = copy.to.ours;
}

static void
start(void)
{
	wrapping = true;
	job_start(&copy.job, run_copy, NULL);
}

/* Waits for the end of the copy. */
static void
end(void)
{
	job_end(&copy.job);
	wrapping = false;
	assert_int_equal(calls.mapped, 0);
}

static void
finish(void)
{
	close_pair(copy.from);
	close_pair(copy.to);
	assert_int_equal(open_descriptors(), copy.descriptors);
}

/* A thread that sends noise to the copy, and ends. */
static struct sender {
	int fd;
	size_t size;
	uint32_t seed;
	struct job job;
} sender;

static void
run_sender(void *argument)
{
	struct noise noise = {sender.seed};
	uint8_t bytes[16384];

	(void)argument;
	for (size_t rest = sender.size, n; rest > 0; rest -= n) {
		n = rest < sizeof(bytes) ? rest : sizeof(bytes);
		noise_fill(&noise, bytes, n);
		if (write_all(sender.fd, bytes, n) != 0)
			return;
	}
	(void)shutdown(sender.fd, SHUT_WR);
}

/* Passes that many random bytes through, and asserts that all arrive. */
static void
pass_noise(size_t size)
{
	static uint8_t bytes[65536];
	struct noise noise = {(uint32_t)size + 7};
	size_t n;

	sender.fd = copy.from.peer;
	sender.size = size;
	sender.seed = noise.state;
	job_start(&sender.job, run_sender, NULL);
	start();
	for (size_t rest = size; rest > 0; rest -= n) {
		n = rest < sizeof(bytes) ? rest : sizeof(bytes);
		n = read_all(copy.to.peer, bytes, n);
		assert_true(n > 0);
		assert_true(noise_is(&noise, bytes, n));
	}
	end();
	job_end(&sender.job);
	assert_int_equal(copy.end, COPY_EOF);
	assert_int_equal(copy.moved, size);
	/* Not a byte more, and no end: that is passed on by others. */
	assert_int_equal(recv(copy.to.peer, &(char){0}, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static const size_t sizes[] = {0, 1, 2, 4095, 4096, 4097, 32767, 32768, 32769,
    65535, 65536, 65537, 98304, 131072, 131073, 1000000};
#define SEVERAL_MIB (5 * 1024 * 1024 + 3)

static void
test_intact(void **state)
{
	/* Fails if bytes are lost, doubled, changed or miscounted. */
	static const enum copy_mode modes[] = {
	    COPY_AUTO, COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		for (size_t j = 0; j < LENGTH(sizes); j++) {
			prepare(modes[i]);
			pass_noise(sizes[j]);
			finish();
		}
		prepare(modes[i]);
		pass_noise(SEVERAL_MIB);
		finish();
	}
}

static void
test_engines(void **state)
{
	/* Fails if --copy doesn't choose how bytes are moved. */
	(void)state;
	prepare(COPY_SPLICE);
	pass_noise(100000);
	assert_int_equal(calls.pipe2.count, 1);
	assert_true(calls.splice_in.count > 0);
	assert_true(calls.splice_out.count > 0);
	assert_int_equal(calls.read.count + calls.send.count, 0);
	assert_int_equal(calls.mmap.count, 0);
	finish();
	prepare(COPY_BUFFER);
	pass_noise(100000);
	assert_true(calls.read.count > 0);
	assert_true(calls.send.count > 0);
	assert_int_equal(calls.splice_in.count + calls.splice_out.count, 0);
	assert_int_equal(calls.pipe2.count, 0);
	finish();
}

static void
test_sizes_of_calls(void **state)
{
	/* Fails if vsock gets more at once than some hypervisors can take, or
	 * SPLICE_F_MORE delays small messages by 200 ms. */
	(void)state;
	prepare(COPY_SPLICE);
	pass_noise(SEVERAL_MIB);
	assert_in_range(calls.splice_out.largest, 1, 32768);
	assert_int_equal(calls.splice_in.flags, 0);
	assert_int_equal(calls.splice_out.flags, 0);
	assert_int_equal(calls.pipe2.flags, O_CLOEXEC);
	finish();
	prepare(COPY_BUFFER);
	pass_noise(SEVERAL_MIB);
	assert_in_range(calls.send.largest, 1, 32768);
	assert_int_equal(calls.send.flags, MSG_NOSIGNAL);
	finish();
}

static void
test_prompt(void **state)
{
	/* Fails if a message waits for more to come, or the count for the end
	 * of the connection. */
	static const enum copy_mode modes[] = {COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		long limit = now_ms() + DEADLINE_S * 1000;

		prepare(modes[i]);
		start();
		for (size_t round = 1; round <= 5; round++) {
			assert_passes(copy.from.peer, copy.to.peer, "ping");
			while (copy.moved != 4 * round && now_ms() < limit)
				pause_ms(1);
			assert_int_equal(copy.moved, 4 * round);
		}
		assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
		end();
		assert_int_equal(copy.end, COPY_EOF);
		finish();
	}
}

static void
test_short_counts(void **state)
{
	/* Fails if what the kernel didn't take at once is lost or doubled. */
	static const int most[] = {1, 1000, 4096, 30000};
	static const size_t totals[] = {3000, 200000, 1000000, 1000000};

	(void)state;
	for (size_t i = 0; i < LENGTH(most); i++) {
		prepare(COPY_SPLICE);
		calls.splice_out.then = most[i];
		pass_noise(totals[i]);
		assert_true(
		    calls.splice_out.count >= totals[i] / (size_t)most[i]);
		finish();
		prepare(COPY_SPLICE);
		calls.splice_in.then = most[i];
		pass_noise(totals[i]);
		finish();
		prepare(COPY_BUFFER);
		calls.send.then = most[i];
		pass_noise(totals[i]);
		finish();
		prepare(COPY_BUFFER);
		calls.read.then = most[i];
		pass_noise(totals[i]);
		finish();
	}
}

static void
test_interrupted(void **state)
{
	/* Fails if a signal ends a connection, or doubles bytes. */
	static const int script[] = {FAIL(EINTR), FAIL(EINTR), 100, FAIL(EINTR),
	    1, FAIL(EINTR), FAIL(EINTR), FAIL(EINTR)};

	(void)state;
	prepare(COPY_SPLICE);
	memcpy(calls.splice_in.script, script, sizeof(script));
	memcpy(calls.splice_out.script, script, sizeof(script));
	memcpy(calls.poll.script, script, sizeof(script));
	pass_noise(300000);
	assert_true(calls.splice_in.count > LENGTH(script));
	assert_true(calls.splice_out.count > LENGTH(script));
	finish();
	prepare(COPY_BUFFER);
	memcpy(calls.read.script, script, sizeof(script));
	memcpy(calls.send.script, script, sizeof(script));
	pass_noise(300000);
	assert_true(calls.read.count > LENGTH(script));
	assert_true(calls.send.count > LENGTH(script));
	finish();
}

static void
test_poll_fails(void **state)
{
	/* Fails if poll(2), which only saves memory here, can stop a copy. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.poll.then = FAIL(ENOMEM);
	pass_noise(300000);
	finish();
}

static void
test_cannot_splice_from(void **state)
{
	/* Fails if Linux 4.14, which can't splice from vsock, moves nothing, or
	 * if this is found out late and bytes are lost. */
	static const int errors[] = {EINVAL, ENOSYS};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors); i++) {
		prepare(COPY_SPLICE);
		calls.splice_in.then = FAIL(errors[i]);
		pass_noise(1000000);
		assert_int_equal(calls.splice_in.count, 1);
		assert_int_equal(calls.splice_out.count, 0);
		assert_in_range(calls.send.largest, 1, 32768);
		finish();
		prepare(COPY_SPLICE);
		calls.splice_in.script[0] = 777;
		calls.splice_in.then = FAIL(errors[i]);
		pass_noise(1000000);
		assert_int_equal(calls.splice_in.count, 2);
		finish();
	}
}

static void
test_cannot_splice_to(void **state)
{
	/* Fails if the bytes that are in the pipe are lost, or come in the
	 * wrong order, when splice turns out not to work on the way out. */
	static const int errors[] = {EINVAL, ENOSYS};
	static const size_t totals[] = {1, 5000, 65536, 1000000};

	(void)state;
	for (size_t i = 0; i < LENGTH(errors) * LENGTH(totals); i++) {
		size_t total = totals[i / LENGTH(errors)];

		prepare(COPY_SPLICE);
		calls.splice_out.then = FAIL(errors[i % LENGTH(errors)]);
		pass_noise(total);
		assert_int_equal(calls.splice_in.count, 1);
		assert_int_equal(calls.splice_out.count, 1);
		assert_int_equal(calls.send.flags, MSG_NOSIGNAL);
		finish();
		/* After a part of what is in the pipe. */
		prepare(COPY_SPLICE);
		calls.splice_out.script[0] = 1;
		calls.splice_out.script[1] = FAIL(EINTR);
		calls.splice_out.script[2] = 4096;
		calls.splice_out.script[3] = 33;
		calls.splice_out.then = FAIL(errors[i % LENGTH(errors)]);
		calls.send.script[0] = 10;
		calls.send.script[1] = FAIL(EINTR);
		pass_noise(total);
		finish();
	}
}

static void
test_read_fails(void **state)
{
	/* Fails if cut-off data passes for complete data. */
	static const enum copy_mode modes[] = {COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		prepare(modes[i]);
		start();
		assert_passes(copy.from.peer, copy.to.peer, "hello");
		reset_peer(&copy.from);
		end();
		assert_int_equal(copy.end, COPY_READ_FAILED);
		assert_int_equal(copy.error, ECONNRESET);
		assert_int_equal(copy.moved, 5);
		finish();
	}
}

static void
test_write_fails(void **state)
{
	/* Fails if the log blames the wrong side. */
	static const enum copy_mode modes[] = {COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		prepare(modes[i]);
		start();
		assert_passes(copy.from.peer, copy.to.peer, "hello");
		reset_peer(&copy.to);
		/* Until the reset is noticed, bytes may still be taken. */
		while (!job_has_ended(&copy.job) &&
		       write_all(copy.from.peer, "x", 1) == 0)
			;
		end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		assert_true(copy.error == ECONNRESET || copy.error == EPIPE);
		finish();
	}
}

static void
test_target_resets(void **state)
{
	/* Fails if a target that is gone isn't noticed before there is
	 * something to write to it, which may be never. */
	static const enum copy_mode modes[] = {COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < 2 * LENGTH(modes); i++) {
		int error = 0;
		socklen_t length = sizeof(error);

		prepare(modes[i / 2]);
		reset_peer(&copy.to);
		assert_true(wait_for(copy.to.ours, 0));
		if (i % 2 == 1) /* somebody else was told of it */
			assert_int_equal(getsockopt(copy.to.ours, SOL_SOCKET,
					     SO_ERROR, &error, &length),
			    0);
		start();
		end();
		assert_int_equal(copy.end, COPY_WRITE_FAILED);
		assert_int_equal(copy.error, ECONNRESET);
		assert_int_equal(copy.moved, 0);
		finish();
	}
}

static void
test_target_ends(void **state)
{
	/* Fails if a target that has said all, but still listens, counts as
	 * gone. */
	static const enum copy_mode modes[] = {COPY_SPLICE, COPY_BUFFER};

	(void)state;
	for (size_t i = 0; i < LENGTH(modes); i++) {
		prepare(modes[i]);
		assert_int_equal(shutdown(copy.to.peer, SHUT_WR), 0);
		pass_noise(100000);
		finish();
	}
}

/* Runs a scripted copy of 10,000 bytes to its end. */
static void
run_to_end(void)
{
	static const char bytes[10000];

	assert_int_equal(write_all(copy.from.peer, bytes, sizeof(bytes)), 0);
	assert_int_equal(shutdown(copy.from.peer, SHUT_WR), 0);
	start();
	end();
}

static void
test_errors_classified(void **state)
{
	/* Fails if a failing call passes for a fault of the other side, or its
	 * errno is lost, or what was delivered before isn't counted. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.splice_in.script[0] = 100;
	calls.splice_in.then = FAIL(ETIMEDOUT);
	run_to_end();
	assert_int_equal(copy.end, COPY_READ_FAILED);
	assert_int_equal(copy.error, ETIMEDOUT);
	assert_int_equal(copy.moved, 100);
	finish();

	prepare(COPY_BUFFER);
	calls.read.script[0] = 100;
	calls.read.then = FAIL(ETIMEDOUT);
	run_to_end();
	assert_int_equal(copy.end, COPY_READ_FAILED);
	assert_int_equal(copy.error, ETIMEDOUT);
	assert_int_equal(copy.moved, 100);
	finish();

	prepare(COPY_SPLICE);
	calls.splice_out.script[0] = 10;
	calls.splice_out.then = FAIL(EHOSTUNREACH);
	run_to_end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_int_equal(copy.error, EHOSTUNREACH);
	assert_int_equal(copy.moved, 10);
	finish();

	prepare(COPY_BUFFER);
	calls.send.script[0] = 10;
	calls.send.then = FAIL(EPIPE);
	run_to_end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_int_equal(copy.error, EPIPE);
	assert_int_equal(copy.moved, 10);
	finish();
}

static void
test_errors_after_fallback(void **state)
{
	/* Fails if an error after the fallback is lost, or if EINVAL of a
	 * buffer's call means to fall back for ever. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.splice_out.script[0] = 5;
	calls.splice_out.then = FAIL(EINVAL);
	calls.send.script[0] = 20;
	calls.send.then = FAIL(ECONNRESET);
	run_to_end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_int_equal(copy.error, ECONNRESET);
	assert_int_equal(copy.moved, 25);
	finish();

	prepare(COPY_SPLICE);
	calls.splice_out.then = FAIL(EINVAL);
	calls.send.then = FAIL(EINVAL);
	run_to_end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_int_equal(copy.error, EINVAL);
	finish();

	prepare(COPY_SPLICE);
	calls.splice_in.then = FAIL(EINVAL);
	calls.read.then = FAIL(EINVAL);
	run_to_end();
	assert_int_equal(copy.end, COPY_READ_FAILED);
	assert_int_equal(copy.error, EINVAL);
	assert_int_equal(calls.read.count, 1);
	finish();
}

static void
test_splice_writes_nothing(void **state)
{
	/* Fails if a splice that moves nothing makes a busy loop, or an error
	 * without a reason. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.splice_out.then = NOTHING;
	run_to_end();
	assert_int_equal(copy.end, COPY_WRITE_FAILED);
	assert_int_not_equal(copy.error, 0);
	assert_int_equal(copy.moved, 0);
	finish();
}

static void
test_not_connected(void **state)
{
	/* Fails if ENOTCONN, which on Linux 4.14 ends a vsock stream, doesn't
	 * reach those who know what it means. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.splice_in.then = FAIL(ENOTCONN);
	run_to_end();
	assert_int_equal(copy.end, COPY_READ_FAILED);
	assert_int_equal(copy.error, ENOTCONN);
	finish();
}

static void
test_no_resources(void **state)
{
	/* Fails if a proxy that is short of something blames its peers, or
	 * leaks descriptors, which it then is short of. */
	(void)state;
	prepare(COPY_SPLICE);
	calls.pipe2.then = FAIL(EMFILE);
	run_to_end();
	assert_int_equal(copy.end, COPY_NO_RESOURCES);
	assert_int_equal(copy.error, EMFILE);
	finish();

	prepare(COPY_BUFFER);
	calls.mmap.then = FAIL(ENOMEM);
	run_to_end();
	assert_int_equal(copy.end, COPY_NO_RESOURCES);
	assert_int_equal(copy.error, ENOMEM);
	finish();

	/* On the way in, and on the way out, of a fallback. */
	prepare(COPY_SPLICE);
	calls.splice_in.then = FAIL(EINVAL);
	calls.mmap.then = FAIL(ENOMEM);
	run_to_end();
	assert_int_equal(copy.end, COPY_NO_RESOURCES);
	assert_int_equal(copy.error, ENOMEM);
	finish();

	prepare(COPY_SPLICE);
	calls.splice_out.then = FAIL(EINVAL);
	calls.mmap.then = FAIL(ENOMEM);
	run_to_end();
	assert_int_equal(copy.end, COPY_NO_RESOURCES);
	assert_int_equal(copy.error, ENOMEM);
	assert_int_equal(copy.moved, 0);
	finish();
}

static void
test_choose_as_told(void **state)
{
	/* Fails if --copy splice or buffer is overruled. */
	(void)state;
	memset(&calls, 0, sizeof(calls));
	calls.splice_in.then = calls.splice_out.then = FAIL(EINVAL);
	wrapping = true;
	assert_int_equal(copy_choose(COPY_SPLICE), COPY_SPLICE);
	calls.splice_in.then = calls.splice_out.then = FAIL(ENOTCONN);
	assert_int_equal(copy_choose(COPY_BUFFER), COPY_BUFFER);
	wrapping = false;
}

/* What COPY_AUTO becomes when splice(2) from vsock says this. */
static enum copy_mode
choice_after(int splice_error, int socket_error, int pipe_error)
{
	int before = open_descriptors();
	enum copy_mode mode;

	memset(&calls, 0, sizeof(calls));
	calls.splice_in.then = FAIL(splice_error);
	calls.splice_out.then = FAIL(splice_error);
	calls.pipe2.then = FAIL(pipe_error);
	vsock_error = socket_error;
	wrapping = true;
	mode = copy_choose(COPY_AUTO);
	wrapping = false;
	assert_int_equal(open_descriptors(), before);
	return mode;
}

static void
test_choose(void **state)
{
	/* Fails if splice is chosen where the kernel can't do it for vsock, or
	 * isn't where it can. */
	(void)state;
	assert_int_equal(choice_after(EINVAL, 0, 0), COPY_BUFFER);
	assert_int_equal(choice_after(ENOTCONN, 0, 0), COPY_SPLICE);
}

static void
test_choose_in_need(void **state)
{
	/* Fails if the probe's own troubles leave no mode, or a descriptor. */
	(void)state;
	assert_int_equal(choice_after(EBADF, EAFNOSUPPORT, 0), COPY_SPLICE);
	assert_int_equal(choice_after(EINVAL, 0, EMFILE), COPY_SPLICE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_intact),
	    cmocka_unit_test(test_engines),
	    cmocka_unit_test(test_sizes_of_calls),
	    cmocka_unit_test(test_prompt),
	    cmocka_unit_test(test_short_counts),
	    cmocka_unit_test(test_interrupted),
	    cmocka_unit_test(test_poll_fails),
	    cmocka_unit_test(test_cannot_splice_from),
	    cmocka_unit_test(test_cannot_splice_to),
	    cmocka_unit_test(test_read_fails),
	    cmocka_unit_test(test_write_fails),
	    cmocka_unit_test(test_target_resets),
	    cmocka_unit_test(test_target_ends),
	    cmocka_unit_test(test_errors_classified),
	    cmocka_unit_test(test_errors_after_fallback),
	    cmocka_unit_test(test_splice_writes_nothing),
	    cmocka_unit_test(test_not_connected),
	    cmocka_unit_test(test_no_resources),
	    cmocka_unit_test(test_choose_as_told),
	    cmocka_unit_test(test_choose),
	    cmocka_unit_test(test_choose_in_need),
	};

	alarm(LAST_RESORT_S);
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
