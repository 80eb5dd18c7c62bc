/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets of any family: listen, connect, original destination, reset.
 * TCP sockets, accepted ones included, have TCP_NODELAY and keepalive (first
 * probe after 60 s, then 6, 10 s apart). Descriptors made here are
 * close-on-exec, blocking, and the caller's to close. Everything is
 * thread-safe. */
#pragma once
#include "address.h"

/* For sockets made from now on; 0: as ever. Set before the first thread. How
 * many bytes a vsock socket takes in before its reader does (vsock(7),
 * SO_VM_SOCKETS_BUFFER_SIZE), and after how many milliseconds a TCP connection
 * fails whose peer takes no data, or answers no keepalive (tcp(7),
 * TCP_USER_TIMEOUT). */
extern unsigned stream_vsock_buffer, stream_stall_ms;

/* Binds and listens on a TCP or vsock address, with the longest backlog.
 * Returns the listener, or -1 with errno of socket(2), bind(2) or listen(2). */
int stream_listen(const struct address *address);

/* Makes a listener of another's its own: sets the options that stream_listen()
 * sets. Returns it, or -1: it is no listener for TCP, or vsock streams. */
int stream_adopt(int fd, bool is_vsock);

/* Sets these options again, for a client that may have come before. */
void stream_prepare(int fd, int family);

/* Connects, for at most timeout_ms milliseconds (> 0), vsock included.
 * Returns the socket, or -1 with errno of socket(2) or connect(2); ETIMEDOUT
 * when the time is over. */
int stream_connect(const struct address *address, unsigned timeout_ms);

/* Sends what comes before the data, in one piece: waits for room as long as
 * stream_connect() did at most. Returns 0, or -1 with errno; ETIMEDOUT when the
 * time is over, ENOBUFS: there was room for a part. */
int stream_send(int fd, const uint8_t *bytes, size_t size);

/* Resolves HOST:PORT, which may block for as long as the resolver likes, and
 * does one of the above with each address in turn until it succeeds:
 * stream_listen() if timeout_ms is 0, else stream_connect() with an equal
 * share of timeout_ms. text is the one taken, or HOST:PORT. Returns the
 * descriptor, or -1 with *reason set (static text, needs no errno). */
int stream_open(const struct host_port *host_port, unsigned timeout_ms,
    char text[ADDRESS_TEXT_SIZE], const char **reason);

/* The address that a redirected TCP connection was meant for before NAT:
 * SO_ORIGINAL_DST (getorigdst() in net/netfilter/nf_conntrack_proto.c).
 * IPv4-mapped addresses come as IPv4. Returns NULL, or why there is none, or
 * none but the accepted socket's own address: static text. */
const char *stream_original_destination(int fd, struct address *target);

/* getsockname(2), IPv4-mapped addresses as IPv4. Returns 0, or -1, errno. */
int stream_local_address(int fd, struct address *address);

/* Whether an IP address is one of this machine, where connections to it end: 1
 * or 0, as its routes say now (rtnetlink(7)), or -1: they can't be asked. */
int stream_is_local(const struct address *address);

/* Takes the error that a socket holds (SO_ERROR, which tells it once). EPIPE,
 * a reset that came after end-of-file, is ECONNRESET. Returns 0 for none. */
int stream_error(int fd);

/* Whether the peer has acknowledged all that was sent, or can't any more. vsock
 * has nothing to ask: true. */
bool stream_delivered(int fd);

/* Whether a vsock peer has closed both ways, so that nothing can be sent to it;
 * but also after our own shutdown(SHUT_WR). TCP: false. */
bool stream_gone(int fd);

/* Ends both directions at once and wakes the threads that wait on fd, but for a
 * writer on kernels that refuse this: no call may wait long for room. A TCP
 * peer sees a reset, at close(2) at the latest, never a clean end; vsock has no
 * reset: a vsock peer reads what is queued, then end-of-file. fd stays open. */
void stream_reset(int fd);

/* Notes whether all has been sent and received: then close(2) lets the kernel
 * deliver what is queued. Else, as at first, it resets a TCP connection, and so
 * does any end of the process: cut-off data must not look complete. 0, or -1
 * with errno. */
int stream_complete(int fd, bool is_complete);

/* An errno of a socket of this family in words for users. Static text. */
const char *stream_reason(int family, int error);
