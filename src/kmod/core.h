/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What all parts share.
 *
 * Locks, outermost first:
 *
 *	event.c readers_lock     one reader of events at a time; held while copying to user space
 *	sivshm_lock              table, sections, which channels exist
 *	sivshm_channel.gate      read: fault, doorbell; write: revocation
 *	sivshm_bell.lock         who is woken by which vector
 *	event.c lock             which events wait
 *	sivshm_bell.guard        interrupts: how many, and which are masked; inside it nothing
 *
 * mmap_lock is taken before gate (a fault), so nothing that holds sivshm_lock touches user memory,
 * and ->mmap takes no sivshm_lock.
 */
#ifndef _SIVSHM_CORE_H
#define _SIVSHM_CORE_H

#include <linux/mutex.h>
#include <linux/workqueue.h>

extern struct mutex sivshm_lock;
extern struct workqueue_struct *sivshm_queue;

#endif /* _SIVSHM_CORE_H */
