/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "grant.h"

#define PAGE SIVSHM_PAGE_SIZE
#define TABLE_SIZE (128 * 1024)
#define SECTION_SIZE (1U << 20)

static struct sivshm_section_desc place(uint32_t region, uint32_t member, uint32_t flags)
{
	struct sivshm_section_desc desc = {
		.region = region,
		.member = member,
		.devfn = region * 16 + member,
		.flags = flags,
		.size = SECTION_SIZE,
		.vectors = 4,
		.region_name = "cockpit",
		.vm = "rtos",
	};

	return desc;
}

/* Member 1 of regions 3 and 4, with peers 2 and 5 in the first and 2 in the second. */
static struct sivshm_table_header right_header(void)
{
	struct sivshm_table_header header = {
		.magic = SIVSHM_TABLE_MAGIC,
		.abi = SIVSHM_TABLE_ABI,
		.grant_size = SIVSHM_GRANT_SIZE,
		.n_slots = 64,
		.n_sections = 5,
		.epoch = 9,
		.vm = "rtos",
	};

	header.sections[0] = place(3, 1, SIVSHM_SECTION_OWN);
	header.sections[1] = place(3, 2, 0);
	header.sections[2] = place(3, 5, 0);
	header.sections[3] = place(4, 1, SIVSHM_SECTION_OWN);
	header.sections[4] = place(4, 2, 0);
	return header;
}

static struct sivshm_grant right_grant(void)
{
	struct sivshm_grant grant = {
		.state = SIVSHM_GRANT_ACTIVE,
		.generation = 7,
		.channel = {1, 2, 3},
		.region = 3,
		.peer = 5,
		.local_vector = 1,
		.peer_vector = 3,
		.tx_offset = PAGE,
		.tx_size = 2 * PAGE,
		.rx_offset = SECTION_SIZE - 17 * PAGE,
		.rx_size = 17 * PAGE,
		.local_service = "sensor",
		.peer_vm = "ivi",
		.peer_service = "dashboard",
	};

	return grant;
}

static int check_header(const struct sivshm_table_header *header)
{
	struct sivshm_layout layout;

	return sivshm_layout_check(header, TABLE_SIZE, &layout);
}

static int check_grant(const struct sivshm_grant *grant, struct sivshm_terms *ret_terms)
{
	struct sivshm_table_header header = right_header();
	struct sivshm_layout layout;

	assert_int_equal(sivshm_layout_check(&header, TABLE_SIZE, &layout), 0);
	return sivshm_grant_check(grant, &layout, ret_terms);
}

#define assert_header_refused(change)                               \
	do {                                                        \
		struct sivshm_table_header header = right_header(); \
		change;                                             \
		assert_int_equal(check_header(&header), -EBADMSG);  \
	} while (0)

#define assert_grant_refused(change)                                     \
	do {                                                             \
		struct sivshm_grant grant = right_grant();               \
		struct sivshm_terms terms;                               \
		change;                                                  \
		assert_int_equal(check_grant(&grant, &terms), -EBADMSG); \
	} while (0)

static void test_header_refused(void **state)
{
	(void)state;
	assert_header_refused(header.magic ^= 1);
	assert_header_refused(header.abi = 2);
	assert_header_refused(header.grant_size = 255);
	assert_header_refused(header.n_slots = SIVSHM_MAX_SLOTS + 1);
	assert_header_refused(header.n_slots = (TABLE_SIZE - PAGE) / SIVSHM_GRANT_SIZE + 1);
	assert_header_refused(header.n_slots = UINT32_MAX);
	assert_header_refused(header.n_sections = SIVSHM_MAX_SECTIONS + 1);
	assert_header_refused(header.n_sections = 6); /* an empty entry */
	assert_header_refused(memset(header.vm, 'x', sizeof(header.vm)));
	assert_header_refused(memset(header.vm, 0, sizeof(header.vm)));
}

