// SPDX-License-Identifier: GPL-2.0-only
/*
 * What users of ivshmem have today when they want to sleep: registers in user space, and one MSI-X
 * vector whose interrupts read() counts.  The baseline of the benchmark, and no more than that:
 * whoever opens the device can do everything.
 *
 *	insmod ivshmem_uio.ko
 *	echo ivshmem_uio > /sys/bus/pci/devices/0000:00:1d.0/driver_override
 *	echo 0000:00:1d.0 > /sys/bus/pci/drivers_probe
 *
 * /dev/uioN: map 0 is BAR0.  The memory is mapped by sysfs, since UIO cannot map a part of it.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uio_driver.h>

static irqreturn_t on_irq(int irq, struct uio_info *info)
{
	return IRQ_HANDLED;
}

static int uio_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct uio_info *info;
	int r;

	info = devm_kzalloc(&pdev->dev, sizeof(*info), GFP_KERNEL);
	if (!info)
		return -ENOMEM;
	r = pcim_enable_device(pdev);
	if (r < 0)
		return r;
	pci_set_master(pdev);
	r = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (r < 0)
		return r;

	info->name = KBUILD_MODNAME;
	info->version = "1";
	info->irq = pci_irq_vector(pdev, 0);
	info->handler = on_irq;
	info->mem[0].name = "registers";
	info->mem[0].addr = pci_resource_start(pdev, 0);
	info->mem[0].size = PAGE_ALIGN(pci_resource_len(pdev, 0));
	info->mem[0].memtype = UIO_MEM_PHYS;
	r = uio_register_device(&pdev->dev, info);
	if (r < 0) {
		pci_free_irq_vectors(pdev);
		return r;
	}
	pci_set_drvdata(pdev, info);
	return 0;
}

static void uio_remove(struct pci_dev *pdev)
{
	uio_unregister_device(pci_get_drvdata(pdev));
	pci_free_irq_vectors(pdev);
}

/* No device by itself: the ones meant are given by driver_override. */
static struct pci_driver uio_driver = {
	.name = KBUILD_MODNAME,
	.probe = uio_probe,
	.remove = uio_remove,
};
module_pci_driver(uio_driver);

MODULE_DESCRIPTION("Baseline of sivshm's benchmark: ivshmem in user space");
MODULE_LICENSE("GPL");
