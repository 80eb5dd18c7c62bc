/* SPDX-License-Identifier: Apache-2.0 */
/* Carries redirected TCP connections to a CID, to the port they were for. */
#include "options.h"
#include "proxy_header.h"
#include "server.h"
#include "stream.h"

static const struct option options[] = {
    {OPTION_LISTEN_IP, 'i', "ip-addr", "IP_ADDR",
	.help = "ip address of the listener side (e.g. 127.0.0.1:1200)"},
    {OPTION_UPSTREAM_CID, 'v', "vsock", "VSOCK",
	.help =
	    "CID of the upstream side; a port after it is ignored (e.g. 88)"},
    {OPTION_SEND_PROXY_V2},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	uint8_t header[PROXY_HEADER_SIZE_IPV6];
	struct address target, upstream = settings.vsock;
	size_t size = 0;

	c->reason = stream_original_destination(c->relay.client, &target);
	if (c->reason != NULL || connection_check(c, &target) == -1)
		return -1;
	upstream.vm.svm_port = address_port(&target);
	if (settings.send_proxy_v2)
		size = proxy_header_encode(&c->peer, &target, header);
	return connection_connect(c, &upstream, header, size);
}

int
main(int argc, char *argv[])
{
	settings.has_targets = true;
	options_parse("port-to-vsock-transparent", options, argc, argv);
	settings.vsock.vm.svm_port = VMADDR_PORT_ANY;
	server_run(dial);
}
