/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests that add rules: access.h has no way to take them back, as no
 * program needs one.
 */
#ifndef RULES_H
#define RULES_H

#include "access.h"

#include <stdlib.h>

static inline void
forget_rules(void)
{
	while (access_rules != NULL) {
		struct access_rule *next = access_rules->next;

		free(access_rules);
		access_rules = next;
	}
}

#endif
