/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Methods of the control protocol, in the order of docs/protocol.md: read, check, act, answer. */
#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "control.h"
#include "log.h"
#include "manager.h"
#include "policy.h"
#include "session.h"
#include "state.h"
#include "vm.h"

/* Hello */

/* reconcile() - what the kernel of @vm does not have is gone there */
static void reconcile(struct vm *vm, const struct msg_hello *hello)
{
	uint32_t listed[SIVSHM_MAX_SLOTS] = {}; /* generation of each slot; 0 is none */
	struct channel *c, *next;

	for (size_t i = 0; i < hello->n_channels; i++)
		if (hello->channels[i].slot < SIVSHM_MAX_SLOTS)
			listed[hello->channels[i].slot] = hello->channels[i].generation;
	for (c = TAILQ_FIRST(&vm->manager->channels); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		for (unsigned end = 0; end < N_ENDS; end++) {
			struct channel_end *e = &c->ends[end];

			if (!e->present || e->member->vm != vm || listed[e->slot] == e->generation)
				continue;
			channel_end_gone(c, end, "closed");
			break;
		}
	}
}

/* remind() - of channels that the kernel still has and that were revoked while no daemon listened
 */
static void remind(struct vm *vm, const struct msg_hello *hello)
{
	for (size_t i = 0; i < hello->n_channels; i++) {
		struct msg_revoked revoked = {.ref = hello->channels[i], .reason = "revoked"};
		uint32_t slot = hello->channels[i].slot, state;

		if (slot >= vm->table.n_slots)
			continue;
		state = table_state(&vm->table, slot);
		if (state == SIVSHM_GRANT_REVOKED || state == SIVSHM_GRANT_FREE)
			control_notify(vm, "Revoked", msg_revoked_encode(&revoked));
	}
}

static json_t *make_welcome(struct vm *vm, const struct msg_hello *hello)
{
	struct manager *m = vm->manager;
	struct msg_welcome welcome = {
		.version = PROTOCOL_VERSION,
		.time_usec = manager_realtime_usec(),
		.trust_bundle = m->ca->bundle, /* borrowed */
	};

	memcpy(welcome.nonce, hello->nonce, sizeof(welcome.nonce));
	snprintf(welcome.vm, sizeof(welcome.vm), "%s", vm->name);
	snprintf(welcome.trust_domain, sizeof(welcome.trust_domain), "%s",
		 m->config->ca.trust_domain);
	if (RAND_bytes(welcome.random, sizeof(welcome.random)) != 1)
		return NULL;
	return msg_welcome_encode(&welcome);
}

static int handle_hello(struct vm *vm, struct rpc_request **request, json_t *params,
			struct failure *error)
{
	struct msg_hello hello;
	json_t *welcome;
	int r = msg_hello_decode(params, &hello, error);

	if (r < 0)
		return r;
	if (hello.version != PROTOCOL_VERSION) {
		msg_hello_done(&hello);
		return failure_set(error, ERR_FAILED, "this host speaks version %d",
				   PROTOCOL_VERSION);
	}
	vm->control->ready = false; /* nothing of the old daemon's is told to the new one */
	control_unlisten(vm, NULL);
	sessions_vm_restarted(vm);
	reconcile(vm, &hello);
	welcome = make_welcome(vm, &hello);
	if (!welcome) {
		msg_hello_done(&hello);
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	}
	rpc_request_reply(TAKE_PTR(*request), welcome);
	vm->control->ready = true;
	if (ratelimit_take(&vm->hellos, manager_now(vm->manager), 10 * 1000000ULL, 100))
		log_with(LOG_INFO, (.vm = vm->name), "VM %s: daemon said hello, %zu channels",
			 vm->name, hello.n_channels);
	remind(vm, &hello);
	msg_hello_done(&hello);
	return 0;
}

/* IssueCertificate */

