/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking rights away while things run: an administrator's revocations, and what a new policy
 * forbids. */
#ifndef CAD_REVOKE_H
#define CAD_REVOKE_H

#include "errors.h"

struct manager;

/** revoke_channel() - -ENOENT: no such channel that is open */
int revoke_channel(struct manager *m, const char *id, const char *reason);
/** revoke_name() - "vm" or "vm/service": on record, then everything that rests on it ends */
int revoke_name(struct manager *m, const char *name, const char *reason);
/** revoke_undo() - 0; -ENOENT: was not revoked */
int revoke_undo(struct manager *m, const char *name);
/** revoke_forbidden() - end whatever configuration and revocations do not allow (any more) */
void revoke_forbidden(struct manager *m);

#endif
