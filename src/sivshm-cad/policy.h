/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* May a service connect to another?  The decision and why, with the file to edit.  Pure. */
#ifndef CAD_POLICY_H
#define CAD_POLICY_H

#include "config.h"
#include "errors.h"
#include "revocations.h"

/**
 * struct decision - what policy_decide() says
 * @why:  code 0: allowed, and the text names the rule; else the refusal
 * @rule: set when allowed; borrowed from the configuration
 */
struct decision {
	struct failure why;
	const struct rule_config *rule;
};

/**
 * policy_decide() - in this order: may the caller be @from, is there a rule, is @to revoked or known,
 * does a region join them.  Who has no rule gets the same answer for every name, known or not.
 */
void policy_decide(const struct config *config, const struct revocations *revoked,
		   const struct peer_name *from, const struct peer_name *to, struct decision *ret);
/** policy_may_hold() - may @vm act as @service?  0, or a negative errno with @error */
int policy_may_hold(const struct config *config, const struct revocations *revoked,
		    const struct peer_name *service, struct failure *error);

#endif
