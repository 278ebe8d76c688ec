/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "sivshm_table.h"

void alloc_init(struct alloc *a, uint64_t first, uint64_t end)
{
	*a = (struct alloc){.first = first, .end = end};
}

void alloc_done(struct alloc *a)
{
	free(a->extents);
	*a = (struct alloc){};
}

static bool is_pages(uint64_t n)
{
	return n % SIVSHM_PAGE_SIZE == 0;
}

/* gap_before() - where the gap in front of extent @i (or behind the last, i == n) begins and ends
 */
static void gap_before(const struct alloc *a, size_t i, uint64_t *ret_begin, uint64_t *ret_end)
{
	*ret_begin = i == 0 ? a->first : a->extents[i - 1].offset + a->extents[i - 1].size;
	*ret_end = i == a->n ? a->end : a->extents[i].offset;
}

static int insert(struct alloc *a, size_t i, uint64_t offset, uint64_t size)
{
	struct alloc_extent *new = reallocarray(a->extents, a->n + 1, sizeof(*new));

	if (!new)
		return -ENOMEM;
	a->extents = new;
	memmove(new + i + 1, new + i, (a->n - i) * sizeof(*new));
	new[i] = (struct alloc_extent){.offset = offset, .size = size};
	a->n++;
	return 0;
}

int alloc_take(struct alloc *a, uint64_t size, uint64_t *ret_offset)
{
	if (size == 0 || !is_pages(size))
		return -EINVAL;
	for (size_t i = 0; i <= a->n; i++) {
		uint64_t begin, end;
		int r;

		gap_before(a, i, &begin, &end);
		if (end - begin < size)
			continue;
		r = insert(a, i, begin, size);
		if (r >= 0)
			*ret_offset = begin;
		return r;
	}
	return -ENOSPC;
}

int alloc_take_at(struct alloc *a, uint64_t offset, uint64_t size)
{
	if (size == 0 || !is_pages(size) || !is_pages(offset) || offset < a->first ||
	    offset > a->end || size > a->end - offset)
		return -EINVAL;
	for (size_t i = 0; i <= a->n; i++) {
		uint64_t begin, end;

		gap_before(a, i, &begin, &end);
		if (offset >= begin && offset < end && size <= end - offset)
			return insert(a, i, offset, size);
	}
	return -EEXIST;
}

static struct alloc_extent *find(struct alloc *a, uint64_t offset)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->extents[i].offset == offset)
			return &a->extents[i];
	return NULL;
}

int alloc_quarantine(struct alloc *a, uint64_t offset)
{
	struct alloc_extent *e = find(a, offset);

	if (!e)
		return -ENOENT;
	e->quarantined = true;
	return 0;
}

int alloc_give(struct alloc *a, uint64_t offset)
{
	struct alloc_extent *e = find(a, offset);

	if (!e)
		return -ENOENT;
	memmove(e, e + 1, (size_t)(a->extents + a->n - (e + 1)) * sizeof(*e));
	a->n--;
	return 0;
}

void alloc_totals(const struct alloc *a, uint64_t *ret_granted, uint64_t *ret_quarantined)
{
	*ret_granted = *ret_quarantined = 0;
	for (size_t i = 0; i < a->n; i++)
		*(a->extents[i].quarantined ? ret_quarantined : ret_granted) += a->extents[i].size;
}
