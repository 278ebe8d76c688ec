/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "conf.h"

static void sizes(void **state)
{
	static const char *const bad[] = {"",	"K",   "-1", "+1",   " 1",   "1 ", "1 K",
					  "1k", "1KB", "1T", "1.5M", "0x10", "1MM"};
	uint64_t n = 99;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(conf_parse_size(bad[i], &n), -EINVAL);
	assert_int_equal(conf_parse_size("18446744073709551616", &n), -ERANGE);
	assert_int_equal(conf_parse_size("18446744073709551615K", &n), -ERANGE);
	assert_int_equal(conf_parse_size("99999999999999999999999999", &n), -ERANGE);
	assert_int_equal(conf_parse_size("0", &n), 0);
	assert_true(n == 0);
	assert_int_equal(conf_parse_size("18446744073709551615", &n), 0);
	assert_true(n == UINT64_MAX);
	assert_int_equal(conf_parse_size("16M", &n), 0);
	assert_true(n == 16 << 20);
	assert_int_equal(conf_parse_size("64G", &n), 0);
	assert_true(n == 64ULL << 30);
	assert_int_equal(conf_parse_size("4K", &n), 0);
	assert_true(n == 4096);
}

static void times(void **state)
{
	static const char *const bad[] = {"",	   "s",	      "-1s",  "1 s", "1S", "1m",
					  "1hour", "1h30min", "1.5s", "1,5", "inf"};
	static const struct {
		const char *text;
		uint64_t usec;
	} good[] = {{"0", 0},	     {"10", 10000000},	  {"3us", 3},	      {"4ms", 4000},
		    {"5s", 5000000}, {"2min", 120000000}, {"1h", 3600000000}, {"1d", 86400000000}};
	uint64_t usec;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(conf_parse_time(bad[i], &usec), -EINVAL);
	assert_int_equal(conf_parse_time("18446744073709551615", &usec), -ERANGE);
	assert_int_equal(conf_parse_time("213503983d", &usec), -ERANGE);
	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		assert_int_equal(conf_parse_time(good[i].text, &usec), 0);
		assert_true(usec == good[i].usec);
	}
}

static void unsigneds(void **state)
{
	static const char *const bad[] = {"",	"-1",  "+1",   " 1",   "1 ",  "010", "00",
					  "0x", "0xg", "0x-1", "0x 1", "x10", "1K",  "0X10"};
	unsigned n = 0;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(conf_parse_unsigned(bad[i], 0, 100, &n), -EINVAL);
	assert_int_equal(conf_parse_unsigned("101", 0, 100, &n), -ERANGE);
	assert_int_equal(conf_parse_unsigned("1", 2, 100, &n), -ERANGE);
	assert_int_equal(conf_parse_unsigned("4294967296", 0, UINT32_MAX, &n), -ERANGE);
	assert_int_equal(conf_parse_unsigned("99999999999999999999", 0, UINT32_MAX, &n), -ERANGE);
	assert_int_equal(conf_parse_unsigned("0x10000000000000000", 0, UINT32_MAX, &n), -ERANGE);
	assert_int_equal(conf_parse_unsigned("0x10", 0, 31, &n), 0);
	assert_int_equal(n, 16);
	assert_int_equal(conf_parse_unsigned("0", 0, 31, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(conf_parse_unsigned("31", 0, 31, &n), 0);
	assert_int_equal(n, 31);
}

static void users(void **state)
{
	uint32_t uid = 1, gid = 1;

	(void)state;
	assert_int_equal(conf_parse_user("", &uid, &gid), -EINVAL);
	assert_int_equal(conf_parse_user("no-such-user-here", &uid, &gid), -EINVAL);
	assert_int_equal(conf_parse_user("-1", &uid, &gid), -EINVAL);
	assert_int_equal(conf_parse_user("4294967295", &uid, &gid), -ERANGE);
	assert_int_equal(conf_parse_user("65535", &uid, &gid), -ERANGE);
	assert_int_equal(conf_parse_user("4294967296", &uid, &gid), -ERANGE);
	assert_int_equal(conf_parse_user("root", &uid, &gid), 0);
	assert_int_equal(uid, 0);
	assert_int_equal(gid, 0);
	assert_int_equal(conf_parse_user("48879123", &uid, &gid), 0); /* nobody's */
	assert_int_equal(uid, 48879123);
	assert_int_equal(gid, 48879123);
	assert_int_equal(conf_parse_user("0", &uid, &gid), 0);
	assert_int_equal(uid, 0);
}

static void groups(void **state)
{
	uint32_t gid = 1;

	(void)state;
	assert_int_equal(conf_parse_group("", &gid), -EINVAL);
	assert_int_equal(conf_parse_group("no-such-group-here", &gid), -EINVAL);
	assert_int_equal(conf_parse_group("4294967295", &gid), -ERANGE);
	assert_int_equal(conf_parse_group("root", &gid), 0);
	assert_int_equal(gid, 0);
	assert_int_equal(conf_parse_group("1234", &gid), 0);
	assert_int_equal(gid, 1234);
}

static void lists(void **state)
{
	char **words = NULL;
	size_t n = 99;

	(void)state;
	assert_int_equal(conf_split("", &words, &n), 0);
	assert_int_equal(n, 0);
	assert_null(words[0]);
	words = conf_words_free(words);
	assert_int_equal(conf_split(" \t ", &words, &n), 0);
	assert_int_equal(n, 0);
	words = conf_words_free(words);
	assert_int_equal(conf_split("a", &words, &n), 0);
	assert_int_equal(n, 1);
	words = conf_words_free(words);
	assert_int_equal(conf_split("a b\tcc  d ", &words, &n), 0);
	assert_int_equal(n, 4);
	assert_string_equal(words[2], "cc");
	assert_string_equal(words[3], "d");
	assert_null(words[4]);
	words = conf_words_free(words);
	assert_null(conf_words_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes), cmocka_unit_test(times),  cmocka_unit_test(unsigneds),
		cmocka_unit_test(users), cmocka_unit_test(groups), cmocka_unit_test(lists),
	};

	return cmocka_run_group_tests_name("conf-value", tests, NULL, NULL);
}
