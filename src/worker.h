/* SPDX-License-Identifier: Apache-2.0 */
/* Detached threads for jobs. To make and end one costs more than all else of a
 * short connection, so a few whose job has ended wait a second for the next. */
#pragma once

/* The caller's, who leaves it alone until run() is called. */
struct worker_job {
	void (*run)(void *argument);
	void *argument;
};

/* Starts a job in a thread that has no other. Returns 0, or an errno of
 * pthread_create(3). Thread-safe. */
int worker_start(struct worker_job *job);
