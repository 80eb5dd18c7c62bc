/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits in time, which a user sets, and those of the system, which the program
 * finds out about.
 */
#include "strict.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOME 100000

#define TIMED_OUT "Connection timed out|Operation timed out"
/* The kernel says it once: who asks second learns less. */
#define VANISHED TIMED_OUT "|Connection reset by peer"

static enum route
route_of(void **state)
{
	return (enum route)(uintptr_t)*state;
}

struct idle {
	enum route route;
	unsigned seconds;
};

static void
test_idle_ends(void **state)
{
	/* Broken: --idle-timeout has no effect, or hits too early; or its end
	 * looks like an orderly one. */
	const struct idle *row = *state;
	struct bridge b = strict_bridge(
	    row->route, ARGS(harness_text("--idle-timeout=%u", row->seconds)));
	unsigned first = strict_first(&b);
	int client, upstream, tcp, vsock;
	uint64_t begin, ms = row->seconds * 1000;

	bridge_pair(&b, &client, &upstream);
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	traffic_echo(client, upstream);
	poll(NULL, 0, 400);
	/* From the last byte on, not the first. */
	begin = harness_now_ms();
	traffic_echo(client, upstream);
	assert_int_equal(traffic_wait_end(tcp, NULL), TRAFFIC_RESET);
	assert_true(harness_now_ms() - begin >= ms);
	traffic_expect_end(vsock);
	strict_expect_end(b.first, first, "idle-timeout", TIMED_OUT);
	strict_count_now(
	    b.first, harness_text("accepted=%u no-upstream=%u idle-timeout=1 "
				  "up=22 down=16",
			 first, first - 1));
	bridge_expect_service(&b);
}

/* Connections of several kinds, by what moves. */
enum { STUCK, CLIENT_ENDED, UPSTREAM_ENDED, NOTHING, UP, DOWN, KINDS };

static void
test_idle_or_not(void **state)
{
	/* Broken: --idle-timeout hits a connection in use, in one direction
	 * only, say; or spares one because it's half-closed or stuck. */
	struct bridge b =
	    strict_bridge(route_of(state), ARGS("--idle-timeout=3"));
	int ends[KINDS][2], tcp, vsock;

	for (int i = 0; i < KINDS; i++) {
		bridge_pair(&b, &ends[i][0], &ends[i][1]);
		traffic_echo(ends[i][0], ends[i][1]);
		if (i != STUCK)
			continue;
		strict_sort_ends(&b, ends[i][0], ends[i][1], &tcp, &vsock);
		strict_fill(tcp);
		strict_fill(vsock);
	}
	traffic_half_close(ends[CLIENT_ENDED][0]);
	traffic_half_close(ends[UPSTREAM_ENDED][1]);
	for (int i = 0; i < 11; i++) {
		for (int j = 0; j < 2; j++) {
			traffic_send(ends[UP + j][j], "x", 1);
			traffic_expect(ends[UP + j][!j], "x", 1);
		}
		poll(NULL, 0, 400);
	}
	for (unsigned i = 0; i < UP; i++)
		strict_expect_end(
		    b.first, strict_first(&b) + i, "idle-timeout", TIMED_OUT);
	assert_int_equal(traffic_wait_end(tcp, NULL), TRAFFIC_RESET);
	traffic_wait_end(vsock, NULL);
	for (int i = UP; i <= DOWN; i++)
		traffic_echo(ends[i][0], ends[i][1]);
}

/* The time of day of a line, in ms. */
static int
stamp(const char *line)
{
	const char *time = strchr(program_log_value(line, "ts"), 'T');
	int h, m, s, ms;

	assert_int_equal(sscanf(time, "T%2d:%2d:%2d.%3dZ", &h, &m, &s, &ms), 4);
	return ((h * 60 + m) * 60 + s) * 1000 + ms;
}

