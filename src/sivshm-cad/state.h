/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What has to survive a restart of the machine, in the state directory: CA, revocations, issued
 * certificates. */
#ifndef CAD_STATE_H
#define CAD_STATE_H

#include "certificates.h"
#include "errors.h"

struct manager;

/** state_load() - also makes the CA when it is wanted and there is none yet */
int state_load(struct manager *m, struct failure *error);
/** state_save_revoked() - on disk when it returns: revoking is rare, and must not be forgotten */
int state_save_revoked(struct manager *m);
/** state_append_issued() - no waiting for the disk: this is on the path of a handshake */
void state_append_issued(struct manager *m, const struct certificate *certificate);
/** state_save_issued() - after certificates were revoked */
void state_save_issued(struct manager *m);
/** state_expire() - forget certificates that have ended, in memory and in the file */
void state_expire(struct manager *m);

#endif
