/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What each uid has under way.  Everything a client can make is charged before it exists. Pure. */
#ifndef SIVSHMD_QUOTA_H
#define SIVSHMD_QUOTA_H

#include <sys/types.h>

#include "cleanup.h"
#include "errors.h"

enum quota_kind {
	QUOTA_CONNECT, /* Connect calls that have no answer yet */
	QUOTA_LISTENER,
	QUOTA_ACCEPT, /* Accept calls that have no answer yet */
	QUOTA_KINDS,
};

struct quota;

int quota_new(struct quota **ret);
struct quota *quota_free(struct quota *q);
DEFINE_CLEANUP(struct quota *, quota_free)

/** quota_charge() - one more; -EDQUOT with ERR_QUOTA_EXCEEDED and which one in @error */
int quota_charge(struct quota *q, uid_t uid, enum quota_kind kind, struct failure *error);
/** quota_release() - one less; must have been charged */
void quota_release(struct quota *q, uid_t uid, enum quota_kind kind);
unsigned quota_used(const struct quota *q, uid_t uid, enum quota_kind kind);
unsigned quota_limit(enum quota_kind kind);

#endif