static void test_place_refused(void **state)
{
	(void)state;
	assert_header_refused(header.sections[4].member = SIVSHM_MAX_PEER_ID + 1);
	assert_header_refused(header.sections[4].devfn = 0x100);
	assert_header_refused(header.sections[4].flags = 2);
	assert_header_refused(header.sections[4].vectors = 1);
	assert_header_refused(header.sections[4].vectors = SIVSHM_MAX_VECTORS + 1);
	assert_header_refused(header.sections[4].size = 0);
	assert_header_refused(header.sections[4].size = SIVSHM_MIN_SECTION_SIZE / 2);
	assert_header_refused(header.sections[4].size = SIVSHM_MAX_SECTION_SIZE * 2);
	assert_header_refused(header.sections[4].size = 3 * SIVSHM_MIN_SECTION_SIZE);
	assert_header_refused(memset(header.sections[4].region_name, 'x', SIVSHM_REGION_NAME_SIZE));
	assert_header_refused(header.sections[4].vm[0] = 0);
}

static void test_places_clash(void **state)
{
	(void)state;
	assert_header_refused(header.sections[4].devfn = header.sections[0].devfn);
	assert_header_refused(header.sections[2].member = 2);
	assert_header_refused(header.sections[2].member = 1);
	assert_header_refused(header.sections[2].flags = SIVSHM_SECTION_OWN);
}

static void test_header_right(void **state)
{
	struct sivshm_table_header header = right_header();
	struct sivshm_layout layout;

	(void)state;
	assert_int_equal(sivshm_layout_check(&header, TABLE_SIZE, &layout), 0);
	assert_int_equal(layout.n_places, 5);
	assert_int_equal(layout.epoch, 9);
	assert_ptr_equal(sivshm_layout_place(&layout, 3 * 16 + 5), &layout.places[2]);
	assert_null(sivshm_layout_place(&layout, 1));

	header.n_slots = (TABLE_SIZE - PAGE) / SIVSHM_GRANT_SIZE;
	assert_int_equal(check_header(&header), 0);
	header.n_slots = header.n_sections = 0;
	assert_int_equal(check_header(&header), 0);
}

static void test_grant_refused(void **state)
{
	(void)state;
	assert_grant_refused(grant.generation = 0);
	assert_grant_refused(grant.region = 5);
	assert_grant_refused(grant.region = 4); /* has no member 5 */
	assert_grant_refused(grant.peer = 1);	/* oneself */
	assert_grant_refused(grant.peer = 3);
	assert_grant_refused(grant.local_vector = 0);
	assert_grant_refused(grant.local_vector = 4);
	assert_grant_refused(grant.peer_vector = 0);
	assert_grant_refused(grant.peer_vector = UINT32_MAX);
	assert_grant_refused(memset(grant.local_service, 'x', sizeof(grant.local_service)));
	assert_grant_refused(memset(grant.peer_vm, 'x', sizeof(grant.peer_vm)));
	assert_grant_refused(grant.peer_service[0] = 0);
}

static void test_window_refused(void **state)
{
	(void)state;
	assert_grant_refused(grant.tx_offset = 0);
	assert_grant_refused(grant.tx_offset = PAGE + 1);
	assert_grant_refused(grant.tx_offset = SECTION_SIZE);
	assert_grant_refused(grant.tx_offset = SECTION_SIZE - PAGE);
	assert_grant_refused(grant.tx_offset = UINT64_MAX - 4095);
	assert_grant_refused(grant.rx_offset += PAGE);
	assert_grant_refused(grant.rx_offset = 1ULL << 63);
	assert_grant_refused(grant.tx_size = 0);
	assert_grant_refused(grant.tx_size = PAGE);
	assert_grant_refused(grant.tx_size = PAGE + 2048);
	assert_grant_refused(grant.tx_size = 4 * PAGE);
	assert_grant_refused(grant.tx_size = PAGE + SECTION_SIZE);
	assert_grant_refused(grant.tx_size = PAGE + SIVSHM_MAX_RING_SIZE * 2);
	assert_grant_refused(grant.rx_size = UINT64_MAX);
	assert_grant_refused(grant.rx_size = PAGE + (1ULL << 63));
}

