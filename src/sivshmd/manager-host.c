/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manager and the host: what is told to it, what it tells, what follows from that. */
#include <errno.h>
#include <string.h>

#include "accept.h"
#include "connect.h"
#include "listener.h"
#include "log.h"
#include "manager.h"

/*
 * To the host
 */

void manager_cancel_session(struct manager *m, const uint8_t session[SESSION_ID_SIZE])
{
	struct msg_session cancel;

	memcpy(cancel.session, session, sizeof(cancel.session));
	control_tell(m->control, "Cancel", msg_session_encode(&cancel));
}

void manager_opened(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct slot_ref *ref)
{
	struct msg_granted opened = {.ref = *ref};

	memcpy(opened.session, session, sizeof(opened.session));
	control_notify(m->control, "Opened", msg_granted_encode(&opened));
}

/*
 * From the host
 */

static int host_channels(struct slot_ref **ret, size_t *ret_n, void *userdata)
{
	struct manager *m = userdata;
	struct slot_ref *copy;
	int r;

	r = channels_in_kernel(m, ret, ret_n);
	if (r < 0)
		return r;
	copy = reallocarray(m->hello, *ret_n + 1, sizeof(*copy));
	if (!copy) {
		free(*ret);
		return -ENOMEM;
	}
	memcpy(copy, *ret, *ret_n * sizeof(*copy));
	m->hello = copy;
	m->n_hello = *ret_n;
	return 0;
}

/* What Hello named and went before Welcome, when nothing could be said to the host. */
static void tell_released(struct manager *m)
{
	for (size_t i = 0; i < m->n_hello; i++)
		if (channel_is_released(m, &m->hello[i]))
			control_tell(m->control, "Released", slot_ref_encode(&m->hello[i]));
	m->n_hello = 0;
}

static void warn_about_name(struct manager *m)
{
	struct sivshm_info info;

	if (device_info(m->device, &info) >= 0 && info.n_slots > 0 &&
	    strcmp((const char *)info.vm, control_vm(m->control)) != 0)
		log_event(LOG_WARNING, LOG_ID_HOST_UP, NULL,
			  "The host calls this VM %s, its grant table is for %.*s",
			  control_vm(m->control), SIVSHM_VM_NAME_SIZE - 1, (const char *)info.vm);
}

static void host_ready(void *userdata)
{
	struct manager *m = userdata;

	warn_about_name(m);
	tell_released(m);
	identities_host_ready(m->identities);
	listeners_announce(m);
	manager_bus_host_changed(m);
	manager_settled(m);
}

static void host_lost(const struct failure *why, void *userdata)
{
	struct manager *m = userdata;
	struct failure lost;

	failure_set(&lost, ERR_HOST_UNAVAILABLE, "lost the host: %.200s", why->text);
	identities_host_lost(m->identities, &lost);
	connects_fail_all(m, &lost);
	sessions_fail_all(m, &lost);
	listeners_host_lost(m, &lost);
	manager_bus_host_changed(m);
	manager_tell_status(m);
}

static void host_request(struct rpc_request *request, const char *method, json_t *params,
			 void *userdata)
{
	struct manager *m = userdata;
	struct failure error;

	if (strcmp(method, "Incoming") == 0) {
		accept_incoming(m, request, params);
	} else if (strcmp(method, "Finish") == 0) {
		accept_finish(m, request, params);
	} else {
		failure_set(&error, ERR_NO_SUCH_METHOD, "no method '%s'", method);
		rpc_request_fail(request, &error);
	}
}

static int on_granted(struct manager *m, json_t *params, struct failure *error)
{
	struct msg_granted granted;
	int r;

	r = msg_granted_decode(params, &granted, error);
	if (r >= 0)
		accept_granted(m, &granted);
	return r;
}

static int on_abort(struct manager *m, json_t *params, struct failure *error)
{
	struct msg_abort abort;
	int r;

	r = msg_abort_decode(params, &abort, error);
	if (r < 0)
		return r;
	if (!connects_abort(m, abort.session, &abort.error))
		sessions_abort(m, abort.session, &abort.error);
	return 0;
}

static int on_revoked(struct manager *m, json_t *params, struct failure *error)
{
	struct msg_revoked revoked;
	struct channel *c;
	int r;

	r = msg_revoked_decode(params, &revoked, error);
	if (r < 0)
		return r;
	c = channel_find(m, &revoked.ref);
	if (!c) {
		channel_never_opened(m, &revoked.ref);
		return 0;
	}
	log_event(LOG_NOTICE, LOG_ID_CHANNEL_REVOKED, &(struct log_about){.channel = c->path},
		  "The host revokes channel %s: %s", c->path, revoked.reason);
	/* The kernel has it from the grant table already; this makes sure of it. */
	channel_close(c, REASON_REVOKED);
	return 0;
}

static int on_certificate_revoked(struct manager *m, json_t *params, struct failure *error)
{
	struct msg_service service;
	int r;

	r = msg_service_decode(params, &service, error);
	if (r >= 0)
		identities_forget(m->identities, service.service);
	return r;
}

static void host_notification(const char *method, json_t *params, void *userdata)
{
	static const struct {
		const char *method;
		int (*fn)(struct manager *m, json_t *params, struct failure *error);
	} table[] = {
		{"Granted", on_granted},
		{"Abort", on_abort},
		{"Revoked", on_revoked},
		{"CertificateRevoked", on_certificate_revoked},
	};
	struct manager *m = userdata;
	struct failure error;

	for (size_t i = 0; i < ELEMENTSOF(table); i++) {
		if (strcmp(table[i].method, method) != 0)
			continue;
		if (table[i].fn(m, params, &error) < 0)
			control_count_malformed(m->control, &error);
		return;
	}
	failure_set(&error, ERR_NO_SUCH_METHOD, "no notification '%s'", method);
	control_count_malformed(m->control, &error);
}

const struct control_handler manager_control_handler = {
	.channels = host_channels,
	.ready = host_ready,
	.lost = host_lost,
	.request = host_request,
	.notification = host_notification,
};
