/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes a waiting thread out of its place gives it a job. */
#include "worker.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#ifndef STACK_SIZE /* for getaddrinfo(3); sanitizers need more */
#define STACK_SIZE 262144
#endif

#define PLACES 8 /* the first are used most: their threads stay in caches */

struct worker {
	struct worker_job *job;
	sem_t given;
};

static struct worker *_Atomic waiting[PLACES];

static bool
replace(struct worker *_Atomic *place, struct worker *old, struct worker *new)
{
	return atomic_compare_exchange_strong(place, &old, new);
}

static void *
work(void *first)
{
	struct worker me = {.job = first};
	struct timespec until;
	size_t i;

	(void)pthread_detach(pthread_self()); /* can't fail; nor that: */
	(void)sem_init(&me.given, 0, 0);
	for (;;) {
		me.job->run(me.job->argument);
		for (i = 0; !replace(&waiting[i], NULL, &me); i++)
			if (i == PLACES - 1)
				return NULL;
		(void)clock_gettime(CLOCK_REALTIME, &until);
		while (until.tv_sec++, sem_timedwait(&me.given, &until) == -1)
			if (replace(&waiting[i], &me, NULL))
				return NULL; /* else a job is on its way */
	}
}

int
worker_start(struct worker_job *job)
{
	struct worker *w = NULL;
	pthread_attr_t attr;
	pthread_t thread;

	for (size_t i = 0; i < PLACES && w == NULL; i++)
		w = atomic_exchange(&waiting[i], NULL);
	if (w != NULL) {
		w->job = job;
		return sem_post(&w->given); /* can't fail; nor those: */
	}
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK_SIZE);
	return pthread_create(&thread, &attr, work, job);
}
