/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of preamble: the bytes themselves, and receiving them over TCP,
 * whole and in pieces, with the kernel's calls wrapped where their faults are
 * to be seen. */
#include "preamble.h"

#include "support.h"

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t __real_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);

/* What the wrapped calls do for wrapped_fd; others are as ever. */
static int wrapped_fd = -1;
static size_t most;        /* that one call moves; 0: no limit */
static int recv_errors[4]; /* of the next calls, up to a 0 */
static int poll_errors[4];
static size_t recvs, polls; /* calls */
static long poll_pause;     /* before a failing poll(2), in ms */
static bool waits_for_ever; /* that was asked of poll(2) */

/* A peer that sends a byte every 20 ms, by a clock that only poll(2) moves on;
 * rest 0: there is none, and the clock is the real one. */
static struct {
	int fd;
	const uint8_t *next;
	size_t rest;
	long ms; /* that have passed */
} dribbler;
#define DRIBBLE_MS 20

/* What poll(2) says that waits for so long, until the next byte at most. */
static int
wait_for_dribble(struct pollfd *fds, int timeout)
{
	if (timeout < DRIBBLE_MS) {
		dribbler.ms += timeout;
		return 0;
	}
	dribbler.ms += DRIBBLE_MS;
	dribbler.rest--;
	assert_int_equal(write_all(dribbler.fd, dribbler.next++, 1), 0);
	return __real_poll(fds, 1, DEADLINE_S * 1000);
}

static void
wrap_calls(int fd)
{
	wrapped_fd = fd;
	most = 0;
	recvs = polls = 0;
	poll_pause = 0;
	waits_for_ever = false;
	memset(recv_errors, 0, sizeof(recv_errors));
	memset(poll_errors, 0, sizeof(poll_errors));
}

/* The error of the call that a count has come to; 0: none. */
static int
scripted(const int errors[4], size_t call)
{
	return call < 4 ? errors[call] : 0;
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	if (dribbler.rest == 0)
		return __real_clock_gettime(clock, now);
	*now = (struct timespec){
	    1000 + dribbler.ms / 1000, dribbler.ms % 1000 * 1000000};
	return 0;
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	int error = scripted(poll_errors, polls++);

	if (timeout < 0) {
		waits_for_ever = true;
		return 0;
	}
	if (error != 0) {
		pause_ms(poll_pause);
		errno = error;
		return -1;
	}
	return dribbler.rest > 0 ? wait_for_dribble(fds, timeout)
				 : __real_poll(fds, count, timeout);
}

ssize_t
__wrap_recv(int fd, void *buffer, size_t size, int flags)
{
	int error;

	if (fd != wrapped_fd)
		return __real_recv(fd, buffer, size, flags);
	error = scripted(recv_errors, recvs++);
	if (error != 0) {
		errno = error;
		return -1;
	}
	return __real_recv(
	    fd, buffer, most != 0 && size > most ? most : size, flags);
}

#define TOO_LATE "no whole preamble came in time"
#define TOO_SHORT "the client ended before its preamble was whole"
#define PORT_0 "the preamble names port 0"

static const uint8_t ipv4_bytes[4] = {1, 2, 3, 4};
static const uint8_t ipv6_bytes[16] = {0x20, 0x01, 0x0d, 0xb8, 0x11, 0x12, 0x13,
    0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c};
static const uint8_t mapped_bytes[16] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4};

/* 1.2.3.4:443 */
static const uint8_t ipv4_golden[PREAMBLE_SIZE_IPV4] = {
    0x04, 0x03, 0x02, 0x01, 0xbb, 0x01};
/* [2001:db8:1112:1314:1516:1718:191a:1b1c]:8080 */
static const uint8_t ipv6_golden[PREAMBLE_SIZE_IPV6] = {0xff, 0xff, 0xff, 0xff,
    0x90, 0x1f, 0x20, 0x01, 0x0d, 0xb8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
    0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c};
