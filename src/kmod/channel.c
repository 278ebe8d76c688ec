// SPDX-License-Identifier: GPL-2.0-only
#include <linux/file.h>
#include <linux/gfp.h>
#include <linux/pfn.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "channel.h"
#include "core.h"
#include "section.h"
#include "table.h"

static DEFINE_XARRAY(channels); /* by slot; sivshm_lock */
static unsigned int n_channels; /* sivshm_lock */

/**
 * sivshm_channel_get() - the channel of a slot
 * @slot: which
 *
 * Return: valid until sivshm_lock is dropped; NULL when there is none.
 */
struct sivshm_channel *sivshm_channel_get(u32 slot)
{
	lockdep_assert_held(&sivshm_lock);
	return xa_load(&channels, slot);
}

unsigned int sivshm_channel_count(void)
{
	lockdep_assert_held(&sivshm_lock);
	return n_channels;
}

/* The word is in memory that the holder writes too, so what it was is kept here. */
static void count_ring(struct sivshm_channel *channel)
{
	spin_lock(&channel->rung_lock);
	channel->rung = channel->rung == U32_MAX ? 1 : channel->rung + 1;
	/* what the peer is rung for comes first; two that ring at once come one after the other */
	smp_store_release(channel->own_rung, cpu_to_le32(channel->rung));
	spin_unlock(&channel->rung_lock);
}

/**
 * sivshm_channel_ring() - wake the peer
 * @channel: its gate is held, it is not REVOKED
 */
void sivshm_channel_ring(struct sivshm_channel *channel)
{
	count_ring(channel);
	sivshm_section_ring(channel->own, channel->terms.peer_id, channel->terms.peer_vector);
}

/*
 * Was it this channel that the vector rang for?  The peer counts before it rings, so whoever sees
 * the old word in an interrupt gets another one.
 */
static bool is_meant(struct sivshm_channel *channel)
{
	u32 rung;

	/* with the peer's release: who is woken for it sees what it was rung for */
	rung = le32_to_cpu(smp_load_acquire(channel->peer_rung));

	if (rung != 0 && rung == channel->heard)
		return false;
	channel->heard = rung;
	return true;
}

static void listener_rang(struct sivshm_listener *listener)
{
	struct sivshm_channel *channel = container_of(listener, struct sivshm_channel, listener);

	if (!is_meant(channel))
		return;
	atomic64_inc(&channel->rings);
	wake_up_interruptible_poll(&channel->wait, EPOLLIN | EPOLLRDNORM);
}

/* Each is told what of: else AIO looks from a kernel thread, which is a stranger here. */
static void wake_everybody(struct sivshm_channel *channel, __poll_t events)
{
	__wake_up(&channel->wait, TASK_NORMAL, 0, poll_to_key(events));
}

static void set_state(struct sivshm_channel *channel, enum sivshm_grant_state state)
{
	lockdep_assert_held(&sivshm_lock);

	down_write(&channel->gate);
	WRITE_ONCE(channel->state, state);
	up_write(&channel->gate);
}

/**
 * sivshm_channel_revoke() - take a channel from its holder
 * @channel: any; nothing happens when it is revoked or released already
 *
 * When this returns nobody maps the windows and nobody will.  The zap is inside the gate, so that
 * no fault shows zeros on one CPU while another still reads the window through its old entry: who
 * has seen zeros once sees nothing else any more.
 */
void sivshm_channel_revoke(struct sivshm_channel *channel)
{
	lockdep_assert_held(&sivshm_lock);

	if (channel->state == SIVSHM_GRANT_REVOKED)
		return;
	down_write(&channel->gate);
	WRITE_ONCE(channel->state, SIVSHM_GRANT_REVOKED);
	sivshm_map_zap(channel);
	up_write(&channel->gate);
	sivshm_bell_leave(&channel->own->bell, &channel->listener);
	channel->own = NULL;
	channel->peer = NULL;
	wake_everybody(channel, EPOLLHUP | EPOLLERR);
	sivshm_mailbox_post(&channel->mailbox, SIVSHM_EVENT_REVOKED);
}

static void drain(struct sivshm_channel *channel)
{
	set_state(channel, SIVSHM_GRANT_DRAINING);
	wake_everybody(channel, EPOLLHUP | EPOLLRDHUP);
	sivshm_mailbox_post(&channel->mailbox, SIVSHM_EVENT_DRAINING);
}

