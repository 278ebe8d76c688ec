// SPDX-License-Identifier: GPL-2.0-only
#include <linux/pci.h>
#include <linux/slab.h>

#include "channel.h"
#include "core.h"
#include "device.h"
#include "event.h"
#include "section.h"
#include "table.h"

struct sivshm_table {
	struct sivshm_device device;
	struct sivshm_layout layout;
	u64 refused_epoch; /* logged already */
};

static struct sivshm_table *table; /* sivshm_lock */

static const struct sivshm_table_header *header_of(const struct sivshm_table *t)
{
	return t->device.bar.base;
}

static u64 epoch_of(const struct sivshm_table *t)
{
	return le64_to_cpu(READ_ONCE(header_of(t)->epoch));
}

/* The host may be writing: a copy counts only if the epoch stood still around it. */
static int read_layout(struct sivshm_table *t, struct sivshm_layout *ret_layout)
{
	struct sivshm_table_header *copy;
	u64 epoch = epoch_of(t);
	int r;

	copy = kmalloc(sizeof(*copy), GFP_KERNEL);
	if (!copy)
		return -ENOMEM;

	smp_rmb(); /* with the host's stores of the epoch: 0 before the layout, the new one after */
	memcpy(copy, header_of(t), sizeof(*copy));
	smp_rmb(); /* the copy before the second look */
	if (epoch_of(t) != epoch || le64_to_cpu(copy->epoch) != epoch)
		r = -EAGAIN;
	else
		r = sivshm_layout_check(copy, t->device.bar.size, ret_layout);
	kfree(copy);
	return r;
}

/**
 * sivshm_table_layout() - the checked header
 *
 * Return: valid until sivshm_lock is dropped; NULL when there is no table.
 */
const struct sivshm_layout *sivshm_table_layout(void)
{
	lockdep_assert_held(&sivshm_lock);
	return table ? &table->layout : NULL;
}

/**
 * sivshm_table_place() - what the table says about a device
 * @pdev:      a device
 * @ret_place: copy of its entry
 *
 * Return: 0; -ENODEV no table; -ENOENT not listed.
 */
int sivshm_table_place(struct pci_dev *pdev, struct sivshm_place *ret_place)
{
	const struct sivshm_place *place;

	lockdep_assert_held(&sivshm_lock);

	if (!table)
		return -ENODEV;
	if (pdev->bus != table->device.pdev->bus)
		return -ENOENT;
	place = sivshm_layout_place(&table->layout, pdev->devfn);
	if (!place)
		return -ENOENT;
	*ret_place = *place;
	return 0;
}

/**
 * sivshm_table_spot() - where the listed devices sit; takes sivshm_lock
 * @index:    counts from 0
 * @ret_spot: filled when there is such an entry
 *
 * Return: is there?
 */
bool sivshm_table_spot(unsigned int index, struct sivshm_spot *ret_spot)
{
	bool found = false;

	mutex_lock(&sivshm_lock);
	if (table && index < table->layout.n_places) {
		ret_spot->domain = pci_domain_nr(table->device.pdev->bus);
		ret_spot->bus = table->device.pdev->bus->number;
		ret_spot->devfn = table->layout.places[index].devfn;
		found = true;
	}
	mutex_unlock(&sivshm_lock);
	return found;
}

static const struct sivshm_grant *entry(u32 slot)
{
	return table->device.bar.base + SIVSHM_TABLE_HEADER_SIZE + slot * SIVSHM_GRANT_SIZE;
}

/**
 * sivshm_table_grant() - private copy of one entry
 * @slot:      which
 * @ret_grant: consistent when 0 is returned
 *
 * Return: 0; -ENODEV no table; -ENOENT no such slot; -EAGAIN the host is writing.
 */
int sivshm_table_grant(u32 slot, struct sivshm_grant *ret_grant)
{
	const struct sivshm_grant *grant;
	__le32 generation, state;

	lockdep_assert_held(&sivshm_lock);

	if (!table)
		return -ENODEV;
	if (slot >= table->layout.n_slots)
		return -ENOENT;

	grant = entry(slot);
	/*
	 * The generation before the state: one that is new goes with a state that is, and who sees
	 * the host's ACTIVE sees all fields.
	 */
	generation = smp_load_acquire(&grant->generation); /* with the host's fence behind FREE */
	state = smp_load_acquire(&grant->state);	   /* pairs with the host's release */
	memcpy(ret_grant, grant, sizeof(*ret_grant));
	smp_rmb(); /* the copy before the second look */
	if (READ_ONCE(grant->state) != state || ret_grant->state != state ||
	    READ_ONCE(grant->generation) != generation || ret_grant->generation != generation)
		return -EAGAIN;
	return 0;
}

