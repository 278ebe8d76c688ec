// SPDX-License-Identifier: GPL-2.0-only
/*
 * src/kmod/grant.c against any table: what it accepts lies inside the sections.
 *
 * In steps, so that each is for all inputs: the small functions first; then sivshm_grant_check()
 * over whatever section the finders may return, sivshm_layout_check() with few sections.  Names and
 * padding are moved by checked calls that leave the bytes as they are, which is anything.
 */
#include <string.h>

#define memset(to, byte, size) model_write((to), (size))
#define memcpy(to, from, size) model_copy((to), (from), (size))
#define memchr(s, byte, size) model_find_nul((s), (size))
void model_write(const void *to, size_t size);
void model_copy(const void *to, const void *from, size_t size);
void *model_find_nul(const void *s, size_t size);

#include "kmod/grant.c"

#define CHECK(condition) __CPROVER_assert(condition, #condition)
#define PLACES 2 /* sections of a table in prove_layout() */

/* CBMC: any value, anew at each call. */
u64 nondet_u64(void);
u32 nondet_u32(void);

/* Anything at all: --nondet-static. */
static struct sivshm_table_header header;
static struct sivshm_layout layout;
static struct sivshm_grant grant;
static struct sivshm_terms terms;
static struct sivshm_place own, peer;

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
	return at < size ? (u8 *)s + at : NULL;
}

static bool place_sane(const struct sivshm_place *p)
{
	return (p->size >= 1 << 20) & (p->size <= 1ull << 36) & !(p->size & (p->size - 1)) &
	       (p->member <= 0xffff) & (p->devfn <= 0xff) & (p->vectors >= 2) & (p->vectors <= 64) &
	       (p->flags <= SIVSHM_SECTION_OWN);
}

/* A window that is accepted is what the table says, behind the section's header, and not a byte
 * outside the section. */
static void check_window(const struct sivshm_window *w, u64 section, u64 offset, u64 size)
{
	CHECK(w->offset == offset && w->ring == size - SIVSHM_PAGE_SIZE && w->ring < size);
	CHECK(w->offset >= SIVSHM_PAGE_SIZE && w->offset % SIVSHM_PAGE_SIZE == 0);
	CHECK(w->ring >= 4096 && w->ring <= 1ull << 30 && !(w->ring & (w->ring - 1)));
	CHECK(w->offset < section && w->ring < section);
	CHECK(w->offset + SIVSHM_PAGE_SIZE + w->ring <= section);
}

void prove_window(void)
{
	u64 offset = nondet_u64(), size = nondet_u64(), section = nondet_u64();
	struct sivshm_window window;

	__CPROVER_assume(section <= 1ull << 36);
	if (window_read(htole64(offset), htole64(size), section, &window))
		check_window(&window, section, offset, size);
}

void prove_place(void)
{
	if (place_ok(&own))
		CHECK(place_sane(&own));
	if (!place_clashes(&own, &peer)) {
		CHECK(own.devfn != peer.devfn);
		CHECK(own.region != peer.region || own.member != peer.member);
		CHECK(own.region != peer.region || !(own.flags & peer.flags & SIVSHM_SECTION_OWN));
	}
}

/* What the finders return is in the table, and the right kind of section. */
static void check_found(const struct sivshm_place *found, u32 region, bool own_wanted)
{
	bool seen = !found;

	for (u32 i = 0; i < SIVSHM_MAX_SECTIONS; i++) {
		const struct sivshm_place *p = &layout.places[i];

		if (found == p) {
			CHECK(i < layout.n_places && p->region == region);
			CHECK(own_wanted == (p->flags & SIVSHM_SECTION_OWN));
			seen = true;
		}
	}
	CHECK(seen);
}

void prove_find_own(void)
{
	u32 region = nondet_u32();

	__CPROVER_assume(layout.n_places <= SIVSHM_MAX_SECTIONS);
	check_found(find_own(&layout, region), region, true);
}

void prove_find_peer(void)
{
	u32 region = nondet_u32();

	__CPROVER_assume(layout.n_places <= SIVSHM_MAX_SECTIONS);
	check_found(find_peer(&layout, region, nondet_u32()), region, false);
}

/* In place of the finders, see prove_find_own() */
const struct sivshm_place *any_own(const struct sivshm_layout *l, u32 region)
{
	__CPROVER_assume(place_sane(&own) && own.region == region);
	__CPROVER_assume(own.flags & SIVSHM_SECTION_OWN);
	return l->n_places ? &own : NULL;
}

const struct sivshm_place *any_peer(const struct sivshm_layout *l, u32 region, u32 member)
{
	__CPROVER_assume(place_sane(&peer) && peer.region == region && peer.member == member);
	__CPROVER_assume(!(peer.flags & SIVSHM_SECTION_OWN));
	return l->n_slots ? &peer : NULL;
}

void prove_grant(void)
{
	int r = sivshm_grant_check(&grant, &layout, &terms);

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

void prove_layout(void)
{
	u64 table_size = nondet_u64();
	u32 n = le32toh(header.n_sections), i = nondet_u32(), j = nondet_u32();
	int r;

	__CPROVER_assume(n <= PLACES || n > SIVSHM_MAX_SECTIONS);
	r = sivshm_layout_check(&header, table_size, &layout);
	CHECK(r == 0 || r == -EBADMSG);
	if (r < 0)
		return;
	CHECK(layout.n_places == n && n <= PLACES && layout.n_slots <= SIVSHM_MAX_SLOTS);
	/* so no slot that is ever looked at lies outside the BAR */
	CHECK(SIVSHM_TABLE_HEADER_SIZE + (u64)layout.n_slots * SIVSHM_GRANT_SIZE <= table_size);
	__CPROVER_assume(i < j && j < n);
	CHECK(place_sane(&layout.places[i]) && place_sane(&layout.places[j]));
	CHECK(layout.places[i].devfn != layout.places[j].devfn);
	CHECK(layout.places[i].region != layout.places[j].region ||
	      layout.places[i].member != layout.places[j].member);
}

/* Not vacuous: CBMC must find these. */
void reach(void)
{
	int r = sivshm_grant_check(&grant, &layout, &terms);

	__CPROVER_assert(r != 0, "grant 0");
	__CPROVER_assert(r != -EBADMSG, "grant EBADMSG");
	__CPROVER_assert(r != 0 || terms.tx.ring != 1 << 30, "longest ring");
	__CPROVER_assert(!place_ok(&own), "place");
}
