/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of worker. Threads are told apart by their gettid(2). */
#include "worker.h"

#include "support.h"

#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#ifdef STACK_SIZE /* a sanitizer's, of the Makefile */
#define STACK_MOST STACK_SIZE
#else
#define STACK_MOST (1024 * 1024)
#endif
#define AT_ONCE 20
#define WAITING 8 /* as many as may wait */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument);

int __real_pthread_detach(pthread_t thread);
int __wrap_pthread_detach(pthread_t thread);
int __real_sem_timedwait(sem_t *semaphore, const struct timespec *until);
int __wrap_sem_timedwait(sem_t *semaphore, const struct timespec *until);

static struct {
	_Atomic size_t creates;
	_Atomic size_t detached;
	_Atomic int error;         /* of the next ones */
	_Atomic size_t stack_size; /* asked for by the last */
	_Atomic long wait_ms;      /* likewise, at its first wait */
	atomic_bool hurry;         /* threads wait for 0 to 60 us only */
} calls;

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument)
{
	size_t size = 0;

	if (attributes == NULL) /* count_own_threads() */
		return __real_pthread_create(thread, attributes, run, argument);
	calls.creates++;
	if (calls.error != 0)
		return calls.error;
	(void)pthread_attr_getstacksize(attributes, &size);
	calls.stack_size = size;
	return __real_pthread_create(thread, attributes, run, argument);
}

int
__wrap_pthread_detach(pthread_t thread)
{
	calls.detached++;
	return __real_pthread_detach(thread);
}

int
__wrap_sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
	static _Thread_local unsigned seed;
	struct timespec now, soon;

	if (until == NULL) /* musl's sem_wait(3) */
		return __real_sem_timedwait(semaphore, until);
	(void)clock_gettime(CLOCK_REALTIME, &now);
	calls.wait_ms = (until->tv_sec - now.tv_sec) * 1000 +
			(until->tv_nsec - now.tv_nsec) / 1000000;
	if (!calls.hurry)
		return __real_sem_timedwait(semaphore, until);
	if (seed == 0)
		seed = (unsigned)gettid();
	soon = now;
	soon.tv_nsec += rand_r(&seed) % 60000;
	if (soon.tv_nsec >= 1000000000) {
		soon.tv_nsec -= 1000000000;
		soon.tv_sec++;
	}
	return __real_sem_timedwait(semaphore, &soon);
}

/* A job that says which thread has it, and waits until it is to end. */
static struct task {
	struct worker_job job;
	_Atomic pid_t thread; /* 0: none yet */
	_Atomic int runs;
	atomic_bool over;
	sem_t go;
} tasks[AT_ONCE];

static void
run_task(void *argument)
{
	struct task *t = argument;

	t->job = (struct worker_job){0}; /* it's ours again */
	t->runs++;
	t->thread = gettid();
	while (sem_wait(&t->go) == -1)
		continue;
	t->over = true; /* now it may be started again */
}

static void
start(struct task *t)
{
	t->thread = 0;
	t->runs = 0;
	t->over = false;
	t->job = (struct worker_job){.run = run_task, .argument = t};
	assert_int_equal(sem_init(&t->go, 0, 0), 0);
	assert_int_equal(worker_start(&t->job), 0);
}

static void
await(struct task *t)
{
	AWAIT(t->thread != 0);
}

static void
end(struct task *t)
{
	assert_int_equal(sem_post(&t->go), 0);
	AWAIT(t->over);
}

static unsigned own_threads; /* not of the worker */

static int
set_up(void **state)
{
	(void)state;
	calls.hurry = false;
	AWAIT(count_threads() == own_threads);
	calls.creates = calls.detached = calls.stack_size = 0;
	calls.wait_ms = 0;
	calls.error = 0;
	return 0;
}

static void
test_one_each(void **state)
{
	/* Fails if a job waits for the end of another, or runs twice. */
	(void)state;
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < AT_ONCE; i++)
			start(&tasks[i]);
		for (size_t i = 0; i < AT_ONCE; i++)
			await(&tasks[i]);
		for (size_t i = 0; i < AT_ONCE; i++) {
			for (size_t j = 0; j < i; j++)
				assert_int_not_equal(
				    tasks[i].thread, tasks[j].thread);
			assert_int_equal(tasks[i].runs, 1);
		}
		for (size_t i = 0; i < AT_ONCE; i++)
			end(&tasks[i]);
	}
}

static void
test_next_job(void **state)
{
	/* Fails if each job costs a thread. */
	pid_t first;

	(void)state;
	start(&tasks[0]);
	await(&tasks[0]);
	first = tasks[0].thread;
	for (size_t i = 1; i < AT_ONCE; i++) {
		end(&tasks[i - 1]);
		AWAIT(thread_sleeps(tasks[i - 1].thread));
		start(&tasks[i]);
		await(&tasks[i]);
		assert_int_equal(tasks[i].thread, first);
	}
	assert_int_equal(calls.creates, 1);
	/* One that has a job takes no other. */
	start(&tasks[0]);
	await(&tasks[0]);
	assert_int_not_equal(tasks[0].thread, first);
	assert_int_equal(calls.creates, 2);
	end(&tasks[0]);
	end(&tasks[AT_ONCE - 1]);
}

