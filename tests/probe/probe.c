/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands between a program and libc (the linker's --wrap), and plays who has
 * broken into it: the first thread that is made tries what it should not be
 * able to do, prints one line with the errno of each attempt, and goes on.
 * $PROBE is a folder with a "file", something to "remove", a "socket", and a
 * "command"; the parent's abstract socket has that path as its name.
 * $PROBE_PORT is a TCP port of 127.0.0.1 where somebody listens.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);

/* A path in the folder; until the next call. */
static const char *
path_of(const char *name)
{
	static char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s", getenv("PROBE"), name);
	return path;
}

/* The errno of a call that returned this, a descriptor or 0. */
static int
outcome(int result)
{
	int error = result == -1 ? errno : 0;

	if (result > STDERR_FILENO)
		close(result);
	return error;
}

static int
try_read(void)
{
	return outcome(open(path_of("file"), O_RDONLY | O_CLOEXEC));
}

static int
try_list(void)
{
	return outcome(open(path_of("."), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* As a library is loaded. */
static int
try_map(void)
{
	int fd = open(path_of("command"), O_RDONLY | O_CLOEXEC);
	void *memory;

	if (fd == -1)
		return errno;
	memory = mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	close(fd);
	return outcome(memory == MAP_FAILED ? -1 : munmap(memory, 1));
}

static int
try_write(void)
{
	return outcome(open(path_of("file"), O_WRONLY | O_CLOEXEC));
}

static int
try_truncate(void)
{
	return outcome(truncate(path_of("file"), 0));
}

static int
try_create(void)
{
	return outcome(
	    open(path_of("created"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int
try_mkdir(void)
{
	return outcome(mkdir(path_of("folder"), 0700));
}

/* As it is; only the owner may. */
static int
try_chmod(void)
{
	return outcome(chmod(path_of("file"), 0666));
}

static int
try_remove(void)
{
	return outcome(unlink(path_of("remove")));
}

static int
try_execute(void)
{
	char *const argv[] = {"command", NULL}, *const env[] = {NULL};
	pid_t child;
	int error =
	    posix_spawn(&child, path_of("command"), NULL, NULL, argv, env);

	if (error == 0)
		(void)waitpid(child, NULL, 0);
	return error;
}

/* Closes a socket after a call that returned this. */
static int
outcome_of(int fd, int result)
{
	int error = fd == -1 || result == -1 ? errno : 0;

	close(fd);
	return error;
}

static const struct sockaddr_in *
loopback(uint16_t port)
{
	static struct sockaddr_in address = {.sin_family = AF_INET};

	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return &address;
}

static int
try_bind(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return outcome_of(fd, bind(fd, (const struct sockaddr *)loopback(0),
				  sizeof(struct sockaddr_in)));
}

/* Where the kernel likes. */
static int
try_listen(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return outcome_of(fd, listen(fd, 1));
}

static int
connect_to_port(int type)
{
	uint16_t port = (uint16_t)atoi(getenv("PROBE_PORT"));
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	return outcome_of(
	    fd, connect(fd, (const struct sockaddr *)loopback(port),
		    sizeof(struct sockaddr_in)));
}

static int
try_connect(void)
{
	return connect_to_port(SOCK_STREAM);
}

static int
try_udp(void)
{
	return connect_to_port(SOCK_DGRAM);
}

static int
try_disconnect(void)
{
	const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return outcome_of(fd, connect(fd, &nowhere, sizeof(nowhere)));
}

static int
connect_unix(const char *path, bool is_abstract)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t length =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, path, strlen(path));
	if (is_abstract)
		address.sun_path[0] = '\0';
	return outcome_of(
	    fd, connect(fd, (const struct sockaddr *)&address, length));
}

static int
try_path(void)
{
	return connect_unix(path_of("socket"), false);
}

static int
try_abstract(void)
{
	return connect_unix(getenv("PROBE"), true);
}

static int
try_signal(void)
{
	return outcome(kill(getppid(), 0));
}

static int
try_raw(void)
{
	return outcome(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
}

static int
try_vsock_port(void)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_ANY,
	    .svm_port = 1023};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return outcome_of(
	    fd, bind(fd, (const struct sockaddr *)&address, sizeof(address)));
}

static const struct {
	const char *name;
	int (*attempt)(void);
} attempts[] = {
    {"read", try_read},
    {"list", try_list},
    {"map", try_map},
    {"write", try_write},
    {"truncate", try_truncate},
    {"create", try_create},
    {"mkdir", try_mkdir},
    {"chmod", try_chmod},
    {"remove", try_remove},
    {"execute", try_execute},
    {"bind", try_bind},
    {"listen", try_listen},
    {"connect", try_connect},
    {"udp", try_udp},
    {"disconnect", try_disconnect},
    {"path", try_path},
    {"abstract", try_abstract},
    {"signal", try_signal},
    {"raw", try_raw},
    {"vsock-port", try_vsock_port},
};

static void
probe(void)
{
	char line[512] = "msg=probe";

	for (size_t i = 0; i < sizeof(attempts) / sizeof(*attempts); i++) {
		size_t length = strlen(line);

		(void)snprintf(line + length, sizeof(line) - length, " %s=%d",
		    attempts[i].name, attempts[i].attempt());
	}
	(void)dprintf(STDERR_FILENO, "%s\n", line);
}

struct start {
	void *(*run)(void *);
	void *argument;
};

static void *
run_probed(void *argument)
{
	struct start start = *(struct start *)argument;

	free(argument);
	probe();
	return start.run(start.argument);
}

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument)
{
	static atomic_flag done = ATOMIC_FLAG_INIT;
	struct start *start;

	if (atomic_flag_test_and_set(&done))
		return __real_pthread_create(thread, attributes, run, argument);
	start = malloc(sizeof(*start));
	if (start == NULL)
		abort();
	*start = (struct start){run, argument};
	return __real_pthread_create(thread, attributes, run_probed, start);
}
