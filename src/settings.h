/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line says and all programs share. Set by options_parse()
 * before any thread starts, constant from then on. */
#pragma once
#include "address.h"

struct settings {
	struct host_port listen_host; /* a TCP listener, if text is set */
	struct address listen_vsock;  /* else a vsock listener */
	unsigned connect_timeout;     /* seconds */
	unsigned max_connections;     /* 0: what the limits allow */
	unsigned log_level;           /* enum log_level */
	unsigned copy;                /* enum copy_mode */
};

extern struct settings settings;
