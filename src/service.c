/* SPDX-License-Identifier: Apache-2.0 */
/* The environment is the whole interface; all of it is for one process. */
#include "service.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int manager = -1;

void
service_open(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length = path == NULL ? 0 : strlen(path);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timeval limit = {.tv_sec = 1};

	if (length == 0 || length > sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, length);
	if (path[0] == '@') /* an abstract name: unix(7) */
		address.sun_path[0] = '\0';
	/* A manager that doesn't listen is no reason to end, or to hang. */
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	(void)setsockopt(
	    manager, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	(void)connect(manager, (const struct sockaddr *)&address,
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
}

void
service_notify(const char *state, bool waits)
{
	(void)send(manager, state, strlen(state), waits ? 0 : MSG_DONTWAIT);
}

const char *
service_listeners(void)
{
	const char *pid = getenv("LISTEN_PID");

	if (pid == NULL || strtol(pid, NULL, 10) != getpid())
		return NULL;
	return getenv("LISTEN_FDS");
}
