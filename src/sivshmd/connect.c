/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "connect.h"

#include <errno.h>
#include <string.h>

#include "answer.h"
#include "handshake.h"
#include "log.h"
#include "opener.h"

/* How much longer than its caller a connect waits for the host, to learn what has to be undone. */
#define UNDO_USEC (20 * USEC_PER_SEC)

/*
 * Whatever is under way is one of: @wait, @call, @opener.  @session is known from the answer to
 * Connect on; a connect that ends before has to await that answer, for the host may have made one.
 */
struct connect {
	TAILQ_ENTRY(connect) next;
	struct manager *manager;
	struct caller caller;
	sd_bus_message *message; /* NULL: answered */
	struct peer_name from;
	struct peer_name peer;
	uint64_t ring_size;
	struct steps steps;
	sd_event_source *timer;
	uint64_t deadline; /* CLOCK_MONOTONIC */
	struct handshake *handshake;
	bool has_identity;
	struct flight server_hello; /* empty until it came */
	bool has_session;
	uint8_t session[SESSION_ID_SIZE];
	struct slot_ref ref;
	struct identity_wait *wait;
	struct rpc_call *call;
	struct opener opener;
};

static void connect_free(struct connect *c)
{
	identity_wait_cancel(c->wait);
	rpc_call_cancel(c->call);
	opener_stop(&c->opener);
	handshake_free(c->handshake);
	flight_done(&c->server_hello);
	sd_event_source_disable_unref(c->timer);
	sd_bus_message_unref(c->message);
	TAILQ_REMOVE(&c->manager->connects, c, next);
	quota_release(c->manager->quota, c->caller.uid, QUOTA_CONNECT);
	free(c);
}

static void give_back(struct connect *c)
{
	c->wait = identity_wait_cancel(c->wait);
	opener_stop(&c->opener);
	c->timer = sd_event_source_disable_unref(c->timer);
	if (c->has_session) {
		c->call = rpc_call_cancel(c->call);
		manager_cancel_session(c->manager, c->session);
		c->has_session = false;
	}
	channel_never_opened(c->manager, &c->ref);
}

/* Ends @c, or leaves it without a caller until the host has answered Connect. */
static void connect_fail(struct connect *c, const struct failure *reason)
{
	char peer[PEER_NAME_SIZE];
	struct failure told = *reason, *why = &told;

	/* The caller's arguments were right; what one daemon did not understand of the other is
	 * not. */
	if (why->code == ERR_INVALID_PARAMS)
		failure_set(why, ERR_HANDSHAKE_FAILED, "%s", reason->text);
	peer_name_format(&c->peer, peer);
	if (c->message) {
		manager_refused(c->manager, c->from.service, peer, why, &c->caller);
		bus_reply_failure(c->message, why);
		c->message = sd_bus_message_unref(c->message);
	}
	give_back(c);
	if (!c->call)
		connect_free(c);
}

static uint64_t call_timeout(const struct connect *c)
{
	uint64_t now = clock_usec(CLOCK_MONOTONIC);

	return (c->deadline > now ? c->deadline - now : 0) + UNDO_USEC;
}

/*
 * Opened: the slot is open, answer the caller
 */

static int new_channel(struct connect *c, struct channel **ret)
{
	struct channel_spec spec = {
		.ref = c->ref,
		.local = c->from.service,
		.peer = &c->peer,
		.ring_size = c->ring_size,
		.uid = c->caller.uid,
		.cgroup = c->caller.cgroup,
		.unit = c->caller.unit,
		.act = POLICY_CONNECT,
		.state = SIVSHM_GRANT_ACTIVE,
	};

	return channel_new(c->manager, &spec, ret);
}

static int answer(struct connect *c, int fd, const struct channel *channel)
{
	_cleanup_free_ char *certificate = NULL;
	struct answer a = {.fd = fd, .channel = channel, .steps = &c->steps};
	int r;

	r = handshake_peer_certificate(c->handshake, &certificate);
	if (r < 0)
		return r;
	a.certificate = certificate;
	a.handshake_usec = steps_elapsed(&c->steps);
	return answer_send(c->message, &a);
}

static void on_opened(int fd, const struct failure *error, void *userdata)
{
	_cleanup_close_ int channel_fd = fd; /* the caller's copy goes with the answer */
	struct connect *c = userdata;
	struct channel *channel;
	int r;

	if (error) {
		connect_fail(c, error);
		return;
	}
	steps_ended(&c->steps, "opened");
	r = new_channel(c, &channel);
	if (r >= 0) {
		r = answer(c, channel_fd, channel);
		channel_announce(channel, &c->steps);
	}
	manager_opened(c->manager, c->session, &c->ref);
	if (r < 0)
		/* Closing the fd makes the kernel say RELEASED, which undoes the rest. */
		log_plain(LOG_ERR, "Connect cannot be answered: %s", strerror(-r));
	connect_free(c);
}

