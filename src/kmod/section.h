/* SPDX-License-Identifier: GPL-2.0-only */
/* Own and peer sections: the devices that hold the windows. */
#ifndef _SIVSHM_SECTION_H
#define _SIVSHM_SECTION_H

#include <linux/io.h>
#include <linux/list.h>

#include "bell.h"
#include "device.h"
#include "grant.h"

#define SIVSHM_DOORBELL 12 /* in BAR0 */

/**
 * struct sivshm_section_device - one bound device
 * @node:      in the list of sections; sivshm_lock
 * @place:     what the table said when it was probed
 * @registers: BAR0; NULL for a peer's section
 * @bell:      vectors; own section only
 */
struct sivshm_section_device {
	struct sivshm_device device;
	struct list_head node;
	struct sivshm_place place;
	void __iomem *registers;
	struct sivshm_bell bell;
};

int sivshm_section_probe(struct pci_dev *pdev, bool has_magic);
bool sivshm_section_is_stale(struct pci_dev *pdev);

/* under sivshm_lock */
struct sivshm_section_device *sivshm_section_find(const struct sivshm_place *place);
void sivshm_section_follow(void);

/**
 * sivshm_section_ring() - ring another member's doorbell
 * @section: own section, which must not go away meanwhile
 * @peer:    ivshmem peer id
 * @vector:  of the peer's device
 */
static inline void sivshm_section_ring(struct sivshm_section_device *section, u32 peer, u32 vector)
{
	iowrite32(peer << 16 | vector, section->registers + SIVSHM_DOORBELL);
}

#endif /* _SIVSHM_SECTION_H */
