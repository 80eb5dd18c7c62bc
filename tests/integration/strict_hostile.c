/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slow and hostile peers. Each test attacks a program while an honest client is
 * connected: its round trips must not take twice as long as those through a
 * twin of the program that nobody attacks, and afterwards the log says how each
 * connection ended, descriptors and threads are back, and new clients are
 * served.
 *
 * Round trips through both take turns, so that what else the machine has to do
 * slows down both. So would a program that keeps a processor busy: attackers
 * that do nothing any more must cost no CPU time. The rate of others is bounded
 * by a number of round trips after each step.
 */
#include "strict.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Sanitizers look for other things than numbers show. */
#define CONNECTS (1000 / PATIENCE)
#define HALF_PREAMBLES 500
#define BLACK_HOLES 300
#define PREAMBLES (10000 / PATIENCE)
#define PACED (1000 / PATIENCE) /* of the preambles */
#define RESETS 200
#define TRICKLED 60 /* bytes of each */
#define TRICKLERS 10
#define SINKS 5
#define WAITING 200
#define BURST 500
#define LIMIT_SECONDS 3

#define TRIPS 300        /* through each, beside those who only wait */
#define TRIPS_PER_STEP 2 /* of an attack that is paced */
#define STILL_MS 300 /* longer than a stream that moves pauses, most often */
#define QUIET_MS 500

/* A bridge with an honest client, and what its programs held before. */
struct siege {
	struct bridge b, twin;       /* twin: nobody attacks it */
	struct program *programs[2]; /* the second: NULL if there is but one */
	int client, upstream, twin_client, twin_upstream;
	unsigned long descriptors[2], threads[2];
};

static struct strict_trips attacked, unharmed;

/* So many through both; neither is always the first after a step. */
static void
make_trips(const struct siege *s, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		bool second = (attacked.count + attacked.count / 2) % 2 == 1;

		if (second)
			strict_trip(
			    s->twin_client, s->twin_upstream, &unharmed);
		strict_trip(s->client, s->upstream, &attacked);
		if (!second)
			strict_trip(
			    s->twin_client, s->twin_upstream, &unharmed);
	}
}

static void
expect_under_twice(const struct siege *s, const char *what)
{
	strict_expect_under_twice(
	    harness_text("%s, %s", what, bridge_name(s->b.route)), &attacked,
	    &unharmed);
}

/* Gives the test its time again. */
static void
more_time(void)
{
	alarm(TEST_LIMIT_SECONDS);
}

static struct siege
begin(enum route route, char *const *extra)
{
	struct siege s = {.b = strict_bridge(route, extra),
	    .twin = strict_bridge(route, extra)};

	s.programs[0] = s.b.first;
	s.programs[1] = s.b.last == s.b.first ? NULL : s.b.last;
	bridge_pair(&s.b, &s.client, &s.upstream);
	bridge_pair(&s.twin, &s.twin_client, &s.twin_upstream);
	make_trips(&s, 20); /* also: all threads are there */
	attacked.count = unharmed.count = 0;
	for (size_t i = 0; i < 2 && s.programs[i] != NULL; i++) {
		/* What found out whether it listens has gone by then. */
		s.threads[i] = program_wait_threads(s.programs[i], 3);
		s.descriptors[i] = program_wait_descriptors(
		    s.programs[i], IDLE_DESCRIPTORS + 4);
		assert_int_equal(s.threads[i], 3);
		assert_int_equal(s.descriptors[i], IDLE_DESCRIPTORS + 4);
	}
	return s;
}

/* The attackers have gone. */
static void
end(const struct siege *s)
{
	for (size_t i = 0; i < 2 && s->programs[i] != NULL; i++) {
		assert_int_equal(
		    program_wait_threads(s->programs[i], s->threads[i]),
		    s->threads[i]);
		assert_int_equal(
		    program_wait_descriptors(s->programs[i], s->descriptors[i]),
		    s->descriptors[i]);
	}
	traffic_echo(s->client, s->upstream);
	bridge_expect_service(&s->b);
}

struct lines {
	const struct siege *siege;
	struct program *program;
	const char *text;
	unsigned count;
};

/* Takes and ends what comes to the upstream. */
static void
end_upstreams(const struct bridge *b)
{
	while (network_pending(b->listener))
		close(network_accept(b->listener));
}

/* Whether there are more lines than there were. */
static bool
has_more(void *argument)
{
	struct lines *l = argument;
	unsigned count = program_count_log(l->program, l->text);
	bool more = count > l->count;

	end_upstreams(&l->siege->b);
	l->count = count;
	return more;
}

