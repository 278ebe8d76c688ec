/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "listener.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "accept.h"
#include "answer.h"
#include "log.h"

#define ANNOUNCE_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define RETRY_USEC (USEC_PER_SEC / 10)

/* An Accept call that waits for a connection. */
struct accept_call {
	TAILQ_ENTRY(accept_call) next;
	struct listener *listener;
	sd_bus_message *message;
	sd_event_source *timer; /* NULL: no limit */
};

static void announce(struct listener *l);
static void hand_out(struct listener *l);

/*
 * Parts
 */

static void accept_call_free(struct accept_call *a)
{
	TAILQ_REMOVE(&a->listener->accepts, a, next);
	a->listener->n_accepts--;
	quota_release(a->listener->manager->quota, a->listener->caller.uid, QUOTA_ACCEPT);
	sd_event_source_disable_unref(a->timer);
	sd_bus_message_unref(a->message);
	free(a);
}

static void accept_call_fail(struct accept_call *a, const struct failure *why)
{
	bus_reply_failure(a->message, why);
	accept_call_free(a);
}

void ready_drop(struct ready *r)
{
	struct listener *l = r->listener;

	r->channel->waiting = NULL;
	TAILQ_REMOVE(&l->ready, r, next);
	l->n_ready--;
	closep(&r->fd);
	free(r->certificate);
	free(r);
	listener_bus_waiting_changed(l);
}

void listener_close(struct listener *l, const struct failure *why)
{
	struct manager *m = l->manager;
	struct msg_service unlisten = {};

	sessions_listener_closed(l, why);
	while (!TAILQ_EMPTY(&l->accepts))
		accept_call_fail(TAILQ_FIRST(&l->accepts), why);
	while (!TAILQ_EMPTY(&l->ready)) {
		struct ready *r = TAILQ_FIRST(&l->ready);

		channel_close(r->channel, REASON_CLOSED);
		ready_drop(r);
	}
	if (l->message) {
		bus_reply_failure(l->message, why);
		l->message = sd_bus_message_unref(l->message);
	}
	l->announce = rpc_call_cancel(l->announce);
	sd_event_source_disable_unref(l->retry);
	sd_bus_slot_unref(l->probe);
	strcpy(unlisten.service, l->service);
	control_tell(m->control, "Unlisten", msg_service_encode(&unlisten));
	identity_unhold(m->identities, l->service);
	TAILQ_REMOVE(&m->listeners, l, next);
	quota_release(m->quota, l->caller.uid, QUOTA_LISTENER);
	free(l);
}

/*
 * Connections meet Accept calls
 */

/* The channel's fd leaves this process with the answer, and is closed here either way. */
static void hand_out_one(struct listener *l)
{
	struct ready *r = TAILQ_FIRST(&l->ready);
	struct accept_call *a = TAILQ_FIRST(&l->accepts);
	struct answer answer = {
		.fd = r->fd,
		.channel = r->channel,
		.certificate = r->certificate,
		.steps = &r->steps,
		.handshake_usec = r->handshake_usec,
	};
	int e = answer_send(a->message, &answer);

	if (e < 0)
		log_plain(LOG_ERR, "Accept cannot be answered: %s", strerror(-e));
	accept_call_free(a);
	ready_drop(r);
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	hand_out(userdata);
	return 0;
}

static int retry_later(struct listener *l)
{
	int r;

	if (!l->retry)
		return sd_event_add_time_relative(l->manager->event, &l->retry, CLOCK_MONOTONIC,
						  RETRY_USEC, 0, on_retry, l);
	r = sd_event_source_set_time_relative(l->retry, RETRY_USEC);
	return r < 0 ? r : sd_event_source_set_enabled(l->retry, SD_EVENT_ONESHOT);
}

/*
 * While the uid has left too many answers unread, Accept calls wait too.  The kernel does not tell
 * when a channel is first used, so it is asked now and then.
 */
static void hand_out(struct listener *l)
{
	struct failure why;

	while (!TAILQ_EMPTY(&l->ready) && !TAILQ_EMPTY(&l->accepts)) {
		if (channels_check_delivered(l->manager, l->caller.uid, &why) >= 0)
			hand_out_one(l);
		else if (retry_later(l) >= 0)
			return;
		else
			accept_call_fail(TAILQ_FIRST(&l->accepts), &why);
	}
}

int listener_deliver(struct listener *l, const struct ready *ready)
{
	struct ready *r = malloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	*r = *ready;
	r->listener = l;
	r->channel->waiting = r;
	TAILQ_INSERT_TAIL(&l->ready, r, next);
	l->n_ready++;
	hand_out(l);
	if (TAILQ_EMPTY(&l->ready))
		return 0;
	listener_bus_waiting_changed(l);
	listener_bus_incoming(l, &r->channel->peer);
	return 0;
}

