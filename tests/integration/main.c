/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the black-box tests: integration [GROUP]. The group is compat, strict,
 * faults or all (the default; $GROUP is another way to say it). $TESTS is a
 * pattern of test names, with * and ?. program.h tells where the programs are
 * looked for; if nothing is set, in the folder above the tests'.
 *
 * Exit status: 0 if all tests passed, 77 if they can't run on this machine.
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_NOT_HERE 77

/* Programs are by default where the build puts them: ours is somewhere in
 * FOLDER/tests, and they are in FOLDER. */
static void
find_programs(void)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
	char *end = NULL, *next = path;

	path[length == -1 ? 0 : length] = '\0';
	while ((next = strstr(next, "/tests/")) != NULL)
		end = next++;
	if (end != NULL)
		*end = '\0';
	program_set_folder(path);
}

int
main(int argc, char *argv[])
{
	const char *group = argc > 1 ? argv[1] : getenv("GROUP");
	const char *pattern = getenv("TESTS");
	bool all = group == NULL || strcmp(group, "all") == 0;
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (!all && strcmp(group, "compat") != 0 &&
	    strcmp(group, "strict") != 0 && strcmp(group, "faults") != 0) {
		fprintf(stderr, "no such group: %s\n", group);
		return 2;
	}
	if (!network_has_loopback()) {
		fprintf(stderr, "no vsock loopback here: run it in a guest\n");
		return EXIT_NOT_HERE;
	}
	find_programs();
	network_open();
	if (pattern != NULL && *pattern != '\0')
		cmocka_set_test_filter(pattern);
	if (all || strcmp(group, "compat") == 0)
		failed += compat_run();
	if (all || strcmp(group, "strict") == 0)
		failed += strict_run();
	if (all || strcmp(group, "faults") == 0)
		failed += faults_run();
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