/* Connections that ended in another way than with this text, a few of them. */
static const char *
other_ends(struct program *p, const char *text)
{
	const char *line = program_err(p), *next;
	char *found = harness_text("%s", "");

	for (int few = 0; *line != '\0' && few < 10; line = next) {
		char *copy;

		next = strchr(line, '\n');
		next = next == NULL ? line + strlen(line) : next + 1;
		copy = harness_text("%.*s", (int)(next - line), line);
		if (strstr(copy, " ms=") == NULL || strstr(copy, text) != NULL)
			continue;
		found = harness_text("%s%s", found, copy);
		few++;
	}
	return found;
}

/* Waits, as long as there are ever more, for so many lines with a text. */
static void
expect_lines(
    const struct siege *s, struct program *p, const char *text, unsigned count)
{
	struct lines l = {s, p, text, 0};

	more_time();
	/* The longest pause is one of TCP's between two attempts. */
	for (int tries = 0; l.count < count && tries < 5; tries++)
		if (harness_wait(has_more, &l))
			tries = -1;
	if (l.count != count)
		fail_msg("%u lines with '%s' instead of %u; others are:\n%s",
		    l.count, text, count, other_ends(p, text));
}

/* The attackers are there and wait. */
static void
withstand(const struct siege *s, const char *what)
{
	more_time();
	for (size_t i = 0; i < 2 && s->programs[i] != NULL; i++)
		strict_expect_quiet(s->programs[i], QUIET_MS);
	make_trips(s, TRIPS);
	expect_under_twice(s, what);
}

/* Attacks; step(siege, i) is called with 0 to count - 1. */
static void
attack_paced(const struct siege *s, const char *what, unsigned count,
    void (*step)(const struct siege *, unsigned))
{
	for (unsigned i = 0; i < count; i++) {
		if (i % 100 == 0)
			more_time();
		step(s, i);
		make_trips(s, TRIPS_PER_STEP);
	}
	expect_under_twice(s, what);
}

static enum route
route_of(void **state)
{
	return (enum route)(uintptr_t)*state;
}

/* So many connections wait, and keep nobody out. */
static void
withstand_crowd(const struct siege *s, const char *what, unsigned crowd)
{
	strict_await_threads(s->b.first, s->threads[0] + crowd);
	withstand(s, what);
	bridge_expect_service(&s->b);
	strict_await_threads(s->b.first, s->threads[0] + crowd);
}

static void
test_hostile_half_preambles(void **state)
{
	/* Broken: clients that never say their target slow down, or keep out,
	 * all others; or their threads stay for ever. */
	struct siege s =
	    begin(VSOCK_TO_IP_TRANSPARENT, ARGS("--preamble-timeout=600"));
	unsigned lines = program_count_log(s.b.first, " end=no-target ");
	int clients[HALF_PREAMBLES];

	(void)state;
	for (unsigned i = 0; i < COUNT(clients); i++) {
		clients[i] = bridge_try(&s.b);
		assert_int_not_equal(clients[i], -1);
		traffic_send(clients[i], "\1\2\3", 3);
	}
	withstand_crowd(&s, "half a preamble", COUNT(clients));
	for (unsigned i = 0; i < COUNT(clients); i++)
		close(clients[i]);
	expect_lines(&s, s.b.first, " end=no-target ", lines + COUNT(clients));
	end(&s);
}

static void
connect_and_close(const struct siege *s, unsigned i)
{
	int fd = bridge_try(&s->b);

	(void)i;
	assert_int_not_equal(fd, -1);
	close(fd);
	end_upstreams(&s->b);
}

/* How a client ends for a route's program that leaves without a word. */
static const char *
end_of_silence(enum route route)
{
	return route == VSOCK_TO_IP_TRANSPARENT ? " end=no-target "
						: " end=eof";
}

static void
test_hostile_connects(void **state)
{
	/* Broken: who connects and leaves, again and again, slows down others,
	 * or leaves something behind each time. */
	struct siege s = begin(route_of(state), NULL);
	const char *text = end_of_silence(s.b.route);
	unsigned count = s.programs[1] == NULL ? CONNECTS : CONNECTS / 4;
	unsigned lines[2] = {0, 0};

	for (size_t i = 0; i < 2 && s.programs[i] != NULL; i++)
		lines[i] = program_count_log(s.programs[i], text);
	attack_paced(&s, "connects", count, connect_and_close);
	for (size_t i = 0; i < 2 && s.programs[i] != NULL; i++)
		expect_lines(&s, s.programs[i], text, lines[i] + count);
	end(&s);
}