static void follow(struct sivshm_channel *channel)
{
	u32 state;

	if (channel->state == SIVSHM_GRANT_REVOKED)
		return;
	state = sivshm_table_state(channel->slot, channel->terms.generation);
	if (state == SIVSHM_GRANT_REVOKED)
		sivshm_channel_revoke(channel);
	else if (state == SIVSHM_GRANT_DRAINING && channel->state == SIVSHM_GRANT_ACTIVE)
		drain(channel);
}

/**
 * sivshm_channel_follow_all() - do with every channel what the table says of its grant
 *
 * Looks only at slots that have a channel.
 */
void sivshm_channel_follow_all(void)
{
	struct sivshm_channel *channel;
	unsigned long slot;

	lockdep_assert_held(&sivshm_lock);

	xa_for_each(&channels, slot, channel)
		follow(channel);
}

/**
 * sivshm_channel_revoke_section() - a section goes or is another one now
 * @section: channels with a window in it are revoked
 */
void sivshm_channel_revoke_section(struct sivshm_section_device *section)
{
	struct sivshm_channel *channel;
	unsigned long slot;

	lockdep_assert_held(&sivshm_lock);

	xa_for_each(&channels, slot, channel)
		if (channel->own == section || channel->peer == section)
			sivshm_channel_revoke(channel);
}

/**
 * sivshm_channel_orphan_all() - the owner is gone
 */
void sivshm_channel_orphan_all(void)
{
	struct sivshm_channel *channel;
	unsigned long slot;

	lockdep_assert_held(&sivshm_lock);

	xa_for_each(&channels, slot, channel)
		sivshm_mailbox_orphan(&channel->mailbox, true);
}

static void scan_work(struct work_struct *work)
{
	mutex_lock(&sivshm_lock);
	sivshm_table_refresh();
	sivshm_channel_follow_all();
	mutex_unlock(&sivshm_lock);
}

static DECLARE_WORK(scan, scan_work);

/**
 * sivshm_channel_scan() - the host says that the table changed
 */
void sivshm_channel_scan(void)
{
	queue_work(sivshm_queue, &scan);
}

static void view_init(struct sivshm_view *view, u64 file_offset, const struct sivshm_bar *bar,
		      const struct sivshm_window *window)
{
	view->first = file_offset >> PAGE_SHIFT;
	view->ring_pages = window->ring >> PAGE_SHIFT;
	view->pfn = PHYS_PFN(bar->phys + window->offset);
}

static struct sivshm_channel *channel_new(const struct sivshm_open *open,
					  const struct sivshm_terms *terms,
					  enum sivshm_grant_state state)
{
	struct sivshm_channel *channel;

	channel = kzalloc(sizeof(*channel), GFP_KERNEL_ACCOUNT);
	if (!channel)
		return NULL;
	channel->page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!channel->page) {
		kfree(channel);
		return NULL;
	}
	channel->slot = open->slot;
	channel->terms = *terms;
	channel->uid = make_kuid(&init_user_ns, open->uid);
	channel->cgroup = open->cgroup;
	channel->state = state;
	channel->listener.rang = listener_rang;
	init_rwsem(&channel->gate);
	spin_lock_init(&channel->rung_lock);
	init_waitqueue_head(&channel->wait);
	sivshm_mailbox_init(&channel->mailbox);
	return channel;
}

static void channel_free(struct sivshm_channel *channel)
{
	if (channel->page)
		__free_page(channel->page);
	kfree(channel);
}

/*
 * Slot and generation name a grant that may be used and fits what is plugged, and nobody has it.
 * One that drains may be used: a peer that sent and closed before we came here must be heard.
 */
static int check_open(const struct sivshm_open *open, struct sivshm_terms *ret_terms,
		      enum sivshm_grant_state *ret_state)
{
	struct sivshm_grant grant;
	int r;

	r = sivshm_table_grant(open->slot, &grant);
	if (r < 0)
		return r;
	*ret_state = le32_to_cpu(grant.state);
	if (*ret_state != SIVSHM_GRANT_ACTIVE && *ret_state != SIVSHM_GRANT_DRAINING)
		return -ESTALE;
	if (le32_to_cpu(grant.generation) != open->generation)
		return -ESTALE;
	if (xa_load(&channels, open->slot))
		return -EBUSY;

