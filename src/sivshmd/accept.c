/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "accept.h"

#include <string.h>

#include "handshake.h"
#include "listener.h"
#include "log.h"
#include "opener.h"
#include "steps.h"

/* The host has its own, shorter limit and says Abort; this one is for a host that does not. */
#define SESSION_TIMEOUT_USEC (60 * USEC_PER_SEC)

enum session_state {
	SESSION_CERTIFICATE, /* Incoming came, own certificate is awaited */
	SESSION_HELLO,	     /* answered Incoming */
	SESSION_FINISHED,    /* answered Finish */
	SESSION_GRANTED,     /* slot is being opened */
};

struct session {
	TAILQ_ENTRY(session) next;
	struct manager *manager;
	struct listener *listener;
	enum session_state state;
	struct caller holder; /* of the channel: who made the listener */
	uint8_t id[SESSION_ID_SIZE];
	struct peer_name from;
	struct peer_name to;
	uint64_t ring_size;
	struct flight client_hello;  /* until the certificate is there */
	struct rpc_request *request; /* Incoming, until it is answered */
	struct identity_wait *wait;
	struct handshake *handshake;
	struct slot_ref ref;
	struct opener opener;
	sd_event_source *timer;
	struct steps steps;
};

static void session_free(struct session *s)
{
	identity_wait_cancel(s->wait);
	opener_stop(&s->opener);
	handshake_free(s->handshake);
	flight_done(&s->client_hello);
	sd_event_source_disable_unref(s->timer);
	rpc_request_drop(s->request);
	TAILQ_REMOVE(&s->manager->sessions, s, next);
	s->listener->n_sessions--;
	free(s);
}

static struct session *session_find(struct manager *m, const uint8_t id[SESSION_ID_SIZE])
{
	struct session *s;

	TAILQ_FOREACH(s, &m->sessions, next)
		if (memcmp(s->id, id, SESSION_ID_SIZE) == 0)
			return s;
	return NULL;
}

static void session_refused(struct session *s, const struct failure *why)
{
	char peer[PEER_NAME_SIZE];

	peer_name_format(&s->from, peer);
	manager_refused(s->manager, s->to.service, peer, why, NULL);
}

/* Ends @s.  The host learns it by the answer to its request, or by Cancel. */
static void session_fail(struct session *s, const struct failure *why)
{
	session_refused(s, why);
	if (s->request)
		rpc_request_fail(TAKE_PTR(s->request), why);
	else
		manager_cancel_session(s->manager, s->id);
	channel_never_opened(s->manager, &s->ref);
	session_free(s);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct failure why;

	(void)source;
	(void)usec;
	failure_set(&why, ERR_TIMED_OUT, "the handshake did not end in time");
	session_fail(userdata, &why);
	return 0;
}

/*
 * Incoming: CH; answer SH..SF
 */

static int make_server_hello(struct session *s, const struct keypair *pair, struct flight *ret,
			     struct failure *error)
{
	char id[SPIFFE_ID_SIZE];
	struct handshake_identity identity = {pair->key, pair->certificate, pair->chain};
	struct handshake_config config = {
		.identity = &identity,
		.trust = control_trust(s->manager->control),
		.peer_id = id,
		.now = control_now(s->manager->control),
	};
	int r;

	spiffe_id_format(control_trust_domain(s->manager->control), &s->from, id);
	r = handshake_new(&config, &s->handshake, error);
	return r < 0 ? r : handshake_step(s->handshake, &s->client_hello, ret, error);
}

static int answer_incoming(struct session *s, const struct keypair *pair, struct failure *error)
{
	struct msg_flight hello = {};
	int r;

	steps_ended(&s->steps, "certificate");
	r = make_server_hello(s, pair, &hello.flight, error);
	flight_done(&s->client_hello);
	if (r < 0)
		return r;
	rpc_request_reply(TAKE_PTR(s->request), msg_flight_encode(&hello, false));
	flight_done(&hello.flight);
	steps_ended(&s->steps, "server-hello");
	s->state = SESSION_HELLO;
	return 0;
}

