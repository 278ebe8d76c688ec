/* SPDX-License-Identifier: GPL-2.0-only */
/* Interrupts of an own section: vector 0 scans the grants, the others wake channels. */
#ifndef _SIVSHM_BELL_H
#define _SIVSHM_BELL_H

#include <linux/list.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "grant.h"

struct sivshm_bell;

/**
 * struct sivshm_vector - one MSI-X vector
 * @listeners: sivshm_listener.node; bell->lock
 */
struct sivshm_vector {
	struct sivshm_bell *bell;
	unsigned int index;
	int irq;
	struct list_head listeners;
	char name[24];
};

/**
 * struct sivshm_listener - who is to be woken by a vector
 * @rang: called under bell->lock, in interrupt context (PREEMPT_RT: of the interrupt's thread)
 */
struct sivshm_listener {
	struct list_head node;
	void (*rang)(struct sivshm_listener *listener);
};

/**
 * struct sivshm_bell - all vectors of one device, and their storm guard
 * @lock:         the vectors' listeners
 * @guard:        everything below it; taken in hard interrupt context
 * @window_start: jiffies when the present count began
 * @count:        interrupts since then
 * @masked:       bit per vector that is masked
 * @masked_until: jiffies
 * @untold:       the owner has not been told yet of this storm
 * @stopping:     nothing may be queued any more
 * @poll:         stands in for masked vectors
 */
struct sivshm_bell {
	struct pci_dev *pdev;
	unsigned int n_vectors;
	struct sivshm_vector *vectors;

	spinlock_t lock;      /* listeners */
	raw_spinlock_t guard; /* everything below */
	unsigned long window_start;
	unsigned int count;
	u64 masked;
	unsigned long masked_until;
	bool untold;
	bool stopping;
	struct delayed_work poll;
};

int sivshm_bell_start(struct sivshm_bell *bell, struct pci_dev *pdev, unsigned int n_vectors);
void sivshm_bell_stop(struct sivshm_bell *bell);
void sivshm_bell_join(struct sivshm_bell *bell, unsigned int vector,
		      struct sivshm_listener *listener);
void sivshm_bell_leave(struct sivshm_bell *bell, struct sivshm_listener *listener);

#endif /* _SIVSHM_BELL_H */
