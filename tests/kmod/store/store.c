// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest kernel can do at worst: store to BAR2 of a device, whoever owns it.
 *
 *	insmod store.ko device=18 offset=4096
 *
 * Never stays loaded.  Says "store: sticks" or "store: ignored" in the kernel log.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

static unsigned int device;
module_param(device, uint, 0);
static unsigned int offset;
module_param(offset, uint, 0);

static int __init store_init(void)
{
	struct pci_dev *pdev = pci_get_domain_bus_and_slot(0, 0, PCI_DEVFN(device, 0));
	u32 *base, *word, before, after;

	if (!pdev)
		return -ENODEV;
	base = memremap(pci_resource_start(pdev, 2), pci_resource_len(pdev, 2), MEMREMAP_WB);
	pci_dev_put(pdev);
	if (!base)
		return -ENOMEM;

	word = base + offset / sizeof(*base);
	before = READ_ONCE(*word);
	WRITE_ONCE(*word, ~before);
	mb(); /* the store has to reach the device before it is asked */
	after = READ_ONCE(*word);
	pr_info("store: %s (%x %x)\n", after == before ? "ignored" : "sticks", before, after);
	memunmap(base);
	return -ECANCELED;
}
module_init(store_init);

MODULE_DESCRIPTION("Test of sivshm: stores to a BAR");
MODULE_LICENSE("GPL");
