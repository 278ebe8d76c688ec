/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writer of one VM's grant table (uapi/sivshm_table.h) in mapped memory.  Pure. */
#ifndef CAD_TABLE_H
#define CAD_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "sivshm_table.h"

#define CHANNEL_ID_SIZE 16

/**
 * struct table - @header is mapped memory that the VM reads; owned by who mapped it
 * @first_free: no slot below is FREE
 */
struct table {
	struct sivshm_table_header *header;
	size_t size;
	uint32_t n_slots;
	uint32_t first_free;
};

/** struct grant - one entry in host byte order; names are NUL-terminated */
struct grant {
	uint32_t state; /* enum sivshm_grant_state */
	uint32_t generation;
	uint8_t channel[CHANNEL_ID_SIZE];
	uint32_t region;
	uint32_t peer;
	uint32_t local_vector, peer_vector;
	uint64_t tx_offset, tx_size;
	uint64_t rx_offset, rx_size;
	uint64_t opened_usec;
	bool connecting;
	char local_service[SIVSHM_SERVICE_NAME_SIZE];
	char peer_vm[SIVSHM_VM_NAME_SIZE];
	char peer_service[SIVSHM_SERVICE_NAME_SIZE];
};

/** table_size() - bytes of a table of @slots: a power of two, as a BAR has to be */
size_t table_size(unsigned slots);

/** table_attach() - use what is in memory; -EBADMSG: not a table of @vm */
int table_attach(struct table *t, void *memory, size_t size, const char *vm);
/**
 * table_format() - write header and layout anew; every slot is FREE then
 * @numbers: region number of each entry of @layout
 * Generations go on counting if @memory was a table of this VM before, and so does the epoch.
 */
void table_format(struct table *t, void *memory, size_t size, const char *vm, unsigned slots,
		  const struct layout *layout, const uint32_t *numbers);
/** table_same_layout() - would table_format() write the layout that is there? */
bool table_same_layout(const struct table *t, unsigned slots, const struct layout *layout,
		       const uint32_t *numbers);

/** struct table_section - one section of the layout */
struct table_section {
	uint32_t region, member;
	uint64_t size;
	uint32_t vectors;
	bool own;
	char region_name[SIVSHM_REGION_NAME_SIZE];
	char vm[SIVSHM_VM_NAME_SIZE];
};
size_t table_n_sections(const struct table *t);
void table_section(const struct table *t, size_t i, struct table_section *ret);

/** table_find_free() - the lowest FREE slot; -EBUSY: none */
int table_find_free(struct table *t, uint32_t *ret_slot);
uint32_t table_state(const struct table *t, uint32_t slot);
/** table_read() - copy of an entry */
void table_read(const struct table *t, uint32_t slot, struct grant *ret);
/** table_activate() - fill a FREE slot, publish it as ACTIVE; returns its generation */
uint32_t table_activate(struct table *t, uint32_t slot, const struct grant *grant);
/** table_set_state() - everything but FREE -> ACTIVE */
void table_set_state(struct table *t, uint32_t slot, enum sivshm_grant_state state);

#endif
