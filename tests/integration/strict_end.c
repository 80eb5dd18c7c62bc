/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How connections end: half-closed, reset, vanished, stopped, and what the
 * other side sees of it. One side of each program is vsock, which has no
 * reset; so what is cut off shows on TCP only.
 */
#include "strict.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define RESET "Connection reset by peer"
/* Writing to what has gone: what the kernel says depends on the moment. */
#define GONE RESET "|the peer gave up"

/* Far more than all buffers on the way hold. */
#define ENDLESS (1024ULL * MIB)
#define SOME 100000

static char *const modes[] = {"auto", "splice", "buffer"};

static enum route
route_of(void **state)
{
	return (enum route)(uintptr_t)*state;
}

static void
test_half_close(void **state)
{
	/* Broken: who has sent all and waits for the answer gets none. */
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b =
		    strict_bridge(route_of(state), ARGS("--copy", modes[i]));
		unsigned first = strict_first(&b);

		for (unsigned n = 0; n < 2; n++) {
			int ends[2];

			/* Once the client ends first, once the upstream. */
			bridge_pair(&b, &ends[n], &ends[!n]);
			traffic_send_stream(ends[0], 1, SOME);
			traffic_half_close(ends[0]);
			traffic_expect_stream(ends[1], 1, SOME);
			traffic_expect_eof(ends[1]);
			for (uint64_t j = 0; j < 3; j++) {
				traffic_send_stream(ends[1], j, SOME);
				traffic_expect_stream(ends[0], j, SOME);
			}
			traffic_half_close(ends[1]);
			traffic_expect_eof(ends[0]);
			strict_expect_end(b.first, first + n, "eof", NULL);
		}
		program_stop_all();
		network_reset();
	}
}

static void
test_both_ways(void **state)
{
	/* Broken: bytes are lost, doubled or mixed up, or one direction waits
	 * for the other. */
	const uint64_t size = 8 * MIB;

	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b =
		    strict_bridge(route_of(state), ARGS("--copy", modes[i]));
		int client, upstream;
		const char *line;

		bridge_pair(&b, &client, &upstream);
		strict_exchange(client, upstream, size);
		line =
		    strict_expect_end(b.first, strict_first(&b), "eof", NULL);
		assert_int_equal(program_log_number(line, "up"), size);
		assert_int_equal(program_log_number(line, "down"), size);
		program_stop_all();
		network_reset();
	}
}

/* The receiver of an endless stream vanishes: its sender is cut off, not stuck.
 */
static void
cut_off(int sender, int receiver)
{
	struct flow *flow = flow_send(sender, 1, ENDLESS, 0);
	int error;

	traffic_expect_stream(receiver, 1, SOME);
	traffic_reset(receiver);
	error = flow_wait(flow);
	if (error != ECONNRESET && error != EPIPE)
		fail_msg("instead of a reset: %s", strerror(error));
}

