/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Responder of a handshake (docs/protocol.md, "B"): from Incoming to a connection that waits at its
 * listener.  A session that fails or runs out of time gives everything back.
 */
#ifndef SIVSHMD_ACCEPT_H
#define SIVSHMD_ACCEPT_H

#include "manager.h"

struct session;

/** accept_incoming(), accept_finish() - requests of the host; both take over @request */
void accept_incoming(struct manager *m, struct rpc_request *request, json_t *params);
void accept_finish(struct manager *m, struct rpc_request *request, json_t *params);
/** accept_granted() - notification of the host */
void accept_granted(struct manager *m, const struct msg_granted *granted);
/** sessions_abort() - the host ends the session; false when it is none of these */
bool sessions_abort(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct failure *why);
void sessions_listener_closed(const struct listener *l, const struct failure *why);
void sessions_apply_policy(struct manager *m);
void sessions_fail_all(struct manager *m, const struct failure *why);
unsigned sessions_count(struct manager *m, const char *service);

#endif
