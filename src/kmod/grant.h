/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The pure part: what a grant table header and a grant say, checked.
 *
 * Works on private copies only and includes neither device nor lock, so that unit tests and fuzzers
 * drive the very same code in user space.
 */
#ifndef _SIVSHM_GRANT_H
#define _SIVSHM_GRANT_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stdint.h>
typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
#endif

#include "uapi/sivshm_table.h"

/**
 * struct sivshm_place - one section as the table lists it
 *
 * Has no padding: two places are the same section when their bytes are equal.
 */
struct sivshm_place {
	u32 region;
	u32 member;
	u32 devfn;
	u32 flags;
	u64 size;
	u32 vectors;
	u32 reserved;
	u8 region_name[SIVSHM_REGION_NAME_SIZE];
	u8 vm[SIVSHM_VM_NAME_SIZE];
};

/**
 * struct sivshm_layout - a valid table header, host byte order
 */
struct sivshm_layout {
	u64 epoch;
	u32 n_slots;
	u32 n_places;
	u8 vm[SIVSHM_VM_NAME_SIZE];
	struct sivshm_place places[SIVSHM_MAX_SECTIONS];
};

/**
 * struct sivshm_window - control page and ring inside a section
 * @offset: of the control page; the ring follows it
 * @ring:   bytes of the ring, a power of two
 */
struct sivshm_window {
	u64 offset;
	u64 ring;
};

/**
 * struct sivshm_terms - a valid grant, host byte order
 * @own, @peer: the sections that @tx and @rx lie in, in the layout it was checked against
 */
struct sivshm_terms {
	u32 generation;
	u32 region;
	u32 peer_id;
	u32 local_vector;
	u32 peer_vector;
	struct sivshm_place own;
	struct sivshm_place peer;
	struct sivshm_window tx;
	struct sivshm_window rx;
	u8 channel_id[16];
	u8 local_service[SIVSHM_SERVICE_NAME_SIZE];
	u8 peer_vm[SIVSHM_VM_NAME_SIZE];
	u8 peer_service[SIVSHM_SERVICE_NAME_SIZE];
};

const struct sivshm_place *sivshm_layout_place(const struct sivshm_layout *layout, u32 devfn);
int sivshm_layout_check(const struct sivshm_table_header *header, u64 table_size,
			struct sivshm_layout *ret_layout);
int sivshm_grant_check(const struct sivshm_grant *grant, const struct sivshm_layout *layout,
		       struct sivshm_terms *ret_terms);

#endif /* _SIVSHM_GRANT_H */
