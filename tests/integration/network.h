/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network namespaces in which a test plays enclave and host, and the sockets of
 * tests. vsock knows no namespaces: every program is at CID 1, on every side.
 * Sockets made here give up reading, writing, accepting and connecting after
 * DEADLINE_MS (errno EAGAIN), are close-on-exec, and are closed by the
 * teardown; a test may close them itself.
 */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Each has a lo with 127.0.0.1 and ::1, and nothing else of the machine's.
 * ENCLAVE: default routes to lo, so that connections to any address can be
 * redirected. HOST: the targets below are local addresses. BARE: like HOST, but
 * never has NAT rules.
 */
enum side { ENCLAVE, HOST, BARE, SIDES };

/* Where a server of a test can listen in HOST. */
#define TARGET_IPV4 "198.51.100.7"
#define TARGET_IPV6 "2001:db8::7"
/* Likewise; customarily the ones that are redirected in HOST. */
#define OTHER_IPV4 "198.51.100.8"
#define OTHER_IPV6 "2001:db8::8"

/* Makes the namespaces. Ends the process with a message if it can't. */
void network_open(void);

/*
 * Whether vsock loopback works here: a byte goes to CID 1 and back. Never
 * connects anywhere else. Needs no network_open().
 */
bool network_has_loopback(void);

/* Puts the calling thread into a namespace. The functions below do it too. */
void network_enter(enum side side);

/*
 * From now on, TCP connections made in a namespace to a target (IPv4 or IPv6
 * address, any port; NULL: any address but the loopback's, IPv4 and IPv6) go
 * to to_port of 127.0.0.1 or ::1. Not for BARE. Gone after the test.
 */
void network_redirect(enum side side, const char *target, uint16_t to_port);

/*
 * From now on, TCP packets from or to a port, or to an IPv4 address, are lost
 * in a namespace. Gone after the test. Not for BARE.
 */
void network_drop(enum side side, uint16_t port);
void network_black_hole(enum side side, const char *address);

/*
 * From now on, a TCP socket's kernel takes 256 KiB at most from who sends, not
 * megabytes. Gone after the test.
 */
void network_small_buffers(void);

/* Undoes all of the above. */
void network_reset(void);

/* A port of 10000 to 29999 that nothing has used in any namespace. */
uint16_t network_tcp_port(void);

/* A port of 20000 to 65535 that nothing has used on this machine. */
uint32_t network_vsock_port(void);

/* Listens on an IPv4 or IPv6 address and a port. */
int network_tcp_listen(enum side side, const char *address, uint16_t port);

/* Connects, or fails the test. A link-local address is lo's. */
int network_tcp_connect(enum side side, const char *address, uint16_t port);

/* Likewise, from an address of the namespace. */
int network_tcp_connect_from(
    enum side side, const char *from, const char *address, uint16_t port);

/* Connects, or returns -1 with errno. Any thread. */
int network_tcp_try(enum side side, const char *address, uint16_t port);

/* The same for vsock, always on and to CID 1. */
int network_vsock_listen(uint32_t port);
int network_vsock_connect(uint32_t port);
int network_vsock_try(uint32_t port);

/* Takes the next connection, or fails the test. */
int network_accept(int listener);

/* IPv4:PORT or [IPv6]:PORT. */
const char *network_name(const char *address, uint16_t port);

/* Gives it another time than DEADLINE_MS. Returns the socket. */
int network_limit_time(int fd, unsigned seconds);

/* Whether a connection waits to be accepted right now. */
bool network_pending(int listener);

/*
 * Whether, in the namespace of a process, some TCP socket listens on a port.
 */
bool network_listens(int pid, uint16_t port);

#endif