static const struct golden {
	const uint8_t *bytes;
	size_t size;
	const char *text;
} goldens[] = {
    {ipv4_golden, PREAMBLE_SIZE_IPV4, "1.2.3.4:443"},
    {ipv6_golden, PREAMBLE_SIZE_IPV6,
	"[2001:db8:1112:1314:1516:1718:191a:1b1c]:8080"},
};

static void
assert_is(const struct address *address, const char *expected)
{
	char text[ADDRESS_TEXT_SIZE];

	address_format(address, text, sizeof(text));
	assert_string_equal(text, expected);
}

static void
test_golden_bytes(void **state)
{
	/* Fails if old and new ends of a bridge no longer understand another.
	 */
	uint8_t bytes[PREAMBLE_SIZE_IPV6];
	struct address target = address_ip(AF_INET, ipv4_bytes, 443);

	(void)state;
	assert_int_equal(preamble_encode(&target, bytes), PREAMBLE_SIZE_IPV4);
	assert_memory_equal(bytes, ipv4_golden, sizeof(ipv4_golden));
	target = address_ip(AF_INET6, ipv6_bytes, 8080);
	assert_int_equal(preamble_encode(&target, bytes), PREAMBLE_SIZE_IPV6);
	assert_memory_equal(bytes, ipv6_golden, sizeof(ipv6_golden));
}

static void
test_mapped_sent_as_ipv4(void **state)
{
	/* Fails if an old reader refuses what a dual-stack listener accepts. */
	uint8_t bytes[PREAMBLE_SIZE_IPV6];
	struct address target = address_ip(AF_INET6, mapped_bytes, 443);

	(void)state;
	assert_int_equal(preamble_encode(&target, bytes), PREAMBLE_SIZE_IPV4);
	assert_memory_equal(bytes, ipv4_golden, sizeof(ipv4_golden));
}

static void
test_link_local(void **state)
{
	/* Fails if a target that means nothing elsewhere is sent there, or one
	 * that does mean something is not. */
	static const struct {
		uint8_t bytes[16];
		size_t size;
	} cases[] = {
	    {{0xfe, 0x80, [15] = 1}, 0},
	    {{0xfe, 0xbf, [15] = 1}, 0},
	    {{0xfe, 0x7f, [15] = 1}, PREAMBLE_SIZE_IPV6},
	    {{0xfe, 0xc0, [15] = 1}, PREAMBLE_SIZE_IPV6},
	    {{0xfd, 0x80, [15] = 1}, PREAMBLE_SIZE_IPV6},
	    {{[10] = 0xff, 0xff, 0xfe, 0x80, 0, 1}, PREAMBLE_SIZE_IPV4},
	    {{[10] = 0xff, 0xff, 169, 254, 169, 254}, PREAMBLE_SIZE_IPV4},
	};
	uint8_t bytes[PREAMBLE_SIZE_IPV6];

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address target =
		    address_ip(AF_INET6, cases[i].bytes, 443);

		assert_int_equal(
		    preamble_encode(&target, bytes), cases[i].size);
	}
}

/* This must be the reason: NULL is none. */
static void
assert_reason(const char *reason, const char *expected)
{
	assert_non_null(reason);
	assert_string_equal(reason, expected);
}

/* What a preamble that comes with one byte after it names. That must be left,
 * and port 0 be told. */
static struct address
receive(struct pair pair, const uint8_t *bytes, size_t size)
{
	uint8_t sent[PREAMBLE_SIZE_IPV6 + 1], next;
	struct address target;
	const char *reason;

	wrap_calls(-1);
	memcpy(sent, bytes, size);
	sent[size] = '!';
	assert_int_equal(write_all(pair.peer, sent, size + 1), 0);
	reason = preamble_receive(pair.ours, DEADLINE_S * 1000, &target);
	if (bytes[4] == 0 && bytes[5] == 0)
		assert_reason(reason, PORT_0);
	else
		assert_null(reason);
	assert_int_equal(recv(pair.ours, &next, 1, 0), 1);
	assert_int_equal(next, '!');
	return target;
}

