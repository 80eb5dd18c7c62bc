/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding and reaching the upstream: what happens when it can't be reached,
 * names with several addresses, time limits, and what TCP sockets are set to.
 */
#include "strict.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define REFUSED "Connection refused"
#define UNREACHABLE "Network is unreachable|Network unreachable"
#define TIMED_OUT "Connection timed out|Operation timed out"
#define NOBODY_LISTENS "nobody listens there, or the backlog is full"
/* Of which libc gives which word for a name without an address. */
#define NO_NAME                                            \
	"Name or service not known|Name does not resolve|" \
	"No address associated with hostname|"             \
	"Non-recoverable failure in name resolution|Non-recoverable error"

/* Starts vsock-to-ip. *port: of its listener. */
static struct program *
start(const char *upstream, char *const *extra, uint32_t *port)
{
	char *args[16] = {"-v", NULL, "-i", harness_text("%s", upstream)};
	size_t count = 4;

	*port = network_vsock_port();
	args[1] = harness_text("1:%u", *port);
	for (; extra != NULL && *extra != NULL; extra++)
		args[count++] = *extra;
	return strict_start(HOST, "vsock-to-ip", args);
}

/* A connection that must fail. Returns the line. */
static const char *
expect_failure(struct program *p, uint32_t port, unsigned number,
    const char *upstream, const char *reason)
{
	const char *line;

	traffic_expect_end(network_vsock_connect(port));
	line = strict_expect_end(p, number, "no-upstream", reason);
	strict_expect_value(line, "upstream", upstream);
	assert_int_equal(program_log_number(line, "up"), 0);
	assert_int_equal(program_log_number(line, "down"), 0);
	return line;
}

/* A connection that must get through to a listener. */
static const char *
expect_success(struct program *p, uint32_t port, unsigned number,
    const char *upstream, int listener)
{
	int client = network_vsock_connect(port);
	int server = network_accept(listener);
	const char *line;

	traffic_echo(client, server);
	traffic_end_pair(client, server);
	line = strict_expect_end(p, number, "eof", NULL);
	strict_expect_value(line, "upstream", upstream);
	return line;
}

static void
test_nobody_on_vsock(void **state)
{
	/* Broken: a client can't tell a missing upstream from an answer of no
	 * bytes, or the log doesn't say why it failed. */
	struct bridge b = {
	    .route = (enum route)(uintptr_t)*state, .no_upstream = true};
	int client;

	bridge_open(&b);
	client = bridge_connect(&b);
	assert_int_equal(traffic_wait_end(client, NULL), TRAFFIC_RESET);
	strict_expect_value(
	    strict_expect_end(b.first, 1, "no-upstream", NOBODY_LISTENS),
	    "upstream", harness_text("1:%u", b.vsock_port));
	bridge_listen(&b);
	bridge_expect_service(&b);
}

static void
test_refused(void **state)
{
	/* Broken: an upstream that is down isn't named in the log; or one that
	 * comes up later is never reached. */
	uint16_t tcp_port = network_tcp_port();
	const char *upstream = harness_text("127.0.0.1:%u", tcp_port);
	uint32_t port;
	struct program *p = start(upstream, NULL, &port);

	(void)state;
	expect_failure(p, port, 1, upstream, REFUSED);
	expect_success(p, port, 2, upstream,
	    network_tcp_listen(HOST, "127.0.0.1", tcp_port));
}

static void
test_own_peer(void **state)
{
	/* Broken: while its server is down, a client gets its own bytes back,
	 * and the server can't get its port: connecting to a port that the
	 * kernel may choose for the connecting socket, here the only one,
	 * connects that to itself. */
	uint32_t port = network_vsock_port();
	const char *commands =
	    "ip link set lo up && cd /proc/sys/net/ipv4 && "
	    "echo 40000 40000 >ip_local_port_range && exec \"$@\"";
	struct program *p =
	    program_start(&(struct program_options){.side = HOST,
		.name = "unshare",
		.args = ARGS("-n", "sh", "-c", harness_text("%s", commands),
		    "sh", harness_text("%s", program_path("vsock-to-ip")), "-v",
		    harness_text("1:%u", port), "-i", "127.0.0.1:40000")});

	(void)state;
	p->name = "vsock-to-ip";
	program_wait_log(p, " msg=listening ", 1);
	expect_failure(p, port, 1, "127.0.0.1:40000", REFUSED);
}

