/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* As probe-host.c, for the policy of sivshmd. */
#include <stdio.h>
#include <string.h>

#include "policy.h"

static int load(const char *root, struct policy **ret)
{
	struct conf_error error = {};
	int r = policy_load(root, ret, &error);

	if (r < 0)
		puts(error.text);
	return r;
}

static const struct policy_service *first(struct policy *p)
{
	struct policy_service *s = p->services;

	s->line = s->user_line = s->unit_line = s->max_ring_line = (struct policy_line){};
	return s;
}

int main(int argc, char **argv)
{
	struct policy *a, *b;

	if (load(argv[1], &a) < 0)
		return 1;
	if (argc < 3)
		return 0;
	if (load(argv[2], &b) < 0)
		return 1;
	return memcmp(first(a), first(b), sizeof(*a->services)) == 0 ? 0 : 2;
}
