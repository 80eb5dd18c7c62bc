/* SPDX-License-Identifier: Apache-2.0 */
/* Looked at once, at start: what others use of the same limits isn't known, so
 * that running out is met, and survived, all the same. */
#include "capacity.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static uint64_t least;
static const char *least_name;

static void
consider(uint64_t connections, const char *name)
{
	if (connections < least) {
		least = connections;
		least_name = name;
	}
}

/* Reads what fits of a file: an empty text if there is none. */
static void
read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? 0 : read(fd, text, size - 1);

	text[n > 0 ? n : 0] = '\0';
	if (fd != -1)
		close(fd);
}

/* The number in a file, 0 if there is none, or "max"; each: per connection. */
static void
consider_file(const char *path, unsigned each, const char *name)
{
	char text[32];
	uint64_t number;

	read_text(path, text, sizeof(text));
	number = strtoull(text, NULL, 10);
	if (number != 0)
		consider(number / each, name);
}

/* The limit of a control group (version 2) counts for all groups below it. */
static void
consider_control_groups(void)
{
	char groups[4096], path[sizeof(groups) + 32], *group, *end;

	read_text("/proc/self/cgroup", groups, sizeof(groups));
	group = strstr(groups, "0::/");
	if (group == NULL)
		return;
	group += 3;
	end = group + strcspn(group, "\n");
	do {
		*end = '\0';
		(void)snprintf(
		    path, sizeof(path), "/sys/fs/cgroup%s/pids.max", group);
		consider_file(path, 2, "pids.max");
	} while ((end = strrchr(group, '/')) != NULL);
}

unsigned
capacity_connections(unsigned descriptors, const char **name)
{
	struct rlimit files = {INT_MAX, INT_MAX}, threads = files;

	least = INT_MAX;
	/* Fails only under a filter of system calls. */
	(void)prlimit(0, RLIMIT_NOFILE, NULL, &files);
	(void)prlimit(0, RLIMIT_NPROC, NULL, &threads);
	files.rlim_cur = files.rlim_max;
	(void)prlimit(0, RLIMIT_NOFILE, &files, NULL);
	(void)prlimit(0, RLIMIT_NOFILE, NULL, &files); /* what it became */
	consider(files.rlim_cur / descriptors, "RLIMIT_NOFILE");
	consider(threads.rlim_cur / 2, "RLIMIT_NPROC");
	consider_file("/proc/sys/kernel/threads-max", 2, "threads-max");
	consider_file("/proc/sys/kernel/pid_max", 2, "pid_max");
	/* Two stacks and what guards them. */
	consider_file("/proc/sys/vm/max_map_count", 4, "max_map_count");
	consider_control_groups();
	*name = least_name;
	return least > CAPACITY_SPARE ? (unsigned)least - CAPACITY_SPARE : 1;
}