static void
test_unreachable(void **state)
{
	/* Broken: a missing route looks like a missing server. */
	uint32_t port;
	struct program *p = start("203.0.113.1:80", NULL, &port);

	(void)state;
	expect_failure(p, port, 1, "203.0.113.1:80", UNREACHABLE);
	p = start("[2001:db8:ffff::1]:80", NULL, &port);
	expect_failure(p, port, 1, "[2001:db8:ffff::1]:80", UNREACHABLE);
}

static void
test_unresolvable(void **state)
{
	/* Broken: a name that doesn't exist isn't named in the log, or ends
	 * the program, or is a failure for ever. */
	uint16_t tcp_port = network_tcp_port();
	int listener = network_tcp_listen(HOST, "127.0.0.1", tcp_port);
	const char *upstream = harness_text("late:%u", tcp_port);
	uint32_t port = network_vsock_port();
	struct program *p = strict_start_with_etc(HOST, "files",
	    "127.0.0.1 other\n", "vsock-to-ip",
	    ARGS("-v", harness_text("1:%u", port), "-i",
		harness_text("%s", upstream)));

	(void)state;
	expect_failure(p, port, 1, upstream, NO_NAME);
	strict_set_hosts(p, "127.0.0.1 late\n");
	expect_success(
	    p, port, 2, harness_text("127.0.0.1:%u", tcp_port), listener);
	strict_set_hosts(p, "::1 late\n");
	expect_success(p, port, 3, harness_text("[::1]:%u", tcp_port),
	    network_tcp_listen(HOST, "::1", tcp_port));
}

static void
test_unusable_name(void **state)
{
	/* Broken: a name that no resolver can look up does harm. */
	uint32_t port;
	struct program *p = start(UNRESOLVABLE ":80", NULL, &port);

	(void)state;
	expect_failure(p, port, 1, UNRESOLVABLE ":80", NO_NAME);
	expect_failure(p, port, 2, UNRESOLVABLE ":80", NO_NAME);
}

/* A name with two addresses in each family. */
#define FOUR_HOSTS                                                             \
	"127.0.0.1 four\n" TARGET_IPV4 " four\n::1 four\n" TARGET_IPV6 " four" \
	"\n"

static void
test_each_address(void **state)
{
	/* Broken: a name works only if the first of its addresses answers. */
	static const char *const addresses[] = {
	    "127.0.0.1", "::1", TARGET_IPV4, TARGET_IPV6};
	uint16_t tcp_port = network_tcp_port();
	uint32_t port = network_vsock_port();
	struct program *p =
	    strict_start_with_etc(HOST, "files", FOUR_HOSTS, "vsock-to-ip",
		ARGS("-v", harness_text("1:%u", port), "-i",
		    harness_text("four:%u", tcp_port)));

	(void)state;
	for (unsigned i = 0; i < COUNT(addresses); i++) {
		const char *address = addresses[i];
		int listener = network_tcp_listen(HOST, address, tcp_port);

		expect_success(
		    p, port, 1 + i, network_name(address, tcp_port), listener);
		close(listener);
	}
	expect_failure(p, port, 1 + COUNT(addresses),
	    harness_text("four:%u", tcp_port), REFUSED);
}

static void
test_silent_address(void **state)
{
	/* Broken: a name doesn't work if one of its addresses is silent; or
	 * its silence takes the time of all others. */
	static const char *const addresses[] = {"127.0.0.1", "::1"};

	(void)state;
	for (size_t i = 0; i < COUNT(addresses); i++) {
		uint16_t tcp_port = network_tcp_port();
		uint32_t port = network_vsock_port();
		struct program *p = strict_start_with_etc(HOST, "files",
		    "127.0.0.1 two\n::1 two\n", "vsock-to-ip",
		    ARGS("-v", harness_text("1:%u", port), "-i",
			harness_text("two:%u", tcp_port), "--connect-timeout",
			"4"));
		int filler, listener = network_tcp_listen(
				HOST, addresses[!i], tcp_port);

		strict_black_hole(HOST, addresses[i], tcp_port, &filler);
		expect_success(p, port, 1,
		    harness_text(
			i == 0 ? "[::1]:%u" : "127.0.0.1:%u", tcp_port),
		    listener);
	}
}

