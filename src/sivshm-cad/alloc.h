/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Windows of one section: first fit over pages, with quarantine.  Pure arithmetic, touches no
 * memory. */
#ifndef CAD_ALLOC_H
#define CAD_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct alloc_extent {
	uint64_t offset, size;
	bool quarantined;
};

/** struct alloc - taken extents in order of their offset; the rest from @first to @end is free */
struct alloc {
	uint64_t first, end;
	struct alloc_extent *extents;
	size_t n;
};

/** alloc_init() - offsets from @first to below @end are to be had; both multiples of a page */
void alloc_init(struct alloc *a, uint64_t first, uint64_t end);
void alloc_done(struct alloc *a);

/** alloc_take() - the lowest gap of @size (multiple of a page); -ENOSPC */
int alloc_take(struct alloc *a, uint64_t size, uint64_t *ret_offset);
/** alloc_take_at() - exactly there; -EEXIST: not free; -EINVAL: outside, or no pages */
int alloc_take_at(struct alloc *a, uint64_t offset, uint64_t size);
/** alloc_quarantine() - still nobody else's, but not in use any more; -ENOENT */
int alloc_quarantine(struct alloc *a, uint64_t offset);
/** alloc_give() - the extent that begins at @offset is free again; -ENOENT */
int alloc_give(struct alloc *a, uint64_t offset);
/** alloc_totals() - bytes granted and bytes in quarantine */
void alloc_totals(const struct alloc *a, uint64_t *ret_granted, uint64_t *ret_quarantined);

#endif