static void on_identity(const struct keypair *pair, const struct failure *error, void *userdata)
{
	struct session *s = userdata;
	struct failure why = {};

	s->wait = NULL;
	if (error)
		why = *error;
	else
		answer_incoming(s, pair, &why);
	if (why.code)
		session_fail(s, &why);
}

static unsigned sessions_of(const struct listener *l, const struct peer_name *from)
{
	struct session *s;
	unsigned n = 0;

	TAILQ_FOREACH(s, &l->manager->sessions, next)
		n += s->listener == l && peer_name_equal(&s->from, from);
	return n;
}

/*
 * A peer that begins handshakes and ends none must not keep all others away: when it has more than
 * half of the backlog its oldest one goes, and another peer has the place.
 */
static bool make_room(struct listener *l, const struct peer_name *from)
{
	struct failure why;
	struct session *s;

	failure_set(&why, ERR_QUOTA_EXCEEDED, "the backlog is full, and other peers want in");
	TAILQ_FOREACH(s, &l->manager->sessions, next) {
		if (s->listener != l || s->state > SESSION_HELLO ||
		    peer_name_equal(&s->from, from) || sessions_of(l, &s->from) <= l->backlog / 2)
			continue;
		session_fail(s, &why);
		return listener_has_room(l);
	}
	return false;
}

/* May @incoming come in at @l?  Errors are what the peer is told: no lines of files. */
static int check_incoming(struct listener *l, const struct msg_incoming *incoming,
			  struct failure *error)
{
	struct policy_question q = {
		.act = POLICY_ACCEPT,
		.service = l->service,
		.uid = l->caller.uid,
		.unit = l->caller.unit,
		.peer = &incoming->from,
		.ring_size = incoming->ring_size,
	};
	const struct policy_service *service;
	int r;

	r = manager_authorize(l->manager, &q, &service, error);
	if (r < 0 && error->code == ERR_NOT_AUTHORIZED)
		return failure_set(error, ERR_REFUSED_BY_PEER, "the policy of the peer's guest");
	if (r < 0)
		return r;
	if (l->max_ring && incoming->ring_size > l->max_ring)
		return failure_set(error, ERR_REFUSED_BY_PEER,
				   "the listener takes rings of at most %llu bytes",
				   (unsigned long long)l->max_ring);
	if (listener_has_room(l) || make_room(l, &incoming->from))
		return 0;
	listener_check_owner(l);
	return failure_set(error, ERR_QUOTA_EXCEEDED, "the backlog of %s is full", l->service);
}

/* NULL with @error set. */
static struct session *session_new(struct listener *l, struct msg_incoming *incoming,
				   uint64_t began, struct failure *error)
{
	struct session *s;

	if (session_find(l->manager, incoming->session)) {
		failure_set(error, ERR_FAILED, "the session exists already");
		return NULL;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		failure_set(error, ERR_FAILED, "out of memory");
		return NULL;
	}
	*s = (struct session){
		.manager = l->manager,
		.listener = l,
		.holder = l->caller,
		.from = incoming->from,
		.ring_size = incoming->ring_size,
		.client_hello = incoming->flight,
		.steps.began = began,
	};
	incoming->flight = (struct flight){};
	memcpy(s->id, incoming->session, sizeof(s->id));
	strcpy(s->to.vm, control_vm(l->manager->control));
	strcpy(s->to.service, incoming->to);
	TAILQ_INSERT_TAIL(&l->manager->sessions, s, next);
	l->n_sessions++;
	return s;
}

