/* SPDX-License-Identifier: Apache-2.0 */
/* Carries redirected TCP connections, after their target, to vsock. */
#include "options.h"
#include "preamble.h"
#include "server.h"
#include "stream.h"

static const struct option options[] = {
    {OPTION_LISTEN_IP, 'i', "ip-addr", "IP_ADDR",
	.help = "ip address of the listener side (e.g. 127.0.0.1:1200)"},
    {OPTION_UPSTREAM_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "vsock address of the upstream side, usually the other side of "
		"the transparent proxy (e.g. 3:1200)"},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	uint8_t preamble[PREAMBLE_SIZE_IPV6];
	struct address target;
	size_t size;

	c->reason = stream_original_destination(c->relay.client, &target);
	if (c->reason != NULL || connection_check(c, &target) == -1)
		return -1;
	size = preamble_encode(&target, preamble);
	if (size == 0) {
		c->reason = "a link-local target has no meaning elsewhere";
		return -1;
	}
	return connection_connect(c, &settings.vsock, preamble, size);
}

int
main(int argc, char *argv[])
{
	settings.paired = true;
	settings.has_targets = true;
	options_parse("ip-to-vsock-transparent", options, argc, argv);
	server_run(dial);
}
