/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "table.h"

_Static_assert(sizeof(struct sivshm_section_desc) == 112, "ABI");
_Static_assert(sizeof(struct sivshm_table_header) == SIVSHM_TABLE_HEADER_SIZE, "ABI");
_Static_assert(sizeof(struct sivshm_grant) == SIVSHM_GRANT_SIZE, "ABI");

size_t table_size(unsigned slots)
{
	size_t need = SIVSHM_TABLE_HEADER_SIZE + (size_t)slots * SIVSHM_GRANT_SIZE, size;

	for (size = SIVSHM_TABLE_HEADER_SIZE; size < need; size *= 2)
		;
	return size;
}

static struct sivshm_grant *entry(const struct table *t, uint32_t slot)
{
	return (struct sivshm_grant *)(t->header + 1) + slot;
}

/* put_string() - NUL-padded */
static void put_string(__u8 *field, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);

	memset(field + n, 0, size - n);
	memcpy(field, text, n);
}

static void get_string(const __u8 *field, size_t size, char *ret)
{
	memcpy(ret, field, size);
	ret[size - 1] = '\0';
}

int table_attach(struct table *t, void *memory, size_t size, const char *vm)
{
	struct sivshm_table_header *h = memory;
	char name[SIVSHM_VM_NAME_SIZE];
	uint32_t n_slots;

	if (size < sizeof(*h) ||
	    le64toh(__atomic_load_n(&h->magic, __ATOMIC_ACQUIRE)) != SIVSHM_TABLE_MAGIC)
		return -EBADMSG;
	get_string(h->vm, sizeof(h->vm), name);
	n_slots = le32toh(h->n_slots);
	if (le32toh(h->abi) != SIVSHM_TABLE_ABI || le32toh(h->grant_size) != SIVSHM_GRANT_SIZE ||
	    strcmp(name, vm) != 0 || n_slots == 0 || n_slots > SIVSHM_MAX_SLOTS ||
	    table_size(n_slots) != size || le32toh(h->n_sections) > SIVSHM_MAX_SECTIONS)
		return -EBADMSG;
	*t = (struct table){.header = h, .size = size, .n_slots = n_slots};
	return 0;
}

static void make_desc(const struct layout_entry *e, uint32_t number,
		      struct sivshm_section_desc *ret)
{
	*ret = (struct sivshm_section_desc){
		.region = htole32(number),
		.member = htole32(e->member),
		.devfn = htole32(PCI_DEVFN(e->pci_slot)),
		.flags = htole32(e->own ? SIVSHM_SECTION_OWN : 0),
		.size = htole64(e->region->section_size),
		.vectors = htole32(e->region->vectors),
	};
	put_string(ret->region_name, sizeof(ret->region_name), e->region->name);
	put_string(ret->vm, sizeof(ret->vm), e->owner);
}

