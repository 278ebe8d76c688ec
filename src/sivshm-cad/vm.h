/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtual machine: its grant table, its control port, what it is charged for. */
#ifndef CAD_VM_H
#define CAD_VM_H

#include "config.h"
#include "ratelimit.h"
#include "region.h"
#include "table.h"

struct channel;
struct control;
struct manager;

struct vm {
	struct manager *manager;
	char name[SIVSHM_VM_NAME_SIZE];
	const struct vm_config *config; /* in manager->config */
	struct table table; /* mapped; .header NULL before vm_refresh_layout() of a new VM */
	struct channel *channels[SIVSHM_MAX_SLOTS]; /* by slot, borrowed; see channel_end_set_present() */
	struct control *control;
	unsigned n_sessions; /* handshakes that it began */
	size_t relay_bytes;  /* of flights on their way to it, */
	size_t sent_bytes;   /* and of those that its own handshakes have on their way */
	struct ratelimit certificates, refusals, hellos, connections;
};

/** vm_new() - folder, control socket, and the grant table if a predecessor left one */
int vm_new(struct manager *m, const struct vm_config *config, struct vm **ret);
/** vm_free() - with @forget its folder goes too */
void vm_free(struct vm *vm, bool forget);

/** vm_member() - the @i-th region membership, in order of regions; NULL: no more */
struct member *vm_member(struct vm *vm, size_t i);
/** vm_in_use() - is any of its devices connected? */
bool vm_in_use(struct vm *vm);
/** vm_refresh_layout() - write the grant table anew if it is not as the configuration says and
 * nobody uses it */
void vm_refresh_layout(struct vm *vm);
/** vm_check_restored() - does what a running VM was started with agree with the configuration? */
int vm_check_restored(const struct vm *vm, struct conf_error *error);
/** vm_region_number() - of the region @name in the table; 0: not in there.  Numbers begin at 1 */
uint32_t vm_region_number(const struct vm *vm, const char *name);
uint32_t vm_last_region_number(const struct vm *vm);

/** vm_may_log_connection() - a VM may connect as often as it likes, but not fill the journal */
bool vm_may_log_connection(struct vm *vm);

#endif