static int session_begin(struct session *s, struct failure *error)
{
	const struct keypair *pair;
	int r;

	steps_ended(&s->steps, "policy");
	r = sd_event_add_time_relative(s->manager->event, &s->timer, CLOCK_MONOTONIC,
				       SESSION_TIMEOUT_USEC, 0, on_timeout, s);
	if (r < 0)
		return failure_set(error, ERR_FAILED, "out of memory");
	r = identity_want(s->manager->identities, s->to.service, on_identity, s, &s->wait, &pair,
			  error);
	if (r == 0)
		steps_ended(&s->steps, "csr");
	return r > 0 ? answer_incoming(s, pair, error) : r;
}

static struct session *begin_incoming(struct manager *m, struct msg_incoming *incoming,
				      uint64_t began, struct failure *error)
{
	struct listener *l = listener_find(m, incoming->to);

	if (!l) {
		failure_set(error, ERR_PEER_NOT_LISTENING, "nobody listens as %s", incoming->to);
		return NULL;
	}
	if (check_incoming(l, incoming, error) < 0)
		return NULL;
	return session_new(l, incoming, began, error);
}

void accept_incoming(struct manager *m, struct rpc_request *request, json_t *params)
{
	uint64_t began = clock_usec(CLOCK_MONOTONIC);
	struct msg_incoming incoming = {};
	struct failure error = {};
	char peer[PEER_NAME_SIZE];
	struct session *s;

	if (msg_incoming_decode(params, &incoming, &error) < 0) {
		rpc_request_fail(request, &error);
		return;
	}
	s = begin_incoming(m, &incoming, began, &error);
	if (!s) {
		peer_name_format(&incoming.from, peer);
		manager_refused(m, incoming.to, peer, &error, NULL);
		rpc_request_fail(request, &error);
	} else {
		s->request = request;
		if (session_begin(s, &error) < 0)
			session_fail(s, &error);
	}
	flight_done(&incoming.flight);
}

/*
 * Finish: CC..CF; verify chain and id of A; answer id, EKM
 */

static int finish(struct session *s, const struct flight *in, struct msg_finished *ret,
		  struct failure *error)
{
	struct flight none = {};
	int r;

	if (s->state != SESSION_HELLO)
		return failure_set(error, ERR_HANDSHAKE_FAILED, "Finish out of order");
	steps_ended(&s->steps, "client-finished");
	r = handshake_step(s->handshake, in, &none, error);
	flight_done(&none);
	if (r >= 0)
		r = handshake_result(s->handshake, s->id, &s->from, &s->to, s->ring_size,
				     ret->exporter, error);
	if (r < 0)
		return r;
	spiffe_id_format(control_trust_domain(s->manager->control), &s->from, ret->peer);
	steps_ended(&s->steps, "client-verified");
	s->state = SESSION_FINISHED;
	return 0;
}

void accept_finish(struct manager *m, struct rpc_request *request, json_t *params)
{
	struct msg_finished finished = {};
	struct msg_flight in = {};
	struct failure error = {};
	struct session *s;

	if (msg_flight_decode(params, true, &in, &error) < 0) {
		rpc_request_fail(request, &error);
		return;
	}
	s = session_find(m, in.session);
	if (!s) {
		failure_set(&error, ERR_CLOSED, "no such session: its listener may be closed");
		rpc_request_fail(request, &error);
	} else if (finish(s, &in.flight, &finished, &error) < 0) {
		if (!s->request)
			s->request = request;
		else
			rpc_request_fail(request, &error);
		session_fail(s, &error);
	} else {
		rpc_request_reply(request, msg_finished_encode(&finished));
	}
	flight_done(&in.flight);
}

/*
 * Granted: slot, generation; open it
 */

static int new_channel(struct session *s, struct channel **ret)
{
	struct channel_spec spec = {
		.ref = s->ref,
		.local = s->to.service,
		.peer = &s->from,
		.ring_size = s->ring_size,
		.uid = s->holder.uid,
		.cgroup = s->holder.cgroup,
		.unit = s->holder.unit,
		.act = POLICY_ACCEPT,
		.state = SIVSHM_GRANT_ACTIVE,
	};

	return channel_new(s->manager, &spec, ret);
}

