/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>

#include "fixture.h"
#include "table.h"

static const uint32_t numbers[] = {3, 3, 3, 9, 9};
static struct config *config;
static struct layout layout;
static struct table table;
static void *memory;
static size_t size;

static int begin(void **state)
{
	set_up(state);
	put_example();
	config = load();
	layout_make(config, config_find_vm(config, "b"), &layout);
	size = table_size(8);
	memory = aligned_alloc(4096, size);
	memset(memory, 0xa5, size);
	table_format(&table, memory, size, "b", 8, &layout, numbers);
	return 0;
}

static int end(void **state)
{
	free(memory);
	config_free(config);
	return tear_down(state);
}

static struct sivshm_table_header *header(void)
{
	return memory;
}

static void test_attach_refuses(void **state)
{
	struct table t;

	(void)state;
	assert_int_equal(table_attach(&t, memory, size, "b"), 0);
	assert_int_equal(table_attach(&t, memory, size, "a"), -EBADMSG);
	assert_int_equal(table_attach(&t, memory, size / 2, "b"), -EBADMSG);
	assert_int_equal(table_attach(&t, memory, 100, "b"), -EBADMSG);
	header()->n_slots = htole32(9);
	assert_int_equal(table_attach(&t, memory, size, "b"), 0); /* as large, rounded up */
	header()->n_slots = htole32(SIVSHM_MAX_SLOTS + 1);
	assert_int_equal(table_attach(&t, memory, size, "b"), -EBADMSG);
	header()->n_slots = 0;
	assert_int_equal(table_attach(&t, memory, size, "b"), -EBADMSG);
	header()->n_slots = htole32(8);
	header()->n_sections = htole32(SIVSHM_MAX_SECTIONS + 1);
	assert_int_equal(table_attach(&t, memory, size, "b"), -EBADMSG);
	header()->n_sections = 0;
	header()->abi = htole32(2);
	assert_int_equal(table_attach(&t, memory, size, "b"), -EBADMSG);
	header()->abi = htole32(1);
	header()->magic = 0;
	assert_int_equal(table_attach(&t, memory, size, "b"), -EBADMSG);
}

static void test_size(void **state)
{
	(void)state;
	assert_int_equal(table_size(1), 8192);
	assert_int_equal(table_size(16), 8192);
	assert_int_equal(table_size(17), 16384);
	assert_int_equal(table_size(256), 128 * 1024);
	assert_int_equal(table_size(SIVSHM_MAX_SLOTS), SIVSHM_MAX_TABLE_SIZE);
	assert_true(SIVSHM_MAX_TABLE_SIZE < SIVSHM_MIN_SECTION_SIZE);
}

static void test_layout_is_written(void **state)
{
	struct table_section s;

	(void)state;
	assert_memory_equal(memory, "SIVSHMT1", 8);
	assert_int_equal(table_n_sections(&table), 5);
	table_section(&table, 3, &s);
	assert_int_equal(s.region, 9);
	assert_int_equal(s.member, 0);
	assert_int_equal(s.size, 4 << 20);
	assert_int_equal(s.vectors, 4);
	assert_true(s.own);
	assert_string_equal(s.region_name, "demo");
	assert_string_equal(s.vm, "b");
	assert_int_equal(le32toh(header()->sections[3].devfn), 8 << 3);
	table_section(&table, 4, &s);
	assert_false(s.own);
	assert_string_equal(s.vm, "a");
	assert_true(table_same_layout(&table, 8, &layout, numbers));
	assert_false(table_same_layout(&table, 9, &layout, numbers));
	layout.entries[2].pci_slot++;
	assert_false(table_same_layout(&table, 8, &layout, numbers));
}

static struct grant example(void)
{
	struct grant g = {
		.region = 9,
		.peer = 1,
		.local_vector = 1,
		.peer_vector = 2,
		.tx_offset = 4096,
		.tx_size = 8192,
		.rx_offset = 12288,
		.rx_size = 16384,
		.opened_usec = 123456789,
		.connecting = true,
		.local_service = "dashboard",
		.peer_vm = "a",
		.peer_service = "sensor",
	};

