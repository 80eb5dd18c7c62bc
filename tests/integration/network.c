/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports are dealt out once each and below the range that the kernel takes for
 * clients: no test meets what an earlier one left.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define BACKLOG 1024
#define TCP_PORT_FIRST 10000
#define TCP_PORT_LAST 29999
#define VSOCK_PORT_FIRST 20000
#define VSOCK_PORT_COUNT 45536

union socket_address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_vm vm;
};

static int namespaces[SIDES] = {-1, -1, -1};
static bool has_rules[SIDES];
static char usual_buffers[SIDES][64]; /* "": as they are */

/* The commands that make each namespace what network.h says. */
static const struct {
	enum side side;
	char *const args[8];
} preparations[] = {
    {ENCLAVE, {"link", "set", "lo", "up"}},
    {HOST, {"link", "set", "lo", "up"}},
    {BARE, {"link", "set", "lo", "up"}},
    /* Addresses for clients: a host-scope one isn't taken with a route. */
    {ENCLAVE, {"addr", "add", "192.0.2.1/32", "dev", "lo"}},
    {ENCLAVE, {"addr", "add", "2001:db8:1::1/128", "dev", "lo"}},
    {ENCLAVE, {"route", "add", "default", "dev", "lo"}},
    {ENCLAVE, {"-6", "route", "add", "default", "dev", "lo"}},
    {HOST, {"addr", "add", TARGET_IPV4 "/32", "dev", "lo"}},
    {HOST, {"addr", "add", OTHER_IPV4 "/32", "dev", "lo"}},
    {HOST, {"addr", "add", TARGET_IPV6 "/128", "dev", "lo"}},
    {HOST, {"addr", "add", OTHER_IPV6 "/128", "dev", "lo"}},
    {BARE, {"addr", "add", TARGET_IPV4 "/32", "dev", "lo"}},
    {BARE, {"addr", "add", OTHER_IPV4 "/32", "dev", "lo"}},
    {BARE, {"addr", "add", TARGET_IPV6 "/128", "dev", "lo"}},
    {BARE, {"addr", "add", OTHER_IPV6 "/128", "dev", "lo"}},
};

/* Runs a tool of the system. Returns whether it succeeded. */
static bool
run_tool(enum side side, const char *name, char *const *args)
{
	struct program *tool = program_run(&(struct program_options){
	    .side = side, .name = name, .args = args});

	if (tool->wait_status == 0)
		return true;
	fprintf(stderr, "%s failed: %s%s\n", name, program_out(tool),
	    program_err(tool));
	return false;
}

void
network_open(void)
{
	const size_t count = sizeof(preparations) / sizeof(*preparations);

	for (int side = 0; side < SIDES; side++) {
		if (unshare(CLONE_NEWNET) == -1) {
			perror("cannot make a network namespace");
			exit(EXIT_FAILURE);
		}
		namespaces[side] =
		    open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	}
	for (size_t i = 0; i < count; i++)
		if (!run_tool(preparations[i].side, "ip", preparations[i].args))
			exit(EXIT_FAILURE);
	program_stop_all();
}

void
network_enter(enum side side)
{
	if (setns(namespaces[side], CLONE_NEWNET) == -1) {
		perror("setns");
		abort();
	}
}

void
network_redirect(enum side side, const char *target, uint16_t to_port)
{
	const char *rule = "add rule inet proxies output meta l4proto tcp";
	char *args[2] = {NULL, NULL};

	assert_int_not_equal(side, BARE);
	args[0] = target == NULL
		      ? harness_text("add table inet proxies; "
				     "add chain inet proxies output "
				     "{ type nat hook output priority -100; }; "
				     "%s ip daddr != 127.0.0.0/8 "
				     "redirect to :%u; "
				     "%s ip6 daddr != ::1 redirect to :%u",
			    rule, to_port, rule, to_port)
		      : harness_text("add table inet proxies; "
				     "add chain inet proxies output "
				     "{ type nat hook output priority -100; }; "
				     "%s %s daddr %s redirect to :%u",
			    rule, strchr(target, ':') == NULL ? "ip" : "ip6",
			    target, to_port);
	has_rules[side] = true;
	assert_true(run_tool(side, "nft", args));
}

/* Loses the packets that two nftables expressions match. */
static void
drop(enum side side, const char *one, const char *other)
{
	const char *rule = "add rule inet proxies input";
	char *args[2] = {NULL, NULL};

	assert_int_not_equal(side, BARE);
	args[0] = harness_text("add table inet proxies; "
			       "add chain inet proxies input "
			       "{ type filter hook input priority 0; }; "
			       "%s %s drop; %s %s drop",
	    rule, one, rule, other);
	has_rules[side] = true;
	assert_true(run_tool(side, "nft", args));
}

void
network_drop(enum side side, uint16_t port)
{
	drop(side, harness_text("tcp sport %u", port),
	    harness_text("tcp dport %u", port));
}

void
network_black_hole(enum side side, const char *address)
{
	drop(side, harness_text("ip daddr %s", address),
	    harness_text("ip saddr %s", address));
}

