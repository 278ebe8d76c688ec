/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "manager.h"

#include <errno.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "accept.h"
#include "connect.h"
#include "listener.h"
#include "log.h"

/* what the host is told under a session that is none of ours: a peer's uid is not known here */
#define UID_PEER ((uid_t)-1)

#define STOP_USEC (50 * USEC_PER_MSEC)
#define SETTLE_USEC (2 * USEC_PER_SEC)

static const struct control_handler control_handler;
static const struct device_handler device_handler;

/*
 * Policy
 */

static int load_policy(struct manager *m, struct conf_error *error)
{
	struct policy *policy;
	int r;

	r = policy_load(m->options->config_root, &policy, error);
	if (r < 0)
		return r;
	policy_free(m->policy);
	m->policy = policy;
	log_event(LOG_INFO, LOG_ID_POLICY_LOADED, NULL, "Policy names %zu services",
		  policy->n_services);
	return 0;
}

int manager_reload(struct manager *m, struct conf_error *error)
{
	int r;

	r = load_policy(m, error);
	if (r < 0) {
		log_event(LOG_ERR, LOG_ID_POLICY_REFUSED, NULL,
			  "The policy cannot be used, the old one stays: %s",
			  error->text[0] ? error->text : strerror(-r));
		return r;
	}
	connects_apply_policy(m);
	sessions_apply_policy(m);
	listeners_apply_policy(m);
	channels_apply_policy(m);
	return 0;
}

static unsigned service_load(struct manager *m, const char *service)
{
	return channels_count(m, service) + connects_count(m, service) + sessions_count(m, service);
}

int manager_authorize(struct manager *m, const struct policy_question *q,
		      const struct policy_service **ret, struct failure *error)
{
	struct policy_verdict v;

	policy_decide(m->policy, q, &v);
	if (!v.allowed)
		return failure_set(error, ERR_NOT_AUTHORIZED, "%s", v.text);
	if (service_load(m, v.service->name) >= v.service->channels)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "service %s has %u channels, Channels= allows no more",
				   v.service->name, v.service->channels);
	*ret = v.service;
	return 0;
}

int manager_check_ready(struct manager *m, struct failure *error)
{
	struct sivshm_info info;
	int r;

	r = device_info(m->device, &info);
	if (r < 0)
		return failure_set(error, ERR_NOT_READY, "no kernel module: %s cannot be used",
				   m->options->device);
	if (info.n_slots == 0)
		return failure_set(error, ERR_NOT_READY, "the host gave this VM no grant table");
	if (!control_is_ready(m->control))
		return failure_set(error, ERR_HOST_UNAVAILABLE, "no connection to the host");
	return 0;
}

void manager_client_gone(struct manager *m, const char *name)
{
	connects_client_gone(m, name);
	listeners_client_gone(m, name);
}

/*
 * Refusals
 */

static bool is_refusal(int code)
{
	switch (code) {
	case ERR_NOT_AUTHORIZED:
	case ERR_REFUSED_BY_HOST:
	case ERR_REFUSED_BY_PEER:
	case ERR_HANDSHAKE_FAILED:
	case ERR_QUOTA_EXCEEDED:
	case ERR_REVOKED:
		return true;
	default:
		return false;
	}
}

void manager_refused(struct manager *m, const char *service, const char *peer,
		     const struct failure *why, const struct caller *caller)
{
	uid_t uid = caller ? caller->uid : UID_PEER;
	struct log_about about = {
		.service = service,
		.peer = peer,
		.error = error_name(why->code),
		.caller = caller,
	};
	unsigned suppressed;

	if (!ratelimit_allow(&m->refusals, uid, clock_usec(CLOCK_MONOTONIC), &suppressed))
		return;
	if (suppressed > 0)
		log_plain(LOG_NOTICE, "%u refusals were not logged", suppressed);
	log_event(LOG_NOTICE, LOG_ID_REFUSED, &about, "%s and %s: %s: %s",
		  service[0] ? service : "?", peer[0] ? peer : "listening", about.error, why->text);
	if (is_refusal(why->code))
		manager_bus_refused(m, service, peer, about.error, uid);
}

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
	for (size_t i = 0; i < m->n_hello; i++) {
		struct sivshm_slot s;

		if (device_slot(m->device, m->hello[i].slot, &s) >= 0 &&
		    (s.channel == SIVSHM_CHANNEL_OPEN || s.channel == SIVSHM_CHANNEL_REVOKED) &&
		    s.channel_generation == m->hello[i].generation)
			continue;
		control_tell(m->control, "Released", slot_ref_encode(&m->hello[i]));
	}
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

static void tell_status(struct manager *m)
{
	if (control_is_ready(m->control))
		sd_notifyf(false, "STATUS=Serving VM %s of %s", control_vm(m->control),
			   control_trust_domain(m->control));
	else
		sd_notify(false, "STATUS=Waiting for the host");
}

/* Once: the host is there, or it takes so long that nobody should wait for it. */
static void settle(struct manager *m)
{
	if (!m->settle)
		return;
	m->settle = sd_event_source_disable_unref(m->settle);
	sd_notify(false, "READY=1");
}