/*
 * Confirm: slot, generation
 */

static int take_grant(struct connect *c, json_t *result, struct failure *error)
{
	int r;

	r = slot_ref_decode(result, &c->ref, error);
	if (r < 0)
		return r;
	steps_ended(&c->steps, "granted");
	r = opener_start(&c->opener, c->manager->event, c->manager->device, &c->ref, c->session,
			 c->caller.uid, c->caller.cgroup, on_opened, c);
	return r < 0 ? failure_set(error, ERR_FAILED, "out of memory") : 0;
}

static void on_reply(struct connect *c, struct rpc_link *link, json_t *result,
		     const struct failure *error,
		     int (*take)(struct connect *c, json_t *result, struct failure *error))
{
	struct failure why = {};

	c->call = NULL;
	if (error)
		why = control_failure(link, error);
	else
		take(c, result, &why);
	if (why.code)
		connect_fail(c, &why);
}

static void on_confirmed(struct rpc_link *link, json_t *result, const struct failure *error,
			 void *userdata)
{
	on_reply(userdata, link, result, error, take_grant);
}

/* verify chain and id of B; CC..CF, id, EKM */
static int send_confirm(struct connect *c, struct failure *error)
{
	struct msg_confirm confirm = {};
	int r;

	r = handshake_step(c->handshake, &c->server_hello, &confirm.flight, error);
	if (r < 0)
		return r;
	steps_ended(&c->steps, "server-verified");
	memcpy(confirm.session, c->session, sizeof(confirm.session));
	spiffe_id_format(control_trust_domain(c->manager->control), &c->peer, confirm.peer);
	r = handshake_result(c->handshake, c->session, &c->from, &c->peer, c->ring_size,
			     confirm.exporter, error);
	if (r >= 0)
		r = control_call(c->manager->control, "Confirm", msg_confirm_encode(&confirm),
				 call_timeout(c), on_confirmed, c, &c->call, error);
	flight_done(&confirm.flight);
	return r;
}

/*
 * Connect: session, SH..SF.  The own certificate is got meanwhile, for CH says nothing of it.
 */

static int take_server_hello(struct connect *c, json_t *result, struct failure *error)
{
	struct msg_flight hello = {};
	int r;

	r = msg_flight_decode(result, true, &hello, error);
	if (r < 0)
		return r;
	steps_ended(&c->steps, "server-hello");
	memcpy(c->session, hello.session, sizeof(c->session));
	c->has_session = true;
	c->server_hello = hello.flight;
	if (!c->message)
		return failure_set(error, ERR_CLOSED, "nobody waits any more");
	return c->has_identity ? send_confirm(c, error) : 0;
}

static void on_connected(struct rpc_link *link, json_t *result, const struct failure *error,
			 void *userdata)
{
	on_reply(userdata, link, result, error, take_server_hello);
}

static int send_client_hello(struct connect *c, struct failure *error)
{
	char id[SPIFFE_ID_SIZE];
	struct handshake_config config = {
		.initiator = true,
		.trust = control_trust(c->manager->control),
		.peer_id = id,
		.now = control_now(c->manager->control),
	};
	struct msg_connect connect = {.to = c->peer, .ring_size = c->ring_size};
	int r;

	spiffe_id_format(control_trust_domain(c->manager->control), &c->peer, id);
	strcpy(connect.from, c->from.service);
	r = handshake_new(&config, &c->handshake, error);
	if (r >= 0)
		r = handshake_start(c->handshake, &connect.flight, error);
	if (r >= 0)
		r = control_call(c->manager->control, "Connect", msg_connect_encode(&connect),
				 call_timeout(c), on_connected, c, &c->call, error);
	flight_done(&connect.flight);
	if (r >= 0)
		steps_ended(&c->steps, "client-hello");
	return r;
}

static int take_identity(struct connect *c, const struct keypair *pair, struct failure *error)
{
	struct handshake_identity identity = {pair->key, pair->certificate, pair->chain};
	int r;

	steps_ended(&c->steps, "certificate");
	r = handshake_set_identity(c->handshake, &identity, error);
	if (r < 0)
		return r;
	c->has_identity = true;
	return c->server_hello.size > 0 ? send_confirm(c, error) : 0;
}

static void on_identity(const struct keypair *pair, const struct failure *error, void *userdata)
{
	struct connect *c = userdata;
	struct failure why = {};

	c->wait = NULL;
	if (error)
		why = *error;
	else
		take_identity(c, pair, &why);
	if (why.code)
		connect_fail(c, &why);
}

/*
 * Start
 */

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct failure why;

	(void)s;
	(void)usec;
	failure_set(&why, ERR_TIMED_OUT, "no channel within the timeout");
	connect_fail(userdata, &why);
	return 0;
}

