/* SPDX-License-Identifier: Apache-2.0 */
/* A program under test: started, read from, looked at through /proc, ended. */
#include "soak.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 20000
/* At rest there is nothing to wait for: less than the --grace. */
#define STOP_MS 8000
#define LOG_SIZE (1 << 20) /* of the pipe */

uint64_t
proxy_number(const char *line, const char *key)
{
	char text[64];
	const char *at;

	(void)snprintf(text, sizeof(text), " %s=", key);
	at = strstr(line, text);
	if (at == NULL)
		give_up("there is no %s= in: %s", key, line);
	return strtoull(at + strlen(text), NULL, 10);
}

/* Whether a failure is one that our resets cause. */
static bool
is_reset(const char *line)
{
	return (strstr(line, " end=client-error ") != NULL ||
		   strstr(line, " end=upstream-error ") != NULL) &&
	       (strstr(line, "\"Connection reset by peer\"") != NULL ||
		   strstr(line, "\"the peer gave up\"") != NULL);
}

static void
handle_line(struct proxy *p, const char *line)
{
	bool closed = strstr(line, " msg=closed ") != NULL;

	if (closed || strstr(line, " msg=failed ") != NULL) {
		p->closed += closed;
		p->failed += !closed;
		p->up += proxy_number(line, "up");
		p->down += proxy_number(line, "down");
		if (!closed && !is_reset(line))
			failed(CHECK_LOG, "nobody caused this: %s", line);
	} else if (strstr(line, " msg=listening ") != NULL) {
		(void)snprintf(
		    p->listening, sizeof(p->listening), "%.511s", line);
	} else if (strstr(line, " msg=counters ") != NULL) {
		(void)snprintf(
		    p->counters, sizeof(p->counters), "%.511s", line);
	} else if (strstr(line, " msg=stop") == NULL) {
		failed(CHECK_LOG, "this was not expected: %s", line);
	}
}

/* Returns false when there is nothing to read as yet; ended: at the end. */
static bool
read_some(struct proxy *p, bool *ended)
{
	ssize_t n =
	    read(p->log, p->text + p->length, sizeof(p->text) - 1 - p->length);
	char *line = p->text, *end;

	*ended = n == 0;
	if (n <= 0)
		return false;
	p->length += (unsigned)n;
	p->text[p->length] = '\0';
	for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		*end = '\0';
		handle_line(p, line);
	}
	p->length -= (unsigned)(line - p->text);
	memmove(p->text, line, p->length);
	return true;
}

void
proxy_read(struct proxy *p)
{
	bool ended;

	while (read_some(p, &ended))
		;
	if (ended)
		give_up("%s has ended", p->name);
}

/* Reads until a line of a kind has come. */
static void
await_line(struct proxy *p, const char *line)
{
	uint64_t deadline = now_ms() + START_MS;
	struct pollfd log = {.fd = p->log, .events = POLLIN};

	for (proxy_read(p); *line == '\0'; proxy_read(p)) {
		if (now_ms() > deadline)
			give_up("%s does not say what it should", p->name);
		(void)poll(&log, 1, 100);
	}
}

void
proxy_start(struct proxy *p, const char *folder, const char *name,
    const char *flag, const char *listen, const char *other_flag,
    const char *upstream)
{
	char path[4096];
	int log[2];

	p->name = name;
	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (pipe2(log, O_CLOEXEC) == -1)
		give_up("pipe2: %s", strerror(errno));
	/* Where it fails, the programs wait for us more often. */
	(void)fcntl(log[0], F_SETPIPE_SZ, LOG_SIZE);
	(void)fcntl(log[0], F_SETFL, O_NONBLOCK);
	p->pid = fork();
	if (p->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* it does not outlive us */
		dup2(log[1], STDERR_FILENO);
		/* Where thousands connect on a slow machine, 10 s are little.
		 */
		execl(path, name, flag, listen, other_flag, upstream,
		    "--connect-timeout", "600", "--grace", "10", "--paired",
		    NULL);
		_exit(127);
	}
	close(log[1]);
	if (p->pid == -1)
		give_up("fork: %s", strerror(errno));
	p->log = log[0];
	await_line(p, p->listening);
}

uint32_t
proxy_port(const struct proxy *p, unsigned connections)
{
	const char *port = strstr(p->listening, " listen=");
	const char *limit = strstr(p->listening, " max-connections=");

	if (port == NULL || (port = strchr(port, ':')) == NULL)
		give_up("where does it listen? %s", p->listening);
	if (proxy_number(p->listening, "max-connections") < connections)
		give_up("the test needs %u connections, but %s has%s",
		    connections, p->name, limit);
	return (uint32_t)strtoul(port + 1, NULL, 10);
}

void
proxy_count(struct proxy *p)
{
	p->counters[0] = '\0';
	if (kill(p->pid, SIGUSR1) == -1)
		give_up("kill: %s", strerror(errno));
	await_line(p, p->counters);
}

unsigned
proxy_descriptors(const struct proxy *p)
{
	char path[64];
	unsigned count = 0;
	DIR *folder;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", p->pid);
	folder = opendir(path);
	if (folder == NULL)
		give_up("%s: %s", path, strerror(errno));
	for (struct dirent *e; (e = readdir(folder)) != NULL;)
		count += e->d_name[0] != '.';
	closedir(folder);
	return count;
}

unsigned
proxy_status(const struct proxy *p, const char *key)
{
	char path[64], text[4096];
	const char *at;
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", p->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd == -1 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n == -1)
		give_up("%s: %s", path, strerror(errno));
	close(fd);
	text[n] = '\0';
	at = strstr(text, key);
	if (at == NULL)
		give_up("there is no %s in %s", key, path);
	return (unsigned)strtoul(at + strlen(key), NULL, 10);
}

void
proxy_stop(struct proxy *p)
{
	uint64_t begin = now_ms();
	struct pollfd log = {.fd = p->log, .events = POLLIN};
	bool ended = false;
	int status;

	if (kill(p->pid, SIGTERM) == -1)
		give_up("kill: %s", strerror(errno));
	while (!ended && now_ms() < begin + STOP_MS) {
		(void)poll(&log, 1, 100);
		while (read_some(p, &ended))
			;
	}
	if (!ended) {
		failed(CHECK_EXIT, "%s runs on after SIGTERM", p->name);
		kill(p->pid, SIGKILL);
	}
	if (waitpid(p->pid, &status, 0) != p->pid || status != 0)
		failed(CHECK_EXIT, "%s ends with status %#x", p->name, status);
	printf(
	    "soak: %s ended after %" PRIu64 " ms\n", p->name, now_ms() - begin);
	close(p->log);
}
