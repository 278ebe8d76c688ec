/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The steps of docs/protocol.md, "Handshake", at H. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "control.h"
#include "frame.h"
#include "manager.h"
#include "policy.h"
#include "session-internal.h"
#include "vm.h"

/* Flights on the way to one VM: well below FRAME_QUEUE_MAX, so that callers cannot have its link
 * dropped. */
#define RELAY_BYTES_MAX (640 * 1024)
/* What a VM has not taken yet also has flights of sessions that ended meanwhile, and what it was
 * told of their ends. */
#define RELAY_UNSENT_MAX (FRAME_QUEUE_MAX / 4 * 3)
/* Of these a caller's share, so that one VM with large flights does not shut the others out: 3 KiB
 * for each of the 64 handshakes that SessionsPerVM= lets it have by default. */
#define SENT_BYTES_MAX (192 * 1024)

/* peer_failure() - what B answered, as A may see it: no other codes than these, no odd bytes */
static void peer_failure(const struct session *s, const struct failure *theirs, struct failure *ret)
{
	switch (theirs->code) {
	case ERR_REFUSED_BY_PEER:
	case ERR_PEER_NOT_LISTENING:
	case ERR_HANDSHAKE_FAILED:
	case ERR_QUOTA_EXCEEDED:
	case ERR_NO_MEMORY:
	case ERR_NOT_READY:
	case ERR_TIMED_OUT:
		*ret = *theirs;
		break;
	case ERR_CLOSED:
		failure_set(ret, ERR_PEER_NOT_LISTENING, "the daemon of VM %s went away", s->to.vm);
		break;
	default:
		failure_set(ret, ERR_HANDSHAKE_FAILED, "%s", theirs->text);
	}
	for (char *c = ret->text; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

static int check_relay(const struct session *s, size_t bytes, struct failure *error)
{
	if (s->from_vm->sent_bytes + bytes > SENT_BYTES_MAX)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "VM %s has too many handshakes under way", s->from.vm);
	if (!control_is_ready(s->to_vm) || s->to_vm->relay_bytes + bytes > RELAY_BYTES_MAX ||
	    rpc_link_unsent(s->to_vm->control->link) + bytes * 4 / 3 > RELAY_UNSENT_MAX)
		return failure_set(error, ERR_NOT_READY, "VM %s has too many handshakes under way",
				   s->to.vm);
	return 0;
}

/* peer_refused() - B's error ends the session; true: so it is.  B is told all the same: what came
 * as its answer need not be what it said. */
static bool peer_refused(struct session *s, const struct failure *error)
{
	struct failure why;

	session_call_done(s);
	if (!error)
		return false;
	peer_failure(s, error, &why);
	session_fail(s, NULL, &why);
	return true;
}

/* call_peer() - ask B; the flight of @body is charged to both until B answers */
static int call_peer(struct session *s, const char *method, json_t *body, size_t bytes,
		     rpc_call_fn fn, struct failure *error)
{
	int r;

	if (check_relay(s, bytes, error) < 0) {
		json_decref(body);
		return -EBUSY;
	}
	r = rpc_link_call(s->to_vm->control->link, method, body,
			  s->manager->config->limits.handshake_timeout_usec, fn, s, &s->call);
	if (r < 0)
		return failure_set(error, ERR_NOT_READY, "VM %s cannot be asked: %s", s->to.vm,
				   strerror(-r));
	s->call_bytes = bytes;
	s->to_vm->relay_bytes += bytes;
	s->from_vm->sent_bytes += bytes;
	return 0;
}

/* Connect(from,to,CH) -> Incoming(session,CH) -> SH..SF */

static unsigned sessions_count(const struct manager *m, const struct peer_name *from,
			       const struct peer_name *to)
{
	struct session *s;
	unsigned n = 0;

	TAILQ_FOREACH(s, &m->sessions, entry)
		n += s->state != SESSION_GRANTED && peer_name_equal(&s->from, from) &&
		     peer_name_equal(&s->to, to);
	return n;
}

static int check_rule(struct manager *m, const struct peer_name *from, const struct peer_name *to,
		      uint64_t ring_size, struct failure *error)
{
	struct decision d;

	policy_decide(m->config, &m->revoked, from, to, &d);
	if (d.why.code != 0) {
		*error = d.why;
		return -EACCES;
	}
	if (ring_size > d.rule->max_ring_size)
		return failure_set(error, ERR_REFUSED_BY_HOST, "%s:%u: MaxRingSize= is %llu bytes",
				   d.rule->place.file, d.rule->place.line,
				   (unsigned long long)d.rule->max_ring_size);
	if (channels_count(m, from, to) + sessions_count(m, from, to) >= d.rule->channels)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "%s:%u: Channels=%u of this pair are in use", d.rule->place.file,
				   d.rule->place.line, d.rule->channels);
	return 0;
}

