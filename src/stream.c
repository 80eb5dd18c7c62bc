/* SPDX-License-Identifier: Apache-2.0 */
/* What socket families do differently ends here: a stream is a descriptor. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/netfilter_ipv4.h>
#include <linux/rtnetlink.h>

#define BACKLOG 4096 /* SOMAXCONN is 128 with musl; the kernel has its own */

/* Only for options whose failure does no harm. */
#define SET_OPTION(fd, level, option, value) \
	((void)setsockopt(fd, level, option, &(value), sizeof(value)))

/* Of socket(7); 0: it has none. */
static int
get_option(int fd, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	(void)getsockopt(fd, SOL_SOCKET, option, &value, &length);
	return value;
}

unsigned stream_vsock_buffer, stream_stall_ms;

void
stream_prepare(int fd, int family)
{
	const int on = 1, idle_s = 60, interval_s = 10, probes = 6;
	uint64_t size = stream_vsock_buffer;

	if (family != AF_VSOCK) {
		(void)stream_complete(fd, false);
		SET_OPTION(fd, IPPROTO_TCP, TCP_NODELAY, on);
		SET_OPTION(fd, SOL_SOCKET, SO_OOBINLINE, on); /* lose nothing */
		SET_OPTION(fd, SOL_SOCKET, SO_KEEPALIVE, on);
		SET_OPTION(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
		SET_OPTION(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
		SET_OPTION(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
		if (stream_stall_ms != 0)
			SET_OPTION(
			    fd, IPPROTO_TCP, TCP_USER_TIMEOUT, stream_stall_ms);
	} else if (size != 0) { /* up to a maximum, which anybody may raise */
		SET_OPTION(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, size);
		SET_OPTION(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, size);
	}
}

int
stream_listen(const struct address *address)
{
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error;

	if (fd == -1)
		return -1;
	stream_prepare(fd, address->any.sa_family);
	/* A restart need not wait for old connections to time out. */
	if (address->any.sa_family != AF_VSOCK)
		SET_OPTION(fd, SOL_SOCKET, SO_REUSEADDR, (int){1});
	if (bind(fd, &address->any, address->length) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

int
stream_adopt(int fd, bool is_vsock)
{
	int family = get_option(fd, SO_DOMAIN);

	/* MPTCP and SCTP have streams, too, of the same families. */
	if (get_option(fd, SO_ACCEPTCONN) != 1 ||
	    get_option(fd, SO_TYPE) != SOCK_STREAM ||
	    (is_vsock ? family != AF_VSOCK
		      : get_option(fd, SO_PROTOCOL) != IPPROTO_TCP))
		return -1;
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* can't fail */
	stream_prepare(fd, family);
	return fd;
}

/* Where nobody listens, a port that the kernel has chosen for us may be the one
 * that we connect to: the socket is then its own peer. */
static bool
is_own_peer(int fd)
{
	struct address local = {.length = sizeof(local.in6)}, peer = local;

	return getsockname(fd, &local.any, &local.length) == 0 &&
	       getpeername(fd, &peer.any, &peer.length) == 0 &&
	       memcmp(&local.any, &peer.any, local.length) == 0;
}

int
stream_connect(const struct address *address, unsigned timeout_ms)
{
	struct timeval limit = {.tv_sec = timeout_ms / 1000,
	    .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
	sa_family_t family = address->any.sa_family;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd done = {.fd = fd, .events = POLLOUT};
	int error;

	if (fd == -1)
		return -1;
	stream_prepare(fd, family);
	/* vsock's own is 2 s; and of what is sent before the data. */
	if (family == AF_VSOCK) {
		SET_OPTION(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, limit);
		SET_OPTION(fd, SOL_SOCKET, SO_SNDTIMEO, limit);
	} else if (stream_stall_ms != 0) { /* would limit connect(2), too */
		SET_OPTION(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int){0});
	}
	do { /* connect(2) itself may sleep on, see DESIGN.md */
		error = connect(fd, &address->any, address->length);
	} while (error == -1 && errno == EINTR);
	if (error == -1 && (error = errno) == EINPROGRESS) {
		while ((error = poll(&done, 1, (int)timeout_ms)) == -1 &&
		       (errno == EINTR || errno == ENOMEM))
			continue;
		error = error == 0    ? ETIMEDOUT
			: error == -1 ? errno
				      : stream_error(fd);
		/* Was connected, and may have got something before that reset:
		 * where nobody listens, a reset is ECONNREFUSED. */
		if (error == ECONNRESET && family != AF_VSOCK)
			error = 0;
	}
	if (error == 0 && family != AF_VSOCK && is_own_peer(fd))
		error = ECONNREFUSED;
	if (stream_stall_ms != 0)
		SET_OPTION(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, stream_stall_ms);
	(void)ioctl(fd, FIONBIO, &(int){0}); /* can't fail */
	if (error != 0)
		close(fd);
	errno = error;
	return error == 0 ? fd : -1;
}

int
stream_send(int fd, const uint8_t *bytes, size_t size)
{
	ssize_t sent;

	do /* SIGCONT interrupts it, too, as it has a limit of time */
		sent = send(fd, bytes, size, MSG_NOSIGNAL);
	while (sent == -1 && errno == EINTR);
	if (sent != -1) /* a part: at once, or in time */
		errno = ENOBUFS;
	else if (errno == EAGAIN) /* SO_SNDTIMEO */
		errno = ETIMEDOUT;
	return sent == (ssize_t)size ? 0 : -1;
}

int
stream_open(const struct host_port *host_port, unsigned timeout_ms,
    char text[ADDRESS_TEXT_SIZE], const char **reason)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list, *i;
	struct address address;
	unsigned count = 0;
	int fd = -1;
	int error;

	(void)snprintf(text, ADDRESS_TEXT_SIZE, "%s", host_port->text);
	error = getaddrinfo(host_port->host, host_port->port, &hints, &list);
	if (error != 0) {
		*reason = error == EAI_SYSTEM ? stream_reason(AF_UNSPEC, errno)
					      : gai_strerror(error);
		return -1;
	}
	for (i = list; i != NULL; i = i->ai_next)
		count++;
	for (i = list; i != NULL && fd == -1; i = i->ai_next) {
		address = (struct address){.length = i->ai_addrlen};
		memcpy(&address.any, i->ai_addr, i->ai_addrlen);
		fd = timeout_ms == 0 ? stream_listen(&address)
				     : stream_connect(&address,
					   (timeout_ms + count - 1) / count);
		if (fd == -1)
			*reason = stream_reason(i->ai_family, errno);
		else
			address_format(&address, text, ADDRESS_TEXT_SIZE);
	}
	freeaddrinfo(list);
	return fd;
}

int
stream_local_address(int fd, struct address *address)
{
	*address = (struct address){.length = sizeof(address->in6)};
	if (getsockname(fd, &address->any, &address->length) == -1)
		return -1;
	address_unmap(address);
	return 0;
}

int
stream_is_local(const struct address *address)
{
	unsigned char family = (unsigned char)address->any.sa_family;
	unsigned char size = family == AF_INET ? 4 : 16;
	struct {
		struct nlmsghdr header;
		struct rtmsg route; /* in an error: struct nlmsgerr */
		struct rtattr attribute;
		uint8_t bytes[16];
	} m = {{sizeof(m) - 16 + size, RTM_GETROUTE, NLM_F_REQUEST, 0, 0},
	    {.rtm_family = family, .rtm_dst_len = size * 8},
	    {RTA_LENGTH(size), RTA_DST}, {0}};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	ssize_t n = -1;
	int error;

	memcpy(m.bytes, address_bytes(address), size);
	/* The answer is longer than the question, and there at once. */
	if (send(fd, &m, m.header.nlmsg_len, 0) != -1)
		n = recv(fd, &m, sizeof(m), MSG_DONTWAIT);
	close(fd); /* of all three: EBADF, if there is none */
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(m.route)))
		return -1;
	if (m.header.nlmsg_type == RTM_NEWROUTE)
		return m.route.rtm_type == RTN_LOCAL;
	memcpy(&error, &m.route, sizeof(error));
	/* Where nothing leads, nothing is local. */
	return error == -ENETUNREACH || error == -EHOSTUNREACH ? 0 : -1;
}

const char *
stream_original_destination(int fd, struct address *target)
{
	struct address local;

	/* This unmaps: a v4-mapped client was redirected by IPv4's NAT. */
	if (stream_local_address(fd, &local) == -1)
		return stream_reason(AF_INET, errno);
	*target = (struct address){.length = local.length};
	/* IP6T_SO_ORIGINAL_DST is the same number. */
	if (getsockopt(fd, local.any.sa_family == AF_INET ? SOL_IP : SOL_IPV6,
		SO_ORIGINAL_DST, &target->any, &target->length) == -1)
		return errno == ENOENT || errno == ENOPROTOOPT /* no NAT */
			   ? "not redirected, it has no original destination"
			   : stream_reason(AF_INET, errno);
	address_unmap(target);
	/* A forged IPv6 packet may be for a mapped address. */
	if (target->any.sa_family != local.any.sa_family)
		return "an IPv4-mapped address is no target of IPv6";
	/* Once any NAT rule exists, direct connections have an entry, too. */
	return memcmp(&target->any, &local.any, local.length) == 0
		   ? "not redirected, or from this listener to itself"
		   : NULL;
}

int
stream_error(int fd)
{
	int error = get_option(fd, SO_ERROR);

	return error == EPIPE ? ECONNRESET : error;
}

int
stream_complete(int fd, bool is_complete)
{
	const struct linger linger = {.l_onoff = !is_complete, .l_linger = 0};

	return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

bool
stream_delivered(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);
	int queued = 0;

	/* What is queued when a connection fails stays counted. */
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == -1 ||
	       info.tcpi_state == TCP_CLOSE ||
	       ioctl(fd, TIOCOUTQ, &queued) == -1 || queued == 0;
}

bool
stream_gone(int fd)
{
	return get_option(fd, SO_DOMAIN) == AF_VSOCK &&
	       send(fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) == -1 &&
	       errno == EPIPE;
}

void
stream_reset(int fd)
{
	static const struct sockaddr disconnect = {.sa_family = AF_UNSPEC};

	/* connect(2) to AF_UNSPEC is TCP's abort (tcp_disconnect()); close(2)
	 * wakes nobody. Some 6.x kernels refuse it while a thread waits
	 * (EBUSY): SHUT_RD wakes the reader. SHUT_WR would send a FIN. */
	if (get_option(fd, SO_DOMAIN) == AF_VSOCK)
		(void)shutdown(fd, SHUT_RDWR); /* ENOTCONN: ended already */
	else if (connect(fd, &disconnect, sizeof(disconnect)) == -1)
		(void)shutdown(fd, SHUT_RD);
}

const char *
stream_reason(int family, int error)
{
	if (error == EPIPE) /* it reads no more, though it has not ended */
		return "the peer gave up";
	switch (family == AF_VSOCK ? error : 0) {
	case ECONNRESET: return "nobody listens there, or the backlog is full";
	case ENODEV: return "no such CID here";
	case ETIMEDOUT: return "no answer";
	case EAFNOSUPPORT: return "this kernel has no vsock";
	case EADDRNOTAVAIL:
		return "not a CID of this machine (any is all of them)";
	/* Thread-safe with glibc and musl: constant strings for all errnos. */
	default: return strerror(error);
	}
}