static void
test_client_vanishes(void **state)
{
	/* Broken: a client that leaves during a download ends the program, or
	 * the upstream sends on for ever, or believes that all arrived. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	cut_off(upstream, client);
	strict_expect_end(b.first, strict_first(&b), "client-error", GONE);
	bridge_expect_service(&b);
}

static void
test_upstream_vanishes(void **state)
{
	/* Broken: an upstream that leaves during an upload ends the program, or
	 * the client sends on for ever, or believes that all arrived. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	cut_off(client, upstream);
	strict_expect_end(b.first, strict_first(&b), "upstream-error", GONE);
	bridge_expect_service(&b);
}

/* Resets one of two ends, that on TCP, when all that was sent has arrived. */
static void
expect_reset_noticed(
    const struct bridge *b, int tcp, int vsock, const char *end)
{
	const char *line;

	traffic_send_stream(tcp, 1, SOME);
	traffic_expect_stream(vsock, 1, SOME);
	traffic_reset(tcp);
	traffic_expect_end(vsock);
	line = strict_expect_end(b->first, strict_first(b), end, RESET);
	assert_int_equal(
	    program_log_number(line, b->client_is_tcp ? "up" : "down"), SOME);
	assert_int_equal(
	    program_log_number(line, b->client_is_tcp ? "down" : "up"), 0);
	close(vsock);
	bridge_expect_service(b);
}

static void
test_reset(void **state)
{
	/* Broken: a reset isn't passed on, or looks like an orderly end in the
	 * log. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	if (b.client_is_tcp)
		expect_reset_noticed(&b, client, upstream, "client-error");
	else
		expect_reset_noticed(&b, upstream, client, "upstream-error");
}

static void
test_reset_for_an_answer(void **state)
{
	/* Broken: an answer that ends in a reset, after the request's end,
	 * looks like an orderly end in the log. */
	struct bridge b = strict_bridge(VSOCK_TO_IP, NULL);
	int client, upstream;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	traffic_send_stream(client, 1, SOME);
	traffic_half_close(client);
	traffic_expect_stream(upstream, 1, SOME);
	traffic_expect_eof(upstream);
	traffic_send_stream(upstream, 2, SOME);
	traffic_expect_stream(client, 2, SOME);
	traffic_reset(upstream);
	traffic_expect_end(client);
	strict_expect_end(b.first, 2, "upstream-error", RESET);
}

/* A TCP end was reset, and the other one doesn't read what came before: that
 * waits for ten seconds (README.md, Timeouts). */
static void
expect_failed_late(const struct bridge *b, uint64_t since)
{
	const char *line = harness_text(" conn=%u ", strict_first(b));

	while (program_count_log(b->first, line) == 0 &&
	       harness_now_ms() - since < 2 * DEADLINE_MS)
		(void)poll(NULL, 0, 100);
	assert_true(harness_now_ms() - since >= 9500);
	strict_expect_tcp_failed(b, GONE);
}

static void
test_reset_while_writer_waits(void **state)
{
	/* Broken: a TCP end that was reset keeps its connection's descriptors
	 * and threads as long as the other end doesn't read, or what it sent is
	 * lost though that reads in time. */
	struct bridge bridges[COUNT(modes)];
	int vsock[COUNT(modes)], slow, client, upstream, tcp, queued;
	uint64_t since[COUNT(modes)], filled, came;

	for (size_t i = 0; i < COUNT(modes); i++) {
		bridges[i] =
		    strict_bridge(route_of(state), ARGS("--copy", modes[i]));
		bridge_pair(&bridges[i], &client, &upstream);
		strict_sort_ends(
		    &bridges[i], client, upstream, &tcp, &vsock[i]);
		strict_fill(tcp);
		since[i] = harness_now_ms();
		traffic_reset(tcp);
	}
	bridge_pair(&bridges[0], &client, &upstream);
	strict_sort_ends(&bridges[0], client, upstream, &tcp, &slow);
	filled = strict_fill(tcp);
	assert_int_equal(ioctl(tcp, TIOCOUTQ, &queued), 0); /* gets lost */
	traffic_reset(tcp);
	poll(NULL, 0, 3000);
	assert_int_equal(traffic_wait_end(slow, &came), TRAFFIC_EOF);
	assert_in_range(came, filled - (uint64_t)queued, filled);
	for (size_t i = 0; i < COUNT(modes); i++) {
		expect_failed_late(&bridges[i], since[i]);
		/* What is queued, then an end. */
		traffic_wait_end(vsock[i], NULL);
		bridge_expect_service(&bridges[i]);
	}
}

static void
test_reset_while_both_wait(void **state)
{
	/* Broken: the same, when both directions are stuck. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream, tcp, vsock;
	uint64_t since;

	bridge_pair(&b, &client, &upstream);
	strict_sort_ends(&b, client, upstream, &tcp, &vsock);
	strict_fill(tcp);
	strict_fill(vsock);
	since = harness_now_ms();
	traffic_reset(tcp);
	expect_failed_late(&b, since);
	traffic_wait_end(vsock, NULL);
	bridge_expect_service(&b);
}

static void
test_reset_after_half_close(void **state)
{
	/* Broken: a TCP end that has sent all and dies before the answer comes
	 * keeps its connection's descriptors and threads. */
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b =
		    strict_bridge(route_of(state), ARGS("--copy", modes[i]));
		int client, upstream, tcp, vsock;

		bridge_pair(&b, &client, &upstream);
		strict_sort_ends(&b, client, upstream, &tcp, &vsock);
		traffic_send_stream(tcp, 1, SOME);
		traffic_half_close(tcp);
		traffic_expect_stream(vsock, 1, SOME);
		traffic_expect_eof(vsock);
		traffic_reset(tcp);
		strict_expect_tcp_failed(&b, GONE);
		bridge_expect_service(&b);
		program_stop_all();
	}
}