static int check_connect(struct vm *vm, struct vm *to_vm, const struct peer_name *from,
			 const struct msg_connect *msg, struct failure *error)
{
	struct manager *m = vm->manager;
	unsigned max = m->config->limits.sessions_per_vm;
	int r = check_rule(m, from, &msg->to, msg->ring_size, error);

	if (r < 0)
		return r;
	if (vm->n_sessions >= max)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "VM %s has SessionsPerVM=%u handshakes under way", vm->name,
				   max);
	if (!to_vm || !control_is_ready(to_vm)) /* none: it could not be made at a reload */
		return failure_set(error, ERR_PEER_NOT_LISTENING,
				   "VM %s has no sivshmd that answers", msg->to.vm);
	if (!control_is_listening(to_vm, msg->to.service))
		return failure_set(error, ERR_PEER_NOT_LISTENING, "%s/%s does not listen now",
				   to_vm->name, msg->to.service);
	if (!channel_is_possible(m, vm, to_vm))
		return failure_set(error, ERR_NOT_READY,
				   "no region has the devices of both VMs connected");
	return 0;
}

static void on_offer(struct rpc_link *link, json_t *result, const struct failure *error,
		     void *userdata)
{
	struct session *s = userdata;
	struct msg_flight offer;
	struct failure why;

	(void)link;
	if (peer_refused(s, error))
		return;
	if (msg_flight_decode(result, false, &offer, &why) < 0) {
		failure_set(&why, ERR_HANDSHAKE_FAILED, "the daemon of VM %s answered nonsense",
			    s->to.vm);
		session_fail(s, NULL, &why);
		return;
	}
	memcpy(offer.session, s->id, sizeof(offer.session));
	s->state = SESSION_OFFERED;
	rpc_request_reply(TAKE_PTR(s->request), msg_flight_encode(&offer, true));
	flight_done(&offer.flight);
}

static int ask_incoming(struct session *s, const struct msg_connect *msg, struct failure *error)
{
	struct msg_incoming incoming = {
		.from = s->from, .ring_size = s->ring_size, .flight = msg->flight, /* borrowed */
	};

	memcpy(incoming.session, s->id, sizeof(incoming.session));
	snprintf(incoming.to, sizeof(incoming.to), "%s", s->to.service);
	return call_peer(s, "Incoming", msg_incoming_encode(&incoming), msg->flight.size, on_offer,
			 error);
}

void session_connect(struct vm *vm, struct rpc_request *request, struct msg_connect *msg)
{
	struct vm *to_vm = manager_find_vm(vm->manager, msg->to.vm);
	struct peer_name from = {};
	struct session *s = NULL;
	struct failure why = {.code = ERR_NO_MEMORY, .text = "out of memory"};

	snprintf(from.vm, sizeof(from.vm), "%s", vm->name);
	snprintf(from.service, sizeof(from.service), "%s", msg->from);
	if (check_connect(vm, to_vm, &from, msg, &why) >= 0)
		s = session_new(vm, to_vm, &from, msg);
	if (!s) {
		session_report_refusal(vm, &from, &msg->to, &why);
		rpc_request_fail(request, &why);
	} else {
		s->request = request;
		if (ask_incoming(s, msg, &why) < 0)
			session_fail(s, s->to_vm, &why);
	}
	flight_done(&msg->flight);
}

/* Confirm(CC..CF,id,EKM) -> Finish(CC..CF) -> id, EKM */

static bool identity_is(const struct session *s, const struct peer_name *name, const char *id)
{
	char expected[SPIFFE_ID_SIZE];

	spiffe_id_format(s->manager->config->ca.trust_domain, name, expected);
	return strcmp(expected, id) == 0;
}