static int check_issue(struct vm *vm, const struct peer_name *name, struct failure *error)
{
	struct manager *m = vm->manager;
	unsigned max = m->config->limits.certificates_per_minute;
	int r = policy_may_hold(m->config, &m->revoked, name, error);

	if (r < 0)
		return r;
	if (!ratelimit_take(&vm->certificates, manager_now(m), 60 * 1000000ULL, max))
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "VM %s has had its CertificatesPerMinute=%u", vm->name, max);
	if (certificates_count(&m->certificates, vm->name) >= CERTIFICATES_PER_VM)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "VM %s has %u certificates that are still valid", vm->name,
				   CERTIFICATES_PER_VM);
	return 0;
}

/* record() - what was issued: list, file, log; a certificate that is not on the list is not given
 * out */
static int record(struct vm *vm, const struct peer_name *name, const struct issued *issued,
		  struct failure *error)
{
	struct certificate entry = {
		.service = *name,
		.not_before = issued->not_before,
		.not_after = issued->not_after,
	};
	char text[PEER_NAME_SIZE];

	memcpy(entry.serial, issued->serial, sizeof(entry.serial));
	if (certificates_add(&vm->manager->certificates, &entry) < 0)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	state_append_issued(vm->manager, &entry);
	peer_name_format(name, text);
	log_with(LOG_INFO,
		 (.id = LOG_ID_ISSUED, .vm = vm->name, .from = text, .serial = entry.serial),
		 "certificate %s issued for %s", entry.serial, text);
	return 0;
}

static int issue(struct vm *vm, const struct msg_issue *msg, struct issued *ret,
		 struct failure *error)
{
	struct manager *m = vm->manager;
	struct peer_name name = {};
	char id[SPIFFE_ID_SIZE];
	int r;

	snprintf(name.vm, sizeof(name.vm), "%s", vm->name);
	snprintf(name.service, sizeof(name.service), "%s", msg->service);
	r = check_issue(vm, &name, error);
	if (r < 0)
		return r;
	spiffe_id_format(m->config->ca.trust_domain, &name, id);
	r = ca_issue(m->ca, msg->csr, id, (int64_t)(manager_realtime_usec() / 1000000),
		     m->config->ca.lifetime_usec / 1000000, ret, error);
	if (r < 0)
		return r;
	r = record(vm, &name, ret, error);
	if (r < 0)
		issued_done(ret);
	return r;
}

static int handle_issue(struct vm *vm, struct rpc_request **request, json_t *params,
			struct failure *error)
{
	struct issued issued;
	struct msg_issue msg;
	int r = msg_issue_decode(params, &msg, error);

	if (r < 0)
		return r;
	r = issue(vm, &msg, &issued, error);
	msg_issue_done(&msg);
	if (r >= 0) {
		struct msg_issued answer = {issued.pem, (uint64_t)issued.not_after};

		rpc_request_reply(TAKE_PTR(*request), msg_issued_encode(&answer));
		issued_done(&issued);
	}
	return r;
}

/* Listen, Unlisten */

static int handle_listen(struct vm *vm, struct rpc_request **request, json_t *params,
			 struct failure *error)
{
	unsigned max = vm->manager->config->limits.listeners_per_vm;
	struct peer_name name = {};
	struct msg_service msg;
	int r = msg_service_decode(params, &msg, error);

	if (r < 0)
		return r;
	snprintf(name.vm, sizeof(name.vm), "%s", vm->name);
	snprintf(name.service, sizeof(name.service), "%s", msg.service);
	r = policy_may_hold(vm->manager->config, &vm->manager->revoked, &name, error);
	if (r < 0)
		return r;
	r = control_listen(vm, msg.service, max);
	if (r == -ENOBUFS)
		return failure_set(error, ERR_QUOTA_EXCEEDED, "ListenersPerVM=%u are in use", max);
	if (r < 0)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	rpc_request_reply(TAKE_PTR(*request), NULL);
	return 0;
}

static int handle_unlisten(struct vm *vm, struct rpc_request **request, json_t *params,
			   struct failure *error)
{
	struct msg_service msg;
	int r = msg_service_decode(params, &msg, error);

	if (r < 0)
		return r;
	control_unlisten(vm, msg.service);
	rpc_request_reply(TAKE_PTR(*request), NULL);
	return 0;
}

