/* SPDX-License-Identifier: Apache-2.0 */
/* Strict, so that no rule is wider, or narrower, than it looks. */
#include "access.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 80 /* of an item */

static const struct {
	const char *name;
	struct address_prefix prefixes[8];
} words[] = {
    {"*", {{AF_INET, 0, {0}}, {AF_INET6, 0, {0}}}},
    {"local", /* and what is_local() says */
	{{AF_INET, 8, {127}}, {AF_INET, 32, {0}}, {AF_INET6, 127, {0}}}},
    {"private", {{AF_INET, 8, {10}}, {AF_INET, 12, {172, 16}},
		    {AF_INET, 16, {192, 168}}, {AF_INET, 10, {100, 64}},
		    {AF_INET, 16, {169, 254}}, {AF_INET6, 7, {0xfc}},
		    {AF_INET6, 10, {0xfe, 0x80}}}},
};

struct access_rule *access_rules;

const char *
access_check(enum access_kind allow, const struct address *address,
    int (*is_local)(const struct address *))
{
	struct address a = *address;
	uint32_t n =
	    a.any.sa_family == AF_VSOCK ? a.vm.svm_cid : address_port(&a);
	bool is_limited = false, allowed = false;

	address_unmap(&a); /* IPv4-mapped addresses count as IPv4 */
	for (const struct access_rule *r = access_rules; r != NULL;
	     r = r->next) {
		const struct address_prefix *p = r->prefixes;
		int named;

		is_limited = is_limited || r->kind == allow;
		if ((r->kind != allow + 1 && (r->kind != allow || allowed)) ||
		    n < r->first || n > r->last)
			continue;
		while (p->family != 0 && !address_has_prefix(&a, p))
			p++;
		named = p->family != 0                     ? 1
			: r->prefixes == words[1].prefixes ? is_local(&a)
							   : 0;
		if (named == -1)
			return "whether it is local can't be known now";
		if (named == 1 && r->kind != allow)
			return r->text;
		allowed = allowed || named == 1;
	}
	return is_limited && !allowed ? "no allow item names it" : NULL;
}

/* N or N-N, from least to most. */
static bool
parse_range(char *text, uint32_t least, uint32_t most, struct access_rule *r)
{
	const char *first = strsep(&text, "-"); /* text: the last, or NULL */

	return address_parse_number(first, least, most, &r->first) &&
	       address_parse_number(
		   text != NULL ? text : first, r->first, most, &r->last);
}

/* item: as written, then with the prefix in a normal form. */
static bool
parse_item(bool is_vsock, struct access_rule *r, char item[SIZE])
{
	bool is_target = r->kind != ALLOW_CLIENT;
	bool bracket = is_target && *item == '[';
	char text[SIZE] = "", ports[SIZE], ip[INET6_ADDRSTRLEN], *end;
	struct address cid;

	(void)snprintf(text, SIZE, "%s", item);
	r->prefixes = r->own;
	if (!is_target && is_vsock) {
		r->own->family = AF_VSOCK;
		if (strchr(text, ':') != NULL ||
		    !address_parse_vsock(text, VMADDR_CID_ANY - 1, false, &cid))
			return parse_range(text, 0, VMADDR_CID_ANY - 1, r);
		r->first = r->last = cid.vm.svm_cid;
		return true;
	}
	end = text + strcspn(text, bracket ? "]" : is_target ? ":" : "");
	if (bracket && *end++ != ']')
		return false;
	(void)snprintf(ports, SIZE, "%s", end);
	if (*end != '\0' &&
	    (*end != ':' || !parse_range(end + 1, 1, UINT16_MAX, r)))
		return false;
	end[-(int)bracket] = '\0';
	for (size_t i = 0; is_target && i < 3; i++)
		if (strcmp(text, words[i].name) == 0)
			r->prefixes = words[i].prefixes;
	if (r->prefixes != r->own)
		return true;
	if (!address_parse_prefix(text + bracket, r->own) ||
	    (is_target && bracket != (strchr(text, ':') != NULL)))
		return false;
	inet_ntop(r->own->family, r->own->bytes, ip, sizeof(ip));
	(void)snprintf(item, SIZE,
	    is_target && r->own->family == AF_INET6 ? "[%s/%u]%s" : "%s/%u%s",
	    ip, r->own->bits, ports);
	return true;
}

const char *
access_add(
    enum access_kind kind, bool is_vsock, const char *flag, const char *items)
{
	struct access_rule **end = &access_rules, *r;

	for (;; items++) {
		size_t length = strcspn(items, ",");

		while (*end != NULL)
			end = &(*end)->next;
		r = *end = calloc(1, sizeof(*r));
		if (r == NULL || length >= SIZE)
			return items;
		r->kind = kind;
		r->last = UINT16_MAX;
		(void)snprintf(r->text, sizeof(r->text), "--%s %.*s", flag,
		    (int)length, items);
		if (!parse_item(is_vsock, r, r->text + strlen(flag) + 3))
			return items;
		items += length;
		if (*items == '\0')
			return NULL;
	}
}
