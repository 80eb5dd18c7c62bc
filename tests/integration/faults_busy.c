/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections are cut off where the kernel doesn't disconnect a TCP socket in
 * which a thread waits, as some of mid-2023 don't: here no socket at all, so
 * that only close(2) is left to reset it. The TCP end must see a reset, never
 * the clean end that shutdown(2) would send first; it must see it soon; and the
 * main thread has time for others meanwhile.
 */
#include "faults.h"
#include "strict.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE 10
/* More than can be on its way. */
#define TOO_MUCH (64ULL * MIB)
#define MOST 200
/* By then, all that has moved was noticed for --idle-timeout. */
#define STILL_MS 700
/* The main thread waits for the lock at most, never for one connection after
 * the other. */
#define FEW_WAITS 10

/* What is going on when a connection is cut off. */
enum state {
	QUIET,   /* all wait for something to read */
	STUCK,   /* nobody reads at the TCP end, and there is no more room */
	BLOCKED, /* nobody reads at the other end */
	STATES
};

static const char *const state_words[STATES] = {
    "quiet", "stuck towards TCP", "stuck from TCP"};

struct cut {
	enum state state;
	int tcp, other; /* the two ends */
	/* At the TCP end, and at the other. */
	struct flow *reader, *writer, *sender;
};

struct crowd {
	struct bridge bridge;
	struct fault *fault;
	struct program *program; /* the one that is watched */
	unsigned count;
	/* What is soon: a writer looks once a second, and the ends of many take
	 * their time, as it took to make them. */
	uint64_t soon_ms;
	struct cut cuts[MOST];
};

struct row {
	enum route route;
	unsigned count;
};

/* Asks how many bytes have moved. */
static uint64_t
moved(const struct crowd *c)
{
	unsigned before = program_count_log(c->program, " msg=counters ");
	const char *line;

	assert_int_equal(kill(c->program->pid, SIGUSR1), 0);
	line = program_wait_log(c->program, " msg=counters ", before + 1);
	return program_log_number(line, "up") +
	       program_log_number(line, "down");
}

/* Waits until nothing moves any more. */
static void
await_standstill(const struct crowd *c)
{
	uint64_t deadline = harness_now_ms() + 6 * DEADLINE_MS;
	uint64_t before, now = moved(c);

	do {
		assert_true(harness_now_ms() < deadline);
		before = now;
		poll(NULL, 0, STILL_MS);
		now = moved(c);
	} while (now != before);
}

/* Starts what the ends of a connection do; seed: of what its TCP end gets. */
static void
begin(struct cut *cut, uint64_t seed)
{
	const struct step *message = STEPS({FLOW_SEND, MESSAGE});
	const struct step *message_and_read =
	    STEPS({FLOW_SEND, MESSAGE}, {FLOW_DRAIN, 0});
	const struct step *much = STEPS({FLOW_SEND, TOO_MUCH});
	const struct step *read = STEPS({FLOW_DRAIN, 0});

	cut->sender = flow_start(cut->other, seed, seed + MOST,
	    cut->state == STUCK ? much : message);
	if (cut->state == QUIET)
		cut->reader =
		    flow_start(cut->tcp, seed + MOST, seed, message_and_read);
	if (cut->state != BLOCKED)
		return;
	cut->writer = flow_start(cut->tcp, seed + MOST, seed, much);
	cut->reader = flow_start(cut->tcp, 0, seed, read);
}

/* Lets calls wait long, as the machine may be slow; but not for all of the
 * test's time, or it couldn't say what it has waited for. */
static void
be_patient(int fd)
{
	(void)network_limit_time(fd, TEST_LIMIT_SECONDS * 3 / 4);
}

/* Opens so many connections, the first in this state, and waits until nothing
 * moves in them. */
static void
begin_crowd(struct crowd *c, const struct row *row, enum state first,
    char *const *flags)
{
	uint64_t begin_ms;

	*c = (struct crowd){.count = row->count,
	    .bridge = {.route = row->route, .extra = flags, .below = "fault"}};
	c->bridge.env = faults_orders(&c->fault);
	bridge_open(&c->bridge);
	c->program = c->bridge.first;
	strict_guard_log(c->program);
	network_small_buffers();
	begin_ms = harness_now_ms();
	for (unsigned i = 0; i < c->count; i++) {
		struct cut *cut = &c->cuts[i];
		int client, upstream;

		bridge_pair(&c->bridge, &client, &upstream);
		strict_sort_ends(
		    &c->bridge, client, upstream, &cut->tcp, &cut->other);
		be_patient(cut->tcp);
		be_patient(cut->other);
		cut->state = (first + i) % STATES;
	}
	c->soon_ms = 2000 + 2 * (harness_now_ms() - begin_ms);
	for (unsigned i = 0; i < c->count; i++)
		begin(&c->cuts[i], i);
	await_standstill(c);
	c->fault->busy = true;
}

/* Lets those read who haven't. */
static void
let_read(struct crowd *c, const struct step *steps)
{
	for (unsigned i = 0; i < c->count; i++)
		if (c->cuts[i].state == STUCK)
			c->cuts[i].reader =
			    flow_start(c->cuts[i].tcp, 0, i, steps);
}

