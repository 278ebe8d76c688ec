/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <openssl/err.h>

#include "warm-up.h"

static void to_the_end(void **state)
{
	struct warm_up *w = warm_up_new();
	struct failure error = {};
	unsigned n = 0;
	int r;

	(void)state;
	assert_non_null(w);
	do {
		r = warm_up_step(w, &error);
		if (r < 0)
			fail_msg("step %u: %s", n, error.text);
		n++;
	} while (r > 0);
	assert_in_range(n, 5, 20); /* in parts: the loop is not kept from others for long */
	assert_int_equal(warm_up_step(w, &error), 0);
	assert_int_equal(ERR_peek_error(), 0);
	warm_up_free(w);
}

/* Wherever a daemon is stopped. */
static void given_up(void **state)
{
	struct failure error;

	(void)state;
	for (unsigned steps = 0; steps < 7; steps++) {
		struct warm_up *w = warm_up_new();

		for (unsigned i = 0; i < steps; i++)
			assert_true(warm_up_step(w, &error) >= 0);
		warm_up_free(w);
	}
	warm_up_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(to_the_end),
					   cmocka_unit_test(given_up)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
