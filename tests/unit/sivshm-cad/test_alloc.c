/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>

#include "alloc.h"
#include "fixture.h"

#define PAGE 4096ULL

static struct alloc a;

static int begin(void **state)
{
	(void)state;
	alloc_init(&a, PAGE, 64 * PAGE);
	return 0;
}

static int end(void **state)
{
	(void)state;
	alloc_done(&a);
	return 0;
}

static void test_refusals(void **state)
{
	uint64_t offset;

	(void)state;
	assert_int_equal(alloc_take(&a, 0, &offset), -EINVAL);
	assert_int_equal(alloc_take(&a, PAGE + 1, &offset), -EINVAL);
	assert_int_equal(alloc_take(&a, 64 * PAGE, &offset), -ENOSPC);
	assert_int_equal(alloc_take(&a, UINT64_MAX - PAGE + 1, &offset), -ENOSPC);
	assert_int_equal(alloc_take_at(&a, 0, PAGE), -EINVAL);
	assert_int_equal(alloc_take_at(&a, PAGE, 0), -EINVAL);
	assert_int_equal(alloc_take_at(&a, PAGE + 1, PAGE), -EINVAL);
	assert_int_equal(alloc_take_at(&a, 63 * PAGE, 2 * PAGE), -EINVAL);
	assert_int_equal(alloc_take_at(&a, 2 * PAGE, UINT64_MAX - PAGE + 1), -EINVAL);
	assert_int_equal(alloc_take_at(&a, 65 * PAGE, PAGE), -EINVAL);
	assert_int_equal(alloc_give(&a, PAGE), -ENOENT);
	assert_int_equal(alloc_quarantine(&a, PAGE), -ENOENT);
}

static void test_first_fit(void **state)
{
	uint64_t x, y, z, w;

	(void)state;
	assert_int_equal(alloc_take(&a, 2 * PAGE, &x), 0);
	assert_int_equal(alloc_take(&a, 3 * PAGE, &y), 0);
	assert_int_equal(alloc_take(&a, PAGE, &z), 0);
	assert_int_equal(x, PAGE);
	assert_int_equal(y, 3 * PAGE);
	assert_int_equal(z, 6 * PAGE);
	assert_int_equal(alloc_give(&a, y), 0);
	assert_int_equal(alloc_take(&a, 4 * PAGE, &w), 0);
	assert_int_equal(w, 7 * PAGE); /* does not fit the gap */
	assert_int_equal(alloc_take(&a, 3 * PAGE, &w), 0);
	assert_int_equal(w, y);
}

static void test_take_at(void **state)
{
	(void)state;
	assert_int_equal(alloc_take_at(&a, 10 * PAGE, 4 * PAGE), 0);
	assert_int_equal(alloc_take_at(&a, 10 * PAGE, PAGE), -EEXIST);
	assert_int_equal(alloc_take_at(&a, 13 * PAGE, 2 * PAGE), -EEXIST);
	assert_int_equal(alloc_take_at(&a, 9 * PAGE, 2 * PAGE), -EEXIST);
	assert_int_equal(alloc_take_at(&a, 9 * PAGE, 8 * PAGE), -EEXIST);
	assert_int_equal(alloc_take_at(&a, 14 * PAGE, 50 * PAGE), 0);
	assert_int_equal(alloc_take_at(&a, PAGE, 9 * PAGE), 0);
}

static void test_quarantine_is_not_free(void **state)
{
	uint64_t x, y, granted, quarantined;

	(void)state;
	assert_int_equal(alloc_take(&a, 60 * PAGE, &x), 0);
	assert_int_equal(alloc_quarantine(&a, x), 0);
	assert_int_equal(alloc_take(&a, 4 * PAGE, &y), -ENOSPC);
	alloc_totals(&a, &granted, &quarantined);
	assert_int_equal(granted, 0);
	assert_int_equal(quarantined, 60 * PAGE);
	assert_int_equal(alloc_give(&a, x), 0);
	assert_int_equal(alloc_take(&a, 63 * PAGE, &y), 0);
}

/* whatever is taken and given in whatever order: extents stay apart, in order, inside */
static void test_random(void **state)
{
	uint64_t offset;

	(void)state;
	srand(7);
	for (unsigned i = 0; i < 100000; i++) {
		if (a.n > 0 && rand() % 2)
			assert_int_equal(alloc_give(&a, a.extents[(size_t)rand() % a.n].offset), 0);
		else
			alloc_take(&a, (1 + (uint64_t)rand() % 8) * PAGE, &offset);
		for (size_t j = 0, from = PAGE; j < a.n; j++) {
			assert_true(a.extents[j].offset >= from);
			from = a.extents[j].offset + a.extents[j].size;
			assert_true(from <= 64 * PAGE);
		}
	}
	while (a.n > 0)
		alloc_give(&a, a.extents[0].offset);
	assert_int_equal(alloc_take(&a, 63 * PAGE, &offset), 0);
}

#define ALLOC_CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ALLOC_CASE(test_refusals), ALLOC_CASE(test_first_fit),
		ALLOC_CASE(test_take_at),  ALLOC_CASE(test_quarantine_is_not_free),
		ALLOC_CASE(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
