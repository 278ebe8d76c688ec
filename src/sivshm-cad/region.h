/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A region: for each member its output section (file, window allocator), its eventfds, and its
 * QEMU's ivshmem connection.  Structure is fixed for the life of the object.
 */
#ifndef CAD_REGION_H
#define CAD_REGION_H

#include <sys/queue.h>

#include "alloc.h"
#include "config.h"
#include "ivshmem-server.h"
#include "scrub.h"
#include "sivshm_table.h"

struct manager;
struct region;
struct vm;

/** struct emptying - a large window on its way back to the system; in quarantine until then */
struct emptying {
	LIST_ENTRY(emptying) entry;
	struct member *member;
	struct scrub *scrub;
	uint64_t offset;
};

/** struct member - one VM's part; owned by the region */
struct member {
	struct region *region;
	struct vm *vm;
	uint32_t id; /* ivshmem peer id */
	int section_fd;
	struct alloc alloc; /* of the section */
	LIST_HEAD(, emptying) emptying;
	struct scrub *reset; /* a QEMU waits for its welcome until the section is clean */
	/* eventfds, the same for the life of the region: see welcome() in member.c */
	int bells[SIVSHM_MAX_VECTORS];
	struct ivshmem_server *server;
	bool welcomed; /* by the present connection */
};

struct region {
	struct manager *manager;
	char name[SIVSHM_REGION_NAME_SIZE];
	uint32_t number;
	uint64_t section_size;
	unsigned vectors;
	/* What others get as a member's vector 0: that one is the host's alone, to ring and to
	 * drain. */
	int mute_bell;
	size_t n_members;
	struct member members[];
};

/** region_new() - files, sockets and eventfds, or those of a predecessor; all members' VMs exist */
int region_new(struct manager *m, const struct region_config *config, uint32_t number,
	       struct region **ret);
/** region_free() - the fd store forgets it too, when @forget */
void region_free(struct region *region, bool forget);

struct member *region_member(struct region *region, const struct vm *vm);
bool region_in_use(const struct region *region);
/** region_fits() - is @config the structure that this object has? */
bool region_fits(const struct region *region, const struct region_config *config);
/** region_set_readers() - groups of the members as the configuration says now */
int region_set_readers(struct region *region, const struct region_config *config);

bool member_is_connected(const struct member *member);
/** member_is_ready() - connected, its section clean, and told all it has to know */
bool member_is_ready(const struct member *member);
/** member_ring() - vector 0: the grant table changed */
void member_ring(struct member *member);
/** member_give_window() - nobody maps it any more: its memory goes back to the system, then it is
 * free */
void member_give_window(struct member *member, uint64_t offset, uint64_t size);

#endif
