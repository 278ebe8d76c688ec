/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "layout.h"

static void expect(const struct layout_entry *e, unsigned slot, const char *region,
		   const char *owner, bool own, unsigned member)
{
	assert_int_equal(e->pci_slot, slot);
	assert_string_equal(e->region->name, region);
	assert_string_equal(e->owner, owner);
	assert_int_equal(e->own, own);
	assert_int_equal(e->member, member);
}

static void test_order(void **state)
{
	struct config *config;
	struct layout l;

	(void)state;
	put_example();
	config = load();
	layout_make(config, config_find_vm(config, "b"), &l);
	assert_int_equal(l.table_slot, 4);
	assert_int_equal(l.n, 5);
	expect(&l.entries[0], 5, "all", "b", true, 1);
	expect(&l.entries[1], 6, "all", "a", false, 0);
	expect(&l.entries[2], 7, "all", "c", false, 2);
	expect(&l.entries[3], 8, "demo", "b", true, 0);
	expect(&l.entries[4], 9, "demo", "a", false, 1);
	layout_make(config, config_find_vm(config, "c"), &l);
	assert_int_equal(l.n, 3);
	expect(&l.entries[0], 0x11, "all", "c", true, 2);
	config_free(config);
}

static void test_no_region(void **state)
{
	struct config *config;
	struct layout l;

	(void)state;
	put("vm.d/a.conf", "[VM a]\nUser=1\n");
	config = load();
	layout_make(config, config_find_vm(config, "a"), &l);
	assert_int_equal(l.n, 0);
	assert_int_equal(l.table_slot, 0x10);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {CASE(test_order), CASE(test_no_region)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
