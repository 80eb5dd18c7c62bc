/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of confine. The kernel is played: what it has, and refuses. What
 * the real one then forbids, the black-box tests see. */
#include "confine.h"

#include "log.h"
#include "support.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/capability.h>

int __wrap_close(int fd);
void __wrap_log_line(enum log_level level, const char *format, ...);
int __wrap_prctl(int option, ...);
int __wrap_prlimit(
    pid_t pid, int which, const struct rlimit *new, struct rlimit *old);
long __wrap_syscall(long number, ...);

#define RULESET 77      /* its descriptor */
#define DESCRIPTORS 500 /* that are to stay */

enum step {
	FILES, /* the limit */
	CORE,
	DUMPABLE,
	NO_NEW_PRIVS,
	BOUNDING,
	CAPSET,
	ASK_VERSION,
	CREATE,
	RESTRICT,
	STEPS
};

/* A kernel, and what was done to it. */
static struct {
	int errors[STEPS]; /* errno; 0: it is done */
	long version;      /* of Landlock */
	unsigned long last_capability;
	uint64_t bounding_set;
	struct rlimit files, core;
	int dumpable;
	bool no_new_privs, powerless;
	uint64_t ruleset[3];
	int restricted, closed; /* times */
	char steps[512], line[512];
} now;

static void
set_kernel(long version)
{
	memset(&now, 0, sizeof(now));
	now.version = version;
	now.last_capability = 40;
	now.bounding_set = UINT64_MAX >> 23;
	now.files = (struct rlimit){1000, 1000};
	now.core = (struct rlimit){RLIM_INFINITY, RLIM_INFINITY};
	now.dumpable = 1;
}

/* Does a step, or refuses it: -1 with errno. */
static int
take(enum step step, const char *name)
{
	(void)strncat(
	    now.steps, name, sizeof(now.steps) - strlen(now.steps) - 1);
	errno = now.errors[step];
	return errno == 0 ? 0 : -1;
}

int
__wrap_prlimit(
    pid_t pid, int which, const struct rlimit *new, struct rlimit *old)
{
	struct rlimit *limit = which == RLIMIT_CORE ? &now.core : &now.files;

	assert_int_equal(pid, 0);
	assert_true(which == RLIMIT_CORE || which == RLIMIT_NOFILE);
	if (old != NULL)
		*old = *limit;
	if (new == NULL)
		return 0;
	if (take(which == RLIMIT_CORE ? CORE : FILES,
		which == RLIMIT_CORE ? "core " : "descriptors ") == -1)
		return -1;
	assert_true(new->rlim_cur <= new->rlim_max);
	assert_true(new->rlim_max <= limit->rlim_max); /* or may be refused */
	*limit = *new;
	return 0;
}

int
__wrap_prctl(int option, ...)
{
	unsigned long value;
	va_list arguments;
	uint64_t bit;

	va_start(arguments, option);
	value = va_arg(arguments, unsigned long);
	va_end(arguments);
	bit = value <= now.last_capability ? (uint64_t)1 << value : 0;
	switch (option) {
	case PR_SET_DUMPABLE:
		if (take(DUMPABLE, "dumpable ") == -1)
			return -1;
		now.dumpable = (int)value;
		return 0;
	case PR_SET_NO_NEW_PRIVS:
		if (take(NO_NEW_PRIVS, "no-new-privs ") == -1)
			return -1;
		now.no_new_privs = value == 1;
		return 0;
	case PR_CAPBSET_READ:
		errno = EINVAL;
		return bit == 0 ? -1 : (now.bounding_set & bit) != 0;
	case PR_CAPBSET_DROP: /* in this order: cap_prctl_drop() */
		if (take(BOUNDING, "bounding-set ") == -1)
			return -1;
		errno = EINVAL;
		if (bit == 0)
			return -1;
		assert_false(now.powerless);
		now.bounding_set &= ~bit;
		return 0;
	default: fail_msg("prctl(%d)", option); return -1;
	}
}

static void
check_capset(const struct __user_cap_header_struct *header,
    const struct __user_cap_data_struct *data)
{
	assert_int_equal(header->version, _LINUX_CAPABILITY_VERSION_3);
	assert_int_equal(header->pid, 0);
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		assert_int_equal(data[i].effective, 0);
		assert_int_equal(data[i].permitted, 0);
		assert_int_equal(data[i].inheritable, 0);
	}
	now.powerless = true;
}

long
__wrap_syscall(long number, ...)
{
	va_list arguments;
	void *first, *second;

	va_start(arguments, number);
	if (number == 444) { /* landlock_create_ruleset, also without header */
		first = va_arg(arguments, void *);
		va_end(arguments);
		if (first == NULL)
			return take(ASK_VERSION, "version ") == -1
				   ? -1
				   : now.version;
		if (take(CREATE, "create ") == -1)
			return -1;
		memcpy(now.ruleset, first, sizeof(now.ruleset));
		return RULESET;
	}
	if (number == 446) { /* landlock_restrict_self */
		int fd = va_arg(arguments, int);

		va_end(arguments);
		if (take(RESTRICT, "restrict ") == -1)
			return -1;
		errno = fd == RULESET ? EPERM : EBADF;
		if (fd != RULESET || (!now.no_new_privs && now.powerless))
			return -1;
		now.restricted++;
		return 0;
	}
	assert_int_equal(number, SYS_capset);
	first = va_arg(arguments, void *);
	second = va_arg(arguments, void *);
	va_end(arguments);
	if (take(CAPSET, "capabilities ") == -1)
		return -1;
	check_capset(first, second);
	return 0;
}

