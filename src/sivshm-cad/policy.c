/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "policy.h"

static int check_revoked(const struct revocations *revoked, const struct peer_name *name,
			 struct failure *error)
{
	const struct revocation *entry = revocations_covers(revoked, name);

	if (!entry)
		return 0;
	return failure_set(error, ERR_REVOKED, "%s is revoked (%s); sivshmctl restore %s lifts it",
			   entry->name, entry->reason, entry->name);
}

int policy_may_hold(const struct config *config, const struct revocations *revoked,
		    const struct peer_name *service, struct failure *error)
{
	const struct vm_config *vm = config_find_vm(config, service->vm);
	int r = check_revoked(revoked, service, error);

	if (r < 0)
		return r;
	if (!vm)
		return failure_set(error, ERR_NOT_AUTHORIZED, "there is no VM %s", service->vm);
	if (!vm_config_has_service(vm, service->service))
		return failure_set(error, ERR_NOT_AUTHORIZED,
				   "%s: Services= of VM %s does not name %s", vm->place.file,
				   vm->name, service->service);
	return 0;
}

static int check_target(const struct config *config, const struct peer_name *to,
			struct failure *error)
{
	const struct vm_config *vm = config_find_vm(config, to->vm);

	if (!vm)
		return failure_set(error, ERR_NO_SUCH_PEER, "there is no VM %s", to->vm);
	if (!vm_config_has_service(vm, to->service))
		return failure_set(error, ERR_NO_SUCH_PEER,
				   "%s: Services= of VM %s does not name %s", vm->place.file,
				   vm->name, to->service);
	return 0;
}

static int check_region(const struct config *config, const struct peer_name *from,
			const struct peer_name *to, struct failure *error)
{
	for (size_t i = 0; i < config->n_regions; i++) {
		const struct region_config *region = &config->regions[i];

		if (region_config_member(region, from->vm) >= 0 &&
		    region_config_member(region, to->vm) >= 0 &&
		    region_config_member(region, from->vm) != region_config_member(region, to->vm))
			return 0;
	}
	return failure_set(error, ERR_NO_SUCH_PEER,
			   "no region has both VM %s and VM %s as members; see region.d", from->vm,
			   to->vm);
}

void policy_decide(const struct config *config, const struct revocations *revoked,
		   const struct peer_name *from, const struct peer_name *to, struct decision *ret)
{
	const struct rule_config *rule = config_find_rule(config, from, to);
	struct failure *why = &ret->why;
	char f[PEER_NAME_SIZE], t[PEER_NAME_SIZE];

	*ret = (struct decision){};
	if (policy_may_hold(config, revoked, from, why) < 0)
		return;
	peer_name_format(from, f);
	peer_name_format(to, t);
	/* the guest that asks is told this: with no rule nothing of @to may show, not even that
	 * there is one */
	if (!rule) {
		failure_set(why, ERR_REFUSED_BY_HOST, "no section [Allow %s %s] in policy.d", f, t);
		return;
	}
	if (check_revoked(revoked, to, why) < 0 || check_target(config, to, why) < 0 ||
	    check_region(config, from, to, why) < 0)
		return;
	ret->rule = rule;
	snprintf(why->text, sizeof(why->text), "%s:%u allows it", rule->place.file,
		 rule->place.line);
}
