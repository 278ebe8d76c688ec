// SPDX-License-Identifier: GPL-2.0-only
#include <linux/pci.h>
#include <linux/slab.h>

#include "channel.h"
#include "core.h"
#include "event.h"
#include "section.h"
#include "table.h"

static LIST_HEAD(sections); /* sivshm_lock */

static bool is_own(const struct sivshm_place *place)
{
	return place->flags & SIVSHM_SECTION_OWN;
}

static bool same(const struct sivshm_place *a, const struct sivshm_place *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static bool is_stale(const struct sivshm_section_device *section)
{
	struct sivshm_place place;

	return sivshm_table_place(section->device.pdev, &place) < 0 ||
	       !same(&section->place, &place);
}

/**
 * sivshm_section_find() - the bound device behind an entry of the table
 * @place: entry of the present layout
 *
 * Return: the section, or NULL when no device is bound that was probed as exactly this.
 */
struct sivshm_section_device *sivshm_section_find(const struct sivshm_place *place)
{
	struct sivshm_section_device *section;

	lockdep_assert_held(&sivshm_lock);

	list_for_each_entry(section, &sections, node)
		if (same(&section->place, place) && !is_stale(section))
			return section;
	return NULL;
}

/**
 * sivshm_section_is_stale() - does the table describe a bound device in another way now?
 * @pdev: device bound to this driver; its binding may change any moment
 *
 * Takes sivshm_lock.
 */
bool sivshm_section_is_stale(struct pci_dev *pdev)
{
	struct sivshm_section_device *section;
	bool stale = false;

	mutex_lock(&sivshm_lock);
	list_for_each_entry(section, &sections, node)
		if (section->device.pdev == pdev)
			stale = is_stale(section);
	mutex_unlock(&sivshm_lock);
	return stale;
}

/**
 * sivshm_section_follow() - the layout is new: revoke channels in sections that changed
 */
void sivshm_section_follow(void)
{
	struct sivshm_section_device *section;

	lockdep_assert_held(&sivshm_lock);

	list_for_each_entry(section, &sections, node)
		if (is_stale(section))
			sivshm_channel_revoke_section(section);
}

/* First nobody can open channels in it, then nobody maps it, then it goes. */
static void section_remove(struct sivshm_device *device)
{
	struct sivshm_section_device *section =
		container_of(device, struct sivshm_section_device, device);

	mutex_lock(&sivshm_lock);
	list_del(&section->node);
	sivshm_channel_revoke_section(section);
	sivshm_event_table();
	mutex_unlock(&sivshm_lock);

	if (section->registers) {
		sivshm_bell_stop(&section->bell);
		pci_clear_master(device->pdev);
		pci_iounmap(device->pdev, section->registers);
	}
	sivshm_bar_release(device->pdev, &device->bar);
	kfree(section);
}

static int own_start(struct sivshm_section_device *section)
{
	struct pci_dev *pdev = section->device.pdev;
	int r;

	section->registers = pci_iomap(pdev, SIVSHM_BAR_REGISTERS, 0);
	if (!section->registers)
		return -ENOMEM;

	pci_set_master(pdev);
	r = sivshm_bell_start(&section->bell, pdev, section->place.vectors);
	if (r < 0)
		goto fail;
	return 0;

fail:
	pci_clear_master(pdev);
	pci_iounmap(pdev, section->registers);
	section->registers = NULL;
	return r;
}

/* What the table says must be what the hypervisor plugged. */
static int check_device(struct pci_dev *pdev, const struct sivshm_place *place)
{
	int r;

	if (pci_resource_len(pdev, SIVSHM_BAR_MEMORY) != place->size) {
		pci_err(pdev, "section is not of the size the grant table says: refused\n");
		return -ENODEV;
	}
	if (is_own(place)) {
		if (pci_msix_vec_count(pdev) >= (int)place->vectors)
			return 0;
		pci_err(pdev, "own section has too few vectors: refused\n");
		return -ENODEV;
	}
	r = sivshm_bar_writable(pdev, offsetof(struct sivshm_section_header, reserved0));
	if (r > 0) {
		pci_err(pdev, "section of %s is writable to us: refused\n", place->vm);
		return -ENODEV;
	}
	return r;
}

static void section_publish(struct sivshm_section_device *section)
{
	mutex_lock(&sivshm_lock);
	pci_set_drvdata(section->device.pdev, &section->device);
	list_add_tail(&section->node, &sections);
	sivshm_event_table();
	if (is_stale(section)) /* the table changed or went meanwhile */
		sivshm_device_match();
	mutex_unlock(&sivshm_lock);
}

static int section_bind(struct pci_dev *pdev, const struct sivshm_place *place)
{
	struct sivshm_section_device *section;
	int r;

	section = kzalloc(sizeof(*section), GFP_KERNEL);
	if (!section)
		return -ENOMEM;
	section->device.pdev = pdev;
	section->device.remove = section_remove;
	section->place = *place;

	r = sivshm_bar_claim(pdev, &section->device.bar);
	if (r < 0)
		goto fail_free;
	if (is_own(place)) {
		r = own_start(section);
		if (r < 0)
			goto fail_bar;
	}
	pci_info(pdev, "%s section of %s in region %s%s\n", is_own(place) ? "own" : "peer",
		 place->vm, place->region_name,
		 section->device.bar.mapping == SIVSHM_MAPPING_WB ? "" : ", not write-back: slow");
	section_publish(section);
	return 0;

fail_bar:
	sivshm_bar_release(pdev, &section->device.bar);
fail_free:
	kfree(section);
	return r;
}

/**
 * sivshm_section_probe() - a device that is large enough
 * @pdev:      the device, not claimed
 * @has_magic: it looks like ours.  That means little, for its owner may write what it likes: it
 *             only decides whether to wait for a table that says what the device is.
 *
 * Return: 0; -EPROBE_DEFER no table yet; -ENODEV not ours.
 */
int sivshm_section_probe(struct pci_dev *pdev, bool has_magic)
{
	struct sivshm_place place;
	int r;

	mutex_lock(&sivshm_lock);
	sivshm_table_refresh();
	r = sivshm_table_place(pdev, &place);
	mutex_unlock(&sivshm_lock);

	if (r == -ENODEV)
		return has_magic ? -EPROBE_DEFER : -ENODEV;
	if (r < 0)
		return -ENODEV;

	r = check_device(pdev, &place);
	if (r < 0)
		return r;
	return section_bind(pdev, &place);
}
