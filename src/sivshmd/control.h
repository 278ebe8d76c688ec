/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection to the host: opens the port again and again, says Hello, keeps what Welcome told.
 * "Ready" is the time between Welcome and the loss of the connection; only then do calls leave and
 * messages of the host arrive.
 */
#ifndef SIVSHMD_CONTROL_H
#define SIVSHMD_CONTROL_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <systemd/sd-event.h>

#include "cleanup.h"
#include "errors.h"
#include "message.h"
#include "rpc-link.h"

struct control;

/**
 * struct control_handler - what the owner is told; static
 * @channels:     channels that exist in the kernel, for Hello; the caller frees
 * @ready, @lost: as above, in turns; the host has forgotten all sessions and listeners at both
 * @request, @notification: as struct rpc_link_handler
 */
struct control_handler {
	int (*channels)(struct slot_ref **ret, size_t *ret_n, void *userdata);
	void (*ready)(void *userdata);
	void (*lost)(const struct failure *why, void *userdata);
	void (*request)(struct rpc_request *request, const char *method, json_t *params,
			void *userdata);
	void (*notification)(const char *method, json_t *params, void *userdata);
};

/** control_new() - @port: virtio port or Unix socket; all pointers are borrowed */
int control_new(sd_event *event, const char *port, const struct control_handler *handler,
		void *userdata, struct control **ret);
struct control *control_free(struct control *c);
DEFINE_CLEANUP(struct control *, control_free)

/** control_start() - begin, or (when begun) say Hello again */
void control_start(struct control *c);
/** control_shut() - nothing is sent any more */
void control_shut(struct control *c);
bool control_is_ready(const struct control *c);

/** control_call() - rpc_link_call(), but fails with ERR_HOST_UNAVAILABLE in @error when not ready
 */
int control_call(struct control *c, const char *method, json_t *body, uint64_t timeout_usec,
		 rpc_call_fn fn, void *userdata, struct rpc_call **ret_call, struct failure *error);
/** control_failure() - what a rpc_call_fn got as @error: the loss of the link is
 * ERR_HOST_UNAVAILABLE */
struct failure control_failure(const struct rpc_link *link, const struct failure *error);
/** control_tell() - a request whose answer does not matter */
void control_tell(struct control *c, const char *method, json_t *body);
void control_notify(struct control *c, const char *method, json_t *body);
void control_count_malformed(struct control *c, const struct failure *why);

/* What the last Welcome said; "" and NULL before the first.  Borrowed until the next. */
const char *control_vm(const struct control *c);
const char *control_trust_domain(const struct control *c);
X509_STORE *control_trust(const struct control *c);
/** control_now() - the host's time in seconds since the epoch, whatever this VM's clock says */
int64_t control_now(const struct control *c);

#endif