static void
test_idle_before(void **state)
{
	/* Broken: --idle-timeout hits a client whose upstream takes its time to
	 * answer, or doesn't count from that answer on. */
	struct bridge b = {.route = VSOCK_TO_IP,
	    .no_upstream = true,
	    .extra = ARGS("--idle-timeout=1", "--log-level=debug")};
	int filler, client, upstream, begin, end;

	(void)state;
	bridge_open(&b);
	b.listener =
	    strict_black_hole(ENCLAVE, "127.0.0.1", b.upstream_port, &filler);
	client = bridge_connect(&b);
	assert_false(traffic_readable(client, 2200));
	close(network_accept(b.listener));
	close(filler);
	upstream = network_accept(b.listener);
	assert_int_equal(traffic_wait_end(upstream, NULL), TRAFFIC_RESET);
	traffic_expect_end(client);
	begin = stamp(program_wait_log(b.first, " msg=connected ", 1));
	end = stamp(strict_expect_end(b.first, 2, "idle-timeout", TIMED_OUT));
	if (end < begin) /* at midnight */
		end += 24 * 3600 * 1000;
	assert_true(end - begin >= 990);
}

static void
test_idle_for_ever(void **state)
{
	/* Broken: connections end though no limit was set, or it was set to
	 * none. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	struct bridge c = strict_bridge(IP_TO_VSOCK, ARGS("--idle-timeout=0"));
	int clients[2], upstreams[2];

	(void)state;
	bridge_pair(&b, &clients[0], &upstreams[0]);
	bridge_pair(&c, &clients[1], &upstreams[1]);
	poll(NULL, 0, 2500);
	for (int i = 0; i < 2; i++)
		traffic_echo(clients[i], upstreams[i]);
}

/* The TCP port of the test's end of a connection. */
static uint16_t
port_of(int tcp)
{
	const char *name = strict_own_name(tcp);

	return (uint16_t)strtoul(strrchr(name, ':') + 1, NULL, 10);
}

/* A connection whose TCP end vanishes. Returns the moment when the first data
 * was on its way to it. */
static uint64_t
vanish(const struct bridge *b, int *tcp, int *vsock)
{
	int client, upstream;
	uint64_t now;

	bridge_pair(b, &client, &upstream);
	traffic_echo(client, upstream);
	strict_sort_ends(b, client, upstream, tcp, vsock);
	network_drop(bridge_side(b->route, !b->client_is_tcp), port_of(*tcp));
	now = harness_now_ms();
	traffic_send_stream(*vsock, 1, SOME);
	return now;
}

static void
test_peer_vanishes(void **state)
{
	/* Broken: --tcp-user-timeout has no effect on accepted, or on connected
	 * sockets; or there is such a limit without it. */
	struct bridge b =
	    strict_bridge(route_of(state), ARGS("--tcp-user-timeout=2"));
	struct bridge without = strict_bridge(route_of(state), NULL);
	int tcp[2], vsock[2];
	uint64_t begin;

	vanish(&without, &tcp[1], &vsock[1]);
	begin = vanish(&b, &tcp[0], &vsock[0]);
	strict_expect_tcp_failed(&b, VANISHED);
	assert_true(harness_now_ms() - begin >= 1950);
	traffic_expect_end(vsock[0]);
	assert_false(traffic_readable(vsock[1], 500));
	assert_int_equal(program_count_log(without.first, " ms="),
	    strict_first(&without) - 1);
}

static void
test_peer_reads_nothing(void **state)
{
	/* Broken: the manual is wrong: --tcp-user-timeout ends connections,
	 * too, whose peer is alive and takes nothing for so long. */
	struct bridge b =
	    strict_bridge(route_of(state), ARGS("--tcp-user-timeout=2"));
	int client, upstream, tcp, vsock;
	uint64_t begin, sent, received;

	bridge_pair(&b, &client, &upstream);
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	begin = harness_now_ms();
	sent = strict_fill(vsock);
	strict_expect_tcp_failed(&b, VANISHED);
	assert_true(harness_now_ms() - begin >= 2000);
	traffic_expect_end(vsock);
	/* It's told when it reads on. */
	assert_int_equal(traffic_wait_end(tcp, &received), TRAFFIC_RESET);
	assert_true(received < sent);
}

static void
test_peer_reads_slowly(void **state)
{
	/* Broken: --tcp-user-timeout ends connections whose peer takes
	 * something again and again. */
	struct bridge b =
	    strict_bridge(route_of(state), ARGS("--tcp-user-timeout=4"));
	static char bytes[MIB];
	int client, upstream, tcp, vsock;
	struct flow *flow;

	bridge_pair(&b, &client, &upstream);
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	flow = flow_send(vsock, 1, 8 * MIB, 0);
	/* In all for longer than that. */
	for (int i = 0; i < 7; i++) {
		poll(NULL, 0, 700);
		assert_int_equal(traffic_receive(tcp, bytes, MIB), MIB);
	}
	flow_finish(flow);
	traffic_half_close(tcp);
	assert_int_equal(traffic_wait_end(tcp, NULL), TRAFFIC_EOF);
	strict_expect_end(b.first, strict_first(&b), "eof", NULL);
}

/* Expects what a program says about its limit. */
static void
expect_limit(struct program *p, const char *by, uint64_t most)
{
	const char *line = program_wait_log(p, " msg=listening ", 1);

	strict_expect_value(line, "limited-by", by);
	assert_int_equal(program_log_number(line, "max-connections"), most);
}

/* Starts a program where a shell has prepared something for it. */
static struct program *
start_prepared(const char *commands, const struct program_limit *limits)
{
	struct program *p =
	    program_start(&(struct program_options){.side = HOST,
		.name = "unshare",
		.args = ARGS("-m", "sh", "-ec",
		    harness_text("%s\nexec '%s' -i 127.0.0.1:0 -v 1:7 "
				 "--copy buffer",
			commands, program_path("ip-to-vsock"))),
		.limits = limits,
		.limit_count = 2});

	p->name = "ip-to-vsock";
	return p;
}

/* The kernel's own limits, out of the way. */
#define MANY 1000000
#define NO_GROUPS "mount -t tmpfs none /sys/fs/cgroup"

static void
test_limited_by(void **state)
{
	/* Broken: the program takes more connections than the system has
	 * threads for, and fails them; or it doesn't say which limit to raise.
	 */
	struct program_limit limits[] = {{RLIMIT_NOFILE, {MANY, MANY}},
	    {RLIMIT_NPROC, {RLIM_INFINITY, RLIM_INFINITY}}};
	const char *threads = harness_text(
	    "%s; echo %u >/sys/fs/cgroup/t; "
	    "mount -o bind /sys/fs/cgroup/t /proc/sys/kernel/threads-max",
	    NO_GROUPS, 500);

	(void)state;
	expect_limit(start_prepared(threads, limits), "threads-max", 240);
	limits[1].value = (struct rlimit){300, 400};
	expect_limit(start_prepared(NO_GROUPS, limits), "RLIMIT_NPROC", 140);
	limits[0].value = (struct rlimit){100, 200}; /* two for each */
	expect_limit(start_prepared(NO_GROUPS, limits), "RLIMIT_NOFILE", 90);
	limits[0].value = (struct rlimit){15, 15};
	expect_limit(start_prepared(NO_GROUPS, limits), "RLIMIT_NOFILE", 1);
}

/* Whether it listens, or has ended. */
static bool
has_begun(void *argument)
{
	return program_count_log(argument, " msg=listening ") > 0 ||
	       !program_runs(argument);
}

static void
test_limited_by_group(void **state)
{
	/* Broken: in a container, or under a manager's TasksMax=, the program
	 * takes more connections than it may have threads. */
	static const struct program_limit limits[] = {
	    {RLIMIT_NOFILE, {MANY, MANY}},
	    {RLIMIT_NPROC, {RLIM_INFINITY, RLIM_INFINITY}}};
	const char *group = harness_text("tcp-proxy-test-%d", (int)getpid());
	/* The limit is that of the group above; exit status 77: no groups. */
	const char *enter = harness_text(
	    "[ -e /sys/fs/cgroup/cgroup.procs ] || "
	    "mount -t cgroup2 none /sys/fs/cgroup || exit 77\n"
	    "cd /sys/fs/cgroup && grep -q pids cgroup.controllers || exit 77\n"
	    "echo +pids >cgroup.subtree_control || exit 77\n"
	    "mkdir %s %s/inner && echo %u >%s/pids.max\n"
	    "echo $$ >%s/inner/cgroup.procs",
	    group, group, 80, group, group);
	const char *leave =
	    harness_text("[ -e /sys/fs/cgroup/cgroup.procs ] || "
			 "mount -t cgroup2 none /sys/fs/cgroup\n"
			 "cd /sys/fs/cgroup && rmdir %s/inner %s",
		group, group);
	struct program *p = start_prepared(enter, limits);

	(void)state;
	if (!harness_wait(has_begun, p))
		fail_msg("it neither starts nor ends");
	if (!program_runs(p) && program_wait_end(p) == 77)
		harness_skip(
		    harness_text("no control groups: %s", program_err(p)));
	program_stop(p);
	assert_int_equal(program_wait_end(program_run_args(
			     HOST, "unshare", "-m", "sh", "-c", leave, NULL)),
	    0);
	expect_limit(p, "pids.max", 30);
}

/* In the new process: no privileges, and small pipes. */
static bool
become_stranger(const void *argument)
{
	int ends[2];

	return strict_drop_privileges(argument) &&
	       pipe2(ends, O_CLOEXEC) == 0 &&
	       fcntl(ends[0], F_GETPIPE_SZ) < 65536;
}

/* Opens pipes in the name of a user until that has its fill. */
static void
use_up_pipes(uid_t user)
{
	FILE *file = fopen("/proc/sys/fs/pipe-user-pages-soft", "re");
	unsigned long pages, used = 0;
	int ends[2], size;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &pages), 1);
	fclose(file);
	if (pages == 0)
		harness_skip("pipes are not limited");
	assert_int_equal(setresuid(user, 0, 0), 0);
	while (used < pages && pipe2(ends, O_CLOEXEC) == 0) {
		size = fcntl(ends[0], F_SETPIPE_SZ, MIB);
		assert_int_equal(size, MIB);
		used += (unsigned long)(size / sysconf(_SC_PAGESIZE));
	}
	assert_int_equal(setresuid(0, 0, 0), 0);
	assert_true(used >= pages);
}

