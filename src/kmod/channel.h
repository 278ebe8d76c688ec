/* SPDX-License-Identifier: GPL-2.0-only */
/* A channel: what a grant became when the owner opened it. */
#ifndef _SIVSHM_CHANNEL_H
#define _SIVSHM_CHANNEL_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/wait.h>

#include "bell.h"
#include "event.h"
#include "grant.h"

struct sivshm_section_device;

/**
 * struct sivshm_view - one window as it is mapped: control page, ring, the ring again
 * @first:      page offset in the file
 * @ring_pages: pages of the ring
 * @pfn:        of the control page; the ring follows it
 */
struct sivshm_view {
	pgoff_t first;
	unsigned long ring_pages;
	unsigned long pfn;
};

/**
 * struct sivshm_channel - one opened grant
 * @slot, @terms, @uid, @cgroup: never change
 * @gate:     held for reading while a page is mapped or the peer rung; whoever held it for writing
 *            and set @state to REVOKED knows that no more of that happens
 * @state:    the grant as this side follows it; written under sivshm_lock and @gate
 * @own, @peer: not to be used once REVOKED
 * @inode:    of the fd, whose address space finds all mappings; NULL once released; sivshm_lock
 * @page:     what TX shows after a revocation
 * @n_maps:   mappings there are, parts of split ones counted each
 * @used:     the holder has the fd
 * @own_rung, @peer_rung: in the windows, see SIVSHM_RUNG_OFFSET; not to be used once REVOKED
 * @rung:     what @own_rung was last set to; rung_lock
 * @heard:    what @peer_rung was at the last interrupt; bell->lock
 * @rings:    doorbells nobody has been told of
 * @wait:     of pollers, readers
 */
struct sivshm_channel {
	u32 slot;
	struct sivshm_terms terms;
	kuid_t uid;
	u64 cgroup;

	struct rw_semaphore gate;
	enum sivshm_grant_state state;
	struct sivshm_section_device *own;
	struct sivshm_section_device *peer;
	struct sivshm_view tx;
	struct sivshm_view rx;

	struct inode *inode;
	struct page *page;
	atomic_t n_maps;
	bool used;

	__le32 *own_rung;
	const __le32 *peer_rung;
	spinlock_t rung_lock; /* rung */
	u32 rung;
	u32 heard;

	struct sivshm_listener listener;
	atomic64_t rings;
	wait_queue_head_t wait;
	struct sivshm_mailbox mailbox;
};

static inline enum sivshm_grant_state sivshm_channel_state(const struct sivshm_channel *channel)
{
	return READ_ONCE(channel->state);
}

static inline u64 sivshm_window_map_size(const struct sivshm_window *window)
{
	return SIVSHM_PAGE_SIZE + 2 * window->ring;
}

/* channel.c, under sivshm_lock */
int sivshm_channel_open(const struct sivshm_open *open);
struct sivshm_channel *sivshm_channel_get(u32 slot);
unsigned int sivshm_channel_count(void);
void sivshm_channel_revoke(struct sivshm_channel *channel);
void sivshm_channel_revoke_section(struct sivshm_section_device *section);
void sivshm_channel_follow_all(void);
void sivshm_channel_orphan_all(void);

/* channel.c, sivshm_lock not held */
void sivshm_channel_released(struct sivshm_channel *channel);
void sivshm_channel_forget(struct sivshm_channel *channel);
void sivshm_channel_forget_all(void);

/* channel.c, gate held and not REVOKED */
void sivshm_channel_ring(struct sivshm_channel *channel);

/* channel.c, any context */
void sivshm_channel_scan(void);

/* file.c */
struct file *sivshm_file_new(struct sivshm_channel *channel);

/* map.c */
int sivshm_map(struct file *file, struct vm_area_struct *vma);
void sivshm_map_zap(struct sivshm_channel *channel);

#endif /* _SIVSHM_CHANNEL_H */
