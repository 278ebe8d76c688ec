/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "quota.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/queue.h>

static const struct {
	const char *what;
	unsigned limit;
} limits[QUOTA_KINDS] = {
	[QUOTA_CONNECT] = {"Connect calls under way", 16},
	[QUOTA_LISTENER] = {"listeners", 64},
	[QUOTA_ACCEPT] = {"Accept calls that wait", 256},
};

/* One for each uid that has anything; freed with its last charge, so uids cannot pile up. */
struct account {
	LIST_ENTRY(account) next;
	uid_t uid;
	unsigned used[QUOTA_KINDS];
};

struct quota {
	LIST_HEAD(, account) accounts;
};

int quota_new(struct quota **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

struct quota *quota_free(struct quota *q)
{
	struct account *a;

	if (!q)
		return NULL;
	while ((a = LIST_FIRST(&q->accounts))) {
		LIST_REMOVE(a, next);
		free(a);
	}
	free(q);
	return NULL;
}

static struct account *find(const struct quota *q, uid_t uid)
{
	struct account *a;

	LIST_FOREACH(a, &q->accounts, next)
		if (a->uid == uid)
			return a;
	return NULL;
}

int quota_charge(struct quota *q, uid_t uid, enum quota_kind kind, struct failure *error)
{
	struct account *a = find(q, uid);

	if (a && a->used[kind] >= limits[kind].limit)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "uid %u has %u %s, more is not allowed", uid, limits[kind].limit,
				   limits[kind].what);
	if (!a) {
		a = calloc(1, sizeof(*a));
		if (!a)
			return failure_set(error, ERR_FAILED, "out of memory");
		a->uid = uid;
		LIST_INSERT_HEAD(&q->accounts, a, next);
	}
	a->used[kind]++;
	return 0;
}

static bool account_is_empty(const struct account *a)
{
	for (size_t i = 0; i < QUOTA_KINDS; i++)
		if (a->used[i] > 0)
			return false;
	return true;
}

void quota_release(struct quota *q, uid_t uid, enum quota_kind kind)
{
	struct account *a = find(q, uid);

	assert(a && a->used[kind] > 0);
	a->used[kind]--;
	if (!account_is_empty(a))
		return;
	LIST_REMOVE(a, next);
	free(a);
}

unsigned quota_used(const struct quota *q, uid_t uid, enum quota_kind kind)
{
	const struct account *a = find(q, uid);

	return a ? a->used[kind] : 0;
}

unsigned quota_limit(enum quota_kind kind)
{
	return limits[kind].limit;
}
