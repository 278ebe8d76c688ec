// SPDX-License-Identifier: GPL-2.0-only
#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/string.h>
#else
#include <endian.h>
#include <errno.h>
#include <string.h>
#define le32_to_cpu(x) le32toh(x)
#define le64_to_cpu(x) le64toh(x)
#endif

#include "grant.h"

#ifndef __KERNEL__
static bool is_power_of_2(u64 n)
{
	return n != 0 && (n & (n - 1)) == 0;
}
#endif

static bool string_ok(const u8 *s, size_t size)
{
	return s[0] != 0 && memchr(s, 0, size);
}

static bool size_ok(u64 size, u64 min, u64 max)
{
	return is_power_of_2(size) && size >= min && size <= max;
}

static bool place_ok(const struct sivshm_place *place)
{
	if (place->member > SIVSHM_MAX_PEER_ID || place->devfn > 0xff)
		return false;
	if (place->flags & ~SIVSHM_SECTION_OWN)
		return false;
	if (place->vectors < 2 || place->vectors > SIVSHM_MAX_VECTORS)
		return false;
	if (!size_ok(place->size, SIVSHM_MIN_SECTION_SIZE, SIVSHM_MAX_SECTION_SIZE))
		return false;
	return string_ok(place->region_name, sizeof(place->region_name)) &&
	       string_ok(place->vm, sizeof(place->vm));
}

/* Two entries for one device, for one member's section, or two own sections in one region. */
static bool place_clashes(const struct sivshm_place *a, const struct sivshm_place *b)
{
	if (a->devfn == b->devfn)
		return true;
	if (a->region != b->region)
		return false;
	return a->member == b->member || (a->flags & b->flags & SIVSHM_SECTION_OWN);
}

static void place_read(const struct sivshm_section_desc *desc, struct sivshm_place *ret_place)
{
	memset(ret_place, 0, sizeof(*ret_place));
	ret_place->region = le32_to_cpu(desc->region);
	ret_place->member = le32_to_cpu(desc->member);
	ret_place->devfn = le32_to_cpu(desc->devfn);
	ret_place->flags = le32_to_cpu(desc->flags);
	ret_place->size = le64_to_cpu(desc->size);
	ret_place->vectors = le32_to_cpu(desc->vectors);
	memcpy(ret_place->region_name, desc->region_name, sizeof(ret_place->region_name));
	memcpy(ret_place->vm, desc->vm, sizeof(ret_place->vm));
}

/**
 * sivshm_layout_place() - the section at a PCI slot and function
 * @layout: a checked layout
 * @devfn:  where the device sits
 *
 * Return: the place, or NULL when the table does not list it.
 */
const struct sivshm_place *sivshm_layout_place(const struct sivshm_layout *layout, u32 devfn)
{
	for (u32 i = 0; i < layout->n_places; i++)
		if (layout->places[i].devfn == devfn)
			return &layout->places[i];
	return NULL;
}

/**
 * sivshm_layout_check() - read a table header
 * @header:     private copy of the first page
 * @table_size: bytes of the table's BAR
 * @ret_layout: filled on success, garbage otherwise
 *
 * Return: 0, or -EBADMSG when the header is not one that can be trusted to be meant for us.
 */
int sivshm_layout_check(const struct sivshm_table_header *header, u64 table_size,
			struct sivshm_layout *ret_layout)
{
	u32 n_slots = le32_to_cpu(header->n_slots);
	u32 n_places = le32_to_cpu(header->n_sections);

	if (le64_to_cpu(header->magic) != SIVSHM_TABLE_MAGIC ||
	    le32_to_cpu(header->abi) != SIVSHM_TABLE_ABI ||
	    le32_to_cpu(header->grant_size) != SIVSHM_GRANT_SIZE)
		return -EBADMSG;
	if (n_slots > SIVSHM_MAX_SLOTS || n_places > SIVSHM_MAX_SECTIONS)
		return -EBADMSG;
	if (SIVSHM_TABLE_HEADER_SIZE + (u64)n_slots * SIVSHM_GRANT_SIZE > table_size)
		return -EBADMSG;
	if (!string_ok(header->vm, sizeof(header->vm)))
		return -EBADMSG;

	memset(ret_layout, 0, sizeof(*ret_layout));
	ret_layout->epoch = le64_to_cpu(header->epoch);
	ret_layout->n_slots = n_slots;
	ret_layout->n_places = n_places;
	memcpy(ret_layout->vm, header->vm, sizeof(ret_layout->vm));