static void
test_hostile_burst(void **state)
{
	/* Broken: clients that come faster than the program takes them are
	 * refused, instead of waiting in the kernel's queue. */
	struct siege s = begin(route_of(state), NULL);
	const char *text = end_of_silence(s.b.route);
	unsigned lines = program_count_log(s.b.first, text);

	strict_stop(s.b.first);
	for (unsigned i = 0; i < BURST; i++) {
		int fd = bridge_try(&s.b);

		if (fd == -1)
			fail_msg("client %u was not let in", i);
		close(fd);
	}
	strict_continue(s.b.first);
	expect_lines(&s, s.b.first, text, lines + BURST);
	end(&s);
}

/* Sends until no socket has taken anything for a while. What still moves then
 * is waited for by withstand(). */
static void
fill_all(const int *fds, size_t count)
{
	static const char bytes[65536];
	struct pollfd states[SINKS];

	assert_true(count <= COUNT(states));
	for (size_t i = 0; i < count; i++)
		states[i] = (struct pollfd){.fd = fds[i], .events = POLLOUT};
	while (poll(states, count, STILL_MS) > 0) {
		for (size_t i = 0; i < count; i++)
			if (states[i].revents != 0)
				(void)send(fds[i], bytes, sizeof(bytes),
				    MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static void
test_hostile_sinks(void **state)
{
	/* Broken: clients that never read, while their upstreams send without
	 * end, slow down others, take CPU time, or are never got rid of. */
	struct siege s = begin(route_of(state), NULL);
	unsigned lines[2] = {0, 0};
	int clients[SINKS], upstreams[SINKS];

	for (size_t i = 0; i < 2 && s.programs[i] != NULL; i++)
		lines[i] =
		    program_count_log(s.programs[i], " end=client-error ");
	for (unsigned i = 0; i < SINKS; i++)
		bridge_pair(&s.b, &clients[i], &upstreams[i]);
	fill_all(upstreams, SINKS);
	withstand(&s, "never reading");
	for (unsigned i = 0; i < SINKS; i++)
		traffic_reset(clients[i]);
	for (unsigned i = 0; i < SINKS; i++) {
		traffic_wait_end(upstreams[i], NULL);
		close(upstreams[i]);
	}
	for (size_t i = 0; i < 2 && s.programs[i] != NULL; i++)
		expect_lines(
		    &s, s.programs[i], " end=client-error ", lines[i] + SINKS);
	end(&s);
}

/* What each trickler sends, after the preamble if need be. */
static uint8_t trickle[22 + TRICKLED];
static size_t trickle_size;
static int tricklers[TRICKLERS];

static void
send_byte(const struct siege *s, unsigned i)
{
	(void)s;
	traffic_send(tricklers[i % TRICKLERS], trickle + i / TRICKLERS, 1);
}

static void
test_hostile_trickle(void **state)
{
	/* Broken: clients that send one byte at a time, the preamble too, slow
	 * down others, or don't get through whole. */
	struct siege s = begin(route_of(state), NULL);
	unsigned lines = program_count_log(s.b.last, " end=eof");

	trickle_size =
	    s.b.route == VSOCK_TO_IP_TRANSPARENT
		? bridge_preamble(TARGET_IPV4, s.b.upstream_port, trickle)
		: 0;
	bytes_fill(1, 0, trickle + trickle_size, TRICKLED);
	for (unsigned i = 0; i < TRICKLERS; i++) {
		tricklers[i] = bridge_try(&s.b);
		assert_int_not_equal(tricklers[i], -1);
	}
	attack_paced(&s, "trickle",
	    TRICKLERS * (unsigned)(trickle_size + TRICKLED), send_byte);
	for (unsigned i = 0; i < TRICKLERS; i++) {
		int upstream = bridge_accept(&s.b);

		traffic_expect(upstream, trickle + trickle_size, TRICKLED);
		traffic_half_close(tricklers[i]);
		/* Which of them it is isn't known, but each ends. */
		traffic_half_close(upstream);
	}
	expect_lines(&s, s.b.last, " end=eof", lines + TRICKLERS);
	for (unsigned i = 0; i < TRICKLERS; i++)
		close(tricklers[i]);
	end(&s);
}

static unsigned no_target, no_upstream; /* lines to be expected */

/* A preamble of any kind from a client that leaves. */
static void
send_preamble(const struct siege *s, unsigned i)
{
	int fd = bridge_try(&s->b);
	uint8_t bytes[22];
	size_t size = 6;

	/* With a sanitizer, threads are made too slowly for the backlog. */
	for (int tries = 0; PATIENCE > 1 && fd == -1 && tries < 1000; tries++) {
		poll(NULL, 0, 10);
		fd = bridge_try(&s->b);
	}
	assert_int_not_equal(fd, -1);
	bytes_fill(7, (uint64_t)i * sizeof(bytes), bytes, sizeof(bytes));
	bytes[4] |= 1; /* no port 0 */
	switch (i % 16) {
	case 0: size = bytes[0] % 6; break; /* too short */
	case 1: bytes[4] = bytes[5] = 0; break;
	case 2:
	case 3: /* IPv6, 3: too short */
		memset(bytes, 0xff, 4);
		size = i % 16 == 2 ? 22 : 21;
		break;
	default: break;
	}
	if (i % 16 == 0 || i % 16 == 1 || i % 16 == 3)
		no_target++;
	else
		no_upstream++;
	traffic_send(fd, bytes, size);
	close(fd);
}

static void
test_hostile_preambles(void **state)
{
	/* Broken: some preamble ends the program, or blocks it, or is taken for
	 * another kind of failure; or many of them leave something behind. */
	struct siege s =
	    begin(VSOCK_TO_IP_TRANSPARENT, ARGS("--connect-timeout=1"));
	unsigned i;

	(void)state;
	no_target = program_count_log(s.b.first, " end=no-target ");
	no_upstream = program_count_log(s.b.first, " end=no-upstream ");
	attack_paced(&s, "random preambles", PACED, send_preamble);
	attacked.count = 0;
	for (i = PACED; i < PREAMBLES; i++) {
		send_preamble(&s, i);
		if (i % 100 == 0) {
			more_time();
			strict_trip(s.client, s.upstream, &attacked);
		}
	}
	printf("# the same without pauses: round trip %u us\n",
	    strict_mean_us(&attacked));
	expect_lines(&s, s.b.first, " end=no-target ", no_target);
	expect_lines(&s, s.b.first, " end=no-upstream ", no_upstream);
	end(&s);
}

static void
meet_reset(const struct siege *s, unsigned i)
{
	int client, upstream;

	(void)i;
	bridge_pair(&s->b, &client, &upstream);
	traffic_reset(upstream);
	traffic_expect_end(client);
	close(client);
}

static void
test_hostile_upstream(void **state)
{
	/* Broken: an upstream that resets at once slows down the clients of
	 * others, or leaves something behind each time. */
	struct siege s = begin(route_of(state), NULL);
	/* Of a connection, or still of connect(2). */
	const char *reset = "reason=\"Connection reset by peer\"";
	unsigned lines[2] = {program_count_log(s.b.first, " ms="),
	    program_count_log(s.b.last, reset)};

	attack_paced(&s, "upstream that resets", RESETS, meet_reset);
	expect_lines(&s, s.b.first, " ms=", lines[0] + RESETS);
	expect_lines(&s, s.b.last, reset, lines[1] + RESETS);
	end(&s);
}

/* A client whose target never answers. */
static int
enter_black_hole(const struct bridge *b)
{
	uint8_t bytes[22];
	int fd = bridge_try(b);

	assert_int_not_equal(fd, -1);
	traffic_send(fd, bytes, bridge_preamble(OTHER_IPV4, 443, bytes));
	return fd;
}

static void
test_hostile_black_hole(void **state)
{
	/* Broken: clients of an upstream that is silent slow down, or keep out,
	 * the clients of others. */
	struct siege s =
	    begin(VSOCK_TO_IP_TRANSPARENT, ARGS("--connect-timeout=600"));
	unsigned lines = program_count_log(s.b.first, " end=no-upstream ");
	int clients[BLACK_HOLES];

	(void)state;
	network_black_hole(HOST, OTHER_IPV4);
	for (unsigned i = 0; i < COUNT(clients); i++)
		clients[i] = enter_black_hole(&s.b);
	withstand_crowd(&s, "black hole", COUNT(clients));
	/* Now it refuses when it is asked again. */
	network_reset();
	expect_lines(&s, s.b.first, " end=no-upstream ", lines + BLACK_HOLES);
	for (unsigned i = 0; i < COUNT(clients); i++)
		close(clients[i]);
	end(&s);
}

/* The shortest and longest duration in so many lines with a text. */
static void
read_durations(const struct siege *s, const char *text, unsigned skip,
    uint64_t *shortest, uint64_t *longest)
{
	*shortest = UINT64_MAX;
	*longest = 0;
	for (unsigned i = 1; i <= WAITING; i++) {
		uint64_t ms = program_log_number(
		    program_wait_log(s->b.first, text, skip + i), "ms");

		*longest = ms > *longest ? ms : *longest;
		*shortest = ms < *shortest ? ms : *shortest;
	}
}

/* A crowd comes at one moment, however slow the machine is: those who wait for
 * a limit, or, for comparison, leave at once. Returns the longest duration. */
static uint64_t
time_crowd(const struct siege *s, const char *text, bool connecting, bool wait)
{
	unsigned lines = program_count_log(s->b.first, text);
	uint64_t shortest, longest;
	int clients[WAITING];

	strict_stop(s->b.first);
	for (unsigned i = 0; i < WAITING; i++) {
		clients[i] = wait && connecting ? enter_black_hole(&s->b)
						: bridge_try(&s->b);
		assert_int_not_equal(clients[i], -1);
		if (!wait)
			close(clients[i]);
	}
	strict_continue(s->b.first);
	expect_lines(s, s->b.first, text, lines + WAITING);
	read_durations(s, text, lines, &shortest, &longest);
	/* connect(2) counts the kernel's ticks, which may be of 10 ms. */
	if (wait && shortest < LIMIT_SECONDS * 1000 - 20)
		fail_msg("one waited for only %u ms", (unsigned)shortest);
	for (unsigned i = 0; wait && i < WAITING; i++)
		close(clients[i]);
	return longest;
}

static void
test_hostile_time_limits(void **state)
{
	/* Broken: with many that wait, --preamble-timeout or --connect-timeout
	 * ends them too early, or late. */
	bool connecting = *state != NULL;
	struct siege s = begin(VSOCK_TO_IP_TRANSPARENT,
	    ARGS(harness_text("--%s-timeout=%d",
		connecting ? "connect" : "preamble", LIMIT_SECONDS)));
	uint64_t crowds[2], slowest, longest;

	network_black_hole(HOST, OTHER_IPV4);
	/* What a crowd takes by itself tells how slow the machine is. */
	crowds[0] = time_crowd(&s, " end=no-target ", connecting, false);
	longest =
	    time_crowd(&s, connecting ? " end=no-upstream " : " end=no-target ",
		connecting, true);
	crowds[1] = time_crowd(&s, " end=no-target ", connecting, false);
	slowest = crowds[0] > crowds[1] ? crowds[0] : crowds[1];
	printf("# %u waited for up to %u ms of %u; without waiting %u\n",
	    WAITING, (unsigned)longest, LIMIT_SECONDS * 1000,
	    (unsigned)slowest);
	assert_in_range(longest, LIMIT_SECONDS * 1000 - 20,
	    (LIMIT_SECONDS + 1) * 1000 + 3 * slowest);
	end(&s);
}

static struct rlimit files;

/* So many sockets need more descriptors than is common. */
static int
raise_limit(void **state)
{
	struct rlimit most;

	(void)state;
	if (getrlimit(RLIMIT_NOFILE, &files) == -1)
		return -1;
	most = files;
	most.rlim_cur = most.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &most);
}

static int
restore_limit(void **state)
{
	(void)state;
	return setrlimit(RLIMIT_NOFILE, &files);
}

int
strict_hostile_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_hostile_half_preambles),
	    TEST_WITH(test_hostile_connects, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_hostile_connects, "vsock-to-ip-transparent",
		VSOCK_TO_IP_TRANSPARENT),
	    TEST_WITH(test_hostile_connects, "chain-fixed", CHAIN_FIXED),
	    TEST_WITH(test_hostile_burst, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_hostile_burst, "vsock-to-ip-transparent",
		VSOCK_TO_IP_TRANSPARENT),
	    TEST_WITH(test_hostile_sinks, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_hostile_sinks, "vsock-to-ip", VSOCK_TO_IP),
	    TEST_WITH(test_hostile_sinks, "chain-fixed", CHAIN_FIXED),
	    TEST_WITH(test_hostile_trickle, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_hostile_trickle, "vsock-to-ip-transparent",
		VSOCK_TO_IP_TRANSPARENT),
	    TEST_WITH(test_hostile_trickle, "chain-fixed", CHAIN_FIXED),
	    TEST(test_hostile_preambles),
	    TEST_WITH(test_hostile_upstream, "vsock-to-ip", VSOCK_TO_IP),
	    TEST_WITH(test_hostile_upstream, "chain-fixed", CHAIN_FIXED),
	    TEST(test_hostile_black_hole),
	    TEST_WITH(test_hostile_time_limits, "preamble", false),
	    TEST_WITH(test_hostile_time_limits, "connect", true),
	};

	return cmocka_run_group_tests_name(
	    "strict: hostile", tests, raise_limit, restore_limit);
}
