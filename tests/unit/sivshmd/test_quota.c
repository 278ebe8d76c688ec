/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "quota.h"

static void limits(void **state)
{
	_cleanup_(quota_freep) struct quota *q = NULL;
	struct failure error;

	(void)state;
	assert_int_equal(quota_new(&q), 0);
	for (int kind = 0; kind < QUOTA_KINDS; kind++) {
		for (unsigned i = 0; i < quota_limit(kind); i++)
			assert_int_equal(quota_charge(q, 1000, kind, &error), 0);
		assert_int_equal(quota_charge(q, 1000, kind, &error), -EDQUOT);
		assert_int_equal(error.code, ERR_QUOTA_EXCEEDED);
		assert_non_null(strstr(error.text, "uid 1000 has "));
		/* others are not touched */
		assert_int_equal(quota_charge(q, 1001, kind, &error), 0);
	}
	quota_release(q, 1000, QUOTA_CONNECT);
	assert_int_equal(quota_charge(q, 1000, QUOTA_CONNECT, &error), 0);
	assert_int_equal(quota_charge(q, 1000, QUOTA_CONNECT, &error), -EDQUOT);
}

static void accounts_end_with_their_last_charge(void **state)
{
	_cleanup_(quota_freep) struct quota *q = NULL;
	struct failure error;

	(void)state;
	assert_int_equal(quota_new(&q), 0);
	for (uid_t uid = 0; uid < 1000; uid++) {
		assert_int_equal(quota_charge(q, uid, QUOTA_LISTENER, &error), 0);
		assert_int_equal(quota_charge(q, uid, QUOTA_ACCEPT, &error), 0);
		quota_release(q, uid, QUOTA_LISTENER);
		assert_int_equal(quota_used(q, uid, QUOTA_ACCEPT), 1);
		quota_release(q, uid, QUOTA_ACCEPT);
		assert_int_equal(quota_used(q, uid, QUOTA_ACCEPT), 0);
	}
	quota_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits),
		cmocka_unit_test(accounts_end_with_their_last_charge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
