/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of stream. TCP is real, over loopback; vsock, NAT, resolvers and
 * what fails seldom are played by wrapped calls. No vsock socket is made, and
 * none is ever connected. */
#include "stream.h"

#include "support.h"

#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/rtnetlink.h>

int __real_close(int fd);
int __wrap_close(int fd);
int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
void __real_freeaddrinfo(struct addrinfo *list);
void __wrap_freeaddrinfo(struct addrinfo *list);
int __real_getaddrinfo(const char *host, const char *port,
    const struct addrinfo *hints, struct addrinfo **list);
int __wrap_getaddrinfo(const char *host, const char *port,
    const struct addrinfo *hints, struct addrinfo **list);
int __real_getpeername(int fd, struct sockaddr *address, socklen_t *length);
int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *length);
int __real_getsockname(int fd, struct sockaddr *address, socklen_t *length);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *length);
int __real_getsockopt(
    int fd, int level, int option, void *value, socklen_t *length);
int __wrap_getsockopt(
    int fd, int level, int option, void *value, socklen_t *length);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog);
int __real_poll(struct pollfd *fds, nfds_t count, int ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int ms);
ssize_t __real_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __real_send(int fd, const void *buffer, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t size, int flags);
int __real_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length);
int __real_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how);
int __real_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol);

/* What the wrapped calls do and have seen; all zero: nothing special. */
static struct {
	int connect_errors[4]; /* of the next calls, up to a 0 */
	size_t connects;       /* calls but for disconnecting ones */
	/* Disconnecting fails with EBUSY as long as a thread waits (the wait
	 * of check_woken()), or for so many calls. */
	bool busy_while_waiting;
	size_t busy_calls;
	size_t disconnects;
	size_t waiting_connects; /* calls that wait themselves */
	int connect_limit;       /* TCP_USER_TIMEOUT at the last of them */
	bool connects_nothing;   /* says that all is well */
	bool connects_itself;    /* to its own port, whichever is asked for */
	bool close_sets_errno;
	/* After an EINPROGRESS of the above, poll(2) waits for nothing: */
	bool in_progress;
	int poll_errors[4]; /* of the next calls, up to a 0 */
	bool answered;      /* or the time is over */
	int waits[8];       /* for how long it was to wait */
	size_t polls;       /* calls */

	int resolve_error, resolve_errno;
	struct addrinfo *list; /* what names resolve to; NULL: the truth */
	struct addrinfo *freed;
	size_t frees;

	int local_error;
	struct address local; /* of all sockets, if length is not 0 */
	struct address peer;  /* the same */

	int nat_error;
	int nat_level; /* where there is an original destination */
	struct address nat;

	int backlog, listen_error;
	int domain; /* of all sockets, if not 0; then the protocol is this: */
	int protocol;
	int pending_error; /* of all sockets, if not 0 */

	int limit_error;       /* of setting limits of time */
	size_t limit_fails_at; /* 1: the first one */
	struct timeval limits[8];
	int limit_levels[8], limit_options[8];
	size_t limits_set, others_set; /* calls */
	uint64_t buffers[2];           /* sizes of vsock's, before connecting */
	int buffer_options[2];
	size_t buffers_set; /* calls */

	int queued; /* in all TCP sockets; 0: the truth */

	/* The kernel's answer, in place of its own; 0: as ever. */
	uint16_t answer_type;
	int answer; /* route type, or error */
	int answer_error;
	size_t answer_size;

	size_t send_most;    /* that one call moves; 0: no limit */
	int send_interrupts; /* so many calls say EINTR first */
	int send_error;      /* of all calls; 0: none */
	size_t sends;        /* calls */
	int send_flags;      /* of the last one */

	int last_shutdown; /* how */
	int socket_error, vsock_sockets;
} calls;

/* A thread that waits on a descriptor. */
static struct waiter {
	int fd;
	_Atomic bool waits;
	ssize_t result;
	int error;
	struct job job;
} waiter;

static void
start(void)
{
	memset(&calls, 0, sizeof(calls));
	calls.last_shutdown = -1;
}

/* Every test begins with calls that do as ever. */
#define TEST(name) cmocka_unit_test_setup(name, set_up)

static int
set_up(void **state)
{
	(void)state;
	start();
	return 0;
}

static int
fails(int error)
{
	if (error != 0)
		errno = error;
	return error != 0 ? -1 : 0;
}

int
__wrap_close(int fd)
{
	int status = __real_close(fd);

	if (calls.close_sets_errno)
		errno = ENOTTY;
	return status;
}

int
__wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	struct address own =
	    address_ip(AF_INET, (const uint8_t[]){127, 0, 0, 1}, 0);
	size_t i;

	if (address->sa_family == AF_UNSPEC) {
		if (calls.disconnects++ < calls.busy_calls ||
		    (calls.busy_while_waiting && !job_has_ended(&waiter.job)))
			return fails(EBUSY);
		return __real_connect(fd, address, length);
	}
	i = calls.connects++;
	calls.connect_limit = -1;
	(void)__real_getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
	    &calls.connect_limit, &(socklen_t){sizeof(int)});
	if ((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0)
		calls.waiting_connects++;
	if (i < LENGTH(calls.connect_errors))
		calls.in_progress = calls.connect_errors[i] == EINPROGRESS;
	if (i < LENGTH(calls.connect_errors) && calls.connect_errors[i] != 0)
		return fails(calls.connect_errors[i]);
	if (calls.connects_nothing)
		return 0;
	assert_int_not_equal(address->sa_family, AF_VSOCK);
	if (calls.connects_itself) {
		assert_int_equal(bind(fd, &own.any, own.length), 0);
		assert_int_equal(stream_local_address(fd, &own), 0);
		return __real_connect(fd, &own.any, own.length);
	}
	return __real_connect(fd, address, length);
}

void
__wrap_freeaddrinfo(struct addrinfo *list)
{
	calls.frees++;
	calls.freed = list;
	if (calls.list == NULL)
		__real_freeaddrinfo(list);
}

int
__wrap_getaddrinfo(const char *host, const char *port,
    const struct addrinfo *hints, struct addrinfo **list)
{
	errno = calls.resolve_errno;
	if (calls.resolve_error != 0)
		return calls.resolve_error;
	if (calls.list == NULL) /* no name: what it means is the machine's */
		return __real_getaddrinfo(
		    strcmp(host, "some.name") == 0 ? "127.0.0.1" : host, port,
		    hints, list);
	*list = calls.list;
	return 0;
}

/* As the kernel gives an address to who has room for *length bytes of it. */
static void
give_address(
    const struct address *from, struct sockaddr *address, socklen_t *length)
{
	memcpy(address, &from->any,
	    *length < from->length ? *length : from->length);
	*length = from->length;
}

int
__wrap_getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
	if (calls.peer.length == 0)
		return __real_getpeername(fd, address, length);
	give_address(&calls.peer, address, length);
	return 0;
}

int
__wrap_getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	if (fails(calls.local_error))
		return -1;
	if (calls.local.length == 0)
		return __real_getsockname(fd, address, length);
	give_address(&calls.local, address, length);
	return 0;
}

int
__wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	if (calls.domain != 0 && level == SOL_SOCKET &&
	    (option == SO_DOMAIN || option == SO_PROTOCOL)) {
		*(int *)value =
		    option == SO_DOMAIN ? calls.domain : calls.protocol;
		return 0;
	}
	if (calls.pending_error != 0 && level == SOL_SOCKET &&
	    option == SO_ERROR) {
		*(int *)value = calls.pending_error;
		return 0;
	}
	if (!((level == SOL_IP && option == SO_ORIGINAL_DST) ||
		(level == SOL_IPV6 && option == IP6T_SO_ORIGINAL_DST)))
		return __real_getsockopt(fd, level, option, value, length);
	if (fails(level == calls.nat_level ? calls.nat_error : ENOENT))
		return -1;
	/* Both demand room for all of it: EINVAL. */
	if (*length < calls.nat.length)
		return fails(EINVAL);
	give_address(&calls.nat, value, length);
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	int *value;

	va_start(arguments, request);
	value = va_arg(arguments, int *); /* as all have here */
	va_end(arguments);
	/* musl's is an int. */
	if ((unsigned)request != TIOCOUTQ || calls.queued == 0)
		return __real_ioctl(fd, (unsigned)request, value);
	*value = calls.queued;
	return 0;
}

