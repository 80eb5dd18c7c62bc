/* SPDX-License-Identifier: Apache-2.0 */
/* Listens on vsock; every connection names its TCP target in a preamble. */
#include "options.h"
#include "preamble.h"
#include "server.h"
#include "stream.h"

#include <errno.h>

static const struct option options[] = {
    {'v', "vsock-addr", "VSOCK_ADDR",
	"vsock address of the listener side, usually open to the other side "
	"of the transparent proxy (e.g. 3:1200)",
	OPTION_LISTEN_VSOCK, NULL},
    {0, "preamble-timeout", "SECONDS",
	"give up waiting for a connection's target after this long "
	"[default: 10]",
	OPTION_NUMBER, &settings.preamble_timeout},
    {.name = NULL},
};

static const char *
preamble_reason(int error)
{
	switch (error) {
	case ETIMEDOUT: return "no whole preamble came in time";
	case ENODATA: return "the client ended before its preamble was whole";
	case EDESTADDRREQ: return "the preamble names port 0";
	default: return stream_reason(AF_UNSPEC, error);
	}
}

static int
dial(struct connection *c)
{
	struct address target;

	if (preamble_receive(c->relay.client, settings.preamble_timeout * 1000,
		&target) == -1) {
		c->end = END_NO_TARGET;
		c->reason = preamble_reason(errno);
		return -1;
	}
	address_format(&target, c->target, sizeof(c->target));
	return connection_connect(c, &target);
}

int
main(int argc, char *argv[])
{
	settings.paired = true;
	options_parse("vsock-to-ip-transparent", options, argc, argv);
	server_run(dial);
}
