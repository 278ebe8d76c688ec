/* SPDX-License-Identifier: GPL-2.0-only */
/* BAR2 of an ivshmem device: look at it without touching, then take it. */
#ifndef _SIVSHM_BAR_H
#define _SIVSHM_BAR_H

#include <linux/pci.h>
#include <linux/types.h>

#define SIVSHM_BAR_REGISTERS 0
#define SIVSHM_BAR_MEMORY 2

/**
 * struct sivshm_bar - BAR2, claimed
 * @base:    write-back mapping of all of it, if the platform lets us
 * @phys:    where it lies now
 * @size:    bytes
 * @mapping: SIVSHM_MAPPING_*, what the platform really gave
 */
struct sivshm_bar {
	void *base;
	phys_addr_t phys;
	u64 size;
	u32 mapping;
};

int sivshm_bar_magic(struct pci_dev *pdev, u64 *ret_magic);
int sivshm_bar_writable(struct pci_dev *pdev, unsigned int offset);
int sivshm_bar_claim(struct pci_dev *pdev, struct sivshm_bar *ret_bar);
void sivshm_bar_release(struct pci_dev *pdev, struct sivshm_bar *bar);

#endif /* _SIVSHM_BAR_H */
