/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events for the owner.  Each channel keeps its own as bits and counts, so that none is lost, none
 * needs memory, and nobody can make a queue grow.
 */
#ifndef _SIVSHM_EVENT_H
#define _SIVSHM_EVENT_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/poll.h>

#include "uapi/sivshm.h"

/**
 * struct sivshm_mailbox - events of one channel that wait to be read
 * @node:    in the list of channels with events; empty while @orphan
 * @pending: bit per enum sivshm_event_type
 * @denied:  the last refusal, and how many there were
 * @orphan:  keep the events, there is nobody to read them
 */
struct sivshm_mailbox {
	struct list_head node;
	unsigned long pending;
	struct sivshm_event denied;
	bool orphan;
};

void sivshm_mailbox_init(struct sivshm_mailbox *mailbox);
void sivshm_mailbox_post(struct sivshm_mailbox *mailbox, enum sivshm_event_type type);
void sivshm_mailbox_denied(struct sivshm_mailbox *mailbox, const struct sivshm_event *denied);
void sivshm_mailbox_orphan(struct sivshm_mailbox *mailbox, bool orphan);
bool sivshm_mailbox_is_orphan(struct sivshm_mailbox *mailbox);

void sivshm_event_table(void);
void sivshm_event_storm(void);
void sivshm_event_reset(void);

ssize_t sivshm_event_read(struct file *file, char __user *buf, size_t size);
__poll_t sivshm_event_poll(struct file *file, struct poll_table_struct *wait);

#endif /* _SIVSHM_EVENT_H */