static void
test_waits_for_a_second(void **state)
{
	/* Fails if threads that nobody needs stay, or leave at once. */
	long begin;

	(void)state;
	start(&tasks[0]);
	await(&tasks[0]);
	end(&tasks[0]);
	AWAIT(calls.wait_ms != 0);
	assert_in_range(calls.wait_ms, 900, 1000);
	begin = now_ms();
	AWAIT(count_threads() == own_threads);
	assert_true(now_ms() - begin < 5000);
}

/* Like a relay: a job that starts another, and frees the memory of both. */
struct couple {
	struct worker_job job;
	sem_t ended;
	atomic_int runs;
};

static _Atomic size_t couples_ended, couples_wrong;

static void
run_second(void *argument)
{
	struct couple *p = argument;

	p->runs++;
	(void)sem_post(&p->ended);
}

static void
run_first(void *argument)
{
	struct couple *p = argument;

	p->runs++;
	p->job = (struct worker_job){run_second, p};
	(void)sem_init(&p->ended, 0, 0);
	if (worker_start(&p->job) != 0)
		abort();
	while (sem_wait(&p->ended) == -1)
		continue;
	couples_wrong += p->runs != 2;
	free(p);
	couples_ended++;
}

static void
test_from_many_threads(void **state)
{
	/* Fails if a thread that is given a job while it stops waiting loses
	 * it, or if two jobs are given to one thread. */
	enum { COUPLES = 30000, AHEAD = 6, ENOUGH_MS = 3000 };
	const long end_ms = now_ms() + ENOUGH_MS; /* for emulators */
	unsigned seed = 1;
	size_t i;

	(void)state;
	calls.hurry = true;
	couples_ended = couples_wrong = 0;
	for (i = 0; i < COUPLES && now_ms() < end_ms; i++) {
		struct couple *p = calloc(1, sizeof(*p));

		assert_non_null(p);
		p->job = (struct worker_job){run_first, p};
		assert_int_equal(worker_start(&p->job), 0);
		while (couples_ended + AHEAD < i) /* limit_tests() ends it */
			(void)sched_yield();
		if (rand_r(&seed) % 8 == 0)
			(void)usleep((unsigned)rand_r(&seed) % 80);
	}
	AWAIT(couples_ended == i);
	assert_int_equal(couples_wrong, 0);
	AWAIT(count_threads() == own_threads);
}

static void
test_few_wait(void **state)
{
	/* Fails if a burst leaves many threads behind for a while. */
	(void)state;
	for (size_t i = 0; i < AT_ONCE; i++)
		start(&tasks[i]);
	for (size_t i = 0; i < AT_ONCE; i++)
		await(&tasks[i]);
	assert_int_equal(count_threads(), own_threads + AT_ONCE);
	for (size_t i = 0; i < AT_ONCE; i++)
		end(&tasks[i]);
	AWAIT(count_threads() <= own_threads + WAITING);
	calls.creates = 0;
	for (size_t i = 0; i < WAITING; i++)
		start(&tasks[i]);
	for (size_t i = 0; i < WAITING; i++)
		await(&tasks[i]);
	assert_int_equal(calls.creates, 0);
	for (size_t i = 0; i < WAITING; i++)
		end(&tasks[i]);
}

static void
test_no_thread(void **state)
{
	/* Fails if a job for which there is no thread runs later, or those
	 * after it don't. */
	(void)state;
	start(&tasks[0]);
	await(&tasks[0]);
	calls.error = EAGAIN;
	tasks[1].runs = 0;
	tasks[1].job = (struct worker_job){run_task, &tasks[1]};
	assert_int_equal(worker_start(&tasks[1].job), EAGAIN);
	/* One that waits needs none. */
	end(&tasks[0]);
	AWAIT(thread_sleeps(tasks[0].thread));
	start(&tasks[2]);
	await(&tasks[2]);
	calls.error = 0;
	start(&tasks[3]);
	await(&tasks[3]);
	assert_int_equal(tasks[1].runs, 0);
	end(&tasks[2]);
	end(&tasks[3]);
}

static void
test_threads(void **state)
{
	/* Fails if idle connections take the address space of libc's default
	 * stacks, or have too small ones for getaddrinfo(3), or if threads that
	 * have ended are never given back. */
	(void)state;
	start(&tasks[0]);
	await(&tasks[0]);
	end(&tasks[0]);
	assert_in_range(calls.stack_size, 128 * 1024, STACK_MOST);
	assert_int_equal(calls.creates, 1);
	assert_int_equal(calls.detached, 1);
}

int
main(void)
{
	struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_one_each, set_up),
	    cmocka_unit_test_setup(test_next_job, set_up),
	    cmocka_unit_test_setup(test_waits_for_a_second, set_up),
	    cmocka_unit_test_setup(test_from_many_threads, set_up),
	    cmocka_unit_test_setup(test_few_wait, set_up),
	    cmocka_unit_test_setup(test_no_thread, set_up),
	    cmocka_unit_test_setup(test_threads, set_up),
	};

	own_threads = count_own_threads();
	limit_tests(tests, LENGTH(tests));
	return cmocka_run_group_tests_name("worker", tests, NULL, NULL);
}
