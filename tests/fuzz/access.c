/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes lists of rules. The input is a text: its first character says what
 * for, then come the list, and behind a line's end the bytes of an address.
 * What is taken must be taken again, as the same, in its normal form; and each
 * rule must name the address that a simpler way to match, bit by bit, says.
 */
#include "access.h"

#include "../address_ip.h"
#include "../rules.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAG "f"
#define PREFIX_OF_TEXT "--" FLAG " "

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int answer; /* to the one question */

static int
is_local(const struct address *address)
{
	assert(address->any.sa_family != AF_VSOCK);
	return answer;
}

/* A bit of an address, as of all families' first. */
static bool
bit_of(const uint8_t *bytes, unsigned i)
{
	return bytes[i / 8] >> (7 - i % 8) & 1;
}

static const char *const privates[] = {"10.0.0.0/8", "172.16.0.0/12",
    "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7",
    "fe80::/10"};
static const char *const locals[] = {
    "127.0.0.0/8", "0.0.0.0/32", "::/128", "::1/128"};

/* Whether a prefix in its normal form has an address. */
static bool
has(const char *prefix, const struct address *a)
{
	sa_family_t family = strchr(prefix, ':') != NULL ? AF_INET6 : AF_INET;
	uint8_t wanted[16], bytes[16] = {0};
	char host[64] = "";
	unsigned bits;

	memcpy(host, prefix, strcspn(prefix, "/"));
	bits = (unsigned)atoi(strchr(prefix, '/') + 1);
	assert(inet_pton(family, host, wanted) == 1);
	if (a->any.sa_family != family)
		return false;
	if (family == AF_INET)
		memcpy(bytes, &a->in.sin_addr, 4);
	else
		memcpy(bytes, &a->in6.sin6_addr, 16);
	for (unsigned i = 0; i < bits; i++)
		if (bit_of(bytes, i) != bit_of(wanted, i))
			return false;
	return true;
}

static bool
has_one(const char *const *prefixes, size_t count, const struct address *a)
{
	for (size_t i = 0; i < count; i++)
		if (has(prefixes[i], a))
			return true;
	return false;
}

/* Whether an item in its normal form names an address. */
static bool
is_named(const char *item, const struct address *a)
{
	char host[96] = "";
	const char *ports = strrchr(item, ':');
	unsigned first = 0, last = 65535;
	bool bracket = *item == '[';

	if (bracket && ports < strchr(item, ']'))
		ports = NULL;
	if (ports != NULL && sscanf(ports, ":%u-%u", &first, &last) == 1)
		last = first;
	if (address_port(a) < first || address_port(a) > last)
		return false;
	memcpy(
	    host, item + bracket, strcspn(item, bracket ? "]" : ":") - bracket);
	if (strcmp(host, "*") == 0)
		return true;
	if (strcmp(host, "private") == 0)
		return has_one(
		    privates, sizeof(privates) / sizeof(*privates), a);
	if (strcmp(host, "local") == 0)
		return answer == 1 ||
		       has_one(locals, sizeof(locals) / sizeof(*locals), a);
	return has(host, a);
}

static bool
is_cid_named(const char *item, uint32_t cid)
{
	unsigned first = 0, last = 0;

	if (strcmp(item, "local") == 0)
		return cid == 1;
	if (strcmp(item, "host") == 0)
		return cid == 2;
	if (sscanf(item, "%u-%u", &first, &last) == 1)
		last = first;
	assert(first <= last && last < UINT32_MAX);
	return cid >= first && cid <= last;
}

/* One rule alone, by its normal form. */
static void
check_item(enum access_kind kind, bool is_vsock, const char *item,
    const struct address *a)
{
	char again[128];
	bool named = is_vsock               ? is_cid_named(item, a->vm.svm_cid)
		     : kind == ALLOW_CLIENT ? has(item, a)
					    : is_named(item, a);
	const char *reason;

	forget_rules();
	assert(access_add(kind, is_vsock, FLAG, item) == NULL);
	assert(access_rules->next == NULL);
	(void)snprintf(again, sizeof(again), PREFIX_OF_TEXT "%s", item);
	assert(strcmp(access_rules->text, again) == 0);
	reason = access_check(kind == DENY_TARGET ? ALLOW_TARGET : kind, a,
	    is_vsock ? NULL : is_local);
	if (kind == DENY_TARGET)
		assert((reason != NULL) == named);
	else
		assert((reason == NULL) == named);
}

static void
check_list(
    enum access_kind kind, bool is_vsock, const char *list, struct address *a)
{
	const char *wrong = access_add(kind, is_vsock, FLAG, list);
	size_t count = 1, rules = 0;
	char(*texts)[96] = NULL;

	address_unmap(a);
	for (const char *c = list; *c != '\0'; c++)
		count += *c == ',';
	if (wrong != NULL) {
		assert(wrong >= list && wrong <= list + strlen(list));
		assert(wrong == list || wrong[-1] == ',');
		forget_rules();
		return;
	}
	texts = malloc(count * sizeof(*texts));
	assert(texts != NULL);
	for (const struct access_rule *r = access_rules; r != NULL;
	     r = r->next) {
		assert(rules < count && r->kind == kind);
		memcpy(texts[rules++], r->text, sizeof(r->text));
	}
	assert(rules == count);
	for (size_t i = 0; i < count; i++) {
		assert(strncmp(texts[i], PREFIX_OF_TEXT,
			   strlen(PREFIX_OF_TEXT)) == 0);
		check_item(
		    kind, is_vsock, texts[i] + strlen(PREFIX_OF_TEXT), a);
	}
	forget_rules();
	free(texts);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum access_kind kinds[] = {
	    ALLOW_TARGET, DENY_TARGET, ALLOW_CLIENT, ALLOW_CLIENT};
	uint8_t bytes[20] = {0};
	struct address a;
	char *text, *end;
	unsigned what;

	if (size < 2)
		return 0;
	what = (data[0] - '0') & 7;
	answer = (int)(what >> 2);
	what &= 3;
	text = malloc(size);
	assert(text != NULL);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	end = memchr(text, '\n', size - 1);
	if (end != NULL) {
		size_t rest = size - 2 - (size_t)(end - text);

		*end = '\0';
		memcpy(bytes, end + 1,
		    rest < sizeof(bytes) ? rest : sizeof(bytes));
	}
	a = address_ip(bytes[0] & 1 ? AF_INET6 : AF_INET, bytes + 1,
	    (uint16_t)(bytes[17] << 8 | bytes[18]));
	if (what == 3) {
		a = (struct address){
		    .vm = {.svm_family = AF_VSOCK}, .length = sizeof(a.vm)};
		memcpy(&a.vm.svm_cid, bytes, sizeof(a.vm.svm_cid));
		a.vm.svm_port = bytes[17];
	}
	check_list(kinds[what], what == 3, text, &a);
	free(text);
	return 0;
}
