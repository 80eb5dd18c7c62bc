/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs are started from the upstream's end on, so that each finds the next
 * one listening; the upstream itself comes last, because finding out whether a
 * program listens on vsock makes it dial once.
 */
#include "harness.h"

#include <arpa/inet.h>
#include <string.h>
#include <unistd.h>

#define ARGS_MAX 16

/* What a route consists of. */
static const struct path {
	const char *name;
	const char *first, *last; /* last: NULL if there is but one */
	enum side client, upstream;
	bool client_is_tcp, upstream_is_tcp;
	const char *target; /* NULL: the upstream is fixed */
} paths[ROUTES] = {
    [IP_TO_VSOCK] = {"ip-to-vsock", "ip-to-vsock", NULL, HOST, HOST, true,
	false, NULL},
    [VSOCK_TO_IP] = {"vsock-to-ip", "vsock-to-ip", NULL, ENCLAVE, ENCLAVE,
	false, true, NULL},
    [IP_TO_VSOCK_TRANSPARENT] = {"ip-to-vsock-transparent",
	"ip-to-vsock-transparent", NULL, ENCLAVE, ENCLAVE, true, false,
	TARGET_IPV4},
    [VSOCK_TO_IP_TRANSPARENT] = {"vsock-to-ip-transparent",
	"vsock-to-ip-transparent", NULL, HOST, HOST, false, true, TARGET_IPV4},
    [PORT_TO_VSOCK_TRANSPARENT] = {"port-to-vsock-transparent",
	"port-to-vsock-transparent", NULL, HOST, HOST, true, false, OTHER_IPV4},
    [CHAIN_FIXED] = {"chain-fixed", "ip-to-vsock", "vsock-to-ip", HOST, ENCLAVE,
	true, true, NULL},
    [CHAIN_TRANSPARENT] = {"chain-transparent", "ip-to-vsock-transparent",
	"vsock-to-ip-transparent", ENCLAVE, HOST, true, true, TARGET_IPV4},
    [CHAIN_PORT] = {"chain-port", "port-to-vsock-transparent", "vsock-to-ip",
	HOST, ENCLAVE, true, true, OTHER_IPV4},
};

const char *
bridge_name(enum route route)
{
	return paths[route].name;
}

/* Whether a program wants redirected connections or a preamble. */
static bool
is_transparent(const char *program)
{
	return strstr(program, "transparent") != NULL;
}

/* The address that a route's target has if none is set. */
static const char *
target_of(const struct bridge *b)
{
	return b->target != NULL ? b->target : paths[b->route].target;
}

/* The loopback address that redirected connections come to. */
static const char *
loopback_of(const struct bridge *b)
{
	const char *target = target_of(b);

	return target != NULL && strchr(target, ':') != NULL ? "::1"
							     : "127.0.0.1";
}

/* Where the upstream listens, if on TCP. */
static const char *
upstream_address(const struct bridge *b)
{
	return b->route == VSOCK_TO_IP_TRANSPARENT ||
		       b->route == CHAIN_TRANSPARENT
		   ? target_of(b)
		   : "127.0.0.1";
}

/* The arguments of one program, in the making. */
struct arguments {
	char *list[ARGS_MAX];
	size_t count;
};

static void
add(struct arguments *a, char *argument)
{
	assert_true(a->count + 1 < ARGS_MAX);
	a->list[a->count++] = argument;
}

/* Adds an option as a bridge spells it. */
static void
add_option(struct arguments *a, const struct bridge *b, const char *letter,
    const char *name, const char *value)
{
	const struct bridge_spelling *spelling = &b->spelling;
	const char *option = spelling->long_names ? name : letter;

	if (spelling->glue != NULL) {
		add(a, harness_text("%s%s%s", option, spelling->glue, value));
		return;
	}
	add(a, harness_text("%s", option));
	add(a, harness_text("%s", value));
}

/* Adds arguments that a test has chosen; list: NULL for none. */
static void
add_extra(struct arguments *a, char *const *list)
{
	for (; list != NULL && *list != NULL; list++)
		add(a, *list);
}

static struct program *
start(const struct bridge *b, enum side side, const char *name, const char *ip,
    const char *vsock)
{
	bool by_port = strcmp(name, "port-to-vsock-transparent") == 0;
	bool is_first = strcmp(name, paths[b->route].first) == 0;
	struct arguments a = {.count = 0};

	if (ip != NULL)
		add_option(&a, b, "-i", "--ip-addr", ip);
	add_option(&a, b, "-v", by_port ? "--vsock" : "--vsock-addr", vsock);
	add_extra(&a, b->extra);
	add_extra(&a, is_first ? b->extra_first : b->extra_last);
	if (is_first && b->has_header)
		add_extra(&a, (char *[]){"--send-proxy-v2", NULL});
	return program_start(&(struct program_options){.side = side,
	    .name = name,
	    .below = b->below,
	    .args = a.list,
	    .env = b->env});
}