static void
test_chain_reset(void **state)
{
	/* Broken: a reset at one end of a chain never reaches the other. (As
	 * an end-of-file, because there is vsock in between.) */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	for (int i = 0; i < 2; i++) {
		bridge_pair(&b, &client, &upstream);
		traffic_echo(client, upstream);
		traffic_reset(i == 0 ? client : upstream);
		traffic_expect_end(i == 0 ? upstream : client);
		close(i == 0 ? upstream : client);
	}
	strict_expect_end(b.first, 1, "client-error", RESET);
	program_wait_log(b.last, " end=upstream-error ", 1);
	bridge_expect_service(&b);
}

static void
test_chain_cut_off(void **state)
{
	/* Broken: a sender at one end of a chain is never told that the other
	 * has gone. */
	struct bridge b = strict_bridge(route_of(state), NULL);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	cut_off(client, upstream);
	bridge_expect_service(&b);
}

static void
test_no_pipes(void **state)
{
	/* Broken: without descriptors for pipes, bytes are lost or a connection
	 * fails; or it leaks. */
	struct bridge b = {.client_is_tcp = true,
	    .listen_port = network_tcp_port(),
	    .vsock_port = network_vsock_port()};
	/* Two sockets; no pipe. */
	const rlim_t most = IDLE_DESCRIPTORS + 2;
	const struct program_limit limit = {RLIMIT_NOFILE, {most, most}};
	int client, upstream;

	(void)state;
	b.first = b.last = program_start(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", harness_text("127.0.0.1:%u", b.listen_port),
		"-v", harness_text("1:%u", b.vsock_port), "--copy", "splice",
		"--max-connections", "9"),
	    .limits = &limit,
	    .limit_count = 1});
	program_wait_log(b.first, " msg=listening ", 1);
	b.listener = network_vsock_listen(b.vsock_port);
	for (unsigned i = 1; i <= 3; i++) {
		bridge_pair(&b, &client, &upstream);
		strict_exchange(client, upstream, MIB);
		strict_expect_end(b.first, i, "eof", NULL);
	}
	assert_int_equal(program_wait_descriptors(b.first, IDLE_DESCRIPTORS),
	    IDLE_DESCRIPTORS);
	assert_int_equal(program_wait_threads(b.first, 1), 1);
}

static void
test_urgent_data(void **state)
{
	/* Broken: TCP's urgent mark passes for the end, or its byte is lost. */
	(void)state;
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b =
		    strict_bridge(IP_TO_VSOCK, ARGS("--copy", modes[i]));
		int client, upstream;

		bridge_pair(&b, &client, &upstream);
		traffic_send(client, "hello", 5);
		traffic_expect(upstream, "hello", 5);
		assert_int_equal(send(client, "X", 1, MSG_OOB), 1);
		traffic_send(client, "world", 5);
		traffic_expect(upstream, "Xworld", 6);
		strict_exchange(client, upstream, MIB);
		strict_expect_end(b.first, strict_first(&b), "eof", NULL);
		program_stop_all();
		network_reset();
	}
}

static void
test_memory_given_back(void **state)
{
	/* Broken: an idle connection that has carried bulk holds memory until
	 * it ends; or bulk after a pause goes wrong. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, NULL);
	unsigned long before;
	int client, upstream;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	before = program_memory(b.first);
	for (int i = 0; i < 2; i++) {
		traffic_send_stream(client, 1, SOME);
		traffic_expect_stream(upstream, 1, SOME);
		assert_true(program_memory(b.first) >= before + 256);
		assert_int_equal(program_wait_memory(b.first, before), before);
	}
	strict_exchange(client, upstream, MIB);
	strict_expect_end(b.first, strict_first(&b), "eof", NULL);
}

static void
test_stop_and_continue(void **state)
{
	/* Broken: connections break when the program is stopped and continued,
	 * as a debugger or a snapshot does (EINTR). */
	for (size_t i = 0; i < COUNT(modes); i++) {
		struct bridge b =
		    strict_bridge(route_of(state), ARGS("--copy", modes[i]));
		int client, upstream;

		bridge_pair(&b, &client, &upstream);
		for (int j = 0; j < 5; j++) {
			traffic_echo(client, upstream);
			strict_stop(b.first);
			traffic_send(client, "stopped", 7);
			assert_false(traffic_readable(upstream, 20));
			strict_continue(b.first);
			traffic_expect(upstream, "stopped", 7);
		}
		bridge_expect_service(&b);
		program_stop_all();
		network_reset();
	}
}

/* Starts ip-to-vsock through a shell that redirects its streams: by an exec,
 * of which the rest follows. */
