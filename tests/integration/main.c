/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the black-box tests: integration [GROUP]. The group is compat, strict,
 * faults, web or all (the default: but web; $GROUP is another way to say it).
 * $TESTS is a list of patterns of test names, with * and ?. program.h tells
 * where the programs are looked for; if nothing is set, in the folder above the
 * tests'.
 *
 * Exit status: 0 if all tests passed, 77 if they can't run on this machine, 2
 * if there is no such group or test.
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

static const struct {
	const char *name;
	int (*run)(void);
	bool is_apart; /* not one of all */
} groups[] = {
    {"compat", compat_run, false},
    {"strict", strict_run, false},
    {"faults", faults_run, false},
    {"web", web_run, true},
};
#define GROUPS (sizeof(groups) / sizeof(*groups))

static bool
is_in(const char *group, size_t i)
{
	return strcmp(group, groups[i].name) == 0 ||
	       (strcmp(group, "all") == 0 && !groups[i].is_apart);
}

/* Returns the number of failed tests. */
static int
run(const char *group)
{
	int failed = 0;

	for (size_t i = 0; i < GROUPS; i++)
		if (is_in(group, i))
			failed += groups[i].run();
	return failed;
}

int
main(int argc, char *argv[])
{
	const char *group = argc > 1 ? argv[1] : getenv("GROUP");
	const char *tests = getenv("TESTS");
	char *patterns = strdup(tests != NULL ? tests : "");
	char *pattern = strtok(patterns, " ");
	bool known = false;
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (group == NULL)
		group = "all";
	for (size_t i = 0; i < GROUPS; i++)
		known = known || is_in(group, i);
	if (!known) {
		fprintf(stderr,
		    "GROUP='%s' is none of compat, strict, faults, web, all\n",
		    group);
		return 2;
	}
	if (!network_has_loopback()) {
		fprintf(stderr, "no vsock loopback here: run it in a guest\n");
		return EXIT_NOT_HERE;
	}
	find_programs();
	network_open();
	do {
		cmocka_set_test_filter(pattern);
		failed += run(group);
	} while (pattern != NULL && (pattern = strtok(NULL, " ")) != NULL);
	free(patterns);
	if (harness_tests() == 0) {
		fprintf(stderr, "TESTS='%s' names no test of GROUP='%s'\n",
		    tests != NULL ? tests : "", group);
		return 2;
	}
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