static void
test_size(void **state)
{
	/* Fails if the reader takes too little, or what belongs to the data. */
	uint8_t bytes[PREAMBLE_SIZE_IPV6] = {255, 255, 255, 255, 0, 0, 0x20, 1};
	struct pair pair = make_pair();
	struct address target;

	(void)state;
	for (int i = 0; i < 2; i++) {
		target = receive(pair, bytes, PREAMBLE_SIZE_IPV6);
		assert_int_equal(target.any.sa_family, AF_INET6);
		bytes[4] = bytes[5] = 255;
	}
	for (size_t i = 0; i < 4; i++) {
		bytes[i] = 254;
		target = receive(pair, bytes, PREAMBLE_SIZE_IPV4);
		assert_int_equal(target.any.sa_family, AF_INET);
		bytes[i] = 255;
	}
	close_pair(pair);
}

static void
test_decode(void **state)
{
	/* Fails if a target is misread. */
	uint8_t mapped[PREAMBLE_SIZE_IPV6] = {
	    0xff, 0xff, 0xff, 0xff, 0xbb, 0x01};
	static const uint8_t zeros[PREAMBLE_SIZE_IPV4];
	struct pair pair = make_pair();
	struct address target;

	(void)state;
	for (size_t i = 0; i < LENGTH(goldens); i++) {
		target = receive(pair, goldens[i].bytes, goldens[i].size);
		assert_is(&target, goldens[i].text);
	}
	memcpy(mapped + PREAMBLE_SIZE_IPV4, mapped_bytes, 16);
	target = receive(pair, mapped, sizeof(mapped));
	assert_is(&target, "1.2.3.4:443");
	target = receive(pair, zeros, sizeof(zeros));
	assert_is(&target, "0.0.0.0:0");
	close_pair(pair);
}

static void
test_all_ports(void **state)
{
	/* Fails if a port changes on its way. */
	uint8_t bytes[PREAMBLE_SIZE_IPV6];
	struct pair pair = make_pair();
	size_t size;

	(void)state;
	for (unsigned port = 0; port <= UINT16_MAX; port++) {
		struct address target =
		    port % 2 == 0
			? address_ip(AF_INET, ipv4_bytes, (uint16_t)port)
			: address_ip(AF_INET6, ipv6_bytes, (uint16_t)port);
		struct address received;

		size = preamble_encode(&target, bytes);
		assert_int_equal(bytes[4], port & 0xff);
		assert_int_equal(bytes[5], port >> 8);
		received = receive(pair, bytes, size);
		assert_true(same_address(&received, &target));
	}
	close_pair(pair);
}

/* Asserts that no target comes, and why. */
static void
assert_refused(int fd, unsigned timeout_ms, const char *expected)
{
	struct address target;

	assert_reason(preamble_receive(fd, timeout_ms, &target), expected);
}

/* Receives what was sent, with one byte after it, in pieces of this size. */
static void
check_receive(const struct golden *golden, size_t piece)
{
	struct pair pair = make_pair();
	struct address target;
	char next;

	assert_int_equal(write_all(pair.peer, golden->bytes, golden->size), 0);
	assert_int_equal(write_all(pair.peer, "!", 1), 0);
	wrap_calls(pair.ours);
	most = piece;
	assert_null(preamble_receive(pair.ours, DEADLINE_S * 1000, &target));
	assert_is(&target, golden->text);
	limit_time(pair.ours);
	assert_int_equal(recv(pair.ours, &next, 1, 0), 1);
	assert_int_equal(next, '!');
	close_pair(pair);
}

static void
test_receive_whole(void **state)
{
	/* Fails if a preamble in one packet isn't understood, or data after it
	 * is lost. */
	(void)state;
	for (size_t i = 0; i < LENGTH(goldens); i++)
		check_receive(&goldens[i], 0);
}

static void
test_receive_in_pieces(void **state)
{
	/* Fails if a preamble in packets of any size isn't understood: an old
	 * sender writes 4 bytes, then 2. */
	(void)state;
	for (size_t piece = 1; piece < PREAMBLE_SIZE_IPV6; piece++) {
		check_receive(&goldens[0], piece);
		check_receive(&goldens[1], piece);
	}
}