/**
 * sivshm_table_state() - how is a grant that was opened?
 * @slot:       which
 * @generation: it had when it was opened
 *
 * Return: ACTIVE, DRAINING, or REVOKED for whatever else became of it.
 */
u32 sivshm_table_state(u32 slot, u32 generation)
{
	u32 state;

	lockdep_assert_held(&sivshm_lock);

	if (!table || slot >= table->layout.n_slots)
		return SIVSHM_GRANT_REVOKED;

	/* With the host's release: a generation that goes with the state, or a later one. */
	state = le32_to_cpu(smp_load_acquire(&entry(slot)->state));
	if (le32_to_cpu(READ_ONCE(entry(slot)->generation)) != generation)
		return SIVSHM_GRANT_REVOKED;
	if (state != SIVSHM_GRANT_ACTIVE && state != SIVSHM_GRANT_DRAINING)
		return SIVSHM_GRANT_REVOKED;
	return state;
}

/**
 * sivshm_table_refresh() - take over a new layout, if the host wrote one
 *
 * Channels whose section is no longer what it was are revoked.  A layout that makes no sense is
 * refused and the old one stays: the doorbell that tells of the next one ends that.
 */
void sivshm_table_refresh(void)
{
	struct sivshm_layout *layout;
	int r;

	lockdep_assert_held(&sivshm_lock);

	if (!table || epoch_of(table) == table->layout.epoch)
		return;

	layout = kmalloc(sizeof(*layout), GFP_KERNEL);
	if (!layout)
		return;
	r = read_layout(table, layout);
	if (r == 0) {
		table->layout = *layout;
		sivshm_section_follow();
		sivshm_event_table();
		sivshm_device_match();
		pci_info(table->device.pdev, "grant table: new layout, %u slots, %u sections\n",
			 layout->n_slots, layout->n_places);
	} else if (r == -EBADMSG && table->refused_epoch != epoch_of(table)) {
		table->refused_epoch = epoch_of(table);
		pci_err(table->device.pdev, "grant table: new layout makes no sense, not used\n");
	}
	kfree(layout);
}

static void table_remove(struct sivshm_device *device)
{
	struct sivshm_table *t = container_of(device, struct sivshm_table, device);

	mutex_lock(&sivshm_lock);
	table = NULL;
	sivshm_channel_follow_all();
	sivshm_event_table();
	mutex_unlock(&sivshm_lock);

	sivshm_bar_release(device->pdev, &device->bar);
	kfree(t);
}

static int table_publish(struct sivshm_table *t)
{
	int r = 0;

	mutex_lock(&sivshm_lock);
	if (table) {
		r = -EEXIST;
	} else {
		pci_set_drvdata(t->device.pdev, &t->device);
		table = t;
		sivshm_channel_follow_all();
		sivshm_event_table();
	}
	mutex_unlock(&sivshm_lock);
	return r;
}

/**
 * sivshm_table_probe() - a small device that bears the table's magic
 * @pdev: the device, not claimed
 *
 * Return: 0, or a negative errno and the device is as it was.
 */
int sivshm_table_probe(struct pci_dev *pdev)
{
	struct sivshm_table *t;
	int r;

	r = sivshm_bar_writable(pdev, offsetof(struct sivshm_table_header, write_test));
	if (r < 0)
		return r;
	if (r > 0) {
		pci_err(pdev, "grant table is writable, hence not the hypervisor's: refused\n");
		return -ENODEV;
	}

	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t)
		return -ENOMEM;
	t->device.pdev = pdev;
	t->device.remove = table_remove;

	r = sivshm_bar_claim(pdev, &t->device.bar);
	if (r < 0)
		goto fail_free;

	r = read_layout(t, &t->layout);
	if (r == -EBADMSG)
		pci_err(pdev, "grant table makes no sense: refused\n");
	if (r < 0)
		goto fail_bar;

	pci_info(pdev, "grant table of %s: %u slots, %u sections\n", t->layout.vm,
		 t->layout.n_slots, t->layout.n_places);
	r = table_publish(t);
	if (r < 0) {
		pci_err(pdev, "a second grant table: refused\n");
		goto fail_bar;
	}
	sivshm_device_match();
	return 0;

fail_bar:
	sivshm_bar_release(pdev, &t->device.bar);
fail_free:
	kfree(t);
	return r;
}
