// SPDX-License-Identifier: GPL-2.0-only
#include <linux/module.h>
#include <linux/pci.h>

#include "core.h"
#include "device.h"
#include "section.h"
#include "table.h"

#define PCI_VENDOR_ID_IVSHMEM 0x1af4
#define PCI_DEVICE_ID_IVSHMEM 0x1110

static const struct pci_device_id device_ids[] = {
	{PCI_DEVICE(PCI_VENDOR_ID_IVSHMEM, PCI_DEVICE_ID_IVSHMEM)},
	{},
};
MODULE_DEVICE_TABLE(pci, device_ids);

static int device_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	u64 size = pci_resource_len(pdev, SIVSHM_BAR_MEMORY);
	u64 magic;
	int r;

	r = sivshm_bar_magic(pdev, &magic);
	if (r < 0)
		return r == -ENOMEM ? r : -ENODEV;
	if (size <= SIVSHM_MAX_TABLE_SIZE && magic == SIVSHM_TABLE_MAGIC)
		return sivshm_table_probe(pdev);
	if (size >= SIVSHM_MIN_SECTION_SIZE)
		return sivshm_section_probe(pdev, magic == SIVSHM_SECTION_MAGIC);
	return -ENODEV;
}

static void device_remove(struct pci_dev *pdev)
{
	struct sivshm_device *device = pci_get_drvdata(pdev);

	device->remove(device);
}

static struct pci_driver device_driver = {
	.name = KBUILD_MODNAME,
	.id_table = device_ids,
	.probe = device_probe,
	.remove = device_remove,
};

/*
 * A device that was probed before the table listed it, or under another description, gets its
 * chance now.  Takes device locks, hence runs without ours, and in a work item because a probe or a
 * removal may be what brought the change.
 */
static void match_one(struct pci_dev *pdev)
{
	struct device_driver *driver = READ_ONCE(pdev->dev.driver);

	if (!pci_match_id(device_ids, pdev))
		return;
	if (!driver) {
		if (device_attach(&pdev->dev) < 0)
			pci_dbg(pdev, "listed in the grant table, but no driver takes it\n");
	} else if (driver == &device_driver.driver && sivshm_section_is_stale(pdev)) {
		if (device_reprobe(&pdev->dev) < 0)
			pci_dbg(pdev, "did not probe anew\n");
	}
}

static void match_work(struct work_struct *work)
{
	struct sivshm_spot spot;

	for (unsigned int i = 0; sivshm_table_spot(i, &spot); i++) {
		struct pci_dev *pdev;

		pdev = pci_get_domain_bus_and_slot(spot.domain, spot.bus, spot.devfn);
		if (!pdev)
			continue;
		match_one(pdev);
		pci_dev_put(pdev);
	}
}

static DECLARE_WORK(match, match_work);

/**
 * sivshm_device_match() - the table's list of sections is new: look at the devices again
 */
void sivshm_device_match(void)
{
	queue_work(sivshm_queue, &match);
}

int sivshm_device_register(void)
{
	return pci_register_driver(&device_driver);
}

void sivshm_device_unregister(void)
{
	pci_unregister_driver(&device_driver);
	cancel_work_sync(&match);
}
