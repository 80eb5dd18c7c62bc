/* SPDX-License-Identifier: Apache-2.0 */
/* Listens on TCP; every connection goes to a fixed vsock address. */
#include "options.h"
#include "proxy_header.h"
#include "server.h"
#include "stream.h"

#include <errno.h>

static const struct option options[] = {
    {OPTION_LISTEN_IP, 'i', "ip-addr", "IP_ADDR",
	.help = "ip address of the listener side (e.g. 0.0.0.0:4000)"},
    {OPTION_UPSTREAM_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "vsock address of the upstream side (e.g. 88:4000)"},
    {OPTION_SEND_PROXY_V2},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	uint8_t header[PROXY_HEADER_SIZE_IPV6];
	struct address own;
	size_t size = 0;

	if (settings.send_proxy_v2) {
		if (stream_local_address(c->relay.client, &own) == -1) {
			c->reason = stream_reason(AF_INET, errno);
			return -1;
		}
		size = proxy_header_encode(&c->peer, &own, header);
	}
	return connection_connect(c, &settings.vsock, header, size);
}

int
main(int argc, char *argv[])
{
	options_parse("ip-to-vsock", options, argc, argv);
	server_run(dial);
}