static void
test_connect_timeout(void **state)
{
	/* Broken: an upstream that is silent holds its client for minutes. */
	uint16_t tcp_port = network_tcp_port();
	const char *upstream = harness_text("127.0.0.1:%u", tcp_port);
	uint32_t port;
	struct program *p =
	    start(upstream, ARGS("--connect-timeout", "1"), &port);
	int filler;
	const char *line;

	(void)state;
	strict_black_hole(HOST, "127.0.0.1", tcp_port, &filler);
	line = expect_failure(p, port, 1, upstream, TIMED_OUT);
	assert_true(program_log_number(line, "ms") >= 900);
}

static void
test_connect_while_stopped(void **state)
{
	/* Broken: a connection that is being made fails when the program is
	 * stopped and continued (EINTR); or a slow upstream isn't waited for.
	 */
	uint16_t tcp_port = network_tcp_port();
	const char *upstream = harness_text("127.0.0.1:%u", tcp_port);
	uint32_t port;
	struct program *p = start(upstream, NULL, &port);
	int filler, client, server;
	int listener = strict_black_hole(HOST, "127.0.0.1", tcp_port, &filler);

	(void)state;
	client = network_vsock_connect(port);
	/* Now it connects, in vain. */
	assert_false(traffic_readable(client, 200));
	strict_stop(p);
	strict_continue(p);
	assert_false(traffic_readable(client, 100));
	close(network_accept(listener));
	close(filler);
	/* The kernel tries again after a second. */
	server = network_accept(listener);
	traffic_echo(client, server);
}

static void
test_timeouts_of_connecting_only(void **state)
{
	/* Broken: a transfer that pauses for longer than connecting may take
	 * is cut off. */
	struct bridge b = strict_bridge((enum route)(uintptr_t)*state,
	    *state == (void *)VSOCK_TO_IP_TRANSPARENT
		? ARGS("--connect-timeout=1", "--preamble-timeout=1")
		: ARGS("--connect-timeout=1"));
	uint64_t up, down, received;
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	up = strict_fill(client);
	down = strict_fill(upstream);
	/* Now both directions are stuck. */
	poll(NULL, 0, 1300);
	traffic_half_close(client);
	traffic_half_close(upstream);
	assert_int_equal(traffic_wait_end(upstream, &received), TRAFFIC_EOF);
	assert_int_equal(received, up);
	assert_int_equal(traffic_wait_end(client, &received), TRAFFIC_EOF);
	assert_int_equal(received, down);
	strict_expect_end(b.first, strict_first(&b), "eof", NULL);
}

static void
test_ipv6_upstream(void **state)
{
	/* Broken: an IPv6 upstream can't be given. */
	uint16_t tcp_port = network_tcp_port();
	const char *upstream = harness_text("[" TARGET_IPV6 "]:%u", tcp_port);
	uint32_t port;
	struct program *p = start(upstream, NULL, &port);

	(void)state;
	expect_success(p, port, 1, upstream,
	    network_tcp_listen(HOST, TARGET_IPV6, tcp_port));
}

/* A duplicate of a program's descriptor; -1: it has none of this number. */
static int
borrow(const struct program *p, int number)
{
	int pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0), fd;

	if (pidfd == -1 && errno == ENOSYS)
		harness_skip("no pidfd_open(2)");
	assert_int_not_equal(pidfd, -1);
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	if (fd == -1 && (errno == ENOSYS || errno == EPERM))
		harness_skip("no pidfd_getfd(2), or not for us");
	close(pidfd);
	return fd;
}

static int
option_of(int fd, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	if (getsockopt(fd, level, option, &value, &length) == -1)
		return -1;
	return value;
}

/* A duplicate of a program's only connected socket of a family. */
static int
borrow_connected(const struct program *p, int family)
{
	struct sockaddr_storage peer;
	int found = -1;

	for (int number = 0; number < 16; number++) {
		socklen_t length = sizeof(peer);
		int fd = borrow(p, number);

		if (fd != -1 &&
		    option_of(fd, SOL_SOCKET, SO_DOMAIN) == family &&
		    getpeername(fd, (struct sockaddr *)&peer, &length) == 0) {
			assert_int_equal(found, -1);
			found = fd;
		} else if (fd != -1) {
			close(fd);
		}
	}
	assert_int_not_equal(found, -1);
	return found;
}

static void
test_tcp_options(void **state)
{
	/* Broken: small messages wait for 40 ms, or a peer that vanished is
	 * never noticed. On the accepted and on the connected side. */
	struct bridge b = strict_bridge((enum route)(uintptr_t)*state, NULL);
	int client, upstream, fd;

	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	fd = borrow_connected(b.first, AF_INET);
	assert_int_equal(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 60);
	assert_int_equal(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 10);
	assert_int_equal(option_of(fd, IPPROTO_TCP, TCP_KEEPCNT), 6);
	/* As long as the duplicate is open, the connection doesn't end. */
	close(fd);
}

