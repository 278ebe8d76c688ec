/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Grant table and grant entry, as the kernel module reads them (the very same file).
 *
 * Input: edits of a right header and a right grant: place (16 bits, from the start of the header;
 * the grant stands behind it), number of bytes (8 bits, 0: eight bytes that are an integer of few
 * bits), bytes.
 */
#include <endian.h>
#include <errno.h>

#include "fuzz.h"
#include "grant.h"

#define TABLE_SIZE (128 * 1024)
#define SECTION_SIZE (1U << 20)

struct image {
	struct sivshm_table_header header;
	struct sivshm_grant grant;
};

static struct sivshm_section_desc place(uint32_t region, uint32_t member, uint32_t flags)
{
	return (struct sivshm_section_desc){
		.region = htole32(region),
		.member = htole32(member),
		.devfn = htole32(region * 16 + member),
		.flags = htole32(flags),
		.size = htole64(SECTION_SIZE),
		.vectors = htole32(4),
		.region_name = "cockpit",
		.vm = "rtos",
	};
}

/* Member 1 of regions 3 and 4, with peers 2 and 5 in the first and 2 in the second. */
static void make_right(struct image *image)
{
	struct sivshm_table_header *h = &image->header;

	*image = (struct image){};
	h->magic = htole64(SIVSHM_TABLE_MAGIC);
	h->abi = htole32(SIVSHM_TABLE_ABI);
	h->grant_size = htole32(SIVSHM_GRANT_SIZE);
	h->n_slots = htole32(64);
	h->n_sections = htole32(5);
	memcpy(h->vm, "rtos", 5);
	h->sections[0] = place(3, 1, SIVSHM_SECTION_OWN);
	h->sections[1] = place(3, 2, 0);
	h->sections[2] = place(3, 5, 0);
	h->sections[3] = place(4, 1, SIVSHM_SECTION_OWN);
	h->sections[4] = place(4, 2, 0);
	image->grant = (struct sivshm_grant){
		.state = htole32(SIVSHM_GRANT_ACTIVE),
		.generation = htole32(7),
		.region = htole32(3),
		.peer = htole32(5),
		.local_vector = htole32(1),
		.peer_vector = htole32(3),
		.tx_offset = htole64(SIVSHM_PAGE_SIZE),
		.tx_size = htole64(2 * SIVSHM_PAGE_SIZE),
		.rx_offset = htole64(SECTION_SIZE - 17 * SIVSHM_PAGE_SIZE),
		.rx_size = htole64(17 * SIVSHM_PAGE_SIZE),
		.local_service = "sensor",
		.peer_vm = "ivi",
		.peer_service = "dashboard",
	};
}

static void edit(struct image *image, struct input *in)
{
	size_t at = input_u16(in) % sizeof(*image), n = input_u8(in);
	uint8_t bytes[256];
	uint64_t number;

	if (n > 0) {
		struct input part = input_part(in, n);

		n = part.size;
		input_bytes(&part, bytes, n);
	} else {
		uint8_t shift = input_u8(in);

		number = htole64((uint64_t)input_u16(in) << (shift % 64));
		n = sizeof(number);
		memcpy(bytes, &number, n);
	}
	if (n > sizeof(*image) - at)
		n = sizeof(*image) - at;
	memcpy((uint8_t *)image + at, bytes, n);
}

static bool is_string(const uint8_t *text, size_t size)
{
	return text[0] && memchr(text, '\0', size);
}

/* Said once more, in other words than grant.c has. */
static void check_layout(const struct sivshm_layout *l)
{
	must(l->n_slots <= (TABLE_SIZE - 4096) / 256 && l->n_places <= SIVSHM_MAX_SECTIONS);
	must(is_string(l->vm, sizeof(l->vm)));
	for (uint32_t i = 0; i < l->n_places; i++) {
		const struct sivshm_place *p = &l->places[i];

		must(__builtin_popcountll(p->size) == 1 && p->size >= 1 << 20 &&
		     p->size <= 1ULL << 36);
		must(p->member <= 0xffff && p->devfn <= 255);
		must(p->vectors >= 2 && p->vectors <= 64);
		must(is_string(p->region_name, sizeof(p->region_name)));
		must(is_string(p->vm, sizeof(p->vm)));
		must(sivshm_layout_place(l, p->devfn) == p);
		for (uint32_t j = 0; j < i; j++)
			must(l->places[j].region != p->region || l->places[j].member != p->member);
	}
	must(!sivshm_layout_place(l, 256));
}

static void check_window(const struct sivshm_window *w, const struct sivshm_place *section)
{
	must(w->offset >= SIVSHM_PAGE_SIZE && w->offset % SIVSHM_PAGE_SIZE == 0);
	must(__builtin_popcountll(w->ring) == 1);
	must(w->ring >= SIVSHM_PAGE_SIZE && w->ring <= 1ULL << 30);
	/* no sum here that could wrap: all are at most 2^36 by now */
	must(w->offset <= section->size && w->offset + 4096 + w->ring <= section->size);
}

static void check_terms(const struct sivshm_terms *t, const struct sivshm_layout *l)
{
	must(t->generation > 0);
	must(t->own.flags == SIVSHM_SECTION_OWN && t->peer.flags == 0);
	must(t->own.region == t->region && t->peer.region == t->region);
	must(t->peer.member == t->peer_id && t->own.member != t->peer.member);
	must(sivshm_layout_place(l, t->own.devfn) && sivshm_layout_place(l, t->peer.devfn));
	must(t->local_vector > 0 && t->local_vector < t->own.vectors);
	must(t->peer_vector > 0 && t->peer_vector < t->peer.vectors);
	check_window(&t->tx, &t->own);
	check_window(&t->rx, &t->peer);
	must(is_string(t->local_service, sizeof(t->local_service)));
	must(is_string(t->peer_vm, sizeof(t->peer_vm)));
	must(is_string(t->peer_service, sizeof(t->peer_service)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct sivshm_layout *layout = malloc(sizeof(*layout));
	struct sivshm_terms *terms = malloc(sizeof(*terms));
	struct image image;
	int r;

	must(layout && terms);
	make_right(&image);
	while (in.size > 0)
		edit(&image, &in);
	r = sivshm_layout_check(&image.header, TABLE_SIZE, layout);
	must(r == 0 || r == -EBADMSG);
	if (r == 0) {
		check_layout(layout);
		r = sivshm_grant_check(&image.grant, layout, terms);
		must(r == 0 || r == -EBADMSG);
		if (r == 0)
			check_terms(terms, layout);
	}
	must(size > 0 || r == 0); /* the right one is right */
	free(layout);
	free(terms);
	return 0;
}