/* Starts a program that listens on vsock. */
static struct program *
start_behind(const struct bridge *b, const char *name)
{
	const char *host =
	    b->upstream_host != NULL ? b->upstream_host : "127.0.0.1";
	const char *ip =
	    is_transparent(name) ? NULL : network_name(host, b->upstream_port);

	return start(b, paths[b->route].upstream, name, ip,
	    harness_text("1:%u", b->vsock_port));
}

/* Starts a program that listens on TCP. */
static struct program *
start_before(const struct bridge *b, const char *name)
{
	bool has_port = strcmp(name, "port-to-vsock-transparent") != 0;

	return start(b, paths[b->route].client, name,
	    network_name(loopback_of(b), b->listen_port),
	    has_port ? harness_text("1:%u", b->vsock_port) : "1");
}

struct program *
bridge_start_again(const struct bridge *b)
{
	const char *name = paths[b->route].first;

	return b->client_is_tcp ? start_before(b, name) : start_behind(b, name);
}

enum side
bridge_side(enum route route, bool upstream)
{
	return upstream ? paths[route].upstream : paths[route].client;
}

void
bridge_listen(struct bridge *b)
{
	b->listener = b->upstream_is_tcp
			  ? network_tcp_listen(paths[b->route].upstream,
				upstream_address(b), b->upstream_port)
			  : network_vsock_listen(b->vsock_port);
}

void
bridge_open(struct bridge *b)
{
	const struct path *path = &paths[b->route];

	b->client_is_tcp = path->client_is_tcp;
	b->upstream_is_tcp = path->upstream_is_tcp;
	b->vsock_port = network_vsock_port();
	b->upstream_port = network_tcp_port();
	b->listener = -1;
	if (b->client_is_tcp)
		b->listen_port = network_tcp_port();
	if (path->last != NULL) {
		b->last = start_behind(b, path->last);
		program_wait_vsock(b->last, b->vsock_port);
	}
	b->first = bridge_start_again(b);
	if (path->last == NULL)
		b->last = b->first;
	if (!b->client_is_tcp)
		program_wait_vsock(b->first, b->vsock_port);
	else
		program_wait_tcp(b->first, b->listen_port);
	if (b->client_is_tcp && is_transparent(path->first))
		network_redirect(path->client, target_of(b), b->listen_port);
	if (!b->no_upstream)
		bridge_listen(b);
}

int
bridge_try(const struct bridge *b)
{
	enum side side = paths[b->route].client;
	bool by_port =
	    b->route == PORT_TO_VSOCK_TRANSPARENT || b->route == CHAIN_PORT;

	if (!b->client_is_tcp)
		return network_vsock_try(b->vsock_port);
	if (target_of(b) == NULL)
		return network_tcp_try(side, "127.0.0.1", b->listen_port);
	return network_tcp_try(side, target_of(b),
	    by_port ? (uint16_t)b->vsock_port : b->upstream_port);
}

int
bridge_connect(const struct bridge *b)
{
	uint8_t preamble[22];
	int fd = bridge_try(b);

	if (fd == -1)
		fail_msg("cannot connect to %s", b->first->name);
	if (b->route == VSOCK_TO_IP_TRANSPARENT)
		traffic_send(fd, preamble,
		    bridge_preamble(target_of(b), b->upstream_port, preamble));
	return fd;
}

int
bridge_accept(const struct bridge *b)
{
	uint8_t preamble[22], header[28];
	int fd = network_accept(b->listener);

	if (b->has_header)
		assert_int_equal(traffic_receive(fd, header, 28), 28);
	if (b->route == IP_TO_VSOCK_TRANSPARENT)
		traffic_expect(fd, preamble,
		    bridge_preamble(target_of(b), b->upstream_port, preamble));
	return fd;
}

void
bridge_pair(const struct bridge *b, int *client, int *upstream)
{
	*client = bridge_connect(b);
	*upstream = bridge_accept(b);
}

void
bridge_expect_service(const struct bridge *b)
{
	int client, upstream;

	assert_true(program_runs(b->first));
	assert_true(program_runs(b->last));
	bridge_pair(b, &client, &upstream);
	traffic_echo(client, upstream);
	traffic_end_pair(client, upstream);
}

size_t
bridge_preamble(const char *address, uint16_t port, uint8_t bytes[22])
{
	uint8_t network[4];

	bytes[4] = (uint8_t)(port & 0xff);
	bytes[5] = (uint8_t)(port >> 8);
	if (inet_pton(AF_INET, address, network) == 1) {
		for (size_t i = 0; i < 4; i++)
			bytes[i] = network[3 - i];
		return 6;
	}
	memset(bytes, 0xff, 4);
	assert_int_equal(inet_pton(AF_INET6, address, bytes + 6), 1);
	return 22;
}