static void
test_vsock_timeout_set(void **state)
{
	/* Broken: --connect-timeout has no effect on vsock. (Over loopback no
	 * connection takes long, so it's read from the socket.) */
	struct bridge b =
	    strict_bridge(IP_TO_VSOCK, ARGS("--connect-timeout", "7"));
	struct timeval limit = {0};
	socklen_t length = sizeof(limit);
	int client, upstream, fd;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	fd = borrow_connected(b.first, AF_VSOCK);
	assert_int_equal(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT,
			     &limit, &length),
	    0);
	assert_int_equal(limit.tv_sec, 7);
	assert_int_equal(limit.tv_usec, 0);
	close(fd);
}

static void
test_vsock_buffer(void **state)
{
	/* Broken: --vsock-buffer has no effect on connected, or on accepted
	 * sockets; or there is one without it. */
	static char *const sizes[] = {"262144", "524288", "2097152"};
	uint64_t size;
	socklen_t length = sizeof(size);
	int client, upstream, fd;

	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct bridge b = strict_bridge((enum route)(uintptr_t)*state,
		    i == 0 ? NULL : ARGS("--vsock-buffer", sizes[i]));

		bridge_pair(&b, &client, &upstream);
		traffic_echo(client, upstream);
		fd = borrow_connected(b.first, AF_VSOCK);
		assert_int_equal(getsockopt(fd, AF_VSOCK,
				     SO_VM_SOCKETS_BUFFER_SIZE, &size, &length),
		    0);
		assert_int_equal(size, strtoull(sizes[i], NULL, 10));
		close(fd);
		program_stop_all();
		network_reset();
	}
}

static void
test_descriptors_close_on_exec(void **state)
{
	/* Broken: whatever the program's libc might start (a resolver's
	 * helper, say) would keep connections open. */
	struct bridge b = strict_bridge(IP_TO_VSOCK, ARGS("--copy", "splice"));
	int client, upstream;
	unsigned count = 0;

	(void)state;
	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	for (int number = 3; number < 20; number++) {
		FILE *info = fopen(harness_text("/proc/%d/fdinfo/%d",
				       (int)b.first->pid, number),
		    "re");
		unsigned flags;

		if (info == NULL)
			continue;
		assert_int_equal(fscanf(info, "pos: %*d flags: %o", &flags), 1);
		fclose(info);
		assert_true((flags & O_CLOEXEC) != 0);
		count++;
	}
	/* Two sockets, two pipes, and none of the standard streams. */
	assert_int_equal(count, IDLE_DESCRIPTORS - 3 + 6);
}

int
strict_dial_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_nobody_on_vsock, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_nobody_on_vsock, "ip-to-vsock-transparent",
		IP_TO_VSOCK_TRANSPARENT),
	    TEST_WITH(test_nobody_on_vsock, "port-to-vsock-transparent",
		PORT_TO_VSOCK_TRANSPARENT),
	    TEST(test_refused),
	    TEST(test_own_peer),
	    TEST(test_unreachable),
	    TEST(test_unresolvable),
	    TEST(test_unusable_name),
	    TEST(test_each_address),
	    TEST(test_silent_address),
	    TEST(test_connect_timeout),
	    TEST(test_connect_while_stopped),
	    TEST_WITH(
		test_timeouts_of_connecting_only, "ip-to-vsock", IP_TO_VSOCK),
	    TEST_WITH(test_timeouts_of_connecting_only,
		"vsock-to-ip-transparent", VSOCK_TO_IP_TRANSPARENT),
	    TEST(test_ipv6_upstream),
	    TEST_WITH(test_vsock_buffer, "accepted", VSOCK_TO_IP),
	    TEST_WITH(test_vsock_buffer, "connected", IP_TO_VSOCK),
	    TEST_WITH(test_tcp_options, "accepted", IP_TO_VSOCK),
	    TEST_WITH(test_tcp_options, "connected", VSOCK_TO_IP),
	    TEST_WITH(
		test_tcp_options, "connected-target", VSOCK_TO_IP_TRANSPARENT),
	    TEST(test_vsock_timeout_set),
	    TEST(test_descriptors_close_on_exec),
	};

	return cmocka_run_group_tests_name("strict: dial", tests, NULL, NULL);
}