int
__wrap_listen(int fd, int backlog)
{
	calls.backlog = backlog;
	if (fails(calls.listen_error))
		return -1;
	return __real_listen(fd, backlog);
}

int
__wrap_poll(struct pollfd *fds, nfds_t count, int ms)
{
	size_t i;

	if (!calls.in_progress)
		return __real_poll(fds, count, ms);
	assert_int_equal(fds[0].events, POLLOUT);
	i = calls.polls++;
	assert_true(i < LENGTH(calls.waits));
	calls.waits[i] = ms;
	if (i < LENGTH(calls.poll_errors) && calls.poll_errors[i] != 0)
		return fails(calls.poll_errors[i]);
	calls.in_progress = false;
	fds[0].revents = calls.answered ? POLLOUT : 0;
	return calls.answered;
}

/* Only what is said of routes is received here. */
ssize_t
__wrap_recv(int fd, void *buffer, size_t size, int flags)
{
	struct nlmsghdr header = {.nlmsg_type = calls.answer_type};
	struct rtmsg route = {.rtm_type = (unsigned char)calls.answer};
	uint8_t *bytes = buffer;

	if (calls.answer_type == 0 && calls.answer_error == 0)
		return __real_recv(fd, buffer, size, flags);
	if (fails(calls.answer_error))
		return -1;
	assert_true(calls.answer_size <= size);
	memcpy(bytes, &header, sizeof(header));
	if (calls.answer_type == NLMSG_ERROR)
		memcpy(bytes + sizeof(header), &calls.answer, sizeof(int));
	else
		memcpy(bytes + sizeof(header), &route, sizeof(route));
	return (ssize_t)calls.answer_size;
}

ssize_t
__wrap_send(int fd, const void *buffer, size_t size, int flags)
{
	calls.sends++;
	calls.send_flags = flags;
	if (calls.send_interrupts > 0 && fails(EINTR)) {
		calls.send_interrupts--;
		return -1;
	}
	if (fails(calls.send_error))
		return -1;
	return __real_send(fd, buffer,
	    calls.send_most != 0 && size > calls.send_most ? calls.send_most
							   : size,
	    flags);
}

int
__wrap_setsockopt(
    int fd, int level, int option, const void *value, socklen_t length)
{
	size_t i;

	if (!(level == SOL_SOCKET && option == SO_SNDTIMEO) &&
	    level != AF_VSOCK) {
		calls.others_set++;
		return __real_setsockopt(fd, level, option, value, length);
	}
	if (level == AF_VSOCK && option != SO_VM_SOCKETS_CONNECT_TIMEOUT) {
		i = calls.buffers_set++;
		if (i < LENGTH(calls.buffers) && calls.connects == 0 &&
		    length == sizeof(*calls.buffers)) {
			memcpy(&calls.buffers[i], value, length);
			calls.buffer_options[i] = option;
		}
		return 0;
	}
	i = calls.limits_set++;
	if (i < LENGTH(calls.limits) && length == sizeof(*calls.limits)) {
		memcpy(&calls.limits[i], value, length);
		calls.limit_levels[i] = level;
		calls.limit_options[i] = option;
	}
	if (calls.limits_set == calls.limit_fails_at)
		return fails(calls.limit_error);
	return level == AF_VSOCK
		   ? 0
		   : __real_setsockopt(fd, level, option, value, length);
}

int
__wrap_shutdown(int fd, int how)
{
	calls.last_shutdown = how;
	return __real_shutdown(fd, how);
}

int
__wrap_socket(int family, int type, int protocol)
{
	if (fails(calls.socket_error))
		return -1;
	if (family != AF_VSOCK && !calls.connects_nothing)
		return __real_socket(family, type, protocol);
	calls.vsock_sockets += family == AF_VSOCK;
	return __real_socket(AF_INET, type, protocol);
}

static struct address
loopback(uint16_t port)
{
	static const uint8_t bytes[4] = {127, 0, 0, 1};

	return address_ip(AF_INET, bytes, port);
}

static int
get_option(int fd, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	assert_int_equal(
	    __real_getsockopt(fd, level, option, &value, &length), 0);
	return value;
}

/* Close-on-exec and blocking; reads may take as long as they take. */
static void
assert_plain(int fd)
{
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	assert_time_limit(fd, SO_RCVTIMEO, 0);
}

static void
assert_resets_on_close(int fd)
{
	struct linger linger = {-1, -1};
	socklen_t length = sizeof(linger);

	assert_int_equal(
	    __real_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length), 0);
	assert_int_equal(linger.l_onoff, 1);
	assert_int_equal(linger.l_linger, 0);
}