	r = sivshm_grant_check(&grant, sivshm_table_layout(), ret_terms);
	if (r < 0)
		pr_err_once(KBUILD_MODNAME ": grant in slot %u does not fit the sections\n",
			    open->slot);
	return r;
}

static int attach_sections(struct sivshm_channel *channel)
{
	const struct sivshm_terms *terms = &channel->terms;

	channel->own = sivshm_section_find(&terms->own);
	channel->peer = sivshm_section_find(&terms->peer);
	if (!channel->own || !channel->peer)
		return -ENXIO;
	view_init(&channel->tx, SIVSHM_TX_OFFSET, &channel->own->device.bar, &terms->tx);
	view_init(&channel->rx, SIVSHM_RX_OFFSET, &channel->peer->device.bar, &terms->rx);
	channel->own_rung = channel->own->device.bar.base + terms->tx.offset + SIVSHM_RUNG_OFFSET;
	channel->peer_rung = channel->peer->device.bar.base + terms->rx.offset + SIVSHM_RUNG_OFFSET;
	channel->heard = le32_to_cpu(READ_ONCE(*channel->peer_rung));
	return 0;
}

/* Everything that can fail comes before the file: once that exists its release does the rest. */
static int publish(struct sivshm_channel *channel)
{
	struct file *file;
	int fd, r;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	r = xa_insert(&channels, channel->slot, channel, GFP_KERNEL_ACCOUNT);
	if (r < 0)
		goto fail_fd;
	file = sivshm_file_new(channel);
	if (IS_ERR(file)) {
		r = PTR_ERR(file);
		goto fail_erase;
	}

	n_channels++;
	count_ring(channel); /* from now on this side counts */
	sivshm_bell_join(&channel->own->bell, channel->terms.local_vector, &channel->listener);
	if (channel->state == SIVSHM_GRANT_DRAINING)
		sivshm_mailbox_post(&channel->mailbox, SIVSHM_EVENT_DRAINING);
	fd_install(fd, file);
	return fd;

fail_erase:
	xa_erase(&channels, channel->slot);
fail_fd:
	put_unused_fd(fd);
	return r;
}

/**
 * sivshm_channel_open() - turn a grant into a channel fd
 * @open: checked for reserved fields
 *
 * Return: an fd of the caller, or a negative errno as SIVSHM_OPEN documents.
 */
int sivshm_channel_open(const struct sivshm_open *open)
{
	struct sivshm_channel *channel;
	enum sivshm_grant_state state;
	struct sivshm_terms terms;
	int r;

	lockdep_assert_held(&sivshm_lock);

	r = check_open(open, &terms, &state);
	if (r < 0)
		return r;
	channel = channel_new(open, &terms, state);
	if (!channel)
		return -ENOMEM;
	r = attach_sections(channel);
	if (r == 0)
		r = publish(channel);
	if (r < 0)
		channel_free(channel);
	return r;
}

/**
 * sivshm_channel_released() - last fd and mapping are gone
 * @channel: stays until the owner has read of it
 */
void sivshm_channel_released(struct sivshm_channel *channel)
{
	mutex_lock(&sivshm_lock);
	if (channel->state != SIVSHM_GRANT_REVOKED) {
		sivshm_bell_leave(&channel->own->bell, &channel->listener);
		set_state(channel, SIVSHM_GRANT_REVOKED);
		channel->own = NULL;
		channel->peer = NULL;
	}
	channel->inode = NULL;
	__free_page(channel->page);
	channel->page = NULL;
	sivshm_mailbox_post(&channel->mailbox, SIVSHM_EVENT_RELEASED);
	mutex_unlock(&sivshm_lock);
}

/**
 * sivshm_channel_forget() - the owner knows that the channel is released: free the slot
 * @channel: freed
 */
void sivshm_channel_forget(struct sivshm_channel *channel)
{
	mutex_lock(&sivshm_lock);
	xa_erase(&channels, channel->slot);
	n_channels--;
	mutex_unlock(&sivshm_lock);
	channel_free(channel);
}

/**
 * sivshm_channel_forget_all() - the module goes; only released channels can be left
 */
void sivshm_channel_forget_all(void)
{
	struct sivshm_channel *channel;
	unsigned long slot;

	cancel_work_sync(&scan);
	xa_for_each(&channels, slot, channel)
		sivshm_channel_forget(channel);
	xa_destroy(&channels);
}
