// SPDX-License-Identifier: GPL-2.0-only
/*
 * src/kmod/grant.c against any table: what it accepts lies inside the sections.
 *
 * In two steps. Any header that sivshm_layout_check() accepts makes a layout that is sane(); and on
 * any sane layout, whatever sivshm_grant_check() accepts has its windows inside the two sections.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "grant.h"

#define CHECK(condition) __CPROVER_assert(condition, #condition)

/* CBMC: any value, anew at each call. */
u64 nondet_u64(void);
u32 nondet_u32(void);

/* Anything at all: --nondet-static. */
static struct sivshm_table_header header;
static struct sivshm_layout layout;
static struct sivshm_grant grant;
static struct sivshm_terms terms;

void model_write(const void *to, size_t size)
{
	CHECK(__CPROVER_w_ok(to, size));
}

void model_copy(const void *to, const void *from, size_t size)
{
	CHECK(__CPROVER_r_ok(from, size));
	CHECK(__CPROVER_w_ok(to, size));
}

/* Where the NUL is does not matter here; that it is inside the field does. */
void *model_find_nul(const void *s, size_t size)
{
	u64 at = nondet_u64();

	CHECK(__CPROVER_r_ok(s, size));
	if (at >= size || ((const u8 *)s)[at])
		return NULL;
	return (u8 *)s + at;
}

static bool place_sane(const struct sivshm_place *p)
{
	return p->size >= 1 << 20 && p->size <= 1ull << 36 && !(p->size & (p->size - 1)) &&
	       p->member <= 0xffff && p->devfn <= 0xff && p->vectors >= 2 && p->vectors <= 64 &&
	       p->flags <= SIVSHM_SECTION_OWN;
}

void prove_layout(void)
{
	u64 table_size = nondet_u64();
	int r = sivshm_layout_check(&header, table_size, &layout);
	u32 i = nondet_u32(), j = nondet_u32();

	CHECK(r == 0 || r == -EBADMSG);
	if (r < 0)
		return;
	CHECK(layout.n_places <= SIVSHM_MAX_SECTIONS && layout.n_slots <= SIVSHM_MAX_SLOTS);
	/* so no slot that is ever looked at lies outside the BAR */
	CHECK(SIVSHM_TABLE_HEADER_SIZE + (u64)layout.n_slots * SIVSHM_GRANT_SIZE <= table_size);
	__CPROVER_assume(i < j && j < layout.n_places);
	CHECK(place_sane(&layout.places[i]) && place_sane(&layout.places[j]));
	/* one device is one section, a region has one own section, a member one section */
	CHECK(layout.places[i].devfn != layout.places[j].devfn);
	if (layout.places[i].region == layout.places[j].region) {
		CHECK(layout.places[i].member != layout.places[j].member);
		CHECK(!(layout.places[i].flags & layout.places[j].flags));
	}
}

void prove_place(void)
{
	u32 devfn = nondet_u32();
	const struct sivshm_place *place;

	__CPROVER_assume(layout.n_places <= SIVSHM_MAX_SECTIONS);
	place = sivshm_layout_place(&layout, devfn);
	if (place)
		CHECK(place >= layout.places && place < layout.places + layout.n_places &&
		      place->devfn == devfn);
}

static void check_window(const struct sivshm_window *w, u64 section, u64 offset, u64 size)
{
	/* exactly what the table says, behind the section's header, and not a byte outside */
	CHECK(w->offset == offset && w->ring == size - SIVSHM_PAGE_SIZE && w->ring < size);
	CHECK(w->offset >= SIVSHM_PAGE_SIZE && w->offset % SIVSHM_PAGE_SIZE == 0);
	CHECK(w->ring >= 4096 && w->ring <= 1ull << 30 && !(w->ring & (w->ring - 1)));
	CHECK(w->offset < section && w->ring < section);
	CHECK(w->offset + SIVSHM_PAGE_SIZE + w->ring <= section);
}

void prove_grant(void)
{
	int r;

	__CPROVER_assume(layout.n_places <= PLACES);
	for (u32 i = 0; i < PLACES; i++)
		__CPROVER_assume(place_sane(&layout.places[i]));

	r = sivshm_grant_check(&grant, &layout, &terms);
	CHECK(r == 0 || r == -EBADMSG);
	if (r < 0)
		return;
	CHECK(terms.own.flags == SIVSHM_SECTION_OWN && terms.peer.flags == 0);
	CHECK(terms.own.region == terms.region && terms.peer.region == terms.region);
	CHECK(terms.peer.member == terms.peer_id && terms.peer_id == le32toh(grant.peer));
	CHECK(terms.generation && terms.generation == le32toh(grant.generation));
	CHECK(terms.local_vector >= 1 && terms.local_vector < terms.own.vectors);
	CHECK(terms.peer_vector >= 1 && terms.peer_vector < terms.peer.vectors);
	check_window(&terms.tx, terms.own.size, le64toh(grant.tx_offset), le64toh(grant.tx_size));
	check_window(&terms.rx, terms.peer.size, le64toh(grant.rx_offset), le64toh(grant.rx_size));
}

/* Not vacuous: CBMC must find these. */
void reach(void)
{

	__CPROVER_assume(le32toh(header.n_sections) == 2);
	__CPROVER_assume(sivshm_layout_check(&header, nondet_u64(), &layout) == 0);
	__CPROVER_assert(sivshm_grant_check(&grant, &layout, &terms) != 0, "grant 0");
	__CPROVER_assert(sivshm_grant_check(&grant, &layout, &terms) == 0, "grant EBADMSG");
}
