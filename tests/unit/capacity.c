/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of capacity. The machine is played: its limits, and the files that
 * tell of others. */
#include "capacity.h"

#include "support.h"

#include <sys/mman.h>
#include <sys/resource.h>

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_prlimit(
    pid_t pid, int which, const struct rlimit *new, struct rlimit *old);

#define THREADS_MAX "/proc/sys/kernel/threads-max"
#define CGROUP "/proc/self/cgroup"
#define PIDS_MAX(group) "/sys/fs/cgroup" group "/pids.max"
#define MOST_FILES 2147483584 /* that a kernel allows one process */
#define PID_MAX "/proc/sys/kernel/pid_max"
#define MAX_MAP_COUNT "/proc/sys/vm/max_map_count"
#define TOO_MANY 100000000 /* more than any limit here */

/* A file of the machine's. Text: NULL, if it can't be read. */
struct fake {
	const char *path, *text;
};

/* A machine, and what it must come to. */
struct machine {
	rlim_t files, threads;
	struct fake fakes[6];
	unsigned descriptors, connections;
	const char *name;
};

static struct {
	const struct machine *machine;
	struct rlimit files, threads;
	int prlimit_error, raise_error;
} now;

int
__wrap_open(const char *path, int flags, ...)
{
	int fd;

	if (strncmp(path, "/proc/s", 7) != 0 && strncmp(path, "/sys/", 5) != 0)
		return __real_open(path, flags, 0);
	assert_int_equal(flags, O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < LENGTH(now.machine->fakes); i++) {
		const struct fake *fake = &now.machine->fakes[i];

		if (fake->path == NULL || strcmp(fake->path, path) != 0)
			continue;
		if (fake->text == NULL) /* a folder: read(2) says EISDIR */
			return __real_open("/", O_RDONLY | O_CLOEXEC);
		fd = memfd_create("fake", MFD_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(write(fd, fake->text, strlen(fake->text)),
		    strlen(fake->text));
		assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
		return fd;
	}
	errno = ENOENT;
	return -1;
}

int
__wrap_prlimit(
    pid_t pid, int which, const struct rlimit *new, struct rlimit *old)
{
	struct rlimit *limit =
	    which == RLIMIT_NOFILE ? &now.files : &now.threads;

	assert_int_equal(pid, 0);
	assert_true(which == RLIMIT_NOFILE || which == RLIMIT_NPROC);
	if (now.prlimit_error != 0) {
		errno = now.prlimit_error;
		return -1;
	}
	if (new != NULL && now.raise_error != 0) {
		errno = now.raise_error;
		return -1;
	}
	if (old != NULL)
		*old = *limit;
	if (new != NULL)
		*limit = *new;
	return 0;
}

static void
check(const struct machine *machine)
{
	int before = open_descriptors();
	const char *name = NULL;
	unsigned connections;

	now.machine = machine;
	now.files = (struct rlimit){20, machine->files};
	now.threads = (struct rlimit){machine->threads, RLIM_INFINITY};
	connections = capacity_connections(machine->descriptors, &name);
	assert_int_equal(connections, machine->connections);
	assert_string_equal(name, machine->name);
	assert_int_equal(open_descriptors(), before);
}

static void
check_all(const struct machine *machines, size_t count)
{
	memset(&now, 0, sizeof(now));
	for (size_t i = 0; i < count; i++)
		check(&machines[i]);
}

static void
test_least_counts(void **state)
{
	/* Fails if the proxy takes on more connections than one of the limits
	 * allows, leaves those unused that it could have, or names a limit that
	 * isn't the one to raise. */
	static const struct machine machines[] = {
	    {1024, TOO_MANY, {{THREADS_MAX, "100000\n"}}, 4, 246,
		"RLIMIT_NOFILE"},
	    {1024, TOO_MANY, {{THREADS_MAX, "100000\n"}}, 6, 160,
		"RLIMIT_NOFILE"},
	    {1024, TOO_MANY, {{THREADS_MAX, "100000\n"}}, 2, 502,
		"RLIMIT_NOFILE"},
	    {TOO_MANY, 4000, {{THREADS_MAX, "100000\n"}}, 4, 1990,
		"RLIMIT_NPROC"},
	    {TOO_MANY, RLIM_INFINITY, {{THREADS_MAX, "3001\n"}}, 4, 1490,
		"threads-max"},
	    {TOO_MANY, TOO_MANY,
		{{THREADS_MAX, "100000\n"}, {CGROUP, "0::/\n"},
		    {PIDS_MAX(""), "500\n"}},
		2, 240, "pids.max"},
	    {TOO_MANY, TOO_MANY,
		{{THREADS_MAX, "600\n"}, {CGROUP, "0::/\n"},
		    {PIDS_MAX(""), "601\n"}},
		2, 290, "threads-max"},
	    {TOO_MANY, TOO_MANY,
		{{THREADS_MAX, "100000\n"}, {PID_MAX, "32768\n"},
		    {MAX_MAP_COUNT, "262144\n"}},
		2, 16374, "pid_max"},
	    {TOO_MANY, TOO_MANY,
		{{THREADS_MAX, "100000\n"}, {PID_MAX, "4194304\n"},
		    {MAX_MAP_COUNT, "65530\n"}},
		2, 16372, "max_map_count"},
	    {800, 810, {{THREADS_MAX, "808\n"}}, 2, 390, "RLIMIT_NOFILE"},
	    {812, 810, {{THREADS_MAX, "808\n"}}, 2, 394, "threads-max"},
	    {812, 804, {{THREADS_MAX, "808\n"}}, 2, 392, "RLIMIT_NPROC"},
	};

	(void)state;
	check_all(machines, LENGTH(machines));
}

static void
test_soft_limit(void **state)
{
	/* Fails if the proxy makes do with 1,024 descriptors where it might
	 * have more, or touches another limit. */
	static const struct machine machine = {
	    4000, 5000, {{NULL, NULL}}, 4, 990, "RLIMIT_NOFILE"};

	(void)state;
	check_all(&machine, 1);
	assert_int_equal(now.files.rlim_cur, 4000);
	assert_int_equal(now.files.rlim_max, 4000);
	assert_int_equal(now.threads.rlim_cur, 5000);
	assert_true(now.threads.rlim_max == RLIM_INFINITY);
}

static void
test_never_none(void **state)
{
	/* Fails if a proxy with tight limits serves nobody, or everybody. */
	static const struct machine machines[] = {
	    {0, 1000, {{NULL, NULL}}, 4, 1, "RLIMIT_NOFILE"},
	    {24, 1000, {{NULL, NULL}}, 4, 1, "RLIMIT_NOFILE"},
	    {43, 1000, {{NULL, NULL}}, 4, 1, "RLIMIT_NOFILE"},
	    {44, 1000, {{NULL, NULL}}, 4, 1, "RLIMIT_NOFILE"},
	    {48, 1000, {{NULL, NULL}}, 4, 2, "RLIMIT_NOFILE"},
	    {1000, 0, {{NULL, NULL}}, 4, 1, "RLIMIT_NPROC"},
	    {1000, 1, {{NULL, NULL}}, 4, 1, "RLIMIT_NPROC"},
	    {1000, 1000, {{THREADS_MAX, "1\n"}}, 4, 1, "threads-max"},
	    {1000, 1000, {{CGROUP, "0::/a\n"}, {PIDS_MAX("/a"), "1\n"}}, 4, 1,
		"pids.max"},
	};

	(void)state;
	check_all(machines, LENGTH(machines));
}

static void
test_no_limit(void **state)
{
	/* Fails if "infinity" or "max" is taken for a number, or a number that
	 * is too large for one of ours wraps around. */
	static const struct machine machines[] = {
	    {MOST_FILES, RLIM_INFINITY, {{NULL, NULL}}, 2, MOST_FILES / 2 - 10,
		"RLIMIT_NOFILE"},
	    {MOST_FILES, RLIM_INFINITY,
		{{THREADS_MAX, "18446744073709551615\n"}, {CGROUP, "0::/\n"},
		    {PIDS_MAX(""), "99999999999999999999999\n"}},
		2, MOST_FILES / 2 - 10, "RLIMIT_NOFILE"},
	    {4000, 8589934592, /* 2^33: 0 of 32 bits */
		{{THREADS_MAX, "8589934592\n"}, {CGROUP, "0::/\n"},
		    {PIDS_MAX(""), "8589934592\n"}},
		2, 1990, "RLIMIT_NOFILE"},
	    {4000, RLIM_INFINITY,
		{{CGROUP, "0::/a\n"}, {PIDS_MAX("/a"), "max\n"}}, 4, 990,
		"RLIMIT_NOFILE"},
	};

	(void)state;
	check_all(machines, LENGTH(machines));
}

static void
test_groups(void **state)
{
	/* Fails if the limit of a unit, a slice or a container goes unseen,
	 * wherever it is set, or one of a group elsewhere is obeyed. */
	static const struct machine machines[] = {
	    {1000, 1000,
		{{CGROUP, "0::/a.slice/b.service\n"},
		    {PIDS_MAX("/a.slice/b.service"), "100\n"},
		    {PIDS_MAX("/a.slice"), "max\n"}},
		2, 40, "pids.max"},
	    {1000, 1000,
		{{CGROUP, "0::/a.slice/b.service\n"},
		    {PIDS_MAX("/a.slice/b.service"), "max\n"},
		    {PIDS_MAX("/a.slice"), "100\n"}},
		2, 40, "pids.max"},
	    {1000, 1000,
		{{CGROUP, "0::/a.slice/b.service\n"},
		    {PIDS_MAX("/a.slice/b.service"), "200\n"},
		    {PIDS_MAX("/a.slice"), "100\n"}, {PIDS_MAX(""), "300\n"}},
		2, 40, "pids.max"},
	    {1000, 1000,
		{{CGROUP, "0::/a/b/c/d"}, {PIDS_MAX("/a/b/c/d"), "max"},
		    {PIDS_MAX("/a"), "100"}, {PIDS_MAX("/b"), "20"}},
		2, 40, "pids.max"},
	    /* A container's own, which it sees as the root. */
	    {1000, 1000, {{CGROUP, "0::/\n"}, {PIDS_MAX(""), "100\n"}}, 2, 40,
		"pids.max"},
	    /* Both versions: the line may stand anywhere. */
	    {1000, 1000,
		{{CGROUP, "8:pids:/x\n1:name=systemd:/x\n0::/y\n"},
		    {PIDS_MAX("/y"), "100\n"}, {PIDS_MAX("/x"), "20\n"}},
		2, 40, "pids.max"},
	    {1000, 1000,
		{{CGROUP, "0::/y\n1:name=systemd:/x\n"},
		    {PIDS_MAX("/y"), "100\n"}, {PIDS_MAX("/x"), "20\n"}},
		2, 40, "pids.max"},
	};

	(void)state;
	check_all(machines, LENGTH(machines));
}

static void
test_unreadable(void **state)
{
	/* Fails if a container that hides files, or a kernel without control
	 * groups, keeps the proxy from starting, or from serving many. */
	static char long_group[6000];
	struct machine machines[] = {
	    {1000, 1000, {{NULL, NULL}}, 2, 490, "RLIMIT_NOFILE"},
	    {1000, 1000, {{CGROUP, "0::/a/b\n"}}, 2, 490, "RLIMIT_NOFILE"},
	    {1000, 1000, {{CGROUP, ""}, {THREADS_MAX, ""}}, 2, 490,
		"RLIMIT_NOFILE"},
	    {1000, 1000, {{CGROUP, NULL}, {THREADS_MAX, NULL}}, 2, 490,
		"RLIMIT_NOFILE"},
	    {1000, 1000,
		{{CGROUP, "0::/a\n"}, {PIDS_MAX("/a"), NULL},
		    {PIDS_MAX(""), "100\n"}},
		2, 40, "pids.max"},
	    {1000, 1000, {{CGROUP, "8:pids:/\n1:name=systemd:/\n"}}, 2, 490,
		"RLIMIT_NOFILE"},
	    {1000, 1000, {{CGROUP, "rubbish"}, {THREADS_MAX, "rubbish"}}, 2,
		490, "RLIMIT_NOFILE"},
	    {1000, 1000, {{CGROUP, long_group}, {PIDS_MAX(""), "100\n"}}, 2, 40,
		"pids.max"},
	};

	(void)state;
	memset(long_group, 'a', sizeof(long_group) - 1);
	memcpy(long_group, "0::/", 4);
	for (size_t i = 4; i < sizeof(long_group) - 4; i += 100)
		long_group[i] = '/';
	check_all(machines, LENGTH(machines));
	/* A filter of system calls may refuse even to look. */
	now.prlimit_error = EPERM;
	machines[0].connections = INT32_MAX / 2 - 10;
	machines[0].name = "RLIMIT_NOFILE";
	check(&machines[0]);
	/* Or only to raise a limit: what counts is what it is then. */
	now.prlimit_error = 0;
	now.raise_error = EPERM;
	machines[0].descriptors = 1;
	machines[0].connections = 10;
	check(&machines[0]);
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_least_counts),
	    cmocka_unit_test(test_soft_limit),
	    cmocka_unit_test(test_never_none),
	    cmocka_unit_test(test_no_limit),
	    cmocka_unit_test(test_groups),
	    cmocka_unit_test(test_unreadable),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("capacity", tests, NULL, NULL);
}