/* Connect, Confirm, Cancel, Released */

static int handle_connect(struct vm *vm, struct rpc_request **request, json_t *params,
			  struct failure *error)
{
	struct msg_connect msg;
	int r = msg_connect_decode(params, &msg, error);

	if (r >= 0)
		session_connect(vm, TAKE_PTR(*request), &msg);
	return r;
}

static int handle_confirm(struct vm *vm, struct rpc_request **request, json_t *params,
			  struct failure *error)
{
	struct msg_confirm msg;
	int r = msg_confirm_decode(params, &msg, error);

	if (r >= 0)
		session_confirm(vm, TAKE_PTR(*request), &msg);
	return r;
}

static int handle_cancel(struct vm *vm, struct rpc_request **request, json_t *params,
			 struct failure *error)
{
	struct msg_session msg;
	int r = msg_session_decode(params, &msg, error);

	if (r >= 0)
		r = session_cancel(vm, msg.session, error);
	if (r >= 0)
		rpc_request_reply(TAKE_PTR(*request), NULL);
	return r;
}

static int handle_released(struct vm *vm, struct rpc_request **request, json_t *params,
			   struct failure *error)
{
	struct slot_ref ref;
	struct channel *c;
	unsigned end;
	int r = slot_ref_decode(params, &ref, error);

	if (r < 0)
		return r;
	c = channel_find_slot(vm, ref.slot, &end);
	if (c && c->ends[end].generation == ref.generation)
		channel_end_gone(c, end, "closed");
	/* an older generation: it was confirmed before, by Hello or by this */
	rpc_request_reply(TAKE_PTR(*request), NULL);
	return 0;
}

static void handle_opened(struct rpc_link *link, struct vm *vm, json_t *params)
{
	struct msg_granted msg;
	struct failure error;

	if (msg_granted_decode(params, &msg, &error) < 0)
		rpc_link_count_malformed(link, &error);
	else
		session_opened(vm, &msg);
}

/*
 * A handler takes the request when it answers it, now or later; when it returns an error it has
 * not, and the error is the answer.
 */
static const struct method {
	const char *name;
	int (*handle)(struct vm *vm, struct rpc_request **request, json_t *params,
		      struct failure *error);
	bool before_hello;
} methods[] = {
	{"Hello", handle_hello, true},	    {"IssueCertificate", handle_issue, false},
	{"Listen", handle_listen, false},   {"Unlisten", handle_unlisten, false},
	{"Connect", handle_connect, false}, {"Confirm", handle_confirm, false},
	{"Cancel", handle_cancel, false},   {"Released", handle_released, false},
};

static const struct method *find_method(const char *name)
{
	for (size_t i = 0; i < ELEMENTSOF(methods); i++)
		if (strcmp(methods[i].name, name) == 0)
			return &methods[i];
	return NULL;
}

void control_handle_request(struct rpc_link *link, struct rpc_request *request, const char *name,
			    json_t *params, void *userdata)
{
	_cleanup_(rpc_request_dropp) struct rpc_request *pending = request;
	const struct method *method = find_method(name);
	struct vm *vm = userdata;
	struct failure error = {};

	(void)link;
	if (!method)
		failure_set(&error, ERR_NO_SUCH_METHOD, "no method %s", name);
	else if (!method->before_hello && !vm->control->ready)
		failure_set(&error, ERR_NOT_READY, "say Hello first");
	else if (method->handle(vm, &pending, params, &error) >= 0)
		return;
	rpc_request_fail(TAKE_PTR(pending), &error);
}

void control_handle_notification(struct rpc_link *link, const char *name, json_t *params,
				 void *userdata)
{
	struct vm *vm = userdata;
	struct failure error;

	if (strcmp(name, "Opened") != 0) {
		failure_set(&error, ERR_NO_SUCH_METHOD, "no notification %s", name);
		rpc_link_count_malformed(link, &error);
	} else if (vm->control->ready) {
		handle_opened(link, vm, params);
	}
}