/* The least, the usual, and the greatest size of TCP's send buffers. */
static FILE *
open_buffers(int side, const char *mode)
{
	FILE *file;

	network_enter((enum side)side);
	file = fopen("/proc/sys/net/ipv4/tcp_wmem", mode);
	assert_non_null(file);
	return file;
}

static void
set_buffers(int side, const char *sizes)
{
	FILE *file = open_buffers(side, "we");

	assert_true(fputs(sizes, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

void
network_small_buffers(void)
{
	for (int side = 0; side < SIDES; side++) {
		FILE *file = open_buffers(side, "re");

		assert_non_null(fgets(
		    usual_buffers[side], sizeof(usual_buffers[side]), file));
		fclose(file);
		set_buffers(side, "4096 16384 262144");
	}
}

void
network_reset(void)
{
	char *const args[] = {"delete", "table", "inet", "proxies", NULL};

	for (int side = 0; side < SIDES; side++) {
		if (*usual_buffers[side] != '\0')
			set_buffers(side, usual_buffers[side]);
		*usual_buffers[side] = '\0';
		if (has_rules[side])
			run_tool((enum side)side, "nft", args);
		has_rules[side] = false;
	}
}

const char *
network_name(const char *address, uint16_t port)
{
	return harness_text(
	    strchr(address, ':') == NULL ? "%s:%u" : "[%s]:%u", address, port);
}

int
network_limit_time(int fd, unsigned seconds)
{
	const struct timeval limit = {.tv_sec = seconds};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	/* -1 or not a vsock: fails, as it may. */
	setsockopt(
	    fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit, sizeof(limit));
	return fd;
}

/* Sets the deadline that network.h promises. */
static int
set_deadline(int fd)
{
	return network_limit_time(fd, DEADLINE_MS / 1000);
}

static int
new_socket(int family)
{
	return set_deadline(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

/* The size of an address. */
static socklen_t
make_tcp(union socket_address *a, const char *address, uint16_t port)
{
	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, address, &a->in.sin_addr) == 1) {
		a->in.sin_family = AF_INET;
		a->in.sin_port = htons(port);
		return sizeof(a->in);
	}
	if (inet_pton(AF_INET6, address, &a->in6.sin6_addr) != 1)
		abort();
	a->in6.sin6_family = AF_INET6;
	a->in6.sin6_port = htons(port);
	if (IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr))
		a->in6.sin6_scope_id = 1; /* lo */
	return sizeof(a->in6);
}

static struct sockaddr_vm
make_vsock(uint32_t port)
{
	return (struct sockaddr_vm){.svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_LOCAL,
	    .svm_port = port};
}

/* Closes fd, if any, with errno kept. Returns -1. */
static int
discard(int fd)
{
	int saved = errno;

	if (fd != -1)
		close(fd);
	errno = saved;
	return -1;
}

uint16_t
network_tcp_port(void)
{
	static unsigned next = TCP_PORT_FIRST;

	assert_in_range(next, TCP_PORT_FIRST, TCP_PORT_LAST);
	return (uint16_t)next++;
}

/* Whether nobody has bound a port. */
static bool
vsock_is_free(uint32_t port)
{
	struct sockaddr_vm address = make_vsock(port);
	int fd = new_socket(AF_VSOCK);
	int status;

	assert_int_not_equal(fd, -1);
	status = bind(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return status == 0;
}

uint32_t
network_vsock_port(void)
{
	static uint32_t base, count;
	uint32_t port;

	if (count == 0 &&
	    getrandom(&base, sizeof(base), 0) != (ssize_t)sizeof(base))
		fail_msg("no random number: %s", strerror(errno));
	do {
		assert_true(count < VSOCK_PORT_COUNT);
		port = VSOCK_PORT_FIRST +
		       (base % VSOCK_PORT_COUNT + count++) % VSOCK_PORT_COUNT;
	} while (!vsock_is_free(port));
	return port;
}

int
network_tcp_listen(enum side side, const char *address, uint16_t port)
{
	union socket_address a;
	socklen_t length = make_tcp(&a, address, port);
	int fd;

	network_enter(side);
	fd = new_socket(a.any.sa_family);
	if (fd == -1 || bind(fd, &a.any, length) == -1 ||
	    listen(fd, BACKLOG) == -1)
		fail_msg("cannot listen on %s port %u: %s", address, port,
		    strerror(errno));
	return fd;
}

/* Whether a TCP connection was ever made: its peer has answered with options.
 */
static bool
was_connected(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
	       (info.tcpi_options & TCPI_OPT_WSCALE) != 0;
}

/*
 * connect(2), within the deadline. If a connection is made and reset at once,
 * connect(2) itself might report the reset; here it is left for the next call.
 * Returns 0, or -1 with errno.
 */
static int
connect_within(int fd, const struct sockaddr *address, socklen_t length)
{
	struct pollfd state = {.fd = fd, .events = POLLOUT};
	socklen_t error_length = sizeof(int);
	int error = 0;

	if (fcntl(fd, F_SETFL, O_NONBLOCK) == -1)
		return -1;
	if (connect(fd, address, length) == -1) {
		if (errno != EINPROGRESS)
			return -1;
		/* An error needs no POLLERR: vsock_poll() looks for errors
		 * before it looks for failed connections. */
		if (poll(&state, 1, DEADLINE_MS) != 1)
			error = ETIMEDOUT;
		else if (!was_connected(fd))
			getsockopt(
			    fd, SOL_SOCKET, SO_ERROR, &error, &error_length);
	}
	errno = error;
	return error != 0 || fcntl(fd, F_SETFL, 0) == -1 ? -1 : 0;
}

/* from: NULL for an address of the kernel's choice. */
static int
try_from(enum side side, const char *from, const char *address, uint16_t port)
{
	union socket_address a, own;
	socklen_t length = make_tcp(&a, address, port);
	const int yes = 1;
	int fd;

	network_enter(side);
	fd = new_socket(a.any.sa_family);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (from != NULL && bind(fd, &own.any, make_tcp(&own, from, 0)) == -1)
		return discard(fd);
	return connect_within(fd, &a.any, length) == 0 ? fd : discard(fd);
}

int
network_tcp_try(enum side side, const char *address, uint16_t port)
{
	return try_from(side, NULL, address, port);
}

int
network_tcp_connect_from(
    enum side side, const char *from, const char *address, uint16_t port)
{
	int fd = try_from(side, from, address, port);

	if (fd == -1)
		fail_msg("cannot connect to %s port %u: %s", address, port,
		    strerror(errno));
	return fd;
}

int
network_tcp_connect(enum side side, const char *address, uint16_t port)
{
	return network_tcp_connect_from(side, NULL, address, port);
}

int
network_vsock_listen(uint32_t port)
{
	struct sockaddr_vm address = make_vsock(port);
	int fd = new_socket(AF_VSOCK);

	if (fd == -1 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) == -1 ||
	    listen(fd, BACKLOG) == -1)
		fail_msg(
		    "cannot listen on vsock 1:%u: %s", port, strerror(errno));
	return fd;
}

int
network_vsock_try(uint32_t port)
{
	struct sockaddr_vm address = make_vsock(port);
	int fd = new_socket(AF_VSOCK);

	return connect_within(
		   fd, (struct sockaddr *)&address, sizeof(address)) == 0
		   ? fd
		   : discard(fd);
}

int
network_vsock_connect(uint32_t port)
{
	int fd = network_vsock_try(port);

	if (fd == -1)
		fail_msg(
		    "cannot connect to vsock 1:%u: %s", port, strerror(errno));
	return fd;
}

int
network_accept(int listener)
{
	const int yes = 1;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd == -1)
		fail_msg("nobody connected: %s", strerror(errno));
	/* Fails for vsock, as it may. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return set_deadline(fd);
}

bool
network_pending(int listener)
{
	struct pollfd state = {.fd = listener, .events = POLLIN};

	return poll(&state, 1, 0) > 0;
}

/* Whether a table of /proc/net has a listener (state 0A) on a port. */
static bool
table_has_listener(const char *path, uint16_t port)
{
	FILE *table = fopen(path, "re");
	unsigned local_port, state;
	char line[512];
	bool found = false;

	if (table == NULL) /* the process has gone */
		return false;
	while (!found && fgets(line, sizeof(line), table) != NULL)
		found = sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x",
			    &local_port, &state) == 2 &&
			local_port == port && state == 0x0a;
	fclose(table);
	return found;
}

bool
network_listens(int pid, uint16_t port)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/net/tcp", pid);
	if (table_has_listener(path, port))
		return true;
	snprintf(path, sizeof(path), "/proc/%d/net/tcp6", pid);
	return table_has_listener(path, port);
}