static void
test_small_pipes(void **state)
{
	/* Broken: for a user who has many pipes, so that each new one is small,
	 * transfers get stuck or lose bytes. */
	static char *const modes[] = {"splice", "auto"};

	(void)state;
	use_up_pipes(STRANGER);
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b = {.client_is_tcp = true,
		    .listen_port = network_tcp_port(),
		    .vsock_port = network_vsock_port()};
		int client, upstream;

		b.first = b.last = program_start(&(struct program_options){
		    .side = HOST,
		    .name = "ip-to-vsock",
		    .args = ARGS("-i",
			harness_text("127.0.0.1:%u", b.listen_port), "-v",
			harness_text("1:%u", b.vsock_port), "--copy", modes[i]),
		    .prepare = become_stranger});
		program_wait_log(b.first, " msg=listening ", 1);
		bridge_listen(&b);
		bridge_pair(&b, &client, &upstream);
		strict_exchange(client, upstream, 8 * MIB);
		strict_expect_end(b.first, 1, "eof", NULL);
	}
}

int
strict_limits_run(void)
{
	static const struct idle idles[] = {{IP_TO_VSOCK, 1}, {VSOCK_TO_IP, 2}};
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_idle_ends, "ip-to-vsock-1", &idles[0]),
	    TEST_WITH(test_idle_ends, "vsock-to-ip-2", &idles[1]),
	    TEST_WITH(test_idle_or_not, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_idle_or_not, "vsock-to-ip", VSOCK_TO_IP),
	    TEST(test_idle_before),
	    TEST(test_idle_for_ever),
	    TEST_WITH(test_peer_vanishes, "client", IP_TO_VSOCK),
	    TEST_WITH(test_peer_vanishes, "upstream", VSOCK_TO_IP),
	    TEST_WITH(test_peer_reads_nothing, "client", IP_TO_VSOCK),
	    TEST_WITH(test_peer_reads_nothing, "upstream", VSOCK_TO_IP),
	    TEST_WITH(test_peer_reads_slowly, "client", IP_TO_VSOCK),
	    TEST_WITH(test_peer_reads_slowly, "upstream", VSOCK_TO_IP),
	    TEST(test_limited_by),
	    TEST(test_limited_by_group),
	    TEST(test_small_pipes),
	};

	return cmocka_run_group_tests_name("strict: limits", tests, NULL, NULL);
}
