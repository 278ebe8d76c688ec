/* SPDX-License-Identifier: GPL-2.0-only */
/* The PCI driver: tells our devices from strangers, hands them to table.c and section.c. */
#ifndef _SIVSHM_DEVICE_H
#define _SIVSHM_DEVICE_H

#include <linux/pci.h>

#include "bar.h"

/**
 * struct sivshm_device - what table and section have in common; the PCI device's driver data
 * @remove: undoes the probe and frees the object that this is part of
 */
struct sivshm_device {
	struct pci_dev *pdev;
	struct sivshm_bar bar;
	void (*remove)(struct sivshm_device *device);
};

int sivshm_device_register(void);
void sivshm_device_unregister(void);
void sivshm_device_match(void);

#endif /* _SIVSHM_DEVICE_H */