static int on_accept_timeout(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct accept_call *a = userdata;
	struct listener *l = a->listener;
	struct failure why;

	(void)s;
	(void)usec;
	if (TAILQ_EMPTY(&l->ready) ||
	    channels_check_delivered(l->manager, l->caller.uid, &why) >= 0)
		failure_set(&why, ERR_TIMED_OUT, "nobody connected within the timeout");
	accept_call_fail(a, &why);
	return 0;
}

static int accept_call_new(struct listener *l, sd_bus_message *message, uint64_t timeout_usec,
			   struct failure *error)
{
	struct accept_call *a;
	int r;

	r = quota_charge(l->manager->quota, l->caller.uid, QUOTA_ACCEPT, error);
	if (r < 0)
		return r;
	a = calloc(1, sizeof(*a));
	if (!a) {
		quota_release(l->manager->quota, l->caller.uid, QUOTA_ACCEPT);
		return failure_set(error, ERR_FAILED, "out of memory");
	}
	a->listener = l;
	a->message = sd_bus_message_ref(message);
	TAILQ_INSERT_TAIL(&l->accepts, a, next);
	l->n_accepts++;
	if (timeout_usec == UINT64_MAX)
		return 0;
	r = sd_event_add_time_relative(l->manager->event, &a->timer, CLOCK_MONOTONIC, timeout_usec,
				       0, on_accept_timeout, a);
	if (r >= 0)
		return 0;
	accept_call_free(a);
	return failure_set(error, ERR_FAILED, "out of memory");
}

int listener_accept(struct listener *l, sd_bus_message *message, uint64_t timeout_usec,
		    struct failure *error)
{
	int r;

	if (l->n_accepts >= l->backlog)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "%u Accept calls wait, the backlog is %u", l->n_accepts,
				   l->backlog);
	if (TAILQ_EMPTY(&l->ready) && timeout_usec == 0)
		return failure_set(error, ERR_TIMED_OUT, "no connection waits");
	if (timeout_usec == 0 && channels_check_delivered(l->manager, l->caller.uid, error) < 0)
		return -error_errno(error->code);
	r = accept_call_new(l, message, timeout_usec, error);
	if (r < 0)
		return r;
	hand_out(l);
	return 0;
}

bool listener_has_room(const struct listener *l)
{
	return l->n_ready + l->n_sessions < l->backlog;
}

/*
 * Begin
 */

static void on_announced(struct rpc_link *link, json_t *result, const struct failure *error,
			 void *userdata)
{
	struct listener *l = userdata;
	struct failure why = {};

	l->announce = NULL;
	if (error)
		why = control_failure(link, error);
	else
		msg_empty_decode(result, &why);
	if (why.code) {
		manager_refused(l->manager, l->service, "", &why, &l->caller);
		listener_close(l, &why);
		return;
	}
	if (!l->message)
		return;
	log_event(LOG_INFO, LOG_ID_LISTENING,
		  &(struct log_about){.service = l->service, .caller = &l->caller},
		  "Service %s listens", l->service);
	sd_bus_reply_method_return(l->message, "o", l->path);
	l->message = sd_bus_message_unref(l->message);
}

static int try_announce(struct listener *l, struct failure *error)
{
	struct msg_service listen = {};

	strcpy(listen.service, l->service);
	return control_call(l->manager->control, "Listen", msg_service_encode(&listen),
			    ANNOUNCE_TIMEOUT_USEC, on_announced, l, &l->announce, error);
}

static void announce(struct listener *l)
{
	struct failure error;

	if (try_announce(l, &error) < 0)
		listener_close(l, &error);
}

static int listener_new(struct manager *m, const struct caller *caller,
			const struct listen_request *request, const char *service,
			struct listener **ret, struct failure *error)
{
	struct listener *l;
	int r;

	r = quota_charge(m->quota, caller->uid, QUOTA_LISTENER, error);
	if (r < 0)
		return r;
	l = calloc(1, sizeof(*l));
	if (!l) {
		quota_release(m->quota, caller->uid, QUOTA_LISTENER);
		return failure_set(error, ERR_FAILED, "out of memory");
	}
	*l = (struct listener){
		.manager = m,
		.caller = *caller,
		.backlog = request->backlog,
		.max_ring = request->max_ring,
	};
	strcpy(l->service, service);
	snprintf(l->path, sizeof(l->path), LISTENER_PATH_PREFIX "/%llu",
		 (unsigned long long)++m->last_listener);
	TAILQ_INIT(&l->ready);
	TAILQ_INIT(&l->accepts);
	TAILQ_INSERT_TAIL(&m->listeners, l, next);
	identity_hold(m->identities, l->service);
	*ret = l;
	return 0;
}

