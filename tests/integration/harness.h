/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that a black-box test needs. The parts: network.h has the namespaces and
 * the sockets of tests, program.h the programs under test, traffic.h the bytes,
 * bridge.h a client and an upstream with programs in between; here is what
 * frames a test. Everything runs in the main thread, and a failure of a helper
 * is a failure of the test, unless its comment says otherwise.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "bridge.h"
#include "network.h"
#include "program.h"
#include "traffic.h"

#ifndef PATIENCE /* the Makefile's, for sanitizers */
#define PATIENCE 1
#endif
/* For every wait on a condition, and for every blocking call of a test. */
#define DEADLINE_MS (10000 * PATIENCE)
/* After so long a test is hopeless, and the suite ends. */
#define TEST_LIMIT_SECONDS (120 * PATIENCE)

/*
 * Rows of a struct CMUnitTest table; the second kind gets *state = parameter
 * (a pointer, not owned), and "function/label" as its name.
 */
#define TEST(function)                   \
	cmocka_unit_test_setup_teardown( \
	    function, harness_setup, harness_teardown)
/* On macros in braces the versions of clang-format differ. */
/* clang-format off */
#define TEST_WITH(function, label, parameter)                            \
	{#function "/" label, function, harness_setup, harness_teardown, \
	    (void *)(uintptr_t)(parameter)}
/* clang-format on */

/*
 * Before and after each test. The teardown ends the programs that the test
 * started, joins its threads, closes its descriptors and removes its redirect
 * rules, also when the test failed half-way: tests need not clean up.
 */
int harness_setup(void **state);
int harness_teardown(void **state);

/* How many tests have begun. */
unsigned harness_tests(void);

/* Milliseconds of CLOCK_MONOTONIC. Any thread. */
uint64_t harness_now_ms(void);

/*
 * Calls condition(argument) every few milliseconds until it is true, for at
 * most DEADLINE_MS. Returns whether it became true.
 */
bool harness_wait(bool (*condition)(void *), void *argument);

/* Like printf(3), into a text that lives until the end of the test. */
__attribute__((format(printf, 1, 2))) char *
harness_text(const char *format, ...);

/*
 * Ends a test that can't be done here, as what it needs was tried and isn't
 * there: not because of a version. tools/verdict repeats the reason.
 */
#define harness_skip(reason)                       \
	do {                                       \
		printf("# skipped: %s\n", reason); \
		skip();                            \
	} while (0)

/* The groups, each in a file of its own. Return the number of failed tests. */
int compat_run(void);
int faults_run(void);
int strict_run(void);
int web_run(void);

#endif