/* Hand the fd over to the listener; what fails here is undone by closing the fd. */
static int deliver(struct session *s, int *fd)
{
	_cleanup_free_ char *certificate = NULL;
	struct channel *channel;
	struct ready ready = {};
	int r;

	r = new_channel(s, &channel);
	if (r >= 0)
		r = handshake_peer_certificate(s->handshake, &certificate);
	if (r < 0)
		return r;
	ready.channel = channel;
	ready.fd = *fd;
	ready.certificate = certificate;
	ready.steps = s->steps;
	ready.handshake_usec = steps_elapsed(&s->steps);
	r = listener_deliver(s->listener, &ready);
	channel_announce(channel, &s->steps);
	if (r < 0)
		return r;
	TAKE_PTR(certificate);
	TAKE_FD(*fd);
	return 0;
}

static void on_opened(int opened, const struct failure *error, void *userdata)
{
	_cleanup_close_ int fd = opened;
	struct session *s = userdata;
	int r;

	if (error) {
		session_fail(s, error);
		return;
	}
	steps_ended(&s->steps, "opened");
	r = deliver(s, &fd);
	manager_opened(s->manager, s->id, &s->ref);
	if (r < 0)
		log_plain(LOG_ERR, "A connection cannot be delivered: %s", strerror(-r));
	session_free(s);
}

void accept_granted(struct manager *m, const struct msg_granted *granted)
{
	struct session *s = session_find(m, granted->session);
	struct failure error;

	if (!s) {
		manager_cancel_session(m, granted->session);
		channel_never_opened(m, &granted->ref);
		return;
	}
	if (s->state != SESSION_FINISHED) {
		failure_set(&error, ERR_HANDSHAKE_FAILED, "Granted out of order");
		session_fail(s, &error);
		return;
	}
	s->state = SESSION_GRANTED;
	s->ref = granted->ref;
	steps_ended(&s->steps, "granted");
	if (opener_start(&s->opener, m->event, m->device, &s->ref, s->id, s->holder.uid,
			 s->holder.cgroup, on_opened, s) < 0) {
		failure_set(&error, ERR_FAILED, "out of memory");
		session_fail(s, &error);
	}
}

/*
 * Ends from outside
 */

bool sessions_abort(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct failure *why)
{
	struct session *s = session_find(m, session);

	if (!s)
		return false;
	session_refused(s, why);
	session_free(s);
	return true;
}

void sessions_listener_closed(const struct listener *l, const struct failure *why)
{
	struct session *s, *next;

	for (s = TAILQ_FIRST(&l->manager->sessions); s; s = next) {
		next = TAILQ_NEXT(s, next);
		if (s->listener == l)
			session_fail(s, why);
	}
}

static bool policy_allows(const struct session *s)
{
	struct policy_question q = {
		.act = POLICY_ACCEPT,
		.service = s->to.service,
		.uid = s->holder.uid,
		.unit = s->holder.unit,
		.peer = &s->from,
		.ring_size = s->ring_size,
	};
	struct policy_verdict v;

	policy_decide(s->manager->policy, &q, &v);
	return v.allowed;
}

void sessions_apply_policy(struct manager *m)
{
	struct session *s, *next;
	struct failure why;

	failure_set(&why, ERR_REFUSED_BY_PEER, "the policy of the peer's guest has changed");
	for (s = TAILQ_FIRST(&m->sessions); s; s = next) {
		next = TAILQ_NEXT(s, next);
		if (!policy_allows(s))
			session_fail(s, &why);
	}
}

void sessions_fail_all(struct manager *m, const struct failure *why)
{
	struct session *s;

	while ((s = TAILQ_FIRST(&m->sessions)))
		session_fail(s, why);
}

unsigned sessions_count(struct manager *m, const char *service)
{
	struct session *s;
	unsigned n = 0;

	TAILQ_FOREACH(s, &m->sessions, next)
		if (strcmp(s->to.service, service) == 0)
			n++;
	return n;
}