/* Expects that a TCP end was reset, and when. */
static void
expect_reset(const struct crowd *c, const struct cut *cut, uint64_t begin_ms)
{
	struct outcome writer = {0}, reader = flow_outcome(cut->reader);
	struct outcome sender = flow_outcome(cut->sender);
	int64_t ms = (int64_t)(reader.at_ms - begin_ms);

	if (cut->writer != NULL)
		writer = flow_outcome(cut->writer);
	/* The kernel tells of a reset once: one of two threads. */
	if ((reader.error != ECONNRESET &&
		(reader.error != 0 || writer.error != ECONNRESET)) ||
	    ms > (int64_t)c->soon_ms)
		fail_msg("of %u %s, %s: after %lld ms and %llu bytes, TCP's "
			 "reader: %s, its writer: %s",
		    c->count, c->program->name, state_words[cut->state],
		    (long long)ms, (unsigned long long)reader.received,
		    strerror(reader.error), strerror(writer.error));
	if (cut->state == STUCK)
		assert_true(reader.received < TOO_MUCH && sender.error != 0);
	else
		assert_int_equal(reader.received, MESSAGE);
	close(cut->tcp);
	close(cut->other);
}

static void
end_crowd(struct crowd *c, uint64_t begin_ms)
{
	for (unsigned i = 0; i < c->count; i++)
		expect_reset(c, &c->cuts[i], begin_ms);
	/* Or this has shown nothing. */
	assert_true(c->fault->refused >= c->count);
	assert_int_equal(program_wait_threads(c->program, 1), 1);
	assert_int_equal(program_wait_descriptors(c->program, IDLE_DESCRIPTORS),
	    IDLE_DESCRIPTORS);
	program_stop_all();
	network_reset();
}

/* Expects that the main thread has time for a question, and for a client;
 * has_waited: how often it had before the first connection was cut off. */
static void
expect_attention(
    const struct crowd *c, uint64_t begin_ms, unsigned long has_waited)
{
	unsigned long more;
	int client, upstream;

	moved(c);
	more = program_waits(c->program) - has_waited;
	client = bridge_connect(&c->bridge);
	be_patient(client);
	be_patient(c->bridge.listener);
	if (program_runs(c->bridge.last)) {
		upstream = bridge_accept(&c->bridge);
		be_patient(upstream);
		traffic_echo(client, upstream);
		traffic_end_pair(client, upstream);
	} else {
		assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	}
	assert_in_range(more, 0, FEW_WAITS);
	assert_in_range(harness_now_ms() - begin_ms, 0, c->soon_ms);
}

static bool
has_begun(void *argument)
{
	return ((const struct crowd *)argument)->fault->refused > 0;
}

static void
test_busy_idle(void **state)
{
	/* Broken: what --idle-timeout cuts off looks complete to a TCP peer; or
	 * cutting off many keeps the main thread from others. */
	const struct row *row = *state;
	static struct crowd c;

	for (enum state s = 0; s < (row->count == 1 ? STATES : 1); s++) {
		uint64_t begin_ms;
		unsigned long has_waited;

		begin_crowd(&c, row, s, ARGS("--idle-timeout", "1000"));
		let_read(
		    &c, STEPS({FLOW_BREAK, 3 * DEADLINE_MS}, {FLOW_DRAIN, 0}));
		has_waited = program_waits(c.program);
		c.fault->ahead_s = 2000;
		assert_true(harness_wait(has_begun, &c));
		begin_ms = harness_now_ms();
		expect_attention(&c, begin_ms, has_waited);
		end_crowd(&c, begin_ms);
	}
}

static void
test_busy_killed(void **state)
{
	/* Broken: likewise what the death of a pair's other program cuts off.
	 */
	const struct row *row = *state;
	static struct crowd c;

	for (enum state s = 0; s < (row->count == 1 ? STATES : 1); s++) {
		uint64_t begin_ms;
		unsigned long has_waited;

		begin_crowd(&c, row, s, ARGS("--paired"));
		has_waited = program_waits(c.program);
		begin_ms = harness_now_ms();
		assert_int_equal(kill(c.bridge.last->pid, SIGKILL), 0);
		assert_int_not_equal(program_wait_end(c.bridge.last), 0);
		expect_attention(&c, begin_ms, has_waited);
		begin_ms = harness_now_ms();
		/* What came before arrives first. */
		let_read(&c, STEPS({FLOW_DRAIN, 0}));
		end_crowd(&c, begin_ms);
	}
}

int
faults_busy_run(void)
{
	static const struct row rows[] = {{IP_TO_VSOCK, 1}, {IP_TO_VSOCK, 40},
	    {IP_TO_VSOCK, MOST}, {VSOCK_TO_IP, 1}, {VSOCK_TO_IP, 40},
	    {VSOCK_TO_IP, MOST}, {CHAIN_FIXED, 1}, {CHAIN_FIXED, 40}};
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_busy_idle, "ip-to-vsock-1", &rows[0]),
	    TEST_WITH(test_busy_idle, "ip-to-vsock-40", &rows[1]),
	    TEST_WITH(test_busy_idle, "ip-to-vsock-200", &rows[2]),
	    TEST_WITH(test_busy_idle, "vsock-to-ip-1", &rows[3]),
	    TEST_WITH(test_busy_idle, "vsock-to-ip-40", &rows[4]),
	    TEST_WITH(test_busy_idle, "vsock-to-ip-200", &rows[5]),
	    TEST_WITH(test_busy_killed, "1", &rows[6]),
	    TEST_WITH(test_busy_killed, "40", &rows[7]),
	};

	return cmocka_run_group_tests_name("faults: busy", tests, NULL, NULL);
}
