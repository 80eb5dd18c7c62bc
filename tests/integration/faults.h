/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the faults group share. */
#ifndef FAULTS_H
#define FAULTS_H

#include "../fault/fault.h"

/* Makes the orders that programs map; they live until the end of the test.
 * Returns the programs' environment. */
char *const *faults_orders(struct fault **fault);

/* A part of the group. Returns the number of failed tests. */
int faults_busy_run(void);

#endif
