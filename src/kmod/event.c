// SPDX-License-Identifier: GPL-2.0-only
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "channel.h"
#include "core.h"
#include "event.h"

/* Order of delivery inside one channel: RELEASED ends its life, so it comes last. */
static const enum sivshm_event_type channel_events[] = {
	SIVSHM_EVENT_DENIED,
	SIVSHM_EVENT_DRAINING,
	SIVSHM_EVENT_REVOKED,
	SIVSHM_EVENT_RELEASED,
};

static DEFINE_MUTEX(readers_lock);
static DEFINE_SPINLOCK(lock); /* the rest, and all mailboxes */
static LIST_HEAD(full);	      /* sivshm_mailbox.node */
static u64 n_table, n_storm;
static DECLARE_WAIT_QUEUE_HEAD(readers);

void sivshm_mailbox_init(struct sivshm_mailbox *mailbox)
{
	memset(mailbox, 0, sizeof(*mailbox));
	INIT_LIST_HEAD(&mailbox->node);
}

static void enlist(struct sivshm_mailbox *mailbox)
{
	lockdep_assert_held(&lock);

	if (mailbox->orphan || !mailbox->pending || !list_empty(&mailbox->node))
		return;
	list_add_tail(&mailbox->node, &full);
	wake_up_interruptible(&readers);
}

/**
 * sivshm_mailbox_post() - something happened to a channel
 * @mailbox: of the channel.  After RELEASED it may be gone as soon as sivshm_lock is dropped
 * @type:    once per channel; DENIED has its own call
 */
void sivshm_mailbox_post(struct sivshm_mailbox *mailbox, enum sivshm_event_type type)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	__set_bit(type, &mailbox->pending);
	enlist(mailbox);
	spin_unlock_irqrestore(&lock, flags);
}

/**
 * sivshm_mailbox_denied() - someone who is not the holder used the channel
 * @mailbox: of the channel
 * @denied:  who and what; the last one is reported, all are counted
 */
void sivshm_mailbox_denied(struct sivshm_mailbox *mailbox, const struct sivshm_event *denied)
{
	unsigned long flags;
	u64 count;

	spin_lock_irqsave(&lock, flags);
	count = mailbox->denied.count;
	mailbox->denied = *denied;
	mailbox->denied.count = count + 1;
	__set_bit(SIVSHM_EVENT_DENIED, &mailbox->pending);
	enlist(mailbox);
	spin_unlock_irqrestore(&lock, flags);
}

/**
 * sivshm_mailbox_orphan() - the owner went, or a new one adopts
 * @mailbox: of the channel
 * @orphan:  keep the events from now on, or deliver what was kept
 */
void sivshm_mailbox_orphan(struct sivshm_mailbox *mailbox, bool orphan)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	mailbox->orphan = orphan;
	if (orphan)
		list_del_init(&mailbox->node);
	else
		enlist(mailbox);
	spin_unlock_irqrestore(&lock, flags);
}

bool sivshm_mailbox_is_orphan(struct sivshm_mailbox *mailbox)
{
	unsigned long flags;
	bool orphan;

	spin_lock_irqsave(&lock, flags);
	orphan = mailbox->orphan;
	spin_unlock_irqrestore(&lock, flags);
	return orphan;
}

static void count_up(u64 *counter)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	(*counter)++;
	wake_up_interruptible(&readers);
	spin_unlock_irqrestore(&lock, flags);
}

void sivshm_event_table(void)
{
	count_up(&n_table);
}

void sivshm_event_storm(void)
{
	count_up(&n_storm);
}

/**
 * sivshm_event_reset() - a new owner: it looks at the table itself
 */
void sivshm_event_reset(void)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	n_table = 0;
	n_storm = 0;
	spin_unlock_irqrestore(&lock, flags);
}

static bool any(void)
{
	unsigned long flags;
	bool yes;

	spin_lock_irqsave(&lock, flags);
	yes = !list_empty(&full) || n_table > 0 || n_storm > 0;
	spin_unlock_irqrestore(&lock, flags);
	return yes;
}

