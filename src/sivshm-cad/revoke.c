/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "control.h"
#include "log.h"
#include "manager.h"
#include "policy.h"
#include "revoke.h"
#include "session.h"
#include "state.h"
#include "vm.h"

#define CLOSE_REASON_SIZE (REASON_SIZE - 16)

static void format_reason(const char *text, char ret[REASON_SIZE])
{
	snprintf(ret, REASON_SIZE, "revoked: %.*s", CLOSE_REASON_SIZE, text);
	for (char *c = ret; *c; c++) /* the cut may have left half a character */
		if (*c < ' ' || *c > '~')
			*c = '?';
}

int revoke_channel(struct manager *m, const char *id, const char *reason)
{
	uint8_t bytes[CHANNEL_ID_SIZE];
	char text[REASON_SIZE];
	struct channel *c;

	if (hex_decode(id, bytes, sizeof(bytes)) < 0)
		return -ENOENT;
	c = channel_find(m, bytes);
	if (!c || !c->published || strcmp(channel_state(c), "revoked") == 0)
		return -ENOENT;
	format_reason(reason, text);
	log_with(LOG_NOTICE, (.id = LOG_ID_REVOKED, .channel = id), "channel %s %s", id, text);
	channel_withdraw(c, text);
	return 0;
}

/* end_channels() - of which an end is not allowed; revoked ones are told why */
static void end_channels(struct manager *m)
{
	struct channel *c, *next;

	for (c = TAILQ_FIRST(&m->channels); c; c = next) {
		struct peer_name from, to;
		struct decision d;
		char reason[REASON_SIZE];

		next = TAILQ_NEXT(c, entry);
		if (!c->published) /* its session has been looked at */
			continue;
		channel_name(c, END_FROM, &from);
		channel_name(c, END_TO, &to);
		policy_decide(m->config, &m->revoked, &from, &to, &d);
		if (d.why.code == 0)
			continue;
		format_reason(d.why.text, reason);
		channel_withdraw(c, d.why.code == ERR_REVOKED ? reason : "policy");
	}
}

/* forget_service() - listener, and the certificate at the guest's daemon */
static void forget_service(struct vm *vm, const char *service)
{
	struct msg_service msg = {};

	control_unlisten(vm, service);
	snprintf(msg.service, sizeof(msg.service), "%s", service);
	control_notify(vm, "CertificateRevoked", msg_service_encode(&msg));
}

static void end_listeners(struct vm *vm)
{
	for (size_t i = vm->control->n_listeners; i > 0; i--) {
		struct peer_name name = {};

		snprintf(name.vm, sizeof(name.vm), "%s", vm->name);
		snprintf(name.service, sizeof(name.service), "%s", vm->control->listeners[i - 1]);
		if (policy_may_hold(vm->manager->config, &vm->manager->revoked, &name, NULL) < 0)
			forget_service(vm, name.service);
	}
}

void revoke_forbidden(struct manager *m)
{
	sessions_recheck(m);
	end_channels(m);
	for (size_t i = 0; i < m->n_vms; i++)
		end_listeners(m->vms[i]);
}

/* revoke_certificates() - on the list, and at the daemon that holds them */
static void revoke_certificates(struct manager *m, const struct peer_name *name, bool whole_vm)
{
	struct vm *vm = manager_find_vm(m, name->vm);

	if (certificates_revoke(&m->certificates, name->vm, whole_vm ? NULL : name->service) > 0)
		state_save_issued(m);
	if (!vm)
		return;
	if (!whole_vm) {
		forget_service(vm, name->service);
		return;
	}
	for (size_t i = 0; i < vm->config->n_services; i++)
		forget_service(vm, vm->config->services[i]);
}

int revoke_name(struct manager *m, const char *name, const char *reason)
{
	struct peer_name parts = {};
	bool whole_vm = !strchr(name, '/');
	int r;

	if (whole_vm)
		snprintf(parts.vm, sizeof(parts.vm), "%s", name);
	else if (peer_name_parse(name, &parts) < 0)
		return -EINVAL;
	r = revocations_add(&m->revoked, name, reason);
	if (r >= 0)
		r = state_save_revoked(m);
	if (r < 0)
		log_error("revocation of %s is not on disk: %s", name, strerror(-r));
	log_with(LOG_NOTICE, (.id = LOG_ID_REVOKED, .vm = parts.vm), "%s revoked: %s", name,
		 reason);
	revoke_forbidden(m); /* even if the disk is full: it holds now */
	revoke_certificates(m, &parts, whole_vm);
	return r;
}

int revoke_undo(struct manager *m, const char *name)
{
	if (!revocations_remove(&m->revoked, name))
		return -ENOENT;
	log_with(LOG_NOTICE, (.id = LOG_ID_RESTORED), "%s restored", name);
	return state_save_revoked(m);
}