static void listener_undo(struct listener *l)
{
	identity_unhold(l->manager->identities, l->service);
	TAILQ_REMOVE(&l->manager->listeners, l, next);
	quota_release(l->manager->quota, l->caller.uid, QUOTA_LISTENER);
	free(l);
}

int listener_start(struct manager *m, const struct caller *caller, sd_bus_message *message,
		   const struct listen_request *request, struct failure *error)
{
	struct policy_question q = {
		.act = POLICY_LISTEN,
		.service = request->service,
		.uid = caller->uid,
		.unit = caller->unit,
		.ring_size = request->max_ring,
	};
	struct policy_verdict verdict;
	struct listener *l;
	int r;

	policy_decide(m->policy, &q, &verdict);
	if (!verdict.allowed)
		return failure_set(error, ERR_NOT_AUTHORIZED, "%s", verdict.text);
	r = manager_check_ready(m, error);
	if (r < 0)
		return r;
	l = listener_find(m, verdict.service->name);
	if (l) {
		listener_check_owner(l);
		return failure_set(error, ERR_QUOTA_EXCEEDED, "service %s has a listener already",
				   verdict.service->name);
	}
	r = listener_new(m, caller, request, verdict.service->name, &l, error);
	if (r < 0)
		return r;
	r = try_announce(l, error);
	if (r < 0) {
		listener_undo(l);
		return r;
	}
	l->message = sd_bus_message_ref(message);
	return 0;
}

static void owner_has_left(struct listener *l)
{
	struct failure why;

	failure_set(&why, ERR_CLOSED, "the listener's owner has left the bus");
	listener_close(l, &why);
}

static int on_owner(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	struct listener *l = userdata;
	int is_there;

	(void)error;
	l->probe = sd_bus_slot_unref(l->probe);
	if (!sd_bus_message_is_method_error(reply, NULL) &&
	    sd_bus_message_read(reply, "b", &is_there) >= 0 && !is_there)
		owner_has_left(l);
	return 0;
}

void listener_check_owner(struct listener *l)
{
	if (!l->probe)
		sd_bus_call_method_async(l->manager->bus, &l->probe, "org.freedesktop.DBus",
					 "/org/freedesktop/DBus", "org.freedesktop.DBus",
					 "NameHasOwner", on_owner, l, "s", l->caller.name);
}

/*
 * All of them
 */

struct listener *listener_find(struct manager *m, const char *service)
{
	struct listener *l;

	TAILQ_FOREACH(l, &m->listeners, next)
		if (strcmp(l->service, service) == 0)
			return l;
	return NULL;
}

struct listener *listener_find_path(struct manager *m, const char *path)
{
	struct listener *l;

	TAILQ_FOREACH(l, &m->listeners, next)
		if (strcmp(l->path, path) == 0)
			return l;
	return NULL;
}

void listeners_client_gone(struct manager *m, const char *name)
{
	struct listener *l, *next;

	for (l = TAILQ_FIRST(&m->listeners); l; l = next) {
		next = TAILQ_NEXT(l, next);
		if (strcmp(l->caller.name, name) == 0)
			owner_has_left(l);
	}
}

static bool policy_allows(const struct listener *l)
{
	struct policy_question q = {
		.act = POLICY_LISTEN,
		.service = l->service,
		.uid = l->caller.uid,
		.unit = l->caller.unit,
	};
	struct policy_verdict v;

	policy_decide(l->manager->policy, &q, &v);
	return v.allowed;
}

void listeners_apply_policy(struct manager *m)
{
	struct listener *l, *next;
	struct failure why;

	failure_set(&why, ERR_CLOSED, "the policy has changed");
	for (l = TAILQ_FIRST(&m->listeners); l; l = next) {
		next = TAILQ_NEXT(l, next);
		if (!policy_allows(l))
			listener_close(l, &why);
	}
}

void listeners_announce(struct manager *m)
{
	struct listener *l, *next;

	for (l = TAILQ_FIRST(&m->listeners); l; l = next) {
		next = TAILQ_NEXT(l, next);
		if (!l->announce)
			announce(l);
	}
}

void listeners_host_lost(struct manager *m, const struct failure *why)
{
	struct listener *l, *next;

	for (l = TAILQ_FIRST(&m->listeners); l; l = next) {
		next = TAILQ_NEXT(l, next);
		l->announce = rpc_call_cancel(l->announce);
		if (l->message)
			listener_close(l, why);
	}
}

void listeners_close_all(struct manager *m, const struct failure *why)
{
	while (!TAILQ_EMPTY(&m->listeners))
		listener_close(TAILQ_FIRST(&m->listeners), why);
}