void table_format(struct table *t, void *memory, size_t size, const char *vm, unsigned slots,
		  const struct layout *layout, const uint32_t *numbers)
{
	struct sivshm_table_header *h = memory;
	struct table old;
	uint64_t epoch = 0;

	if (table_attach(&old, memory, size, vm) >= 0)
		epoch = le64toh(h->epoch);
	else
		memset(memory, 0, size);
	/* without magic nothing in here is valid, also for a successor after a crash right now */
	__atomic_store_n(&h->magic, 0, __ATOMIC_RELEASE);
	*t = (struct table){.header = h, .size = size, .n_slots = slots};
	for (uint32_t i = 0; i < slots; i++)
		table_set_state(t, i, SIVSHM_GRANT_FREE);
	/* the epoch goes first and comes last, so that a reader which sees the same one before and
	 * after its copy has one layout, whole (tests/model/litmus/layout) */
	__atomic_store_n(&h->epoch, 0, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memset((char *)h + sizeof(h->magic), 0, sizeof(*h) - sizeof(h->magic));
	h->abi = htole32(SIVSHM_TABLE_ABI);
	h->grant_size = htole32(SIVSHM_GRANT_SIZE);
	h->n_slots = htole32(slots);
	h->n_sections = htole32((uint32_t)layout->n);
	put_string(h->vm, sizeof(h->vm), vm);
	for (size_t i = 0; i < layout->n; i++)
		make_desc(&layout->entries[i], numbers[i], &h->sections[i]);
	__atomic_store_n(&h->epoch, htole64(epoch + 1), __ATOMIC_RELEASE);
	__atomic_store_n(&h->magic, htole64(SIVSHM_TABLE_MAGIC), __ATOMIC_RELEASE);
}

bool table_same_layout(const struct table *t, unsigned slots, const struct layout *layout,
		       const uint32_t *numbers)
{
	if (t->n_slots != slots || le32toh(t->header->n_sections) != layout->n)
		return false;
	for (size_t i = 0; i < layout->n; i++) {
		struct sivshm_section_desc desc;

		make_desc(&layout->entries[i], numbers[i], &desc);
		if (memcmp(&desc, &t->header->sections[i], sizeof(desc)) != 0)
			return false;
	}
	return true;
}

size_t table_n_sections(const struct table *t)
{
	return le32toh(t->header->n_sections);
}

void table_section(const struct table *t, size_t i, struct table_section *ret)
{
	const struct sivshm_section_desc *d = &t->header->sections[i];

	*ret = (struct table_section){
		.region = le32toh(d->region),
		.member = le32toh(d->member),
		.size = le64toh(d->size),
		.vectors = le32toh(d->vectors),
		.own = le32toh(d->flags) & SIVSHM_SECTION_OWN,
	};
	get_string(d->region_name, sizeof(d->region_name), ret->region_name);
	get_string(d->vm, sizeof(d->vm), ret->vm);
}

int table_find_free(struct table *t, uint32_t *ret_slot)
{
	while (t->first_free < t->n_slots && table_state(t, t->first_free) != SIVSHM_GRANT_FREE)
		t->first_free++;
	if (t->first_free == t->n_slots)
		return -EBUSY;
	*ret_slot = t->first_free;
	return 0;
}

uint32_t table_state(const struct table *t, uint32_t slot)
{
	return le32toh(__atomic_load_n(&entry(t, slot)->state, __ATOMIC_RELAXED));
}

void table_read(const struct table *t, uint32_t slot, struct grant *ret)
{
	const struct sivshm_grant *e = entry(t, slot);

	*ret = (struct grant){
		.state = le32toh(e->state),
		.generation = le32toh(e->generation),
		.region = le32toh(e->region),
		.peer = le32toh(e->peer),
		.local_vector = le32toh(e->local_vector),
		.peer_vector = le32toh(e->peer_vector),
		.tx_offset = le64toh(e->tx_offset),
		.tx_size = le64toh(e->tx_size),
		.rx_offset = le64toh(e->rx_offset),
		.rx_size = le64toh(e->rx_size),
		.opened_usec = le64toh(e->opened),
		.connecting = le32toh(e->flags) & SIVSHM_GRANT_CONNECTING,
	};
	memcpy(ret->channel, e->channel, sizeof(ret->channel));
	get_string(e->local_service, sizeof(e->local_service), ret->local_service);
	get_string(e->peer_vm, sizeof(e->peer_vm), ret->peer_vm);
	get_string(e->peer_service, sizeof(e->peer_service), ret->peer_service);
}

static uint32_t next_generation(const struct sivshm_grant *e)
{
	uint32_t next = le32toh(e->generation) + 1;

	return next == 0 ? 1 : next;
}

uint32_t table_activate(struct table *t, uint32_t slot, const struct grant *grant)
{
	struct sivshm_grant *e = entry(t, slot);
	uint32_t generation = next_generation(e);

	/* the last use is over before the new generation is seen, and that before any field of it:
	 * a reader looks at generation, state, fields, and then again (tests/model/litmus/grant) */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	__atomic_store_n(&e->generation, htole32(generation), __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy(e->channel, grant->channel, sizeof(e->channel));
	e->region = htole32(grant->region);
	e->peer = htole32(grant->peer);
	e->local_vector = htole32(grant->local_vector);
	e->peer_vector = htole32(grant->peer_vector);
	e->tx_offset = htole64(grant->tx_offset);
	e->tx_size = htole64(grant->tx_size);
	e->rx_offset = htole64(grant->rx_offset);
	e->rx_size = htole64(grant->rx_size);
	e->flags = htole32(grant->connecting ? SIVSHM_GRANT_CONNECTING : 0);
	e->opened = htole64(grant->opened_usec);
	put_string(e->local_service, sizeof(e->local_service), grant->local_service);
	put_string(e->peer_vm, sizeof(e->peer_vm), grant->peer_vm);
	put_string(e->peer_service, sizeof(e->peer_service), grant->peer_service);
	/* pairs with the module's acquire load of the state: who sees ACTIVE sees all of the above
	 */
	__atomic_store_n(&e->state, htole32(SIVSHM_GRANT_ACTIVE), __ATOMIC_RELEASE);
	return generation;
}

void table_set_state(struct table *t, uint32_t slot, enum sivshm_grant_state state)
{
	/* release: what the host did before (quarantine, zeroing) is not seen after the state */
	__atomic_store_n(&entry(t, slot)->state, htole32((uint32_t)state), __ATOMIC_RELEASE);
	if (state == SIVSHM_GRANT_FREE && slot < t->first_free)
		t->first_free = slot;
}