int
__wrap_close(int fd)
{
	now.closed += fd == RULESET;
	return 0;
}

void
__wrap_log_line(enum log_level level, const char *format, ...)
{
	va_list arguments;

	assert_int_equal(level, LEVEL_DEBUG);
	assert_string_equal(now.line, ""); /* one */
	va_start(arguments, format);
	(void)vsnprintf(now.line, sizeof(now.line), format, arguments);
	va_end(arguments);
}

static const char all_held[] =
    "msg=confined descriptors=held core=held no-new-privs=held "
    "bounding-set=held capabilities=held files=held tcp=held scopes=held";

/* Expects the line in which these words, and no others, are missing. */
static void
expect_missing(const char *const *words)
{
	char wanted[512], key[64], *at;

	(void)snprintf(wanted, sizeof(wanted), "%s ", all_held);
	for (; *words != NULL; words++) {
		(void)snprintf(key, sizeof(key), " %s=held ", *words);
		at = strstr(wanted, key);
		assert_non_null(at);
		at += strlen(*words) + 2;
		memmove(at + 7, at + 4, strlen(at + 4) + 1);
		memcpy(at, "missing", 7);
	}
	wanted[strlen(wanted) - 1] = '\0';
	assert_string_equal(now.line, wanted);
}

#define EXPECT_MISSING(...) \
	expect_missing((const char *const[]){__VA_ARGS__, NULL})

static void
test_all(void **state)
{
	/* Fails if a step is left out that the kernel has, or comes when it
	 * can't work any more: without capabilities, the bounding set stays,
	 * and without no_new_privs there is no Landlock for who has none. */
	char wanted[512] = "";

	(void)state;
	set_kernel(11);
	now.last_capability = 3;
	now.bounding_set = 15;
	confine_process(true, false, DESCRIPTORS);
	(void)snprintf(wanted, sizeof(wanted),
	    "%s bounding-set bounding-set bounding-set bounding-set "
	    "capabilities version create restrict ",
	    "descriptors core dumpable no-new-privs");
	assert_string_equal(now.steps, wanted);
	assert_int_equal(now.dumpable, 0);
	assert_true(now.no_new_privs && now.powerless);
	assert_int_equal(now.bounding_set, 0);
	assert_int_equal(now.core.rlim_max, 0);
	assert_int_equal(now.restricted, 1);
	assert_int_equal(now.closed, 1);
	assert_string_equal(now.line, all_held);
}

/* The rights of linux/landlock.h of Linux 7.3, up to a number. */
#define UP_TO(right) ((UINT64_C(1) << (right) << 1) - 1)
#define MAKE_SYM 12
#define REFER 13
#define TRUNCATE 14
#define IOCTL_DEV 15
#define RESOLVE_UNIX 16
#define READ_FILE (UINT64_C(1) << 2)
#define READ_DIR (UINT64_C(1) << 3)

static void
test_versions(void **state)
{
	/* Fails if a right is not taken that this Landlock knows, or one that
	 * it doesn't know is: then it takes none. Or if a resolver can't read,
	 * or connect to its service. */
	static const struct {
		long version;
		uint64_t files, tcp, scopes;
	} versions[] = {
	    {1, UP_TO(MAKE_SYM), 0, 0},
	    {2, UP_TO(REFER), 0, 0},
	    {3, UP_TO(TRUNCATE), 0, 0},
	    {4, UP_TO(TRUNCATE), 3, 0},
	    {5, UP_TO(IOCTL_DEV), 3, 0},
	    {6, UP_TO(IOCTL_DEV), 3, 3},
	    {7, UP_TO(IOCTL_DEV), 3, 3},
	    {8, UP_TO(IOCTL_DEV), 3, 3},
	    {9, UP_TO(RESOLVE_UNIX), 3, 3},
	    {11, UP_TO(RESOLVE_UNIX), 3, 3},
	    {1000, UP_TO(RESOLVE_UNIX), 3, 3},
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(versions) * 4; i++) {
		uint64_t files = versions[i / 4].files;
		uint64_t tcp = versions[i / 4].tcp;
		bool connects = i % 2 != 0, reads = i % 4 >= 2;

		set_kernel(versions[i / 4].version);
		confine_process(connects, reads, DESCRIPTORS);
		assert_int_equal(now.restricted, 1);
		if (reads)
			files &= ~(
			    READ_FILE | READ_DIR | UINT64_C(1) << RESOLVE_UNIX);
		assert_int_equal(now.ruleset[0], files);
		assert_int_equal(now.ruleset[1], connects ? tcp & 1 : tcp);
		assert_int_equal(now.ruleset[2], versions[i / 4].scopes);
		if (now.version < 4)
			EXPECT_MISSING("tcp", "scopes");
		else if (now.version < 6)
			EXPECT_MISSING("scopes");
		else
			assert_string_equal(now.line, all_held);
	}
}

