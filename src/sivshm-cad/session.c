/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Life and end of sessions; the steps of the handshake are in session-relay.c. */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

#include "channel.h"
#include "control.h"
#include "log.h"
#include "manager-bus.h"
#include "manager.h"
#include "policy.h"
#include "session-internal.h"
#include "vm.h"

struct session *session_find(const struct manager *m, const struct vm *vm,
			     const uint8_t id[SESSION_ID_SIZE])
{
	struct session *s;

	TAILQ_FOREACH(s, &m->sessions, entry)
		if (memcmp(s->id, id, SESSION_ID_SIZE) == 0 && (s->from_vm == vm || s->to_vm == vm))
			return s;
	return NULL;
}

void session_call_done(struct session *s)
{
	s->call = NULL;
	s->to_vm->relay_bytes -= s->call_bytes;
	s->from_vm->sent_bytes -= s->call_bytes;
	s->call_bytes = 0;
}

static void session_free(struct session *s)
{
	if (!s)
		return;
	rpc_call_cancel(s->call);
	session_call_done(s);
	channel_abandon(s->prepared);
	rpc_request_drop(s->request);
	s->from_vm->n_sessions--;
	TAILQ_REMOVE(&s->manager->sessions, s, entry);
	sd_event_source_disable_unref(s->timer);
	OPENSSL_cleanse(s->exporter, sizeof(s->exporter));
	free(s);
}

void sessions_free(struct manager *m)
{
	struct session *s;

	while ((s = TAILQ_FIRST(&m->sessions)))
		session_free(s);
}

/* failing */

/* session_report_refusal() - limited for each VM: refusals cost the VM nothing, but the log and the
 * bus */
void session_report_refusal(struct vm *vm, const struct peer_name *from, const struct peer_name *to,
			    const struct failure *why)
{
	char f[PEER_NAME_SIZE], t[PEER_NAME_SIZE];

	if (!ratelimit_take(&vm->refusals, manager_now(vm->manager), 10 * 1000000ULL, 100))
		return;
	peer_name_format(from, f);
	peer_name_format(to, t);
	log_with(LOG_NOTICE,
		 (.id = LOG_ID_REFUSED, .from = f, .to = t, .error = error_name(why->code)),
		 "%s to %s refused: %s: %s", f, t, error_name(why->code), why->text);
	manager_bus_refused(vm->manager, f, t, error_name(why->code), why->text);
}

static void abort_at(struct session *s, struct vm *vm, const struct failure *why)
{
	struct msg_abort msg = {.error = *why};

	memcpy(msg.session, s->id, sizeof(msg.session));
	control_notify(vm, "Abort", msg_abort_encode(&msg));
}

/* session_fail() - both ends but @culprit (NULL: none), who knows already, are told; @s is freed */
void session_fail(struct session *s, const struct vm *culprit, const struct failure *why)
{
	struct rpc_request *request = TAKE_PTR(s->request);

	if (s->state != SESSION_GRANTED)
		session_report_refusal(s->from_vm, &s->from, &s->to, why);
	if (request)
		rpc_request_fail(request, why);
	else if (s->from_vm != culprit)
		abort_at(s, s->from_vm, why);
	if (s->to_vm != culprit)
		abort_at(s, s->to_vm, why);
	session_free(s);
}

/* withdraw_grant() - the channel of a session that does not come to its end */
static void withdraw_grant(struct session *s, const char *reason)
{
	struct channel *c = s->state == SESSION_GRANTED ? channel_find(s->manager, s->id) : NULL;

	if (c && channel_is_open(c))
		channel_withdraw(c, reason);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct session *s = userdata;
	struct failure why;

	(void)source, (void)usec;
	withdraw_grant(s, "not-opened");
	failure_set(&why, ERR_TIMED_OUT,
		    s->state == SESSION_GRANTED ? "the channel was not opened in time"
						: "the handshake was not finished in time");
	session_fail(s, NULL, &why);
	return 0;
}

int session_start_timer(struct session *s)
{
	s->timer = sd_event_source_disable_unref(s->timer);
	return sd_event_add_time_relative(s->manager->event, &s->timer, CLOCK_MONOTONIC,
					  s->manager->config->limits.handshake_timeout_usec, 0,
					  on_timeout, s);
}

struct session *session_new(struct vm *vm, struct vm *to_vm, const struct peer_name *from,
			    const struct msg_connect *msg)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->manager = vm->manager;
	s->from = *from;
	s->to = msg->to;
	s->from_vm = vm;
	s->to_vm = to_vm;
	s->ring_size = msg->ring_size;
	vm->n_sessions++;
	TAILQ_INSERT_TAIL(&vm->manager->sessions, s, entry);
	if (RAND_bytes(s->id, sizeof(s->id)) != 1 || session_start_timer(s) < 0) {
		session_free(s);
		return NULL;
	}
	return s;
}

/* what ends one */

int session_cancel(struct vm *vm, const uint8_t id[SESSION_ID_SIZE], struct failure *error)
{
	struct session *s = session_find(vm->manager, vm, id);
	struct failure why;

	if (!s)
		return failure_set(error, ERR_NO_SUCH_OBJECT, "no session of that id");
	withdraw_grant(s, "closed");
	failure_set(&why, ERR_CLOSED, "VM %s gave the handshake up", vm->name);
	session_fail(s, vm, &why);
	return 0;
}

void session_opened(struct vm *vm, const struct msg_granted *msg)
{
	struct session *s = session_find(vm->manager, vm, msg->session);
	struct channel *c;
	unsigned end;

	if (!s || s->state != SESSION_GRANTED)
		return;
	c = channel_find_slot(vm, msg->ref.slot, &end);
	if (!c || memcmp(c->id, s->id, sizeof(c->id)) != 0 ||
	    c->ends[end].generation != msg->ref.generation)
		return;
	s->opened[end] = true;
	if (s->opened[END_FROM] && s->opened[END_TO])
		session_free(s);
}

void sessions_vm_lost(struct vm *vm)
{
	struct session *s, *next;
	struct failure why;

	failure_set(&why, ERR_PEER_NOT_LISTENING, "the control port of VM %s went away", vm->name);
	for (s = TAILQ_FIRST(&vm->manager->sessions); s; s = next) {
		next = TAILQ_NEXT(s, entry);
		if ((s->from_vm == vm || s->to_vm == vm) && s->state != SESSION_GRANTED)
			session_fail(s, vm, &why);
	}
}

void sessions_vm_restarted(struct vm *vm)
{
	struct session *s, *next;

	sessions_vm_lost(vm);
	for (s = TAILQ_FIRST(&vm->manager->sessions); s; s = next) {
		next = TAILQ_NEXT(s, entry);
		if (s->from_vm == vm || s->to_vm == vm)
			session_free(s); /* its channel is settled by what Hello lists */
	}
}

void sessions_recheck(struct manager *m)
{
	struct session *s, *next;

	for (s = TAILQ_FIRST(&m->sessions); s; s = next) {
		struct decision d;

		next = TAILQ_NEXT(s, entry);
		policy_decide(m->config, &m->revoked, &s->from, &s->to, &d);
		if (d.why.code != 0 && s->state != SESSION_GRANTED)
			session_fail(s, NULL, &d.why);
	}
}
