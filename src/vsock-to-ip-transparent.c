/* SPDX-License-Identifier: Apache-2.0 */
/* Listens on vsock; every connection names its TCP target in a preamble. */
#include "options.h"
#include "preamble.h"
#include "server.h"

static const struct option options[] = {
    {OPTION_LISTEN_VSOCK, 'v', "vsock-addr", "VSOCK_ADDR",
	.help = "vsock address of the listener side, usually open to the other "
		"side of the transparent proxy (e.g. 3:1200)"},
    {OPTION_SETTING("preamble-timeout", "SECONDS", preamble_timeout, 1, 1000000,
	"give up waiting for a connection's target after this long "
	"[default: 10]")},
    {.name = NULL},
};

static int
dial(struct connection *c)
{
	struct address target;

	c->reason = preamble_receive(
	    c->relay.client, settings.preamble_timeout * 1000, &target);
	if (c->reason != NULL || connection_check(c, &target) == -1)
		return -1;
	return connection_connect(c, &target, NULL, 0);
}

int
main(int argc, char *argv[])
{
	settings.paired = true;
	settings.has_targets = true;
	options_parse("vsock-to-ip-transparent", options, argc, argv);
	server_run(dial);
}
