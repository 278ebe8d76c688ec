/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the services of this VM may do (docs/config.md, /etc/sivshm/policy.d).  Default is deny.
 * Deciding is pure: the same policy and question give the same verdict, which names the rule.
 */
#ifndef SIVSHMD_POLICY_H
#define SIVSHMD_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cleanup.h"
#include "conf.h"
#include "errors.h"
#include "names.h"

#define POLICY_DEFAULT_CHANNELS 16
#define POLICY_MAX_CHANNELS SIVSHM_MAX_SLOTS
#define POLICY_DEFAULT_RING (1024 * 1024)
#define UNIT_NAME_SIZE 256

/** struct policy_line - where a rule stands; @file is owned by the policy */
struct policy_line {
	const char *file;
	unsigned line;
};

/** struct policy_peer - one word of Connect= or Accept= */
struct policy_peer {
	struct peer_name name;
	struct policy_line line;
};

struct policy_peers {
	struct policy_peer *items; /* owned */
	size_t n;
};

/** struct policy_service - one [Service name] section */
struct policy_service {
	char name[SIVSHM_SERVICE_NAME_SIZE];
	struct policy_line line;
	uid_t uid;
	struct policy_line user_line; /* file NULL: User= is missing */
	char unit[UNIT_NAME_SIZE];    /* "": any */
	struct policy_line unit_line;
	struct policy_peers connect;
	struct policy_peers accept;
	unsigned channels;
	uint64_t max_ring;
	struct policy_line max_ring_line;
};

struct policy {
	struct policy_service *services; /* owned */
	size_t n_services;
	char **files; /* owned, every file a line points to */
	size_t n_files;
};

/** policy_load() - read policy.d below @root ("" normally); no file at all is an empty policy */
int policy_load(const char *root, struct policy **ret, struct conf_error *error);
struct policy *policy_free(struct policy *p);
DEFINE_CLEANUP(struct policy *, policy_free)

enum policy_act {
	POLICY_BE, /* only: may the caller act as the service? */
	POLICY_CONNECT,
	POLICY_LISTEN,
	POLICY_ACCEPT,
};

/**
 * struct policy_question - who wants what
 * @service:   "" means the only service that the caller may act as
 * @unit:      of the caller; "" when it is in none
 * @any_unit:  do not ask for the unit (a channel of a former daemon, whose unit is not known)
 * @peer:      CONNECT, ACCEPT
 * @ring_size: 0: do not ask
 */
struct policy_question {
	enum policy_act act;
	const char *service;
	uid_t uid;
	const char *unit;
	bool any_unit;
	const struct peer_name *peer;
	uint64_t ring_size;
};

/** struct policy_verdict - @service is set whenever one was found; @text says why, with file:line
 */
struct policy_verdict {
	bool allowed;
	const struct policy_service *service;
	char text[ERROR_TEXT_SIZE];
};

void policy_decide(const struct policy *p, const struct policy_question *q,
		   struct policy_verdict *ret);
const struct policy_service *policy_find(const struct policy *p, const char *service);

#endif
