// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mapping of windows, and taking it back.
 *
 * Pages are entered by the fault handler alone, under the gate, while the channel is not revoked.
 * A revocation sets the state and zaps what the inode's address space knows, both under the gate. A
 * fault before that has its pages zapped; one after it sees the state.  ->mmap enters nothing,
 * because its VMA is not yet in the address space.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "channel.h"
#include "compat.h"
#include "holder.h"

/* How many pages are entered before a revocation gets its turn. */
#define BATCH 512

static unsigned long view_pages(const struct sivshm_view *view)
{
	return 1 + 2 * view->ring_pages;
}

static const struct sivshm_view *view_of(const struct sivshm_channel *channel, pgoff_t pgoff)
{
	if (pgoff - channel->tx.first < view_pages(&channel->tx))
		return &channel->tx;
	if (pgoff - channel->rx.first < view_pages(&channel->rx))
		return &channel->rx;
	return NULL;
}

static unsigned long pfn_of(const struct sivshm_view *view, pgoff_t pgoff)
{
	unsigned long page = pgoff - view->first;

	return page == 0 ? view->pfn : view->pfn + 1 + (page - 1) % view->ring_pages;
}

/* Part of a view, for a VMA may have been split. */
static vm_fault_t enter(struct vm_area_struct *vma, const struct sivshm_view *view,
			unsigned long start, unsigned long end)
{
	pgprot_t prot = pgprot_decrypted(vma->vm_page_prot);
	vm_fault_t fault = VM_FAULT_NOPAGE;

	for (unsigned long a = start; a < end && fault == VM_FAULT_NOPAGE; a += PAGE_SIZE)
		fault = vmf_insert_pfn_prot(vma, a, pfn_of(view, linear_page_index(vma, a)), prot);
	return fault;
}

/* Return: 0 when the channel is revoked. */
static vm_fault_t enter_gated(struct sivshm_channel *channel, struct vm_area_struct *vma,
			      const struct sivshm_view *view, unsigned long start,
			      unsigned long end)
{
	vm_fault_t fault = 0;

	down_read(&channel->gate);
	if (channel->state != SIVSHM_GRANT_REVOKED)
		fault = enter(vma, view, start, end);
	up_read(&channel->gate);
	return fault;
}

/* The first touch enters the whole view: later ones must not cost a fault each. */
static void enter_rest(struct sivshm_channel *channel, struct vm_area_struct *vma,
		       const struct sivshm_view *view)
{
	unsigned long start, end;

	for (start = vma->vm_start; start < vma->vm_end; start = end) {
		end = min(start + BATCH * PAGE_SIZE, vma->vm_end);
		if (enter_gated(channel, vma, view, start, end) != VM_FAULT_NOPAGE)
			return;
		if (fatal_signal_pending(current))
			return;
		cond_resched();
	}
}

/* A page of zeros instead of a signal: RX has the one that all share, TX one to write to. */
static vm_fault_t enter_zero(struct sivshm_channel *channel, struct vm_area_struct *vma,
			     const struct sivshm_view *view, unsigned long address)
{
	struct page *page = view == &channel->tx ? channel->page : ZERO_PAGE(address);

	return vmf_insert_pfn(vma, address, page_to_pfn(page));
}

static vm_fault_t map_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct sivshm_channel *channel = vma->vm_private_data;
	const struct sivshm_view *view = view_of(channel, vmf->pgoff);
	unsigned long address = vmf->address & PAGE_MASK;
	vm_fault_t fault;

	if (!view)
		return VM_FAULT_SIGBUS;

	fault = enter_gated(channel, vma, view, address, address + PAGE_SIZE);
	if (fault == 0)
		return enter_zero(channel, vma, view, address);
	if (fault == VM_FAULT_NOPAGE)
		enter_rest(channel, vma, view);
	return fault;
}

/*
 * Mappings are counted, for a revocation walks them all while others wait for theirs.  ->open is
 * for the second part of a split one, and for the new place of one that moves; it cannot refuse.
 */
static void map_open(struct vm_area_struct *vma)
{
	struct sivshm_channel *channel = vma->vm_private_data;

	atomic_inc(&channel->n_maps);
}

static void map_close(struct vm_area_struct *vma)
{
	struct sivshm_channel *channel = vma->vm_private_data;

	atomic_dec(&channel->n_maps);
}

static int map_may_split(struct vm_area_struct *vma, unsigned long address)
{
	struct sivshm_channel *channel = vma->vm_private_data;

	return atomic_read(&channel->n_maps) < SIVSHM_MAX_MAPS ? 0 : -ENOMEM;
}

static const struct vm_operations_struct map_ops = {
	.open = map_open,
	.close = map_close,
	.may_split = map_may_split,
	.fault = map_fault,
};

static const struct sivshm_view *view_at(const struct sivshm_channel *channel, pgoff_t first)
{
	if (first == channel->tx.first)
		return &channel->tx;
	if (first == channel->rx.first)
		return &channel->rx;
	return NULL;
}

/**
 * sivshm_map() - ->mmap of a channel fd
 * @file: the fd's
 * @vma:  entered by faults later, not here
 *
 * Return: 0; -EPERM not the holder; -EINVAL not exactly a view, or private; -EACCES write on RX, or
 * execute; -ENOLINK revoked; -ENOMEM SIVSHM_MAX_MAPS there are.
 */
int sivshm_map(struct file *file, struct vm_area_struct *vma)
{
	struct sivshm_channel *channel = file->private_data;
	const struct sivshm_view *view;

	if (!sivshm_holder_check(channel, SIVSHM_OP_MMAP))
		return -EPERM;

	view = view_at(channel, vma->vm_pgoff);
	if (!view || vma_pages(vma) != view_pages(view) || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC || (view == &channel->rx && vma->vm_flags & VM_WRITE))
		return -EACCES;
	if (sivshm_channel_state(channel) == SIVSHM_GRANT_REVOKED)
		return -ENOLINK;
	if (!atomic_add_unless(&channel->n_maps, 1, SIVSHM_MAX_MAPS))
		return -ENOMEM;

	vm_flags_mod(vma, VM_IO | VM_PFNMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP,
		     VM_MAYEXEC | (view == &channel->rx ? VM_MAYWRITE : 0));
	vma->vm_private_data = channel;
	vma->vm_ops = &map_ops;
	return 0;
}

/**
 * sivshm_map_zap() - take every mapping of a channel away
 * @channel: REVOKED, so that no fault maps its windows again; sivshm_lock is held
 */
void sivshm_map_zap(struct sivshm_channel *channel)
{
	if (channel->inode)
		unmap_mapping_range(channel->inode->i_mapping, 0, 0, 1);
}