/* NULL with @error set. */
static struct connect *connect_new(struct manager *m, const struct caller *caller,
				   sd_bus_message *message, const struct connect_request *request,
				   const char *service, struct failure *error)
{
	struct connect *c;

	if (quota_charge(m->quota, caller->uid, QUOTA_CONNECT, error) < 0)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c) {
		quota_release(m->quota, caller->uid, QUOTA_CONNECT);
		failure_set(error, ERR_FAILED, "out of memory");
		return NULL;
	}
	*c = (struct connect){
		.manager = m,
		.caller = *caller,
		.message = sd_bus_message_ref(message),
		.peer = request->peer,
		.ring_size = request->ring_size,
		.steps.began = request->arrived_usec,
		.deadline = request->arrived_usec + request->timeout_usec,
	};
	strcpy(c->from.vm, control_vm(m->control));
	strcpy(c->from.service, service);
	TAILQ_INSERT_TAIL(&m->connects, c, next);
	return c;
}

/* The host is at work by now: what fails is undone there too. */
static void want_identity(struct connect *c)
{
	struct failure why = {};
	const struct keypair *pair;
	int r;

	r = identity_want(c->manager->identities, c->from.service, on_identity, c, &c->wait, &pair,
			  &why);
	if (r == 0)
		steps_ended(&c->steps, "csr");
	if (r > 0)
		r = take_identity(c, pair, &why);
	if (r < 0)
		connect_fail(c, &why);
}

static int begin(struct connect *c, struct failure *error)
{
	int r;

	r = sd_event_add_time(c->manager->event, &c->timer, CLOCK_MONOTONIC, c->deadline, 0,
			      on_deadline, c);
	if (r < 0)
		return failure_set(error, ERR_FAILED, "out of memory");
	r = send_client_hello(c, error);
	if (r >= 0)
		want_identity(c);
	return r;
}

int connect_start(struct manager *m, const struct caller *caller, sd_bus_message *message,
		  const struct connect_request *request, struct failure *error)
{
	struct policy_question q = {
		.act = POLICY_CONNECT,
		.service = request->service,
		.uid = caller->uid,
		.unit = caller->unit,
		.peer = &request->peer,
		.ring_size = request->ring_size,
	};
	const struct policy_service *service;
	struct steps steps = {.began = request->arrived_usec};
	struct connect *c;
	int r;

	steps_ended(&steps, "caller");
	r = manager_authorize(m, &q, &service, error);
	if (r < 0)
		return r;
	r = manager_check_ready(m, error);
	if (r >= 0)
		r = channels_check_delivered(m, caller->uid, error);
	if (r < 0)
		return r;
	c = connect_new(m, caller, message, request, service->name, error);
	if (!c)
		return -error_errno(error->code);
	c->steps = steps;
	steps_ended(&c->steps, "policy");
	r = begin(c, error);
	if (r < 0)
		connect_free(c);
	return r;
}

/*
 * Ends from outside
 */

bool connects_abort(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct failure *why)
{
	struct connect *c;

	TAILQ_FOREACH(c, &m->connects, next) {
		if (!c->has_session || memcmp(c->session, session, SESSION_ID_SIZE) != 0)
			continue;
		connect_fail(c, why);
		return true;
	}
	return false;
}

void connects_client_gone(struct manager *m, const char *name)
{
	struct connect *c, *next;

	for (c = TAILQ_FIRST(&m->connects); c; c = next) {
		next = TAILQ_NEXT(c, next);
		if (strcmp(c->caller.name, name) != 0)
			continue;
		c->message = sd_bus_message_unref(c->message);
		give_back(c);
		if (!c->call)
			connect_free(c);
	}
}

static bool policy_allows(const struct connect *c)
{
	struct policy_question q = {
		.act = POLICY_CONNECT,
		.service = c->from.service,
		.uid = c->caller.uid,
		.unit = c->caller.unit,
		.peer = &c->peer,
		.ring_size = c->ring_size,
	};
	struct policy_verdict v;

	policy_decide(c->manager->policy, &q, &v);
	return v.allowed;
}

void connects_apply_policy(struct manager *m)
{
	struct connect *c, *next;
	struct failure why;

	failure_set(&why, ERR_NOT_AUTHORIZED, "the policy has changed");
	for (c = TAILQ_FIRST(&m->connects); c; c = next) {
		next = TAILQ_NEXT(c, next);
		if (!policy_allows(c))
			connect_fail(c, &why);
	}
}

void connects_fail_all(struct manager *m, const struct failure *why)
{
	struct connect *c, *next;

	for (c = TAILQ_FIRST(&m->connects); c; c = next) {
		next = TAILQ_NEXT(c, next);
		c->call = rpc_call_cancel(c->call); /* nobody stays to hear the answer */
		connect_fail(c, why);
	}
}

unsigned connects_count(struct manager *m, const char *service)
{
	struct connect *c;
	unsigned n = 0;

	TAILQ_FOREACH(c, &m->connects, next)
		if (strcmp(c->from.service, service) == 0)
			n++;
	return n;
}
