/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which section stands at which PCI slot of a VM: the one source for grant table and QEMU options.
 * Pure. */
#ifndef CAD_LAYOUT_H
#define CAD_LAYOUT_H

#include "config.h"

#define PCI_DEVFN(slot) ((slot) << 3)

/** struct layout_entry - one section; @region and @owner are borrowed from the configuration */
struct layout_entry {
	const struct region_config *region;
	const char *owner;
	unsigned member; /* ivshmem peer id of the owner */
	bool own;
	unsigned pci_slot;
};

/** struct layout - the grant table stands at @table_slot, sections follow it */
struct layout {
	unsigned table_slot;
	size_t n;
	struct layout_entry entries[SIVSHM_MAX_SECTIONS];
};

/** layout_make() - regions by name; in each the own section, then the peers' in the order of
 * Members= */
void layout_make(const struct config *config, const struct vm_config *vm, struct layout *ret);

#endif