/* What a slow sender sends, and when. */
struct slow_sender {
	int fd;
	const uint8_t *bytes;
	size_t size, piece;
	long pause;
};

static void
send_slowly(void *argument)
{
	struct slow_sender *sender = argument;

	for (size_t i = 0; i < sender->size; i += sender->piece) {
		size_t rest = sender->size - i;

		pause_ms(sender->pause);
		(void)write_all(sender->fd, sender->bytes + i,
		    rest < sender->piece ? rest : sender->piece);
	}
}

static void
test_receive_slow(void **state)
{
	/* Fails if the reader doesn't wait for packets that are on their way.
	 */
	static struct slow_sender sender;
	static struct job job;

	(void)state;
	for (size_t i = 0; i < LENGTH(goldens); i++) {
		struct pair pair = make_pair();
		struct address target;

		wrap_calls(-1);
		sender = (struct slow_sender){
		    pair.peer, goldens[i].bytes, goldens[i].size, 4, 20};
		job_start(&job, send_slowly, &sender);
		assert_null(
		    preamble_receive(pair.ours, DEADLINE_S * 1000, &target));
		assert_is(&target, goldens[i].text);
		job_end(&job);
		close_pair(pair);
	}
}

static void
test_receive_interrupted(void **state)
{
	/* Fails if a signal, or a wakeup without data, ends a connection. */
	struct pair pair = make_pair();
	struct address target;

	(void)state;
	assert_int_equal(
	    write_all(pair.peer, ipv4_golden, sizeof(ipv4_golden)), 0);
	wrap_calls(pair.ours);
	recv_errors[0] = EINTR;
	recv_errors[1] = EAGAIN;
	poll_errors[1] = EINTR;
	assert_null(preamble_receive(pair.ours, DEADLINE_S * 1000, &target));
	assert_is(&target, "1.2.3.4:443");
	assert_true(recvs >= 3);
	close_pair(pair);
}

static void
test_receive_truncated(void **state)
{
	/* Fails if a client that ends early isn't told from one that names a
	 * target. */
	(void)state;
	for (size_t i = 0; i < LENGTH(goldens); i++) {
		for (size_t size = 0; size < goldens[i].size; size++) {
			struct pair pair = make_pair();

			wrap_calls(-1);
			assert_int_equal(
			    write_all(pair.peer, goldens[i].bytes, size), 0);
			assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
			assert_refused(pair.ours, DEADLINE_S * 1000, TOO_SHORT);
			close_pair(pair);
		}
	}
}

static void
test_receive_reset(void **state)
{
	/* Fails if a reset passes for a preamble, or its reason is lost. */
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(-1);
	reset(pair.peer);
	assert_refused(pair.ours, DEADLINE_S * 1000, strerror(ECONNRESET));
	close(pair.ours);
}

/* Receives for 250 ms and asserts that the time was over, and when. */
static void
assert_times_out(int fd)
{
	long start = now_ms();

	assert_refused(fd, 250, TOO_LATE);
	assert_in_range(now_ms() - start, 249, DEADLINE_S * 1000);
}

static void
test_receive_silence(void **state)
{
	/* Fails if a client that says nothing holds a connection for ever. */
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(-1);
	assert_times_out(pair.ours);
	/* Nor one that stops midway. */
	assert_int_equal(write_all(pair.peer, ipv6_golden, 21), 0);
	assert_times_out(pair.ours);
	close_pair(pair);
}

static void
test_receive_dribble(void **state)
{
	/* Fails if a client can hold a connection by sending a byte now and
	 * then: the time is for all of the preamble. */
	struct pair pair = make_pair();
	struct address target;
	const char *reason;

	(void)state;
	wrap_calls(-1);
	dribbler.fd = pair.peer;
	dribbler.next = ipv6_golden;
	dribbler.rest = sizeof(ipv6_golden);
	reason = preamble_receive(pair.ours, 250, &target);
	dribbler.rest = 0;
	assert_reason(reason, TOO_LATE);
	assert_int_equal(dribbler.ms, 250);
	close_pair(pair);
}

