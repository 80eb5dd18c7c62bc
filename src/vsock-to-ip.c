/* SPDX-License-Identifier: Apache-2.0 */
/* Carries vsock connections to a TCP address, resolving a name for each. */
#include "options.h"
#include "server.h"
#include "stream.h"

static const struct option options[] = {
    {OPTION_LISTEN_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "vsock address of the listener side (e.g. 88:4000)"},
    {OPTION_UPSTREAM_IP, 'i', "ip-addr", "IP_ADDR",
	.help = "ip address of the upstream side (e.g. 127.0.0.1:4000)"},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	return stream_open(&settings.host, settings.connect_timeout * 1000,
	    c->upstream, &c->reason);
}

int
main(int argc, char *argv[])
{
	options_parse("vsock-to-ip", options, argc, argv);
	server_run(dial);
}