static void describe(struct sivshm_channel *channel, struct sivshm_event *ret_event)
{
	const struct sivshm_mailbox *mailbox = &channel->mailbox;

	for (unsigned int i = 0; i < ARRAY_SIZE(channel_events); i++) {
		if (!test_bit(channel_events[i], &mailbox->pending))
			continue;
		if (channel_events[i] == SIVSHM_EVENT_DENIED)
			*ret_event = mailbox->denied;
		else
			ret_event->count = 1;
		ret_event->type = channel_events[i];
		break;
	}
	ret_event->slot = channel->slot;
	ret_event->generation = channel->terms.generation;
}

/* The next event, which stays where it is until take() has it that the reader got it. */
static bool peek(struct sivshm_event *ret_event, struct sivshm_channel **ret_channel)
{
	struct sivshm_channel *channel;
	unsigned long flags;

	memset(ret_event, 0, sizeof(*ret_event));
	*ret_channel = NULL;

	spin_lock_irqsave(&lock, flags);
	channel = list_first_entry_or_null(&full, struct sivshm_channel, mailbox.node);
	/* First what is rare, and what nobody can hide behind a flood of denials. */
	if (n_table > 0) {
		ret_event->type = SIVSHM_EVENT_TABLE;
		ret_event->count = n_table;
	} else if (n_storm > 0) {
		ret_event->type = SIVSHM_EVENT_STORM;
		ret_event->count = n_storm;
	} else if (channel) {
		*ret_channel = channel;
		describe(channel, ret_event);
	}
	spin_unlock_irqrestore(&lock, flags);
	return ret_event->type != 0;
}

static void take_from(struct sivshm_mailbox *mailbox, const struct sivshm_event *event)
{
	if (event->type == SIVSHM_EVENT_DENIED) {
		mailbox->denied.count -= event->count;
		if (mailbox->denied.count > 0)
			goto again;
	}
	__clear_bit(event->type, &mailbox->pending);
again:
	/* to the end of the list, so that a channel with many events delays no other */
	list_del_init(&mailbox->node);
	enlist(mailbox);
}

static void take(const struct sivshm_event *event, struct sivshm_channel *channel)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	if (channel)
		take_from(&channel->mailbox, event);
	else if (event->type == SIVSHM_EVENT_TABLE)
		n_table -= event->count;
	else
		n_storm -= event->count;
	spin_unlock_irqrestore(&lock, flags);

	if (event->type == SIVSHM_EVENT_RELEASED)
		sivshm_channel_forget(channel);
}

static ssize_t read_some(char __user *buf, size_t size)
{
	struct sivshm_channel *channel;
	struct sivshm_event event;
	size_t done = 0;

	lockdep_assert_held(&readers_lock); /* the channel cannot be forgotten by another reader */

	while (size - done >= sizeof(event) && peek(&event, &channel)) {
		if (copy_to_user(buf + done, &event, sizeof(event)))
			return done > 0 ? done : -EFAULT;
		take(&event, channel);
		done += sizeof(event);
	}
	return done;
}

/**
 * sivshm_event_read() - read() of the owner
 * @file: its flags say whether to wait
 * @buf:  where to
 * @size: room for one event or more
 *
 * Return: bytes of whole events; -EINVAL no room for one; -EAGAIN; -ERESTARTSYS; -EFAULT.
 */
ssize_t sivshm_event_read(struct file *file, char __user *buf, size_t size)
{
	ssize_t r;

	if (size < sizeof(struct sivshm_event))
		return -EINVAL;

	for (;;) {
		if (mutex_lock_interruptible(&readers_lock))
			return -ERESTARTSYS;
		r = read_some(buf, size);
		mutex_unlock(&readers_lock);
		if (r != 0)
			return r;

		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(readers, any()))
			return -ERESTARTSYS;
	}
}

__poll_t sivshm_event_poll(struct file *file, struct poll_table_struct *wait)
{
	poll_wait(file, &readers, wait);
	return any() ? EPOLLIN | EPOLLRDNORM : 0;
}
