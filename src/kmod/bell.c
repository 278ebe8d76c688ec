// SPDX-License-Identifier: GPL-2.0-only
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "bell.h"
#include "channel.h"
#include "core.h"
#include "event.h"

static unsigned int storm_limit = 100000;
module_param(storm_limit, uint, 0444);
MODULE_PARM_DESC(storm_limit, "Doorbells per second and region that are served by interrupts");

/* A storm is counted over WINDOW, and answered by HOLD of polling every POLL. */
#define STORM_WINDOW (HZ / 10)
#define STORM_HOLD (HZ / 10)
#define STORM_POLL 1

static void wake_listeners(struct sivshm_vector *vector)
{
	struct sivshm_listener *listener;
	unsigned long flags;

	spin_lock_irqsave(&vector->bell->lock, flags);
	list_for_each_entry(listener, &vector->listeners, node)
		listener->rang(listener);
	spin_unlock_irqrestore(&vector->bell->lock, flags);
}

/*
 * The budget is the device's, not the vector's: a peer can ring all of them.  Whoever exceeds it is
 * masked, so that each further interrupt of the window silences one vector more.
 */
static bool is_storm(struct sivshm_bell *bell)
{
	lockdep_assert_held(&bell->guard);

	if (time_after_eq(jiffies, bell->window_start + STORM_WINDOW)) {
		bell->window_start = jiffies;
		bell->count = 0;
	}
	return ++bell->count > storm_limit / (HZ / STORM_WINDOW);
}

static void mask(struct sivshm_vector *vector)
{
	struct sivshm_bell *bell = vector->bell;

	lockdep_assert_held(&bell->guard);

	if (bell->stopping || bell->masked & BIT_ULL(vector->index))
		return;
	if (bell->masked == 0) {
		bell->masked_until = jiffies + STORM_HOLD;
		bell->untold = true;
		/* Not by a timer: this CPU's may wait for a real-time task too. */
		queue_delayed_work(sivshm_queue, &bell->poll, 0);
	}
	bell->masked |= BIT_ULL(vector->index);
	disable_irq_nosync(vector->irq);
}

static irqreturn_t vector_thread(int irq, void *data)
{
	wake_listeners(data);
	return IRQ_HANDLED;
}

/*
 * Wait queues have locks that sleep where PREEMPT_RT is, so there a thread does the waking, and any
 * task of a higher priority keeps it from running.  The guard must not depend on that: it is here.
 */
static irqreturn_t vector_irq(int irq, void *data)
{
	struct sivshm_vector *vector = data;
	struct sivshm_bell *bell = vector->bell;
	unsigned long flags;

	raw_spin_lock_irqsave(&bell->guard, flags);
	if (is_storm(bell))
		mask(vector);
	raw_spin_unlock_irqrestore(&bell->guard, flags);

	if (vector->index == 0) {
		sivshm_channel_scan();
		return IRQ_HANDLED;
	}
	return IS_ENABLED(CONFIG_PREEMPT_RT) ? IRQ_WAKE_THREAD : vector_thread(irq, data);
}

/* Return: the masked vectors; those to be unmasked are among them. */
static u64 poll_masked(struct sivshm_bell *bell, u64 *ret_unmask, bool *ret_untold)
{
	unsigned long flags;
	u64 masked;

	*ret_unmask = 0;
	raw_spin_lock_irqsave(&bell->guard, flags);
	masked = bell->masked;
	*ret_untold = bell->untold;
	bell->untold = false;
	if (bell->stopping) {
		/* free_irq() does the rest */
	} else if (time_after_eq(jiffies, bell->masked_until)) {
		*ret_unmask = masked;
		bell->masked = 0;
		bell->window_start = jiffies;
		bell->count = 0;
	} else {
		queue_delayed_work(sivshm_queue, &bell->poll, STORM_POLL);
	}
	raw_spin_unlock_irqrestore(&bell->guard, flags);
	return masked;
}

/* It cannot be known whether a masked vector rang, so all count as rung: waking is always legal. */
static void poll_vector(struct sivshm_vector *vector)
{
	if (vector->index == 0)
		sivshm_channel_scan();
	else
		wake_listeners(vector);
}

