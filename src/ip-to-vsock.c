/* SPDX-License-Identifier: Apache-2.0 */
/* Listens on TCP; every connection goes to a fixed vsock address. */
#include "options.h"
#include "server.h"

static const struct option options[] = {
    {OPTION_LISTEN_IP, 'i', "ip-addr", "IP_ADDR",
	.help = "ip address of the listener side (e.g. 0.0.0.0:4000)"},
    {OPTION_UPSTREAM_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "vsock address of the upstream side (e.g. 88:4000)"},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	return connection_connect(c, &settings.vsock);
}

int
main(int argc, char *argv[])
{
	options_parse("ip-to-vsock", options, argc, argv);
	server_run(dial);
}
