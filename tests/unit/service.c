/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of service. The test is the service manager. */
#include "service.h"

#include "support.h"

#include <stdlib.h>
#include <sys/un.h>

#define SOME 50 /* characters of a path */

static char folder[] = "/tmp/unit-service-XXXXXX";

/* Binds a manager's socket; returns it. */
static int
bind_manager(const struct sockaddr_un *address, size_t length)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(
	    bind(fd, (const struct sockaddr *)address,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
	    0);
	limit_time(fd);
	return fd;
}

/* The manager must have got this one message, and nothing else. */
static void
assert_told(int manager, const char *expected)
{
	char text[256] = "";

	assert_int_equal(
	    recv(manager, text, sizeof(text) - 1, 0), strlen(expected));
	assert_string_equal(text, expected);
	assert_int_equal(recv(manager, text, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void
assert_not_told(int manager)
{
	assert_int_equal(recv(manager, &(char){0}, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

/* A path of so many characters; of no more than these a socket is bound. */
static const char *
path_of(size_t length)
{
	static char path[256];

	memset(path, 'x', length);
	memcpy(path, folder, strlen(folder));
	path[strlen(folder)] = '/';
	path[length] = '\0';
	return path;
}

/* The socket to the manager, which stays; -1: there was none yet. */
static int told_by = -1;

/* Descriptors, without that one. */
static int
other_descriptors(void)
{
	return open_descriptors() - (told_by != -1);
}

/* What a process does once; the socket of the last time goes. */
static void
open_service(void)
{
	int old = told_by;

	told_by = dup(STDERR_FILENO); /* the next one gets its number */
	assert_int_equal(close(told_by), 0);
	service_open();
	if (fcntl(told_by, F_GETFD) == -1)
		told_by = old;
	else if (old != -1)
		close(old);
}

static int
set_up(void **state)
{
	(void)state;
	return unsetenv("NOTIFY_SOCKET") + unsetenv("LISTEN_PID") +
	       unsetenv("LISTEN_FDS");
}

static void
test_path(void **state)
{
	/* Fails if a manager waits in vain for word, and ends the proxy. The
	 * longest path has no null byte at its end. */
	static const size_t lengths[] = {40, 107, 108};
	int before = other_descriptors();

	(void)state;
	for (size_t i = 0; i < LENGTH(lengths); i++) {
		struct sockaddr_un name = {.sun_family = AF_UNIX};
		const char *path = path_of(lengths[i]);
		int manager;

		memcpy(name.sun_path, path, lengths[i]);
		manager = bind_manager(&name, lengths[i]);
		assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
		open_service();
		service_notify("READY=1\nSTATUS=Serving", true);
		assert_told(manager, "READY=1\nSTATUS=Serving");
		/* As when files are out of reach. */
		assert_int_equal(unlink(path), 0);
		service_notify("STOPPING=1", true);
		assert_told(manager, "STOPPING=1");
		close(manager);
	}
	assert_int_equal(other_descriptors(), before);
}

static void
test_abstract_name(void **state)
{
	/* Fails if a manager in another mount namespace isn't told. */
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int before = other_descriptors(), manager, other;
	char text[128];
	size_t length;

	(void)state;
	length = (size_t)snprintf(
	    text, sizeof(text), "@unit-service-%d", (int)getpid());
	memcpy(name.sun_path + 1, text + 1, length - 1);
	manager = bind_manager(&name, length);
	/* All of the name counts: here is one that goes on with a null. */
	other = bind_manager(&name, length + 1);
	assert_int_equal(setenv("NOTIFY_SOCKET", text, 1), 0);
	open_service();
	service_notify("READY=1", true);
	assert_told(manager, "READY=1");
	assert_not_told(other);
	close(other);
	close(manager);
	assert_int_equal(other_descriptors(), before);
}

static void
test_nobody_to_tell(void **state)
{
	/* Fails if a proxy ends, hangs or leaks because nobody wants to hear
	 * from it. */
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int before = other_descriptors(), manager;
	const char *path = path_of(50);

	(void)state;
	open_service();
	service_notify("READY=1", true);
	assert_int_equal(setenv("NOTIFY_SOCKET", "", 1), 0);
	open_service();
	service_notify("READY=1", true);
	assert_int_equal(setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1), 0);
	open_service();
	service_notify("READY=1", true);
	assert_int_equal(setenv("NOTIFY_SOCKET", "@", 1), 0);
	open_service();
	service_notify("READY=1", true);
	/* Neither family nor form is one of a manager here. */
	assert_int_equal(setenv("NOTIFY_SOCKET", "vsock:2:1234", 1), 0);
	open_service();
	service_notify("READY=1", true);
	/* One that was there, and one whose socket is gone, too. */
	memcpy(name.sun_path, path, strlen(path));
	manager = bind_manager(&name, strlen(path));
	assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
	open_service();
	close(manager);
	service_notify("READY=1", true);
	open_service();
	service_notify("READY=1", true);
	assert_int_equal(unlink(path), 0);
	open_service();
	service_notify("READY=1", true);
	assert_int_equal(other_descriptors(), before);
}

static void
test_path_too_long(void **state)
{
	/* Fails if a name that is too long is cut, and so another's, or writes
	 * beyond the address. */
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	const char *path = path_of(sizeof(name.sun_path));
	int manager;

	(void)state;
	memcpy(name.sun_path, path, sizeof(name.sun_path));
	manager = bind_manager(&name, sizeof(name.sun_path));
	for (size_t more = 1; more < 100; more += 49) {
		path = path_of(sizeof(name.sun_path) + more);
		assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
		open_service();
		service_notify("READY=1", true);
		assert_not_told(manager);
	}
	close(manager);
	assert_int_equal(unlink(path_of(sizeof(name.sun_path))), 0);
}

static _Atomic pid_t teller; /* a thread; 0: none yet */

static void
tell(void *argument)
{
	teller = gettid();
	service_notify(argument, true);
}

/* Fills a manager's queue, so that who sends to it must wait. Returns how many
 * messages that takes. */
static int
fill_queue(const struct sockaddr_un *name, size_t length)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), count = 0;

	while (
	    sendto(fd, "junk", 4, MSG_DONTWAIT, (const struct sockaddr *)name,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) ==
	    4)
		count++;
	assert_int_equal(errno, EAGAIN);
	close(fd);
	return count;
}

/* Makes a manager's socket, at *name, of SOME characters, and says where it is.
 * Returns it. */
static int
open_manager(struct sockaddr_un *name)
{
	const char *path = path_of(SOME);
	int manager;

	*name = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(name->sun_path, path, SOME);
	manager = bind_manager(name, SOME);
	assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
	open_service();
	return manager;
}

static void
close_manager(int manager)
{
	close(manager);
	assert_int_equal(unlink(path_of(SOME)), 0);
}

/* Takes what has filled the queue out of it. */
static void
drain_queue(int manager, int junk)
{
	for (; junk > 0; junk--)
		assert_int_equal(recv(manager, &(char){0}, 1, 0), 1);
}

static void
test_busy_manager(void **state)
{
	/* Fails if word is lost because a manager is busy for a moment; or if
	 * one that hangs makes the proxy hang, too. */
	static struct job job;
	static char word[] = "READY=1";
	struct sockaddr_un name;
	int manager = open_manager(&name);
	long begin;

	(void)state;
	for (int hangs = 0; hangs < 2; hangs++) {
		int junk = fill_queue(&name, SOME);

		teller = 0;
		begin = now_ms();
		job_start(&job, tell, word);
		AWAIT(job_has_ended(&job) || (hangs ? now_ms() >= begin + 10000
						    : thread_sleeps(teller)));
		begin = now_ms() - begin;
		drain_queue(manager, junk);
		job_end(&job);
		if (hangs) {
			assert_in_range(begin, 900, 5000);
			assert_not_told(manager);
		} else {
			assert_told(manager, word);
		}
	}
	close_manager(manager);
}

static void
test_unimportant_word(void **state)
{
	/* Fails if nobody is served while a manager that hangs could be told
	 * what it needn't know. */
	struct sockaddr_un name;
	int manager = open_manager(&name), junk;
	long begin;

	(void)state;
	service_notify("STATUS=1", false);
	assert_told(manager, "STATUS=1");
	junk = fill_queue(&name, SOME);
	begin = now_ms();
	for (int i = 0; i < 10; i++) /* at a second each it would be 10 */
		service_notify("STATUS=2", false);
	assert_in_range(now_ms() - begin, 0, 5000);
	drain_queue(manager, junk);
	assert_not_told(manager);
	close_manager(manager);
}

/* Sets, or with NULL unsets, what a manager sets. */
static void
pass(const char *pid, const char *fds)
{
	(void)set_up(NULL);
	if (pid != NULL)
		assert_int_equal(setenv("LISTEN_PID", pid, 1), 0);
	if (fds != NULL)
		assert_int_equal(setenv("LISTEN_FDS", fds, 1), 0);
}

static void
test_listeners(void **state)
{
	/* Fails if a listener that was passed is left alone, or one that was
	 * passed to another process, whose descriptor 3 isn't ours, is taken.
	 */
	char own[32], others[32];

	(void)state;
	(void)snprintf(own, sizeof(own), "%d", (int)getpid());
	(void)snprintf(others, sizeof(others), "%d", (int)getppid());
	pass(own, "1");
	assert_string_equal(service_listeners(), "1");
	pass(own, "2");
	assert_string_equal(service_listeners(), "2");
	pass(own, "");
	assert_string_equal(service_listeners(), "");
	pass(own, NULL);
	assert_null(service_listeners());
	pass(others, "1");
	assert_null(service_listeners());
	pass(NULL, "1");
	assert_null(service_listeners());
	pass("", "1");
	assert_null(service_listeners());
	pass("0", "1");
	assert_null(service_listeners());
	pass(NULL, NULL);
	assert_null(service_listeners());
	assert_int_equal(PASSED_LISTENER, 3);
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int
main(void)
{
	struct CMUnitTest tests[] = {
	    TEST(test_path),
	    TEST(test_abstract_name),
	    TEST(test_nobody_to_tell),
	    TEST(test_path_too_long),
	    TEST(test_busy_manager),
	    TEST(test_unimportant_word),
	    TEST(test_listeners),
	};
	int failed;

	limit_tests(tests, LENGTH(tests));
	if (mkdtemp(folder) == NULL)
		return 1;
	failed = cmocka_run_group_tests_name("service", tests, NULL, NULL);
	(void)rmdir(folder);
	return failed;
}
