/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "layout.h"

static void add(struct layout *l, const struct region_config *region, int member, bool own)
{
	l->entries[l->n] = (struct layout_entry){
		.region = region,
		.owner = region->members[member],
		.member = (unsigned)member,
		.own = own,
		.pci_slot = l->table_slot + 1 + (unsigned)l->n,
	};
	l->n++;
}

void layout_make(const struct config *config, const struct vm_config *vm, struct layout *ret)
{
	*ret = (struct layout){.table_slot = vm->pci_slot};
	for (size_t i = 0; i < config->n_regions; i++) {
		const struct region_config *region = &config->regions[i];
		int self = region_config_member(region, vm->name);

		if (self < 0)
			continue;
		add(ret, region, self, true);
		for (int j = 0; j < (int)region->n_members; j++)
			if (j != self)
				add(ret, region, j, false);
	}
}
