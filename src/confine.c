/* SPDX-License-Identifier: Apache-2.0 */
/* No step is a condition for serving, whyever it is refused: the log tells. */
#include "confine.h"
#include "log.h"

#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

/* landlock(7), by its numbers: headers may be older than the kernel. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif
#define TELL_VERSION 1
#define READ (1U << 2 | 1U << 3 | 1U << 16) /* files, folders, sockets */
#define BIND 1U
#define CONNECT 2U
#define ABSTRACT_SOCKETS 1U /* of other processes, */
#define SIGNALS 2U          /* to them */
struct ruleset {
	uint64_t files, tcp, scopes; /* forbidden, without rules that allow */
};

/* Nothing can be taken out without CAP_SETPCAP. */
static bool
empty_bounding_set(void)
{
	unsigned long i = 0;
	int held;

	while ((held = prctl(PR_CAPBSET_READ, i)) == 0 ||
	       (held == 1 && prctl(PR_CAPBSET_DROP, i) == 0))
		i++;
	return held == -1 && i > 0; /* the first that there isn't */
}

/* Returns the version of what holds now; less than 1: nothing. */
static long
apply_landlock(bool connects, bool reads)
{
	long v = syscall(SYS_landlock_create_ruleset, NULL, 0, TELL_VERSION);
	/* Of access to files, there are 13 kinds, and since then: to another
	 * folder, truncating, ioctl(2) of devices, sockets that have a path. */
	int kinds = 13 + (v >= 2) + (v >= 3) + (v >= 5) + (v >= 9);
	struct ruleset set = {.files = (1U << kinds) - 1};
	int fd;

	if (reads)
		set.files &= ~READ;
	if (v >= 4)
		set.tcp = connects ? BIND : BIND | CONNECT;
	if (v >= 6)
		set.scopes = ABSTRACT_SOCKETS | SIGNALS;
	fd = (int)syscall(SYS_landlock_create_ruleset, &set, sizeof(set), 0);
	if (syscall(SYS_landlock_restrict_self, fd, 0) == -1)
		v = 0;
	close(fd); /* of both: EBADF, if there is none */
	return v;
}

void
confine_process(bool connects, bool reads, rlim_t descriptors)
{
	static const char *const words[] = {"missing", "held"};
	struct __user_cap_header_struct self = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
	struct rlimit core = {0, 0}, files = {descriptors, descriptors}, now;
	bool few = prlimit(0, RLIMIT_NOFILE, NULL, &now) == 0 &&
		   (now.rlim_max <= descriptors ||
		       prlimit(0, RLIMIT_NOFILE, &files, NULL) == 0);
	bool is_small = prlimit(0, RLIMIT_CORE, &core, NULL) == 0;
	bool no_core = prctl(PR_SET_DUMPABLE, 0) == 0 && is_small;
	bool no_new = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	bool empty = empty_bounding_set();
	/* The ambient ones go with these: capabilities(7). */
	bool powerless = syscall(SYS_capset, &self, none) == 0;
	long v = apply_landlock(connects, reads);

	log_line(LEVEL_DEBUG,
	    "msg=confined descriptors=%s core=%s no-new-privs=%s "
	    "bounding-set=%s capabilities=%s files=%s tcp=%s scopes=%s",
	    words[few], words[no_core], words[no_new], words[empty],
	    words[powerless], words[v >= 1], words[v >= 4], words[v >= 6]);
}