static int check_finished(struct session *s, json_t *result, struct failure *error)
{
	struct msg_finished finished;
	int r = 0;

	if (msg_finished_decode(result, &finished, error) < 0)
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the daemon of VM %s answered nonsense", s->to.vm);
	if (!identity_is(s, &s->from, finished.peer))
		r = failure_set(error, ERR_HANDSHAKE_FAILED,
				"the listening side verified another identity: %s", finished.peer);
	else if (CRYPTO_memcmp(finished.exporter, s->exporter, sizeof(s->exporter)) != 0)
		r = failure_set(error, ERR_HANDSHAKE_FAILED,
				"the two ends are not in the same handshake");
	OPENSSL_cleanse(&finished, sizeof(finished));
	return r;
}

static void announce_grant(struct session *s, const struct channel *c)
{
	const struct channel_end *a = &c->ends[END_FROM], *b = &c->ends[END_TO];
	const struct slot_ref confirmed = {a->slot, a->generation};
	struct msg_granted granted = {.ref = {b->slot, b->generation}};

	memcpy(granted.session, s->id, sizeof(granted.session));
	rpc_request_reply(TAKE_PTR(s->request), slot_ref_encode(&confirmed));
	control_notify(s->to_vm, "Granted", msg_granted_encode(&granted));
}

static int publish(struct session *s, struct failure *error)
{
	struct channel *c = s->prepared;
	int r = channel_publish(c, error);

	if (r < 0)
		return r;
	s->prepared = NULL;
	s->state = SESSION_GRANTED;
	if (session_start_timer(s) < 0) {
		channel_withdraw(c, "not-opened");
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	}
	announce_grant(s, c);
	return 0;
}

static void on_prepared(struct channel *c, int r, void *userdata)
{
	struct session *s = userdata;
	struct failure why;

	(void)c;
	if (r == -ENODEV)
		failure_set(&why, ERR_CLOSED, "the device of a VM went away");
	else if (r < 0)
		failure_set(&why, ERR_NO_MEMORY, "no memory for the windows: %s", strerror(-r));
	if (r < 0 || publish(s, &why) < 0)
		session_fail(s, NULL, &why);
}

/* identities right, EKM equal: allocate, zero, write both grants, ring vector 0 */
static int grant(struct session *s, struct failure *error)
{
	const struct channel_request request = {
		.session = s->id,
		.from = &s->from,
		.to = &s->to,
		.from_vm = s->from_vm,
		.to_vm = s->to_vm,
		.ring_size = s->ring_size,
	};
	int r = channel_prepare(s->manager, &request, on_prepared, s, &s->prepared, error);

	OPENSSL_cleanse(s->exporter, sizeof(s->exporter));
	return r > 0 ? publish(s, error) : r;
}

static void on_finished(struct rpc_link *link, json_t *result, const struct failure *error,
			void *userdata)
{
	struct session *s = userdata;
	struct failure why;

	(void)link;
	if (peer_refused(s, error))
		return;
	if (check_finished(s, result, &why) < 0 || grant(s, &why) < 0)
		session_fail(s, NULL, &why);
}

static int ask_finish(struct session *s, const struct msg_confirm *msg, struct failure *error)
{
	struct msg_flight finish = {.flight = msg->flight}; /* borrowed */

	if (!identity_is(s, &s->to, msg->peer))
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the connecting side verified another identity: %s", msg->peer);
	memcpy(finish.session, s->id, sizeof(finish.session));
	memcpy(s->exporter, msg->exporter, sizeof(s->exporter));
	return call_peer(s, "Finish", msg_flight_encode(&finish, true), msg->flight.size,
			 on_finished, error);
}

void session_confirm(struct vm *vm, struct rpc_request *request, struct msg_confirm *msg)
{
	struct session *s = session_find(vm->manager, vm, msg->session);
	struct failure why;

	if (!s || s->from_vm != vm || s->state != SESSION_OFFERED) {
		failure_set(&why, ERR_NO_SUCH_OBJECT, "no session of that id waits for Confirm");
		rpc_request_fail(request, &why);
	} else {
		s->state = SESSION_FINISHING;
		s->request = request;
		if (ask_finish(s, msg, &why) < 0)
			session_fail(s, NULL, &why);
	}
	OPENSSL_cleanse(msg->exporter, sizeof(msg->exporter));
	flight_done(&msg->flight);
}
