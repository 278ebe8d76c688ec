/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which VMs and services an administrator has revoked.  The set and its text form; pure. */
#ifndef CAD_REVOCATIONS_H
#define CAD_REVOCATIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "cleanup.h"
#include "names.h"

struct revocation {
	char name[PEER_NAME_SIZE]; /* "vm" or "vm/service" */
	char *reason;		   /* one line, owned */
};

struct revocations {
	struct revocation *entries;
	size_t n;
};

void revocations_done(struct revocations *set);
/** revocations_add() - 1: added; 0: was there (the new reason holds) */
int revocations_add(struct revocations *set, const char *name, const char *reason);
/** revocations_remove() - false: was not there */
bool revocations_remove(struct revocations *set, const char *name);
/** revocations_find() - the entry of exactly that name */
const struct revocation *revocations_find(const struct revocations *set, const char *name);
/** revocations_covers() - the entry that hits a service: its own or its VM's */
const struct revocation *revocations_covers(const struct revocations *set,
					    const struct peer_name *service);

/** revocations_format() - a line for each entry: "name reason"; the caller frees */
char *revocations_format(const struct revocations *set);
/** revocations_parse() - the inverse, into an empty set; -EINVAL: not our text */
int revocations_parse(const char *text, struct revocations *ret);

#endif
