/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "ratelimit.h"

static void test_interval(void **state)
{
	struct ratelimit r = {};

	(void)state;
	for (unsigned i = 0; i < 5; i++)
		assert_true(ratelimit_take(&r, 1000 + i, 100, 5));
	assert_false(ratelimit_take(&r, 1050, 100, 5));
	assert_false(ratelimit_take(&r, 1099, 100, 5));
	assert_true(ratelimit_take(&r, 1100, 100, 5));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_interval)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
