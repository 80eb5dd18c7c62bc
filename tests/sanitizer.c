/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the sanitizers are told, in every program and test that is built with
 * them (make SANITIZE=...): the first finding ends the process by SIGABRT, and
 * so nothing that they find passes for a success. A program that serves can't
 * read its own file any more: frames in its reports have offsets in place of
 * names, for addr2line(1).
 */
#include <stddef.h>

const char *__asan_default_options(void);
const char *__lsan_default_options(void);
const char *__tsan_default_options(void);
const char *__tsan_default_suppressions(void);
const char *__ubsan_default_options(void);

const char *
__asan_default_options(void)
{
	return "abort_on_error=1:detect_stack_use_after_return=1:"
	       "strict_string_checks=1";
}

const char *
__lsan_default_options(void)
{
	return "abort_on_error=1";
}

const char *
__tsan_default_options(void)
{
	return "abort_on_error=1:halt_on_error=1";
}

/* To disconnect a socket that other threads wait on, which is the purpose of
 * stream_reset(), counts as a race. */
const char *
__tsan_default_suppressions(void)
{
	return "race:stream_reset\n";
}

const char *
__ubsan_default_options(void)
{
	return "abort_on_error=1:print_stacktrace=1";
}
