/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>

#include "fixture.h"
#include "revocations.h"

static void test_refuses_other_text(void **state)
{
	static const char *const bad[] = {
		"a",	     "a\n",	      "A reason\n",	 "a/b/c reason\n",
		" reason\n", "../x reason\n", "a ok\nB broken\n"};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		struct revocations set = {};

		assert_int_equal(revocations_parse(bad[i], &set), -EINVAL);
		assert_int_equal(set.n, 0);
	}
}

static void test_covers(void **state)
{
	const struct peer_name sensor = {"a", "sensor"}, camera = {"a", "camera"};
	struct revocations set = {};

	(void)state;
	assert_null(revocations_covers(&set, &sensor));
	assert_int_equal(revocations_add(&set, "a/sensor", "one"), 1);
	assert_non_null(revocations_covers(&set, &sensor));
	assert_null(revocations_covers(&set, &camera));
	assert_int_equal(revocations_add(&set, "a", "all"), 1);
	assert_string_equal(revocations_covers(&set, &camera)->reason, "all");
	assert_int_equal(revocations_add(&set, "a", "again"), 0);
	assert_string_equal(revocations_covers(&set, &camera)->reason, "again");
	assert_true(revocations_remove(&set, "a"));
	assert_false(revocations_remove(&set, "a"));
	assert_null(revocations_covers(&set, &camera));
	revocations_done(&set);
}

static void test_text(void **state)
{
	struct revocations set = {}, copy = {};
	char *text;

	(void)state;
	revocations_add(&set, "a/sensor", "two\nlines of it");
	revocations_add(&set, "b", "");
	text = revocations_format(&set);
	assert_string_equal(text, "a/sensor two lines of it\nb \n");
	assert_int_equal(revocations_parse(text, &copy), 0);
	assert_int_equal(copy.n, 2);
	assert_string_equal(revocations_find(&copy, "a/sensor")->reason, "two lines of it");
	free(text);
	revocations_done(&set);
	revocations_done(&copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refuses_other_text),
		cmocka_unit_test(test_covers),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