static void
test_refused(void **state)
{
	/* Fails if one step that is refused, as by an older kernel or a filter
	 * of system calls, keeps others from being taken, ends the proxy, or is
	 * said to hold. */
	static const int errors[] = {
	    ENOSYS, EINVAL, EOPNOTSUPP, EPERM, ENOMEM, E2BIG};
	static const char *const missing[STEPS][5] = {
	    [FILES] = {"descriptors"},
	    [CORE] = {"core"},
	    [DUMPABLE] = {"core"},
	    [NO_NEW_PRIVS] = {"no-new-privs", "files", "tcp", "scopes"},
	    [BOUNDING] = {"bounding-set"},
	    [CAPSET] = {"capabilities"},
	    [ASK_VERSION] = {"files", "tcp", "scopes"},
	    [CREATE] = {"files", "tcp", "scopes"},
	    [RESTRICT] = {"files", "tcp", "scopes"},
	};

	(void)state;
	for (size_t i = 0; i < STEPS * LENGTH(errors); i++) {
		enum step step = (enum step)(i / LENGTH(errors));

		set_kernel(11);
		now.errors[step] = errors[i % LENGTH(errors)];
		confine_process(false, false, DESCRIPTORS);
		expect_missing(missing[step]);
		assert_int_equal(
		    now.files.rlim_max, step == FILES ? 1000 : DESCRIPTORS);
		assert_int_equal(now.core.rlim_max == 0, step != CORE);
		assert_int_equal(now.dumpable, step == DUMPABLE);
		assert_int_equal(now.no_new_privs, step != NO_NEW_PRIVS);
		assert_int_equal(now.bounding_set == 0, step != BOUNDING);
		assert_int_equal(now.powerless, step != CAPSET);
		assert_int_equal(now.closed, step != CREATE);
	}
}

static void
test_nothing(void **state)
{
	/* Fails if a program can't run where all is forbidden, and the kernel
	 * has nothing. */
	(void)state;
	set_kernel(0);
	for (int i = 0; i < STEPS; i++)
		now.errors[i] = ENOSYS;
	confine_process(false, false, DESCRIPTORS);
	EXPECT_MISSING("descriptors", "core", "no-new-privs", "bounding-set",
	    "capabilities", "files", "tcp", "scopes");
	assert_int_equal(now.closed, 0);
}

static void
test_bounding_set(void **state)
{
	/* Fails if capabilities stay that an execve(2) could give, if some are
	 * unknown to this source; or if it is said to be empty and isn't, or
	 * the other way round. */
	(void)state;
	set_kernel(11);
	now.last_capability = 63;
	now.bounding_set = UINT64_MAX;
	confine_process(false, false, DESCRIPTORS);
	assert_int_equal(now.bounding_set, 0);
	assert_string_equal(now.line, all_held);
	/* As of a service: one, and nobody may take it away. */
	set_kernel(11);
	now.bounding_set = 1 << CAP_NET_BIND_SERVICE;
	now.errors[BOUNDING] = EPERM;
	confine_process(false, false, DESCRIPTORS);
	EXPECT_MISSING("bounding-set");
	/* Where there is none, nobody needs to. */
	set_kernel(11);
	now.bounding_set = 0;
	now.errors[BOUNDING] = EPERM;
	confine_process(false, false, DESCRIPTORS);
	assert_string_equal(now.line, all_held);
	assert_null(strstr(now.steps, "bounding-set"));
}

static void
test_descriptors(void **state)
{
	/* Fails if the proxy has more descriptors than it needs, if its limit
	 * is raised, which root may do, or if one that is lower already counts
	 * as a failure. */
	static const struct {
		rlim_t hard, wanted, result;
	} cases[] = {{1000, 500, 500}, {1000, 999, 999}, {1000, 1000, 1000},
	    {1000, 1001, 1000}, {20, UINT32_MAX + UINT64_C(10), 20},
	    {RLIM_INFINITY, 500, 500}};

	(void)state;
	for (size_t i = 0; i < LENGTH(cases); i++) {
		set_kernel(11);
		now.files = (struct rlimit){cases[i].hard, cases[i].hard};
		confine_process(false, false, cases[i].wanted);
		assert_int_equal(now.files.rlim_cur, cases[i].result);
		assert_int_equal(now.files.rlim_max, cases[i].result);
		assert_string_equal(now.line, all_held);
	}
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all),
	    cmocka_unit_test(test_versions),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_nothing),
	    cmocka_unit_test(test_bounding_set),
	    cmocka_unit_test(test_descriptors),
	};

	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("confine", tests, NULL, NULL);
}