static void
test_receive_too_late(void **state)
{
	/* Fails if a proxy that was stopped until after the deadline waits for
	 * ever then. */
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(pair.ours);
	poll_errors[0] = EINTR;
	poll_pause = 50;
	assert_refused(pair.ours, 20, TOO_LATE);
	assert_false(waits_for_ever);
	close_pair(pair);
}

static void
test_receive_no_time(void **state)
{
	/* Fails if no time at all means to wait without end. */
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(-1);
	assert_refused(pair.ours, 0, TOO_LATE);
	close_pair(pair);
}

static void
test_receive_port_0(void **state)
{
	/* Fails if the proxy tries to connect where nothing can listen. */
	static const uint8_t ipv4[PREAMBLE_SIZE_IPV4] = {4, 3, 2, 1};
	static const uint8_t ipv6[PREAMBLE_SIZE_IPV6] = {
	    255, 255, 255, 255, 0, 0, 0x20, 1};
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(-1);
	assert_int_equal(write_all(pair.peer, ipv4, sizeof(ipv4)), 0);
	assert_int_equal(write_all(pair.peer, ipv6, sizeof(ipv6)), 0);
	for (int i = 0; i < 2; i++)
		assert_refused(pair.ours, DEADLINE_S * 1000, PORT_0);
	close_pair(pair);
}

static void
test_random(void **state)
{
	/* Fails if some bytes crash the reader, or leave it at the wrong place
	 * of the stream. */
	struct noise noise = {2};
	struct pair pair = make_pair();

	(void)state;
	wrap_calls(-1);
	for (int i = 0; i < 10000; i++) {
		uint8_t bytes[PREAMBLE_SIZE_IPV6], again[PREAMBLE_SIZE_IPV6];
		struct address target;
		size_t size;

		noise_fill(&noise, bytes, sizeof(bytes));
		if (i % 2 == 0)
			memset(bytes, 255, 4);
		if (i % 100 == 0)
			bytes[4] = bytes[5] = 0;
		size = i % 2 == 0 ? PREAMBLE_SIZE_IPV6 : PREAMBLE_SIZE_IPV4;
		assert_int_equal(write_all(pair.peer, bytes, size), 0);
		if (bytes[4] == 0 && bytes[5] == 0) {
			assert_refused(pair.ours, DEADLINE_S * 1000, PORT_0);
			continue;
		}
		assert_null(
		    preamble_receive(pair.ours, DEADLINE_S * 1000, &target));
		if (i % 2 == 0 && bytes[6] == 0xfe && bytes[7] >> 6 == 2)
			continue; /* link-local, not sent by us */
		assert_int_equal(preamble_encode(&target, again), size);
		assert_memory_equal(again, bytes, size);
	}
	assert_int_equal(recv(pair.ours, &(char){0}, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close_pair(pair);
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_golden_bytes),
	    cmocka_unit_test(test_mapped_sent_as_ipv4),
	    cmocka_unit_test(test_link_local),
	    cmocka_unit_test(test_size),
	    cmocka_unit_test(test_decode),
	    cmocka_unit_test(test_all_ports),
	    cmocka_unit_test(test_receive_whole),
	    cmocka_unit_test(test_receive_in_pieces),
	    cmocka_unit_test(test_receive_slow),
	    cmocka_unit_test(test_receive_interrupted),
	    cmocka_unit_test(test_receive_truncated),
	    cmocka_unit_test(test_receive_reset),
	    cmocka_unit_test(test_receive_silence),
	    cmocka_unit_test(test_receive_dribble),
	    cmocka_unit_test(test_receive_too_late),
	    cmocka_unit_test(test_receive_no_time),
	    cmocka_unit_test(test_receive_port_0),
	    cmocka_unit_test(test_random),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("preamble", tests, NULL, NULL);
}