	memset(g.channel, 0x5a, sizeof(g.channel));
	return g;
}

static void expect_same(const struct grant *a, const struct grant *b)
{
	assert_memory_equal(a->channel, b->channel, sizeof(a->channel));
	assert_int_equal(a->region, b->region);
	assert_int_equal(a->peer, b->peer);
	assert_int_equal(a->local_vector, b->local_vector);
	assert_int_equal(a->peer_vector, b->peer_vector);
	assert_int_equal(a->tx_offset, b->tx_offset);
	assert_int_equal(a->tx_size, b->tx_size);
	assert_int_equal(a->rx_offset, b->rx_offset);
	assert_int_equal(a->rx_size, b->rx_size);
	assert_int_equal(a->opened_usec, b->opened_usec);
	assert_int_equal(a->connecting, b->connecting);
	assert_string_equal(a->local_service, b->local_service);
	assert_string_equal(a->peer_vm, b->peer_vm);
	assert_string_equal(a->peer_service, b->peer_service);
}

static void test_grant(void **state)
{
	struct grant g = example(), back;
	uint32_t slot;

	(void)state;
	assert_int_equal(table_find_free(&table, &slot), 0);
	assert_int_equal(slot, 0);
	assert_int_equal(table_activate(&table, slot, &g), 1);
	table_read(&table, slot, &back);
	expect_same(&g, &back);
	assert_int_equal(back.state, SIVSHM_GRANT_ACTIVE);
	assert_int_equal(back.generation, 1);
	assert_int_equal(table_find_free(&table, &slot), 0);
	assert_int_equal(slot, 1);
	table_set_state(&table, 0, SIVSHM_GRANT_REVOKED);
	assert_int_equal(table_state(&table, 0), SIVSHM_GRANT_REVOKED);
	table_set_state(&table, 0, SIVSHM_GRANT_FREE);
	assert_int_equal(table_activate(&table, 0, &g), 2);
}

static void test_generation_is_never_zero(void **state)
{
	struct sivshm_grant *entry = (struct sivshm_grant *)(header() + 1);
	struct grant g = example();

	(void)state;
	entry->generation = htole32(UINT32_MAX);
	assert_int_equal(table_activate(&table, 0, &g), 1);
}

static void test_full(void **state)
{
	struct grant g = example();
	uint32_t slot;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(table_find_free(&table, &slot), 0);
		table_activate(&table, slot, &g);
	}
	assert_int_equal(table_find_free(&table, &slot), -EBUSY);
	for (uint32_t free = 5; free >= 3; free -= 2) { /* the lowest one, also if it came later */
		table_set_state(&table, free, SIVSHM_GRANT_REVOKED);
		table_set_state(&table, free, SIVSHM_GRANT_FREE);
		assert_int_equal(table_find_free(&table, &slot), 0);
		assert_int_equal(slot, free);
	}
	table_activate(&table, 3, &g);
	assert_int_equal(table_find_free(&table, &slot), 0);
	assert_int_equal(slot, 5);
}

static void test_format_again(void **state)
{
	uint64_t epoch = le64toh(header()->epoch);
	struct grant g = example();

	(void)state;
	table_activate(&table, 0, &g);
	table_format(&table, memory, size, "b", 8, &layout, numbers);
	assert_int_equal(le64toh(header()->epoch), epoch + 1);
	assert_int_equal(table_state(&table, 0), SIVSHM_GRANT_FREE);
	assert_int_equal(table_activate(&table, 0, &g), 2); /* goes on counting */
	table_format(&table, memory, size, "c", 8, &layout,
		     numbers); /* another VM's: nothing is kept */
	assert_int_equal(table_activate(&table, 0, &g), 1);
}

#define TABLE_CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TABLE_CASE(test_attach_refuses),
		TABLE_CASE(test_size),
		TABLE_CASE(test_layout_is_written),
		TABLE_CASE(test_grant),
		TABLE_CASE(test_generation_is_never_zero),
		TABLE_CASE(test_full),
		TABLE_CASE(test_format_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
