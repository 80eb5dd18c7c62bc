/* SPDX-License-Identifier: Apache-2.0 */
/* Rules: who may call, what may be reached. No I/O. */
#pragma once
#include "address.h"

/* What allows, and behind it what denies the same, if anything. */
enum access_kind { ALLOW_TARGET, DENY_TARGET, ALLOW_CLIENT, ACCESS_KINDS };

struct access_rule {
	struct access_rule *next;
	enum access_kind kind;
	uint32_t first, last;                  /* ports; of vsock, CIDs */
	const struct address_prefix *prefixes; /* own, or those of a word */
	struct address_prefix own[2];
	char text[96]; /* --FLAG ITEM, in a normal form */
};

/* All of them, set before the first thread. */
extern struct access_rule *access_rules;

/* Adds a flag's items, with commas between. Clients are CIDs, or addresses.
 * Returns NULL, or the first that is wrong, which ends before a comma. */
const char *access_add(
    enum access_kind kind, bool is_vsock, const char *flag, const char *items);

/* Returns NULL if no deny item names the address, and an allow item does or
 * there is none; else why it is not allowed. is_local(): whether it is one of
 * this machine; -1: that can't be known now. Thread-safe. */
const char *access_check(enum access_kind allow, const struct address *address,
    int (*is_local)(const struct address *));