/* Sends a byte from one to the other. */
static bool
passes(int from, int to)
{
	char byte = 0;

	return send(from, "x", 1, MSG_NOSIGNAL) == 1 &&
	       recv(to, &byte, 1, 0) == 1 && byte == 'x';
}

bool
network_has_loopback(void)
{
	const struct timeval limit = {.tv_sec = 2};
	struct sockaddr_vm address = make_vsock(VMADDR_PORT_ANY);
	socklen_t length = sizeof(address);
	int listener = new_socket(AF_VSOCK), client = new_socket(AF_VSOCK);
	int accepted = -1;
	bool works = false;

	/* CID 1 can be bound only where the kernel has loopback. Elsewhere a
	 * connection to it might leave the machine. */
	if (bind(listener, (struct sockaddr *)&address, length) == -1 ||
	    listen(listener, 1) == -1 ||
	    getsockname(listener, (struct sockaddr *)&address, &length) == -1)
		goto done;
	setsockopt(client, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit,
	    sizeof(limit));
	address.svm_cid = VMADDR_CID_LOCAL;
	if (connect(client, (struct sockaddr *)&address, length) == -1)
		goto done;
	accepted = set_deadline(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	works = passes(client, accepted) && passes(accepted, client);
done:
	discard(accepted);
	discard(client);
	discard(listener);
	return works;
}
