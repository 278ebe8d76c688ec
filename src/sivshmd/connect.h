/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Initiator of a handshake (docs/protocol.md, "A"): from a Connect call to the answer.  A connect
 * that failed, was given up by its caller or ran out of time gives everything back.
 */
#ifndef SIVSHMD_CONNECT_H
#define SIVSHMD_CONNECT_H

#include <systemd/sd-bus.h>

#include "manager.h"

struct connect;

/** struct connect_request - what the caller asks for; strings are borrowed */
struct connect_request {
	const char *service; /* "": the caller's only one */
	struct peer_name peer;
	uint64_t ring_size;
	uint64_t timeout_usec;
	uint64_t arrived_usec; /* CLOCK_MONOTONIC */
};

/**
 * connect_start() - begin; @message is answered later
 * On failure nothing was begun, the caller of this answers @error and tells manager_refused().
 */
int connect_start(struct manager *m, const struct caller *caller, sd_bus_message *message,
		  const struct connect_request *request, struct failure *error);
/** connects_abort() - the host ends the session @session; false when it is none of these */
bool connects_abort(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct failure *why);
/** connects_client_gone() - the caller left the bus */
void connects_client_gone(struct manager *m, const char *name);
/** connects_apply_policy() - end those the policy does not allow any more */
void connects_apply_policy(struct manager *m);
/** connects_fail_all() - the host is gone, or the daemon ends */
void connects_fail_all(struct manager *m, const struct failure *why);
/** connects_count() - under way for one service */
unsigned connects_count(struct manager *m, const char *service);

#endif