static int on_settle(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	settle(userdata);
	return 0;
}

static void host_ready(void *userdata)
{
	struct manager *m = userdata;

	warn_about_name(m);
	tell_released(m);
	identities_host_ready(m->identities);
	listeners_announce(m);
	manager_bus_host_changed(m);
	tell_status(m);
	settle(m);
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
	tell_status(m);
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

static const struct control_handler control_handler = {
	.channels = host_channels,
	.ready = host_ready,
	.lost = host_lost,
	.request = host_request,
	.notification = host_notification,
};

/*
 * From the kernel
 */

static void device_opened(void *userdata)
{
	struct manager *m = userdata;
	struct sivshm_info info;

	if (device_info(m->device, &info) >= 0)
		log_event(LOG_INFO, LOG_ID_DEVICE, NULL,
			  "Kernel module has ABI %u, %u slots, %u sections, %u channels", info.abi,
			  info.n_slots, info.n_sections, info.n_channels);
	channels_adopt(m);
	/* Not before: Hello tells the host which channels still exist. */
	control_start(m->control);
}

static void device_table_changed(struct manager *m)
{
	struct sivshm_info info;

	if (device_info(m->device, &info) >= 0)
		log_event(LOG_INFO, LOG_ID_DEVICE, NULL,
			  "Devices have changed: %u slots, %u sections", info.n_slots,
			  info.n_sections);
}

static void device_event(const struct sivshm_event *event, void *userdata)
{
	struct manager *m = userdata;

	if (event->type == SIVSHM_EVENT_TABLE)
		device_table_changed(m);
	else if (event->type == SIVSHM_EVENT_STORM)
		log_event(LOG_WARNING, LOG_ID_STORM, NULL,
			  "A peer rang so often that its doorbell was masked for a while");
	else
		channel_event(m, event);
}

static void device_lost(void *userdata)
{
	channels_lost(userdata);
}

static const struct device_handler device_handler = {
	.opened = device_opened,
	.event = device_event,
	.lost = device_lost,
};

/*
 * Life
 */

static int make_parts(struct manager *m)
{
	int r;

	r = sd_event_default(&m->event);
	if (r >= 0)
		r = quota_new(&m->quota);
	if (r >= 0)
		r = device_new(m->event, m->options->device, &device_handler, m, &m->device);
	if (r >= 0)
		r = control_new(m->event, m->options->port, &control_handler, m, &m->control);
	if (r >= 0)
		r = identities_new(m->event, m->control, &m->identities);
	return r;
}

int manager_new(const struct options *options, struct manager **ret)
{
	_cleanup_(manager_freep) struct manager *m = calloc(1, sizeof(*m));
	struct conf_error error;
	int r;

	if (!m)
		return -ENOMEM;
	m->options = options;
	TAILQ_INIT(&m->connects);
	TAILQ_INIT(&m->listeners);
	TAILQ_INIT(&m->sessions);
	r = load_policy(m, &error);
	if (r < 0) {
		log_event(LOG_ERR, LOG_ID_POLICY_REFUSED, NULL, "The policy cannot be used: %s",
			  error.text[0] ? error.text : strerror(-r));
		return r;
	}
	r = make_parts(m);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(m);
	return 0;
}

static int on_stopped(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)usec;
	(void)userdata;
	return sd_event_exit(sd_event_source_get_event(s), 0);
}

void manager_stop(struct manager *m)
{
	struct failure why;

	failure_set(&why, ERR_CLOSED, "sivshmd ends");
	connects_fail_all(m, &why);
	listeners_close_all(m, &why);
	/* a moment, so that what was said leaves */
	if (m->stop || sd_event_add_time_relative(m->event, &m->stop, CLOCK_MONOTONIC, STOP_USEC, 0,
						  on_stopped, m) < 0)
		sd_event_exit(m->event, 0);
}

/* Without a word: the event loop is over. */
static void forget_clients(struct manager *m)
{
	struct failure why = {.code = ERR_CLOSED};

	control_shut(m->control);
	connects_fail_all(m, &why);
	listeners_close_all(m, &why);
	channels_free(m);
}

struct manager *manager_free(struct manager *m)
{
	if (!m)
		return NULL;
	if (m->bus)
		forget_clients(m);
	sd_event_source_disable_unref(m->stop);
	sd_event_source_disable_unref(m->settle);
	bus_access_free(m->access);
	sd_bus_flush_close_unref(m->bus);
	identities_free(m->identities);
	control_free(m->control);
	device_free(m->device);
	quota_free(m->quota);
	policy_free(m->policy);
	sd_event_unref(m->event);
	free(m->hello);
	free(m);
	return NULL;
}

int manager_start(struct manager *m)
{
	int r;

	r = manager_bus_start(m);
	if (r < 0) {
		log_plain(LOG_ERR, "Cannot get onto the bus: %s", strerror(-r));
		return r;
	}
	r = sd_event_add_time_relative(m->event, &m->settle, CLOCK_MONOTONIC, SETTLE_USEC, 0,
				       on_settle, m);
	if (r < 0)
		return r;
	tell_status(m);
	device_start(m->device);
	return 0;
}