	for (u32 i = 0; i < n_places; i++) {
		place_read(&header->sections[i], &ret_layout->places[i]);
		if (!place_ok(&ret_layout->places[i]))
			return -EBADMSG;
		for (u32 j = 0; j < i; j++)
			if (place_clashes(&ret_layout->places[i], &ret_layout->places[j]))
				return -EBADMSG;
	}
	return 0;
}

static const struct sivshm_place *find_own(const struct sivshm_layout *layout, u32 region)
{
	for (u32 i = 0; i < layout->n_places; i++)
		if (layout->places[i].region == region &&
		    (layout->places[i].flags & SIVSHM_SECTION_OWN))
			return &layout->places[i];
	return NULL;
}

static const struct sivshm_place *find_peer(const struct sivshm_layout *layout, u32 region,
					    u32 member)
{
	for (u32 i = 0; i < layout->n_places; i++)
		if (layout->places[i].region == region && layout->places[i].member == member &&
		    !(layout->places[i].flags & SIVSHM_SECTION_OWN))
			return &layout->places[i];
	return NULL;
}

/* The first page of a section is its header and belongs to nobody. */
static bool window_read(__le64 le_offset, __le64 le_size, u64 section_size,
			struct sivshm_window *ret_window)
{
	u64 offset = le64_to_cpu(le_offset);
	u64 size = le64_to_cpu(le_size);

	if (size <= SIVSHM_PAGE_SIZE ||
	    !size_ok(size - SIVSHM_PAGE_SIZE, SIVSHM_MIN_RING_SIZE, SIVSHM_MAX_RING_SIZE))
		return false;
	if (offset < SIVSHM_PAGE_SIZE || offset % SIVSHM_PAGE_SIZE != 0)
		return false;
	if (offset > section_size || size > section_size - offset)
		return false;

	ret_window->offset = offset;
	ret_window->ring = size - SIVSHM_PAGE_SIZE;
	return true;
}

static bool vector_ok(u32 vector, u32 vectors)
{
	return vector >= 1 && vector < vectors;
}

/**
 * sivshm_grant_check() - read one grant
 * @grant:     private copy of the entry
 * @layout:    layout of the table that it was copied from
 * @ret_terms: filled on success, garbage otherwise
 *
 * Does not look at the state: the caller decides whether the entry is to be used at all.
 *
 * Return: 0, or -EBADMSG when the grant does not fit the sections.
 */
int sivshm_grant_check(const struct sivshm_grant *grant, const struct sivshm_layout *layout,
		       struct sivshm_terms *ret_terms)
{
	const struct sivshm_place *own, *peer;

	memset(ret_terms, 0, sizeof(*ret_terms));
	ret_terms->generation = le32_to_cpu(grant->generation);
	ret_terms->region = le32_to_cpu(grant->region);
	ret_terms->peer_id = le32_to_cpu(grant->peer);
	ret_terms->local_vector = le32_to_cpu(grant->local_vector);
	ret_terms->peer_vector = le32_to_cpu(grant->peer_vector);

	own = find_own(layout, ret_terms->region);
	peer = find_peer(layout, ret_terms->region, ret_terms->peer_id);
	if (!own || !peer || ret_terms->generation == 0)
		return -EBADMSG;
	ret_terms->own = *own;
	ret_terms->peer = *peer;

	if (!vector_ok(ret_terms->local_vector, own->vectors) ||
	    !vector_ok(ret_terms->peer_vector, peer->vectors))
		return -EBADMSG;
	if (!window_read(grant->tx_offset, grant->tx_size, own->size, &ret_terms->tx) ||
	    !window_read(grant->rx_offset, grant->rx_size, peer->size, &ret_terms->rx))
		return -EBADMSG;
	if (!string_ok(grant->local_service, sizeof(grant->local_service)) ||
	    !string_ok(grant->peer_vm, sizeof(grant->peer_vm)) ||
	    !string_ok(grant->peer_service, sizeof(grant->peer_service)))
		return -EBADMSG;

	memcpy(ret_terms->channel_id, grant->channel, sizeof(ret_terms->channel_id));
	memcpy(ret_terms->local_service, grant->local_service, sizeof(ret_terms->local_service));
	memcpy(ret_terms->peer_vm, grant->peer_vm, sizeof(ret_terms->peer_vm));
	memcpy(ret_terms->peer_service, grant->peer_service, sizeof(ret_terms->peer_service));
	return 0;
}
