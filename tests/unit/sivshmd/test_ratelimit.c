/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include "ratelimit.h"

static void burst_then_silence(void **state)
{
	struct ratelimit l = {};
	unsigned suppressed;

	(void)state;
	for (unsigned i = 0; i < RATELIMIT_BURST; i++)
		assert_true(ratelimit_allow(&l, 1, 5000 + i, &suppressed));
	for (unsigned i = 0; i < 100; i++)
		assert_false(ratelimit_allow(&l, 1, 6000 + i, &suppressed));
	/* another uid has a bucket of its own */
	assert_true(ratelimit_allow(&l, 2, 6200, &suppressed));
	assert_int_equal(suppressed, 0);
	assert_true(ratelimit_allow(&l, 1, 5000 + RATELIMIT_INTERVAL_USEC, &suppressed));
	assert_int_equal(suppressed, 100);
	assert_true(ratelimit_allow(&l, 1, 5001 + RATELIMIT_INTERVAL_USEC, &suppressed));
	assert_int_equal(suppressed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(burst_then_silence)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
