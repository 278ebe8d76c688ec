/* SPDX-License-Identifier: GPL-2.0-only */
/* The grant table: the only source of windows.  Everything here is called under sivshm_lock. */
#ifndef _SIVSHM_TABLE_DEVICE_H
#define _SIVSHM_TABLE_DEVICE_H

#include <linux/pci.h>

#include "grant.h"

/**
 * struct sivshm_spot - where a listed device sits
 */
struct sivshm_spot {
	int domain;
	unsigned int bus;
	unsigned int devfn;
};

int sivshm_table_probe(struct pci_dev *pdev);
bool sivshm_table_spot(unsigned int index, struct sivshm_spot *ret_spot);

const struct sivshm_layout *sivshm_table_layout(void);
int sivshm_table_place(struct pci_dev *pdev, struct sivshm_place *ret_place);
int sivshm_table_grant(u32 slot, struct sivshm_grant *ret_grant);
u32 sivshm_table_state(u32 slot, u32 generation);
void sivshm_table_refresh(void);

#endif /* _SIVSHM_TABLE_DEVICE_H */