static void poll_work(struct work_struct *work)
{
	struct sivshm_bell *bell = container_of(work, struct sivshm_bell, poll.work);
	u64 masked, unmask;
	bool untold;

	masked = poll_masked(bell, &unmask, &untold);
	if (untold)
		sivshm_event_storm();
	for (unsigned int i = 0; i < bell->n_vectors; i++) {
		if (masked & BIT_ULL(i))
			poll_vector(&bell->vectors[i]);
		if (unmask & BIT_ULL(i))
			enable_irq(bell->vectors[i].irq);
	}
}

static int vector_start(struct sivshm_bell *bell, unsigned int index)
{
	struct sivshm_vector *vector = &bell->vectors[index];
	bool rt = IS_ENABLED(CONFIG_PREEMPT_RT);

	vector->bell = bell;
	vector->index = index;
	vector->irq = pci_irq_vector(bell->pdev, index);
	snprintf(vector->name, sizeof(vector->name), KBUILD_MODNAME "-%s-%u",
		 pci_name(bell->pdev) + 5, index);
	return request_threaded_irq(vector->irq, vector_irq, rt && index > 0 ? vector_thread : NULL,
				    rt ? IRQF_NO_THREAD : 0, vector->name, vector);
}

/**
 * sivshm_bell_start() - take and enable all vectors
 * @bell:      zeroed
 * @pdev:      own section, enabled, bus master
 * @n_vectors: 2 to SIVSHM_MAX_VECTORS
 *
 * Return: 0 or a negative errno, then nothing is left.
 */
int sivshm_bell_start(struct sivshm_bell *bell, struct pci_dev *pdev, unsigned int n_vectors)
{
	unsigned int started;
	int r;

	bell->pdev = pdev;
	bell->n_vectors = n_vectors;
	bell->window_start = jiffies;
	spin_lock_init(&bell->lock);
	raw_spin_lock_init(&bell->guard);
	INIT_DELAYED_WORK(&bell->poll, poll_work);

	bell->vectors = kcalloc(n_vectors, sizeof(*bell->vectors), GFP_KERNEL);
	if (!bell->vectors)
		return -ENOMEM;
	for (unsigned int i = 0; i < n_vectors; i++)
		INIT_LIST_HEAD(&bell->vectors[i].listeners);

	r = pci_alloc_irq_vectors(pdev, n_vectors, n_vectors, PCI_IRQ_MSIX);
	if (r < 0)
		goto fail_free;

	for (started = 0; started < n_vectors; started++) {
		r = vector_start(bell, started);
		if (r < 0)
			goto fail_irqs;
	}
	return 0;

fail_irqs:
	bell->n_vectors = started;
	sivshm_bell_stop(bell);
	return r;
fail_free:
	kfree(bell->vectors);
	return r;
}

/**
 * sivshm_bell_stop() - undo sivshm_bell_start()
 * @bell: nobody listens any more
 */
void sivshm_bell_stop(struct sivshm_bell *bell)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&bell->guard, flags);
	bell->stopping = true; /* from here on nobody masks or polls anew */
	raw_spin_unlock_irqrestore(&bell->guard, flags);
	cancel_delayed_work_sync(&bell->poll);

	for (unsigned int i = bell->n_vectors; i-- > 0;)
		free_irq(bell->vectors[i].irq, &bell->vectors[i]);
	pci_free_irq_vectors(bell->pdev);
	kfree(bell->vectors);
}

/**
 * sivshm_bell_join() - have a listener called from now on
 * @bell:     of the own section
 * @vector:   1 to n_vectors-1
 * @listener: lives until sivshm_bell_leave()
 */
void sivshm_bell_join(struct sivshm_bell *bell, unsigned int vector,
		      struct sivshm_listener *listener)
{
	unsigned long flags;

	spin_lock_irqsave(&bell->lock, flags);
	list_add_tail(&listener->node, &bell->vectors[vector].listeners);
	spin_unlock_irqrestore(&bell->lock, flags);
}

/**
 * sivshm_bell_leave() - after this a listener is not called any more
 * @bell:     the one that was joined
 * @listener: had joined it
 */
void sivshm_bell_leave(struct sivshm_bell *bell, struct sivshm_listener *listener)
{
	unsigned long flags;

	spin_lock_irqsave(&bell->lock, flags);
	list_del(&listener->node);
	spin_unlock_irqrestore(&bell->lock, flags);
}
