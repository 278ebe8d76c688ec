/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who calls: what the bus says about a sender, joined with what the kernel says about its process.
 */
#ifndef SIVSHMD_CALLER_H
#define SIVSHMD_CALLER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "errors.h"
#include "policy.h"

#define BUS_NAME_SIZE 256 /* the D-Bus specification's limit, with the NUL */

/**
 * struct caller - a client of the bus at the time of its call
 * @name:   unique bus name
 * @cgroup: id of its control group in the unified hierarchy
 * @unit:   systemd unit it runs in, "" when in none
 */
struct caller {
	char name[BUS_NAME_SIZE];
	uid_t uid;
	pid_t pid;
	uint64_t cgroup;
	char unit[UNIT_NAME_SIZE];
};

/**
 * caller_identify() - fill in what is known of the process @pid
 * @pidfd: of the process if the bus gave one, else -1; borrowed
 * The process must exist, still be of @uid, and stay the same one while it is looked at.
 */
int caller_identify(const char *name, uid_t uid, pid_t pid, int pidfd, struct caller *ret,
		    struct failure *error);

/** caller_cgroup_fn - @path is for cgroup_unit(); false ends the walk */
typedef bool (*caller_cgroup_fn)(uint64_t cgroup, const char *path, void *userdata);
/** caller_walk_cgroups() - every control group there is */
void caller_walk_cgroups(caller_cgroup_fn fn, void *userdata);

#endif