static void test_grant_right(void **state)
{
	struct sivshm_grant grant = right_grant();
	struct sivshm_terms terms;

	(void)state;
	assert_int_equal(check_grant(&grant, &terms), 0);
	assert_int_equal(terms.generation, 7);
	assert_int_equal(terms.own.member, 1);
	assert_int_equal(terms.peer.member, 5);
	assert_int_equal(terms.peer.region, 3);
	assert_int_equal(terms.tx.ring, PAGE);
	assert_int_equal(terms.rx.ring, 16 * PAGE);
	assert_int_equal(terms.rx.offset, SECTION_SIZE - 17 * PAGE);
	assert_string_equal((const char *)terms.peer_service, "dashboard");
}

/* Mutations. What is accepted must keep its promises, by arithmetic that cannot overflow. */

static uint64_t seed = 0x243f6a8885a308d3;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t interesting(void)
{
	uint64_t bit = 1ULL << (next_random() % 64);

	switch (next_random() % 4) {
	case 0:
		return bit;
	case 1:
		return bit + PAGE * (next_random() % 3);
	case 2:
		return -bit;
	default:
		return next_random() % 8;
	}
}

static void mutate(void *object, size_t size)
{
	uint64_t value = interesting();
	size_t width = next_random() % 2 ? 4 : 8;
	size_t at = next_random() % (size / width) * width;

	memcpy((char *)object + at, &value, width);
}

static void assert_window(const struct sivshm_window *window, uint64_t section)
{
	assert_true(window->offset >= PAGE && window->offset % PAGE == 0);
	assert_true(window->ring >= PAGE && (window->ring & (window->ring - 1)) == 0);
	assert_true((unsigned __int128)window->offset + PAGE + window->ring <= section);
}

static void assert_terms(const struct sivshm_terms *terms)
{
	assert_window(&terms->tx, terms->own.size);
	assert_window(&terms->rx, terms->peer.size);
	assert_true(terms->own.flags & SIVSHM_SECTION_OWN);
	assert_false(terms->peer.flags & SIVSHM_SECTION_OWN);
	assert_int_equal(terms->own.region, terms->peer.region);
	assert_int_equal(terms->peer.member, terms->peer_id);
	assert_true(terms->local_vector > 0 && terms->local_vector < terms->own.vectors);
	assert_true(terms->peer_vector > 0 && terms->peer_vector < terms->peer.vectors);
	assert_non_null(memchr(terms->local_service, 0, sizeof(terms->local_service)));
	assert_non_null(memchr(terms->peer_vm, 0, sizeof(terms->peer_vm)));
	assert_non_null(memchr(terms->peer_service, 0, sizeof(terms->peer_service)));
}

static void test_mutations(void **state)
{
	unsigned accepted = 0;

	(void)state;
	for (int i = 0; i < 300000; i++) {
		struct sivshm_table_header header = right_header();
		struct sivshm_grant grant = right_grant();
		struct sivshm_layout layout;
		struct sivshm_terms terms;

		for (uint64_t n = next_random() % 3; n > 0; n--)
			mutate(&header, 128 + 5 * sizeof(struct sivshm_section_desc));
		for (uint64_t n = next_random() % 3; n > 0; n--)
			mutate(&grant, sizeof(grant));
		if (sivshm_layout_check(&header, TABLE_SIZE, &layout) < 0)
			continue;
		assert_true(PAGE + (uint64_t)layout.n_slots * SIVSHM_GRANT_SIZE <= TABLE_SIZE);
		assert_true(layout.n_places <= SIVSHM_MAX_SECTIONS);
		if (sivshm_grant_check(&grant, &layout, &terms) < 0)
			continue;
		assert_terms(&terms);
		accepted++;
	}
	assert_true(accepted > 1000); /* else nothing was tried */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header_refused), cmocka_unit_test(test_place_refused),
		cmocka_unit_test(test_places_clash),   cmocka_unit_test(test_header_right),
		cmocka_unit_test(test_grant_refused),  cmocka_unit_test(test_window_refused),
		cmocka_unit_test(test_grant_right),    cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
