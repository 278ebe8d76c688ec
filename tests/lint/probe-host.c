/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loads one or two configurations of sivshm-cad by its own reader.  0: good, and both say the same;
 * 1: not good, the error is printed; 2: they differ.  Where a thing was written makes no
 * difference.
 */
#include <stdio.h>
#include <string.h>

#include "config.h"

static int load(const char *root, struct config **ret)
{
	struct conf_error error = {};
	int r = config_load(root, ret, &error);

	if (r < 0)
		puts(error.text);
	return r;
}

/* Of the lists only the first element is compared, and of that what is no pointer. */
static void drop_pointers(struct config *c)
{
	c->vms[0].place = c->regions[0].place = c->rules[0].place = (struct config_place){};
	c->vms[0].services = NULL;
	c->regions[0].members = NULL;
}

static bool equal(struct config *a, struct config *b)
{
	drop_pointers(a);
	drop_pointers(b);
	return memcmp(&a->ca, &b->ca, sizeof(a->ca)) == 0 &&
	       memcmp(&a->limits, &b->limits, sizeof(a->limits)) == 0 &&
	       memcmp(a->vms, b->vms, sizeof(*a->vms)) == 0 &&
	       memcmp(a->regions, b->regions, sizeof(*a->regions)) == 0 &&
	       memcmp(a->rules, b->rules, sizeof(*a->rules)) == 0;
}

int main(int argc, char **argv)
{
	struct config *a, *b;

	if (load(argv[1], &a) < 0)
		return 1;
	if (argc < 3)
		return 0;
	if (load(argv[2], &b) < 0)
		return 1;
	return equal(a, b) ? 0 : 2;
}