static struct bridge
start_redirected(const char *exec)
{
	struct bridge b = {.client_is_tcp = true,
	    .listen_port = network_tcp_port(),
	    .vsock_port = network_vsock_port()};

	b.first = b.last = program_start_args(HOST, "unshare", "-m", "sh", "-c",
	    harness_text("%s '%s' -i 127.0.0.1:%u -v 1:%u --log-level debug",
		exec, program_path("ip-to-vsock"), b.listen_port, b.vsock_port),
	    NULL);
	program_wait_tcp(b.first, b.listen_port);
	b.listener = network_vsock_listen(b.vsock_port);
	return b;
}

/* Several connections that come and go while one lasts. */
static void
expect_undisturbed(const struct bridge *b)
{
	int client, upstream;

	bridge_pair(b, &client, &upstream);
	for (int i = 0; i < 5; i++) {
		traffic_echo(client, upstream);
		bridge_expect_service(b);
	}
	close(client);
	traffic_expect_eof(upstream);
	close(upstream);
	bridge_expect_service(b);
}

static void
test_streams_closed(void **state)
{
	/* Broken: log lines end up in a connection that got the descriptor of
	 * a closed standard stream; or the program ends, where there is no
	 * /dev/null. */
	struct bridge b = start_redirected(*state);

	expect_undisturbed(&b);
}

static void
test_log_reader_gone(void **state)
{
	/* Broken: the program ends when the reader of its log does (SIGPIPE).
	 */
	struct bridge b = {.client_is_tcp = true,
	    .listen_port = network_tcp_port(),
	    .vsock_port = network_vsock_port()};
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	b.first = b.last = program_start(&(struct program_options){.side = HOST,
	    .name = "ip-to-vsock",
	    .args = ARGS("-i", harness_text("127.0.0.1:%u", b.listen_port),
		"-v", harness_text("1:%u", b.vsock_port)),
	    .stderr_fd = ends[1]});
	close(ends[1]);
	program_wait_tcp(b.first, b.listen_port);
	close(ends[0]);
	b.listener = network_vsock_listen(b.vsock_port);
	expect_undisturbed(&b);
}

int
strict_end_run(void)
{
	static char no_stderr[] = "exec 2>&-";
	static char no_streams[] = "exec <&- >&- 2>&-";
	static char no_devices[] =
	    "mount -t tmpfs none /dev && exec <&- >&- 2>&-";
	static char full[] = "exec 2>/dev/full";
	const struct CMUnitTest tests[] = {
	    EACH_PROGRAM(test_half_close),
	    EACH_PROGRAM(test_both_ways),
	    EACH_PROGRAM(test_client_vanishes),
	    EACH_PROGRAM(test_upstream_vanishes),
	    EACH_PROGRAM(test_reset),
	    TEST(test_reset_for_an_answer),
	    TEST_WITH(test_reset_while_writer_waits, "client", IP_TO_VSOCK),
	    TEST_WITH(test_reset_while_writer_waits, "upstream", VSOCK_TO_IP),
	    TEST_WITH(test_reset_while_both_wait, "client", IP_TO_VSOCK),
	    TEST_WITH(test_reset_while_both_wait, "upstream", VSOCK_TO_IP),
	    TEST_WITH(test_reset_after_half_close, "client", IP_TO_VSOCK),
	    TEST_WITH(test_reset_after_half_close, "upstream", VSOCK_TO_IP),
	    TEST_WITH(test_chain_reset, "chain-fixed", CHAIN_FIXED),
	    TEST_WITH(test_chain_reset, "chain-transparent", CHAIN_TRANSPARENT),
	    TEST_WITH(test_chain_reset, "chain-port", CHAIN_PORT),
	    TEST_WITH(test_chain_cut_off, "chain-fixed", CHAIN_FIXED),
	    TEST_WITH(
		test_chain_cut_off, "chain-transparent", CHAIN_TRANSPARENT),
	    TEST(test_no_pipes),
	    TEST(test_urgent_data),
	    TEST(test_memory_given_back),
	    TEST_WITH(test_stop_and_continue, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_stop_and_continue, "vsock-to-ip", VSOCK_TO_IP),
	    TEST_WITH(test_streams_closed, "stderr", no_stderr),
	    TEST_WITH(test_streams_closed, "all", no_streams),
	    TEST_WITH(test_streams_closed, "no-devices", no_devices),
	    TEST_WITH(test_streams_closed, "full", full),
	    TEST(test_log_reader_gone),
	};

	return cmocka_run_group_tests_name("strict: end", tests, NULL, NULL);
}