static void
assert_tcp_options(int fd)
{
	assert_int_not_equal(get_option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
	assert_int_not_equal(get_option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
	assert_int_equal(get_option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 60);
	assert_int_equal(get_option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 10);
	assert_int_equal(get_option(fd, IPPROTO_TCP, TCP_KEEPCNT), 6);
	assert_int_equal(get_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT),
	    (int)stream_stall_ms);
	assert_int_not_equal(get_option(fd, SOL_SOCKET, SO_OOBINLINE), 0);
	assert_resets_on_close(fd);
}

static void
test_listen(void **state)
{
	/* Fails if the proxy can't be reached, or drops connections that come
	 * all at once, or can't be restarted at once. */
	struct address address = loopback(0);
	int fd, client;

	(void)state;
	fd = stream_listen(&address);
	assert_true(fd >= 0);
	assert_plain(fd);
	assert_int_not_equal(get_option(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	assert_int_equal(calls.backlog, 4096);
	assert_int_equal(stream_local_address(fd, &address), 0);
	assert_int_equal(address.any.sa_family, AF_INET);
	assert_int_not_equal(address_port(&address), 0);
	client = connect_loopback(&address.in);
	assert_true(client >= 0);
	close(client);
	close(fd);
}

static void
test_listen_fails(void **state)
{
	/* Fails if the reason why a proxy can't start is lost. */
	static const uint8_t elsewhere[4] = {192, 0, 2, 1};
	int before = open_descriptors(), fd;
	struct sockaddr_in taken;
	struct address address;

	(void)state;
	fd = listen_loopback(&taken);
	address = loopback(ntohs(taken.sin_port));
	calls.close_sets_errno = true;
	assert_int_equal(stream_listen(&address), -1);
	assert_int_equal(errno, EADDRINUSE);
	close(fd);
	address = address_ip(AF_INET, elsewhere, 0);
	assert_int_equal(stream_listen(&address), -1);
	assert_int_equal(errno, EADDRNOTAVAIL);
	/* Between bind(2) and listen(2) another may have taken the port. */
	calls.listen_error = EADDRINUSE;
	address = loopback(0);
	assert_int_equal(stream_listen(&address), -1);
	assert_int_equal(errno, EADDRINUSE);
	calls.socket_error = EAFNOSUPPORT;
	address = vsock_address(VMADDR_CID_ANY, 1);
	assert_int_equal(stream_listen(&address), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect(void **state)
{
	/* Fails if connections are slow with small messages, outlive dead
	 * peers, or don't wait where they should. */
	struct sockaddr_in name;
	struct address address;
	int listener, fd, peer;

	(void)state;
	listener = listen_loopback(&name);
	address = loopback(ntohs(name.sin_port));
	fd = stream_connect(&address, DEADLINE_S * 1000);
	assert_true(fd >= 0);
	assert_plain(fd);
	assert_tcp_options(fd);
	assert_int_equal(calls.limits_set, 0);
	assert_int_equal(calls.waiting_connects, 0);
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	limit_time(peer);
	assert_passes(fd, peer, "hello");
	close(fd);
	close(peer);
	close(listener);
}

/* That the buffer of a vsock socket was set to this, once. */
static void
assert_vsock_buffer(uint64_t size)
{
	static const int options[] = {
	    SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE};

	assert_int_equal(calls.buffers_set, size == 0 ? 0 : 2);
	for (size_t i = 0; i < calls.buffers_set; i++) {
		assert_int_equal(calls.buffer_options[i], options[i]);
		assert_int_equal(calls.buffers[i], size);
	}
	assert_int_equal(calls.others_set, 0);
}

/* A connection whose `ours` is of stream's making. */
static struct pair
accept_stream(void)
{
	struct address address = loopback(0);
	int listener = stream_listen(&address);
	struct pair pair;

	assert_true(listener >= 0);
	assert_int_equal(stream_local_address(listener, &address), 0);
	pair.peer = connect_loopback(&address.in);
	assert_true(pair.peer >= 0);
	pair.ours = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(pair.ours >= 0);
	close(listener);
	return pair;
}

/* What a listener accepts must have all options. Closes it. */
static void
check_accepted(int listener, const struct sockaddr_in *name)
{
	int client = connect_loopback(name), fd;

	assert_true(client >= 0);
	assert_true(wait_for(listener, POLLIN));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_plain(fd);
	assert_tcp_options(fd);
	limit_time(fd);
	assert_passes(client, fd, "hello");
	close(fd);
	close(client);
	close(listener);
}

static void
test_accepted_options(void **state)
{
	/* Fails if accepted sockets, for which nothing is set, don't get what
	 * connected ones have. */
	struct address address = loopback(0);
	int listener;

	(void)state;
	listener = stream_listen(&address);
	assert_true(listener >= 0);
	assert_int_equal(stream_local_address(listener, &address), 0);
	check_accepted(listener, &address.in);
}

static void
test_user_timeout(void **state)
{
	/* Fails if --tcp-user-timeout doesn't reach a socket, or limits
	 * connecting, which has a limit of its own. */
	static const unsigned timeouts[] = {1000, 1000000000, 0};
	struct sockaddr_in name;
	int listener = listen_loopback(&name);
	struct address address = loopback(ntohs(name.sin_port));

	(void)state;
	for (size_t i = 0; i < LENGTH(timeouts); i++) {
		struct pair pair;
		int fd;

		stream_stall_ms = timeouts[i];
		pair = accept_stream();
		assert_tcp_options(pair.ours);
		close_pair(pair);
		fd = stream_connect(&address, DEADLINE_S * 1000);
		assert_true(fd >= 0);
		assert_tcp_options(fd);
		assert_int_equal(calls.connect_limit, 0);
		close(fd);
	}
	close(listener);
}

/* Adopts a socket, which must be left as it was, and closes it. */
static void
assert_not_adopted(int fd, bool is_vsock)
{
	int flags = fcntl(fd, F_GETFD);

	start();
	assert_int_equal(stream_adopt(fd, is_vsock), -1);
	assert_int_equal(calls.others_set, 0);
	assert_int_equal(calls.buffers_set, 0);
	assert_int_equal(fcntl(fd, F_GETFD), flags);
	if (flags != -1)
		assert_int_equal(close(fd), 0);
}

static void
test_adopt_not(void **state)
{
	/* Fails if a mistake in a unit file starts a proxy that nobody can
	 * reach, or that answers to the wrong ones. */
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int before = open_descriptors(), fd, fds[2];
	struct sockaddr_in tcp;
	struct pair pair;

	(void)state;
	for (int is_vsock = 0; is_vsock < 2; is_vsock++) {
		assert_not_adopted(-1, is_vsock);
		fd = socket(AF_INET, SOCK_STREAM, 0);
		close(fd);
		assert_not_adopted(fd, is_vsock); /* nothing is open there */
		assert_int_equal(pipe(fds), 0);
		assert_not_adopted(fds[0], is_vsock);
		assert_not_adopted(fds[1], is_vsock);
		assert_not_adopted(socket(AF_INET, SOCK_STREAM, 0), is_vsock);
		assert_not_adopted(bind_loopback(&tcp), is_vsock);
		pair = make_pair(); /* as with Accept=yes */
		assert_not_adopted(pair.ours, is_vsock);
		close(pair.peer);
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		tcp.sin_port = 0;
		assert_int_equal(
		    bind(fd, (struct sockaddr *)&tcp, sizeof(tcp)), 0);
		assert_not_adopted(fd, is_vsock);
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		assert_int_equal(
		    bind(fd, (struct sockaddr *)&name, sizeof(name.sun_family)),
		    0);
		assert_int_equal(__real_listen(fd, 1), 0);
		assert_not_adopted(fd, is_vsock);
	}
	assert_not_adopted(listen_loopback(&tcp), true);
	assert_int_equal(open_descriptors(), before);
}

/* Adopts a listener of a manager that sets nothing; what it accepts must be
 * like what stream_listen()'s do. */
static void
check_adopted(int listener, const struct sockaddr_in *name)
{
	assert_int_equal(fcntl(listener, F_SETFD, 0), 0); /* as passed */
	assert_int_equal(stream_adopt(listener, false), listener);
	assert_plain(listener);
	assert_tcp_options(listener);
	check_accepted(listener, name);
}

static void
test_adopt(void **state)
{
	/* Fails if a listener that a service manager passes is refused, or its
	 * connections lack what others have. */
	struct address any = address_ip(AF_INET6, (const uint8_t[16]){0}, 0);
	struct sockaddr_in name;
	int listener;

	(void)state;
	stream_vsock_buffer = 262144;
	check_adopted(listen_loopback(&name), &name);
	check_adopted(listen_loopback(&name), &name);
	assert_int_equal(calls.buffers_set, 0);
	stream_vsock_buffer = 0;
	listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (listener == -1 || bind(listener, &any.any, any.length) == -1) {
		print_message("no IPv6 here: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(__real_listen(listener, 1), 0);
	assert_int_equal(stream_local_address(listener, &any), 0);
	name.sin_port = any.in.sin_port;
	check_adopted(listener, &name);
}

static void
test_adopt_other_protocols(void **state)
{
	/* Fails if a listener for MPTCP or SCTP is taken for one of TCP, whose
	 * options and resets it doesn't have. */
	static const int protocols[] = {IPPROTO_MPTCP, IPPROTO_SCTP};
	struct sockaddr_in name;
	int listener = listen_loopback(&name);

	(void)state;
	for (size_t i = 0; i < LENGTH(protocols); i++) {
		calls.domain = AF_INET;
		calls.protocol = protocols[i];
		assert_int_equal(stream_adopt(listener, false), -1);
	}
	close(listener);
}

static void
test_adopt_vsock(void **state)
{
	/* Fails if a vsock listener that is passed is refused, is given options
	 * of TCP, or lacks --vsock-buffer, or if one is taken that has no
	 * streams. It is one of TCP that calls itself vsock. */
	struct sockaddr_un unix_name = {.sun_family = AF_UNIX};
	struct sockaddr_in name;
	int listener;

	(void)state;
	for (unsigned size = 0; size <= 262144; size += 262144) {
		stream_vsock_buffer = size;
		start();
		calls.domain = AF_VSOCK;
		listener = listen_loopback(&name);
		assert_int_equal(fcntl(listener, F_SETFD, 0), 0);
		assert_int_equal(stream_adopt(listener, true), listener);
		assert_plain(listener);
		assert_int_equal(calls.others_set, 0);
		assert_vsock_buffer(size);
		assert_int_equal(stream_adopt(listener, false), -1);
		close(listener);
	}
	stream_vsock_buffer = 0;
	/* vsock has packets, too. This one is of AF_UNIX. */
	calls.domain = AF_VSOCK;
	listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&unix_name,
			     sizeof(unix_name.sun_family)),
	    0);
	assert_int_equal(__real_listen(listener, 1), 0);
	assert_int_equal(stream_adopt(listener, true), -1);
	close(listener);
}

static void
test_connect_refused(void **state)
{
	/* Fails if a refusal isn't told from other failures. */
	int before = open_descriptors(), bound;
	struct sockaddr_in name;
	struct address address;

	(void)state;
	bound = bind_loopback(&name); /* nobody else can listen there */
	address = loopback(ntohs(name.sin_port));
	assert_int_equal(stream_connect(&address, DEADLINE_S * 1000), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(bound);
	assert_int_equal(open_descriptors(), before);
}

/* Makes a listener whose backlog is full; *filler fills it. */
static int
listen_full(struct sockaddr_in *name, int *filler)
{
	int listener = bind_loopback(name);

	assert_int_equal(__real_listen(listener, 0), 0);
	*filler = connect_loopback(name);
	assert_true(*filler >= 0);
	assert_true(wait_for(listener, POLLIN));
	return listener;
}

static void
test_connect_times_out(void **state)
{
	/* Fails if a peer that doesn't answer holds a client for minutes. */
	int before = open_descriptors(), listener, filler, fd, error;
	struct sockaddr_in name;
	struct address address;
	long begin, taken;

	(void)state;
	listener = listen_full(&name, &filler);
	address = loopback(ntohs(name.sin_port));
	begin = now_ms();
	fd = stream_connect(&address, 300);
	error = errno;
	taken = now_ms() - begin;
	assert_int_equal(fd, -1);
	assert_int_equal(error, ETIMEDOUT);
	assert_in_range(taken, 290, DEADLINE_S * 1000);
	close(filler);
	close(listener);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect_fails(void **state)
{
	/* Fails if the reason is lost or misnamed, or a descriptor leaks. */
	static const int errors[] = {
	    ENETUNREACH, EHOSTUNREACH, EACCES, ETIMEDOUT, ECONNRESET};
	int before = open_descriptors();
	struct address address = loopback(1);

	(void)state;
	for (size_t i = 0; i < LENGTH(errors); i++) {
		start();
		calls.connect_errors[0] = errors[i];
		assert_int_equal(stream_connect(&address, 1000), -1);
		assert_int_equal(errno, errors[i]);
		assert_int_equal(calls.connects, 1);
	}
	start();
	calls.socket_error = EMFILE;
	assert_int_equal(stream_connect(&address, 1000), -1);
	assert_int_equal(errno, EMFILE);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect_interrupted(void **state)
{
	/* Fails if a proxy that was stopped and goes on, or has no memory for a
	 * moment, drops connections. */
	struct sockaddr_in name;
	struct address address;
	int listener, fd;

	(void)state;
	listener = listen_loopback(&name);
	address = loopback(ntohs(name.sin_port));
	calls.connect_errors[0] = calls.connect_errors[1] = EINTR;
	fd = stream_connect(&address, 1000);
	assert_true(fd >= 0);
	assert_int_equal(calls.connects, 3);
	close(fd);
	start();
	calls.connect_errors[0] = EINPROGRESS;
	calls.poll_errors[0] = EINTR;
	calls.poll_errors[1] = ENOMEM;
	calls.answered = true;
	fd = stream_connect(&address, 1000);
	assert_true(fd >= 0);
	assert_int_equal(calls.polls, 3);
	close(fd);
	close(listener);
}

static void
test_connect_without_limit(void **state)
{
	/* Fails if there is no limit of time where the kernel sets none. */
	int before = open_descriptors();
	struct address address = vsock_address(3, 1200);

	(void)state;
	calls.connect_errors[0] = EINPROGRESS;
	calls.limit_error = EDOM;
	calls.limit_fails_at = 1;
	assert_int_equal(stream_connect(&address, 1000), -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_int_equal(calls.limits_set, 2);
	assert_int_equal(calls.polls, 1);
	assert_int_equal(calls.waits[0], 1000);
	/* Nor if waiting fails: a filter of system calls may forbid it. */
	start();
	calls.connect_errors[0] = EINPROGRESS;
	calls.poll_errors[0] = EPERM;
	assert_int_equal(stream_connect(&address, 1000), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect_itself(void **state)
{
	/* Fails if a client whose server is down gets its own bytes back: a
	 * socket that is bound to the port it connects to is its own peer, as
	 * one may be that gets this port from the kernel. */
	struct address address = loopback(1);
	int before = open_descriptors();

	(void)state;
	calls.connects_itself = true;
	assert_int_equal(stream_connect(&address, DEADLINE_S * 1000), -1);
	assert_int_equal(errno, ECONNREFUSED);
	assert_int_equal(calls.connects, 1);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect_reset_at_once(void **state)
{
	/* Fails if a TCP server that answers at once and resets isn't heard, or
	 * vsock's word for a refusal passes for a connection. */
	struct address tcp = loopback(1), vsock = vsock_address(3, 1200);
	int fd;

	(void)state;
	calls.connect_errors[0] = calls.connect_errors[1] = EINPROGRESS;
	calls.pending_error = ECONNRESET;
	calls.answered = true;
	fd = stream_connect(&tcp, 1000);
	assert_true(fd >= 0);
	assert_plain(fd);
	close(fd);
	assert_int_equal(stream_connect(&vsock, 1000), -1);
	assert_int_equal(errno, ECONNRESET);
	assert_int_equal(calls.polls, 2);
}

static void
test_connect_closed_at_once(void **state)
{
	/* Fails if a vsock peer that accepts and closes at once is noticed only
	 * when the time is over: see DESIGN.md, Connecting. */
	struct address address = vsock_address(3, 1200);
	int fd;

	(void)state;
	calls.connect_errors[0] = EINPROGRESS;
	calls.answered = true;
	fd = stream_connect(&address, 1000);
	assert_true(fd >= 0);
	assert_plain(fd);
	assert_int_equal(calls.connects, 1);
	assert_int_equal(calls.waiting_connects, 0);
	assert_int_equal(calls.polls, 1);
	close(fd);
}

static void
test_connect_vsock(void **state)
{
	/* Fails if the kernel's own limit of 2 s ends slow vsock connections,
	 * or vsock is treated like TCP. */
	struct address address = vsock_address(3, 1200);
	int fd;

	(void)state;
	calls.connects_nothing = true;
	fd = stream_connect(&address, 12345);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(calls.vsock_sockets, 1);
	assert_int_equal(calls.connects, 1);
	/* The second is of what is sent before the data. */
	assert_int_equal(calls.limits_set, 2);
	assert_int_equal(calls.limit_levels[0], AF_VSOCK);
	assert_int_equal(calls.limit_options[0], SO_VM_SOCKETS_CONNECT_TIMEOUT);
	assert_int_equal(calls.limit_levels[1], SOL_SOCKET);
	assert_int_equal(calls.limit_options[1], SO_SNDTIMEO);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(calls.limits[i].tv_sec, 12);
		assert_int_equal(calls.limits[i].tv_usec, 345000);
	}
	assert_int_equal(calls.others_set, 0);
}

static void
test_send(void **state)
{
	/* Fails if what comes before the data leaves in more than one packet,
	 * doesn't wait for room, ends by a SIGCONT, or can kill the process
	 * with SIGPIPE. */
	uint8_t bytes[52], received[53];
	struct pair pair = make_pair();

	(void)state;
	noise_fill(&(struct noise){1}, bytes, sizeof(bytes));
	calls.send_interrupts = 2;
	assert_int_equal(stream_send(pair.ours, bytes, sizeof(bytes)), 0);
	assert_int_equal(calls.sends, 3);
	assert_int_equal(calls.send_flags, MSG_NOSIGNAL);
	assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
	assert_int_equal(
	    read_all(pair.peer, received, sizeof(received)), sizeof(bytes));
	assert_memory_equal(received, bytes, sizeof(bytes));
	close_pair(pair);
}

static void
test_send_short(void **state)
{
	/* Fails if half a preamble passes for a whole one, or the other half
	 * follows when the time may be over. */
	static const uint8_t bytes[6];
	struct pair pair = make_pair();

	(void)state;
	calls.send_most = 5;
	assert_int_equal(stream_send(pair.ours, bytes, sizeof(bytes)), -1);
	assert_int_equal(errno, ENOBUFS);
	assert_int_equal(calls.sends, 1);
	close_pair(pair);
}

static void
test_send_failing(void **state)
{
	/* Fails if the log names the wrong reason. EAGAIN: of SO_SNDTIMEO. */
	static const struct {
		int error, told;
	} cases[] = {
	    {ECONNRESET, ECONNRESET}, {EPIPE, EPIPE}, {EAGAIN, ETIMEDOUT}};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		calls.send_error = cases[i].error;
		assert_int_equal(stream_send(-1, (uint8_t[6]){0}, 6), -1);
		assert_int_equal(errno, cases[i].told);
	}
}

static void
test_vsock_buffer(void **state)
{
	/* Fails if --vsock-buffer isn't what vsock sockets get before they are
	 * used, is cut by the kernel's maximum, or is set unasked. */
	static const unsigned sizes[] = {0, 262144, 1073741824};
	struct address address = vsock_address(3, 1200), name = loopback(0);
	int before = open_descriptors(), fd;

	(void)state;
	for (size_t i = 0; i < LENGTH(sizes); i++) {
		stream_vsock_buffer = sizes[i];
		start();
		calls.connects_nothing = true;
		fd = stream_connect(&address, 1000);
		assert_true(fd >= 0);
		close(fd);
		assert_vsock_buffer(sizes[i]);
		/* Accepted ones inherit from the listener. In truth, this one
		 * is none, and so can't be bound to such an address. */
		start();
		assert_int_equal(stream_listen(&address), -1);
		assert_int_equal(calls.vsock_sockets, 1);
		assert_vsock_buffer(sizes[i]);
		/* TCP has no such thing. */
		start();
		fd = stream_listen(&name);
		assert_true(fd >= 0);
		close(fd);
		assert_int_equal(calls.buffers_set, 0);
	}
	stream_vsock_buffer = 0;
	assert_int_equal(open_descriptors(), before);
}

static struct host_port
host_port(const char *text)
{
	struct host_port result;

	assert_true(host_port_parse(text, 0, &result));
	return result;
}

static void
test_open_by_name(void **state)
{
	/* Fails if names aren't resolved, or it isn't told what to. */
	struct host_port name = host_port("some.name:0");
	char text[64], opened[ADDRESS_TEXT_SIZE];
	struct address local;
	const char *reason = NULL;
	int listener, fd;

	(void)state;
	listener = stream_open(&name, 0, opened, &reason);
	assert_true(listener >= 0);
	assert_null(reason);
	assert_int_not_equal(
	    get_option(listener, SOL_SOCKET, SO_ACCEPTCONN), 0);
	assert_int_equal(stream_local_address(listener, &local), 0);
	(void)snprintf(
	    text, sizeof(text), "some.name:%u", address_port(&local));
	name = host_port(text);
	fd = stream_open(&name, DEADLINE_S * 1000, opened, &reason);
	assert_true(fd >= 0);
	assert_plain(fd);
	assert_tcp_options(fd);
	address_format(&local, text, sizeof(text));
	assert_string_equal(opened, text);
	assert_int_equal(calls.frees, 2);
	close(fd);
	close(listener);
}

/* What a name resolves to: these ports of 127.0.0.1, in this order. */
static void
resolve_to(const uint16_t *ports, size_t count)
{
	static struct addrinfo entries[4];
	static struct address addresses[4];

	memset(entries, 0, sizeof(entries));
	for (size_t i = 0; i < count; i++) {
		addresses[i] = loopback(ports[i]);
		entries[i].ai_family = AF_INET;
		entries[i].ai_socktype = SOCK_STREAM;
		entries[i].ai_addr = &addresses[i].any;
		entries[i].ai_addrlen = addresses[i].length;
		entries[i].ai_next = i + 1 < count ? &entries[i + 1] : NULL;
	}
	calls.list = entries;
}

static void
test_open_tries_all(void **state)
{
	/* Fails if one dead address of a name makes all of it unreachable. */
	struct host_port name = host_port("some.name:1");
	struct sockaddr_in bound_name, listener_name;
	int bound = bind_loopback(&bound_name);
	int listener = listen_loopback(&listener_name);
	const uint16_t ports[] = {ntohs(bound_name.sin_port),
	    ntohs(bound_name.sin_port), ntohs(listener_name.sin_port),
	    ntohs(bound_name.sin_port)};
	int before = open_descriptors(), fd;
	char opened[ADDRESS_TEXT_SIZE];
	char expected[ADDRESS_TEXT_SIZE];
	const char *reason;

	(void)state;
	resolve_to(ports, LENGTH(ports));
	fd = stream_open(&name, DEADLINE_S * 1000, opened, &reason);
	assert_true(fd >= 0);
	(void)snprintf(expected, sizeof(expected), "127.0.0.1:%u", ports[2]);
	assert_string_equal(opened, expected);
	assert_int_equal(calls.connects, 3);
	assert_int_equal(calls.frees, 1);
	assert_ptr_equal(calls.freed, calls.list);
	close(fd);

	/* None of them works: the last one's reason. */
	start();
	resolve_to(ports, 2);
	calls.connect_errors[0] = ENETUNREACH;
	fd = stream_open(&name, DEADLINE_S * 1000, opened, &reason);
	assert_int_equal(fd, -1);
	assert_string_equal(reason, strerror(ECONNREFUSED));
	assert_string_equal(opened, "some.name:1");
	assert_int_equal(calls.connects, 2);
	assert_int_equal(calls.frees, 1);
	assert_int_equal(open_descriptors(), before);
	close(bound);
	close(listener);
}

static void
test_open_shares_time(void **state)
{
	/* Fails if a name with many dead addresses takes many times as long as
	 * it may. */
	static const uint16_t ports[] = {1, 1, 1};
	struct host_port name = host_port("some.name:1");
	char opened[ADDRESS_TEXT_SIZE];
	const char *reason;

	(void)state;
	resolve_to(ports, LENGTH(ports));
	for (size_t i = 0; i < LENGTH(ports); i++)
		calls.connect_errors[i] = EINPROGRESS;
	assert_int_equal(stream_open(&name, 4500, opened, &reason), -1);
	assert_string_equal(reason, strerror(ETIMEDOUT));
	assert_int_equal(calls.polls, 3);
	for (size_t i = 0; i < LENGTH(ports); i++)
		assert_int_equal(calls.waits[i], 1500);
}

static void
test_open_streams_only(void **state)
{
	/* Fails if an address is tried once for each kind of socket, each with
	 * a part of the time. */
	struct host_port name = host_port("127.0.0.1:1");
	char opened[ADDRESS_TEXT_SIZE];
	const char *reason;

	(void)state;
	for (size_t i = 0; i < LENGTH(calls.connect_errors); i++)
		calls.connect_errors[i] = EINPROGRESS;
	assert_int_equal(stream_open(&name, 1000, opened, &reason), -1);
	assert_int_equal(calls.polls, 1);
	assert_int_equal(calls.waits[0], 1000);
}

static void
test_open_share_too_small(void **state)
{
	/* Fails if a share of less than a millisecond means no time at all. */
	static const uint16_t ports[] = {1, 1, 1};
	struct host_port name = host_port("some.name:1");
	char opened[ADDRESS_TEXT_SIZE];
	const char *reason;

	(void)state;
	resolve_to(ports, LENGTH(ports));
	for (size_t i = 0; i < LENGTH(ports); i++)
		calls.connect_errors[i] = EINPROGRESS;
	assert_int_equal(stream_open(&name, 2, opened, &reason), -1);
	assert_int_equal(calls.polls, 3);
	for (size_t i = 0; i < calls.polls; i++)
		assert_int_equal(calls.waits[i], 1);
}

static void
test_open_unresolved(void **state)
{
	/* Fails if the log doesn't say why a name isn't resolved. */
	struct host_port name = host_port("some.name:1");
	char opened[ADDRESS_TEXT_SIZE];
	const char *reason = NULL;

	(void)state;
	calls.resolve_error = EAI_NONAME;
	assert_int_equal(stream_open(&name, 1000, opened, &reason), -1);
	assert_string_equal(reason, gai_strerror(EAI_NONAME));
	assert_string_equal(opened, "some.name:1");
	calls.resolve_error = EAI_SYSTEM;
	calls.resolve_errno = EMFILE;
	assert_int_equal(stream_open(&name, 0, opened, &reason), -1);
	assert_string_equal(reason, strerror(EMFILE));
	assert_int_equal(calls.frees, 0);
}

static void
test_local_address(void **state)
{
	/* Fails if the log names the wrong listener. */
	static const uint8_t mapped[16] = {
	    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7};
	struct sockaddr_in name;
	struct address address;
	char text[ADDRESS_TEXT_SIZE];
	int fd;

	(void)state;
	fd = bind_loopback(&name);
	assert_int_equal(stream_local_address(fd, &address), 0);
	assert_int_equal(address.length, sizeof(address.in));
	assert_int_equal(address_port(&address), ntohs(name.sin_port));
	close(fd);
	calls.local = address_ip(AF_INET6, mapped, 80);
	assert_int_equal(stream_local_address(0, &address), 0);
	address_format(&address, text, sizeof(text));
	assert_string_equal(text, "192.0.2.7:80");
	calls.local_error = EBADF;
	assert_int_equal(stream_local_address(0, &address), -1);
	assert_int_equal(errno, EBADF);
}

/* Addresses before and after NAT: as numbers, 0xffff for a mapped IPv4. */
#define IPV4(last, port) \
	address_ip(AF_INET, (const uint8_t[4]){10, 0, 0, last}, port)
#define IPV6(last, port)     \
	address_ip(AF_INET6, \
	    (const uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = last}, port)
#define MAPPED(last, port)                                                 \
	address_ip(AF_INET6,                                               \
	    (const uint8_t[16]){[10] = 0xff, [11] = 0xff, 10, 0, 0, last}, \
	    port)

static int
ask_whether_local(sa_family_t family, const char *text)
{
	uint8_t bytes[16];
	struct address address;

	assert_int_equal(inet_pton(family, text, bytes), 1);
	address = address_ip(family, bytes, 443);
	return stream_is_local(&address);
}

static void
test_is_local(void **state)
{
	/* Fails if the machine's own addresses don't count as such, or others
	 * do. */
	int before = open_descriptors();

	(void)state;
	assert_int_equal(ask_whether_local(AF_INET, "127.0.0.1"), 1);
	assert_int_equal(ask_whether_local(AF_INET, "127.9.9.9"), 1);
	assert_int_equal(ask_whether_local(AF_INET, "240.0.0.1"), 0);
	assert_int_equal(ask_whether_local(AF_INET, "255.255.255.255"), 0);
	assert_int_equal(ask_whether_local(AF_INET6, "2001:db8::1"), 0);
	assert_int_equal(open_descriptors(), before);
}

static void
test_is_local_answers(void **state)
{
	/* Fails if another kind of route is taken for a local one, or a failure
	 * for an answer. */
	static const struct {
		uint16_t type;
		int answer;
		size_t missing; /* bytes */
		int expected;
	} cases[] = {
	    {RTM_NEWROUTE, RTN_LOCAL, 0, 1},
	    {RTM_NEWROUTE, RTN_UNICAST, 0, 0},
	    {RTM_NEWROUTE, RTN_BROADCAST, 0, 0},
	    {RTM_NEWROUTE, RTN_UNREACHABLE, 0, 0},
	    {RTM_NEWROUTE, RTN_LOCAL, 1, -1},
	    {RTM_NEWROUTE, RTN_UNICAST, 28, -1},
	    {NLMSG_ERROR, -ENETUNREACH, 0, 0},
	    {NLMSG_ERROR, -EHOSTUNREACH, 0, 0},
	    {NLMSG_ERROR, -ENOBUFS, 0, -1},
	    {NLMSG_ERROR, -EPERM, 0, -1},
	    {NLMSG_ERROR, 0, 0, -1},
	    {NLMSG_ERROR, -ENETUNREACH, 12, -1},
	    {NLMSG_DONE, RTN_LOCAL, 0, -1},
	};
	int before = open_descriptors();

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		calls.answer_type = cases[i].type;
		calls.answer = cases[i].answer;
		calls.answer_size = 28 - cases[i].missing;
		if (ask_whether_local(AF_INET, "127.0.0.1") !=
		    cases[i].expected)
			fail_msg("case %zu", i);
	}
	calls.answer_error = ENOMEM;
	assert_int_equal(ask_whether_local(AF_INET, "127.0.0.1"), -1);
	calls.answer_error = 0;
	calls.socket_error = EMFILE;
	assert_int_equal(ask_whether_local(AF_INET, "127.0.0.1"), -1);
	assert_int_equal(open_descriptors(), before);
}

static void
test_connect_nearly_itself(void **state)
{
	/* Fails if a server is taken for the client itself because their ports,
	 * or nearly all of their addresses, are the same. */
	const struct {
		struct address local, peer;
		bool is_itself;
	} cases[] = {
	    {IPV4(1, 9000), IPV4(1, 9000), true},
	    {IPV4(1, 9000), IPV4(2, 9000), false},
	    {IPV4(1, 9000), IPV4(1, 9001), false},
	    {IPV6(1, 9000), IPV6(1, 9000), true},
	    {IPV6(1, 9000), IPV6(2, 9000), false},
	    {IPV6(1, 9000), IPV6(1, 9001), false},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		int fd;

		start();
		calls.connects_nothing = true;
		calls.local = cases[i].local;
		calls.peer = cases[i].peer;
		fd = stream_connect(&calls.peer, 1000);
		if (fd == -1)
			assert_int_equal(errno, ECONNREFUSED);
		assert_int_equal(fd == -1, cases[i].is_itself);
		if (fd != -1)
			close(fd);
	}
}

static void
test_original_destination(void **state)
{
	/* Fails if a redirected connection goes to the wrong target. */
	const struct {
		struct address local;
		int level;
		struct address nat;
		const char *target;
	} cases[] = {
	    {IPV4(1, 9000), SOL_IP, IPV4(2, 443), "10.0.0.2:443"},
	    /* A v4-mapped client was redirected by IPv4's NAT. */
	    {MAPPED(1, 9000), SOL_IP, IPV4(2, 443), "10.0.0.2:443"},
	    {IPV6(1, 9000), SOL_IPV6, IPV6(2, 443), "[2001:db8::2]:443"},
	    /* Only the port, or only the address, is another one. */
	    {IPV4(1, 9000), SOL_IP, IPV4(1, 443), "10.0.0.1:443"},
	    {IPV4(1, 9000), SOL_IP, IPV4(2, 9000), "10.0.0.2:9000"},
	    {IPV6(1, 9000), SOL_IPV6, IPV6(1, 443), "[2001:db8::1]:443"},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address target;
		char text[ADDRESS_TEXT_SIZE];

		start();
		calls.local = cases[i].local;
		calls.nat_level = cases[i].level;
		calls.nat = cases[i].nat;
		assert_null(stream_original_destination(0, &target));
		address_format(&target, text, sizeof(text));
		assert_string_equal(text, cases[i].target);
	}
}

/* This must be the reason: NULL is none. */
static void
assert_reason(const char *reason, const char *expected)
{
	assert_non_null(reason);
	assert_string_equal(reason, expected);
}

static void
test_no_loop(void **state)
{
	/* Fails if the proxy connects to itself without end: a direct client's
	 * original destination is the proxy. */
	struct {
		struct address local;
		int level;
		struct address nat;
	} cases[] = {
	    {IPV4(1, 9000), SOL_IP, IPV4(1, 9000)},
	    {MAPPED(1, 9000), SOL_IP, IPV4(1, 9000)},
	    {IPV6(1, 9000), SOL_IPV6, IPV6(1, 9000)},
	    {IPV6(1, 9000), SOL_IPV6, IPV6(1, 9000)}, /* with a scope */
	};

	(void)state;
	cases[3].local.in6.sin6_scope_id = 2;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		struct address target;

		start();
		calls.local = cases[i].local;
		calls.nat_level = cases[i].level;
		calls.nat = cases[i].nat;
		assert_reason(stream_original_destination(0, &target),
		    "not redirected, or from this listener to itself");
	}
}

static void
test_nearly_own_address(void **state)
{
	/* Fails if a target that differs from the proxy's own address by one
	 * bit is taken for that, and refused. */
	struct address target;

	(void)state;
	for (size_t i = 0; i < 16; i++) {
		start();
		calls.local = calls.nat = IPV6(1, 9000);
		calls.nat.in6.sin6_addr.s6_addr[i] ^= 1;
		calls.nat_level = SOL_IPV6;
		assert_null(stream_original_destination(0, &target));
		assert_true(same_address(&target, &calls.nat));
	}
	for (size_t i = 0; i < 4; i++) {
		start();
		calls.local = calls.nat = IPV4(1, 9000);
		((uint8_t *)&calls.nat.in.sin_addr)[i] ^= 0x80;
		calls.nat_level = SOL_IP;
		assert_null(stream_original_destination(0, &target));
		assert_true(same_address(&target, &calls.nat));
	}
}

static void
test_no_original_destination(void **state)
{
	/* Fails if a direct connection is sent somewhere. */
	static const char none[] =
	    "not redirected, it has no original destination";
	const struct {
		int error;
		const char *reason;
	} cases[] = {{ENOENT, none}, {ENOPROTOOPT, none},
	    {EPERM, strerror(EPERM)}, {EBADF, strerror(EBADF)}};
	struct address target;

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		start();
		calls.local = IPV4(1, 9000);
		calls.nat_level = SOL_IP;
		calls.nat_error = cases[i].error;
		assert_reason(
		    stream_original_destination(0, &target), cases[i].reason);
	}
	start();
	calls.local_error = ENOTSOCK;
	assert_reason(
	    stream_original_destination(0, &target), strerror(ENOTSOCK));
}

static void
test_mixed_original_destination(void **state)
{
	/* Fails if a target passes as one of its client's family that isn't: an
	 * IPv6 packet may be for an IPv4-mapped address. */
	struct address target;

	(void)state;
	start();
	calls.local = IPV6(1, 9000);
	calls.nat_level = SOL_IPV6;
	calls.nat = MAPPED(2, 80);
	assert_reason(stream_original_destination(0, &target),
	    "an IPv4-mapped address is no target of IPv6");
}

static void
assert_open(int fd)
{
	assert_int_not_equal(fcntl(fd, F_GETFD), -1);
}

static void
test_reset(void **state)
{
	/* Fails if cut-off data looks complete to a TCP peer. */
	struct pair pair = make_pair();
	size_t count;

	(void)state;
	stream_reset(pair.ours);
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	assert_open(pair.ours);
	close_pair(pair);

	/* With data on the way, in both directions. */
	pair = make_pair();
	assert_int_equal(write_all(pair.ours, "hello", 5), 0);
	assert_int_equal(write_all(pair.peer, "hello", 5), 0);
	stream_reset(pair.ours);
	assert_int_equal(read_to_end(pair.peer, &count), ECONNRESET);
	assert_in_range(count, 0, 5);
	close_pair(pair);

	/* After half of the connection was closed by either side. */
	pair = make_pair();
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	assert_int_equal(recv(pair.ours, &(char){0}, 1, 0), 0);
	stream_reset(pair.ours);
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
	pair = make_pair();
	assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
	assert_int_equal(read_to_end(pair.peer, NULL), 0);
	stream_reset(pair.ours);
	assert_true(wait_for(pair.peer, 0));
	assert_int_not_equal(write_all(pair.peer, "x", 1), 0);
	close_pair(pair);
}

/* Closes `ours`, with this queued, and reads how that looks to the peer. */
static int
close_queued(struct pair pair, const char *text, size_t *count)
{
	int error;

	assert_int_equal(write_all(pair.ours, text, strlen(text)), 0);
	close(pair.ours);
	error = read_to_end(pair.peer, count);
	close(pair.peer);
	return error;
}

static void
test_complete(void **state)
{
	/* Fails if cut-off data looks complete when the proxy is killed, or an
	 * answer is lost that was complete. */
	struct pair pair = accept_stream();
	size_t count;

	(void)state;
	assert_int_equal(close_queued(pair, "cut o", &count), ECONNRESET);
	pair = accept_stream();
	stream_complete(pair.ours, true);
	assert_int_equal(close_queued(pair, "complete", &count), 0);
	assert_int_equal(count, 8);
	/* Also what the peer has not taken for want of room. */
	pair = accept_stream();
	fill_connection(pair.ours, pair.ours);
	stream_complete(pair.ours, true);
	close(pair.ours);
	assert_int_equal(read_to_end(pair.peer, &count), 0);
	assert_true(count >= 65536);
	close(pair.peer);
	assert_int_equal(stream_complete(-1, true), -1);
	assert_int_equal(errno, EBADF);
	/* It can be taken back. */
	pair = accept_stream();
	assert_int_equal(stream_complete(pair.ours, true), 0);
	assert_int_equal(stream_complete(pair.ours, false), 0);
	assert_int_equal(close_queued(pair, "cut o", &count), ECONNRESET);
}

static void
test_reset_of_the_dead(void **state)
{
	/* Fails if a socket that has ended already makes trouble. */
	struct sockaddr_in name;
	struct pair pair = make_pair();
	int fd = bind_loopback(&name);

	(void)state;
	reset_peer(&pair);
	stream_reset(pair.ours);
	stream_reset(pair.ours);
	assert_open(pair.ours);
	close_pair(pair);
	stream_reset(fd); /* never connected */
	assert_open(fd);
	close(fd);
	stream_reset(-1);
}

static void
wait_to_read(void *argument)
{
	char byte;

	(void)argument;
	waiter.waits = true;
	waiter.result = recv(waiter.fd, &byte, 1, 0);
	waiter.error = errno;
}

static void
wait_to_write(void *argument)
{
	static const char zeros[65536];

	(void)argument;
	waiter.waits = true;
	do
		waiter.result =
		    send(waiter.fd, zeros, sizeof(zeros), MSG_NOSIGNAL);
	while (waiter.result > 0);
	waiter.error = errno;
}

/* Resets a descriptor that a thread waits on; asserts that it is woken. */
static void
check_woken(struct pair *pair, void (*wait)(void *))
{
	waiter.fd = pair->ours;
	waiter.waits = false;
	limit_time(pair->ours);
	job_start(&waiter.job, wait, NULL);
	AWAIT(waiter.waits);
	/* Most likely it waits by then. If not, it sees the same, later. */
	pause_ms(20);
	stream_reset(pair->ours);
	job_end(&waiter.job);
	assert_true(waiter.result <= 0);
	if (waiter.result < 0)
		assert_int_not_equal(waiter.error, EAGAIN);
}

static void
test_reset_wakes_reader(void **state)
{
	/* Fails if one direction of a broken connection waits for ever. */
	struct pair pair = make_pair();

	(void)state;
	check_woken(&pair, wait_to_read);
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
}

static void
test_reset_wakes_writer(void **state)
{
	/* Fails if a peer that doesn't read keeps a thread for ever. */
	struct pair pair = make_pair();

	(void)state;
	fill_connection(pair.ours, pair.ours);
	check_woken(&pair, wait_to_write);
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
}

static void
test_reset_refused(void **state)
{
	/* Fails if some 6.x kernels, which don't disconnect a socket as long as
	 * threads wait on it, leave a reader asleep or send no reset. */
	struct pair pair = accept_stream();

	(void)state;
	calls.busy_while_waiting = true;
	check_woken(&pair, wait_to_read);
	close(pair.ours); /* sends the reset, at the latest */
	pair.ours = -1;
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
}

static void
test_reset_refused_to_writer(void **state)
{
	/* Fails if those kernels make a clean end of data that was cut off: a
	 * peer that reads again, before the socket is closed, saw a FIN. */
	static char bytes[65536];
	struct pair pair = accept_stream();
	struct pollfd readable = {.fd = pair.peer, .events = POLLIN};

	(void)state;
	calls.busy_calls = SIZE_MAX;
	fill_connection(pair.ours, pair.ours);
	stream_reset(pair.ours);
	assert_int_equal(calls.last_shutdown, SHUT_RD);
	while (poll(&readable, 1, 100) == 1) /* a FIN would be end-of-file */
		assert_true(recv(pair.peer, bytes, sizeof(bytes), 0) > 0);
	close(pair.ours);
	pair.ours = -1;
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
}

static void
test_reset_refused_for_long(void **state)
{
	/* Fails if those kernels end a connection as if all were well when a
	 * reader that was woken doesn't get a processor at once. */
	struct pair pair = accept_stream();

	(void)state;
	assert_int_equal(write_all(pair.ours, "cut o", 5), 0);
	calls.busy_calls = SIZE_MAX;
	stream_reset(pair.ours);
	close(pair.ours);
	pair.ours = -1;
	assert_int_equal(read_to_end(pair.peer, NULL), ECONNRESET);
	close_pair(pair);
}

static void
test_reset_vsock(void **state)
{
	/* Fails if a vsock connection goes on after an abort. The socket is a
	 * TCP one that calls itself vsock. */
	struct pair pair = make_pair();

	(void)state;
	calls.domain = AF_VSOCK;
	check_woken(&pair, wait_to_read);
	assert_int_equal(calls.disconnects, 0);
	assert_int_equal(calls.last_shutdown, SHUT_RDWR);
	assert_open(pair.ours);
	assert_int_equal(read_to_end(pair.peer, NULL), 0);
	close_pair(pair);
}

static void
test_delivered(void **state)
{
	/* Fails if what a peer has not got yet counts as delivered, or what no
	 * peer can get any more is waited for. */
	struct pair pair = accept_stream();
	int fds[2];

	(void)state;
	assert_true(stream_delivered(pair.ours));
	assert_int_equal(write_all(pair.ours, "some", 4), 0);
	AWAIT(stream_delivered(pair.ours)); /* though nobody has read it */
	fill_connection(pair.ours, pair.ours);
	assert_false(stream_delivered(pair.ours));
	/* Where nothing can be asked, as on vsock. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(write_all(fds[0], "some", 4), 0);
	assert_true(stream_delivered(fds[0]));
	close(fds[0]);
	close(fds[1]);
	calls.queued = 1; /* a byte is enough */
	assert_false(stream_delivered(pair.ours));
	reset_peer(&pair);
	AWAIT(stream_delivered(pair.ours));
	close_pair(pair);
}

static void
test_error(void **state)
{
	/* Fails if a reset after the peer's end-of-file, which the kernel calls
	 * a broken pipe, passes for a peer that gave up, or for none. */
	struct pair pair = accept_stream();

	(void)state;
	assert_int_equal(stream_error(pair.ours), 0);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	assert_int_equal(recv(pair.ours, &(char){0}, 1, 0), 0);
	reset_peer(&pair);
	assert_true(wait_for(pair.ours, 0));
	assert_int_equal(stream_error(pair.ours), ECONNRESET);
	assert_int_equal(stream_error(pair.ours), 0); /* told once */
	close_pair(pair);
}

static void
test_gone(void **state)
{
	/* Fails if a vsock peer that closed both ways seems to be there, or
	 * one that is there gets a byte by this. */
	struct pair pair = make_pair();

	(void)state;
	calls.domain = AF_VSOCK;
	assert_false(stream_gone(pair.ours));
	fill_connection(pair.ours, pair.ours);
	assert_false(stream_gone(pair.ours));
	assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
	assert_true(stream_gone(pair.ours));
	calls.domain = AF_INET; /* where a reset says more */
	assert_false(stream_gone(pair.ours));
	close_pair(pair);
	pair = make_pair();
	calls.domain = AF_VSOCK;
	assert_false(stream_gone(pair.ours));
	calls.domain = 0;
	assert_int_equal(shutdown(pair.ours, SHUT_WR), 0);
	assert_int_equal(recv(pair.peer, &(char){0}, 1, 0), 0);
	close_pair(pair);
	/* Another failure says something else. */
	pair = make_pair();
	reset_peer(&pair);
	assert_true(wait_for(pair.ours, 0));
	calls.domain = AF_VSOCK;
	assert_false(stream_gone(pair.ours));
	close_pair(pair);
}

static void
test_reason(void **state)
{
	/* Fails if users are told an errno that means something else on vsock,
	 * or nothing at all. */
	static const struct {
		int error;
		const char *part;
	} cases[] = {
	    {ECONNRESET, "nobody listens"},
	    {ENODEV, "no such CID"},
	    {ETIMEDOUT, "no answer"},
	    {EAFNOSUPPORT, "no vsock"},
	    {EADDRNOTAVAIL, "not a CID of this machine"},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		const char *vsock = stream_reason(AF_VSOCK, cases[i].error);

		assert_non_null(strstr(vsock, cases[i].part));
		assert_string_equal(stream_reason(AF_INET, cases[i].error),
		    strerror(cases[i].error));
		assert_string_equal(stream_reason(AF_UNSPEC, cases[i].error),
		    strerror(cases[i].error));
	}
	assert_string_equal(
	    stream_reason(AF_VSOCK, EADDRINUSE), strerror(EADDRINUSE));
	assert_string_equal(
	    stream_reason(AF_UNSPEC, EPIPE), "the peer gave up");
	/* The log puts them in quotes. */
	for (int error = 1; error < 134; error++) {
		assert_null(strchr(stream_reason(AF_VSOCK, error), '"'));
		assert_null(strchr(stream_reason(AF_INET, error), '"'));
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    TEST(test_listen),
	    TEST(test_listen_fails),
	    TEST(test_connect),
	    TEST(test_accepted_options),
	    TEST(test_user_timeout),
	    TEST(test_adopt_not),
	    TEST(test_adopt),
	    TEST(test_adopt_other_protocols),
	    TEST(test_adopt_vsock),
	    TEST(test_connect_refused),
	    TEST(test_connect_times_out),
	    TEST(test_connect_fails),
	    TEST(test_connect_interrupted),
	    TEST(test_connect_without_limit),
	    TEST(test_connect_itself),
	    TEST(test_connect_reset_at_once),
	    TEST(test_connect_closed_at_once),
	    TEST(test_connect_vsock),
	    TEST(test_send),
	    TEST(test_send_short),
	    TEST(test_send_failing),
	    TEST(test_vsock_buffer),
	    TEST(test_open_by_name),
	    TEST(test_open_tries_all),
	    TEST(test_open_shares_time),
	    TEST(test_open_streams_only),
	    TEST(test_open_share_too_small),
	    TEST(test_open_unresolved),
	    TEST(test_local_address),
	    TEST(test_is_local),
	    TEST(test_is_local_answers),
	    TEST(test_connect_nearly_itself),
	    TEST(test_original_destination),
	    TEST(test_no_loop),
	    TEST(test_nearly_own_address),
	    TEST(test_no_original_destination),
	    TEST(test_mixed_original_destination),
	    TEST(test_reset),
	    TEST(test_complete),
	    TEST(test_reset_of_the_dead),
	    TEST(test_reset_wakes_reader),
	    TEST(test_reset_wakes_writer),
	    TEST(test_reset_refused),
	    TEST(test_reset_refused_to_writer),
	    TEST(test_reset_refused_for_long),
	    TEST(test_reset_vsock),
	    TEST(test_delivered),
	    TEST(test_error),
	    TEST(test_gone),
	    TEST(test_reason),
	};

	limit_tests(tests, LENGTH(tests));
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
