// SPDX-License-Identifier: GPL-2.0-only
#include <linux/io.h>
#include <linux/pci.h>
#include <linux/pgtable.h>
#include <linux/sizes.h>

#include "bar.h"
#include "compat.h"
#include "uapi/sivshm.h"

/*
 * Peeking.  The device may be a stranger's: Looking Glass and others use the same PCI id.  So no
 * region is requested (that would tear down mappings a user has by sysfs), nothing is moved, the
 * mapping has the type that sysfs users get, and the command register is put back.
 */
struct peek {
	u16 command;
	void __iomem *page;
};

static int peek_begin(struct pci_dev *pdev, struct peek *ret_peek)
{
	int r;

	if (!(pci_resource_flags(pdev, SIVSHM_BAR_MEMORY) & IORESOURCE_MEM) ||
	    pci_resource_len(pdev, SIVSHM_BAR_MEMORY) < SIVSHM_PAGE_SIZE)
		return -ENODEV;

	pci_read_config_word(pdev, PCI_COMMAND, &ret_peek->command);
	r = pci_enable_device_mem(pdev);
	if (r < 0)
		return r;

	ret_peek->page = ioremap(pci_resource_start(pdev, SIVSHM_BAR_MEMORY), SIVSHM_PAGE_SIZE);
	if (!ret_peek->page) {
		pci_disable_device(pdev);
		return -ENOMEM;
	}
	return 0;
}

static void peek_end(struct pci_dev *pdev, struct peek *peek)
{
	iounmap(peek->page);
	pci_disable_device(pdev);
	pci_write_config_word(pdev, PCI_COMMAND, peek->command);
}

/**
 * sivshm_bar_magic() - first eight bytes of BAR2
 * @pdev:      device that is not claimed
 * @ret_magic: host byte order
 *
 * Return: 0 or a negative errno.
 */
int sivshm_bar_magic(struct pci_dev *pdev, u64 *ret_magic)
{
	struct peek peek;
	__le64 magic;
	int r;

	r = peek_begin(pdev, &peek);
	if (r < 0)
		return r;
	memcpy_fromio(&magic, peek.page, sizeof(magic));
	peek_end(pdev, &peek);

	*ret_magic = le64_to_cpu(magic);
	return 0;
}

/**
 * sivshm_bar_writable() - does a store to BAR2 stick?
 * @pdev:   device that is not claimed
 * @offset: of a 32-bit word in the first page that nobody uses
 *
 * A word that sticks is put back.
 *
 * Return: 1 if so, 0 if not, or a negative errno.
 */
int sivshm_bar_writable(struct pci_dev *pdev, unsigned int offset)
{
	struct peek peek;
	u32 before;
	int r;

	r = peek_begin(pdev, &peek);
	if (r < 0)
		return r;
	before = ioread32(peek.page + offset);
	iowrite32(~before, peek.page + offset);
	r = ioread32(peek.page + offset) == ~before;
	if (r > 0)
		iowrite32(before, peek.page + offset);
	peek_end(pdev, &peek);
	return r;
}

/*
 * Firmware puts small BARs below 4 GiB, where the MTRRs say uncachable and no driver can have
 * write-back.  Failing is no error: the channel works, slower, and status tells.
 */
static void move_above_4g(struct pci_dev *pdev)
{
	struct resource *res = &pdev->resource[SIVSHM_BAR_MEMORY];
	struct resource before = *res;

	if (!(res->flags & IORESOURCE_MEM_64) || res->start >= SZ_4G || pci_is_enabled(pdev))
		return;

	pci_release_resource(pdev, SIVSHM_BAR_MEMORY);
	if (pci_assign_resource(pdev, SIVSHM_BAR_MEMORY) == 0)
		return;

	res->start = before.start;
	res->end = before.end;
	res->flags = before.flags;
	if (pci_claim_resource(pdev, SIVSHM_BAR_MEMORY) < 0)
		pci_err(pdev, "cannot put BAR2 back to where it was\n");
}

#ifdef CONFIG_X86
/* The page table entry holds an index into the PAT register, which holds the type. */
static u32 mapping_type(const void *base)
{
	u64 flags, pat, index;
	unsigned int level;
	pte_t *pte;

	pte = lookup_address((unsigned long)base, &level);
	if (!pte)
		return SIVSHM_MAPPING_UNKNOWN;
	flags = pte_flags(*pte);
	index = (flags & _PAGE_PWT ? 1 : 0) | (flags & _PAGE_PCD ? 2 : 0) |
		(flags & (level == PG_LEVEL_4K ? _PAGE_PAT : _PAGE_PAT_LARGE) ? 4 : 0);
	rdmsrq(MSR_IA32_CR_PAT, pat);

	switch (pat >> (8 * index) & 7) {
	case 0:
		return SIVSHM_MAPPING_UC;
	case 1:
		return SIVSHM_MAPPING_WC;
	case 6:
		return SIVSHM_MAPPING_WB;
	case 7:
		return SIVSHM_MAPPING_UC_MINUS;
	default:
		return SIVSHM_MAPPING_UNKNOWN;
	}
}
#else
static u32 mapping_type(const void *base)
{
	return SIVSHM_MAPPING_UNKNOWN;
}
#endif

/**
 * sivshm_bar_claim() - enable the device, close its BARs to everybody else, map BAR2
 * @pdev:    device that is ours beyond doubt
 * @ret_bar: to be given to sivshm_bar_release()
 *
 * All of BAR2 is mapped although the kernel looks at little of it: the mapping is what reserves the
 * memory type that user mappings get.
 *
 * Return: 0 or a negative errno, then nothing is left claimed.
 */
int sivshm_bar_claim(struct pci_dev *pdev, struct sivshm_bar *ret_bar)
{
	int r;

	move_above_4g(pdev);

	r = pci_enable_device_mem(pdev);
	if (r < 0)
		return r;

	r = pci_request_regions_exclusive(pdev, KBUILD_MODNAME);
	if (r < 0)
		goto fail_disable;

	ret_bar->phys = pci_resource_start(pdev, SIVSHM_BAR_MEMORY);
	ret_bar->size = pci_resource_len(pdev, SIVSHM_BAR_MEMORY);
	ret_bar->base = memremap(ret_bar->phys, ret_bar->size, MEMREMAP_WB);
	if (!ret_bar->base) {
		r = -ENOMEM;
		goto fail_regions;
	}
	ret_bar->mapping = mapping_type(ret_bar->base);
	return 0;

fail_regions:
	pci_release_regions(pdev);
fail_disable:
	pci_disable_device(pdev);
	return r;
}

/**
 * sivshm_bar_release() - undo sivshm_bar_claim()
 * @pdev: the device
 * @bar:  nobody maps or reads it any more
 */
void sivshm_bar_release(struct pci_dev *pdev, struct sivshm_bar *bar)
{
	memunmap(bar->base);
	bar->base = NULL;
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}
