/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "json-text.h"

/* check() - jansson says the same; @value is taken over */
static void check(json_t *value)
{
	char *ours = json_text(value), *theirs;

	assert_non_null(value);
	theirs = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	assert_string_equal(ours, theirs);
	free(ours);
	free(theirs);
	json_decref(value);
}

static void test_every_character(void **state)
{
	char text[] = "before?after";

	(void)state;
	for (char c = 0; c >= 0 && c < 127; c++) {
		text[6] = c;
		check(json_stringn(text, sizeof(text) - 1));
		check(json_stringn(&c, 1));
	}
	text[6] = 127;
	check(json_string(text));
	check(json_string("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x92\xa1 \xe2\x80\xa8"));
	check(json_string(""));
	check(json_string("\"\\\"\\"));
}

static void test_every_kind(void **state)
{
	(void)state;
	check(json_integer(INT64_MIN));
	check(json_integer(INT64_MAX));
	check(json_integer(0));
	check(json_real(0.25));
	check(json_true());
	check(json_null());
	check(json_object());
	check(json_array());
	check(json_pack("{s:{s:[i,s,{},[]],s:n},s:[[{s:b}]],s:s}", "a", "b", 1, "two", "c", "\"d\"",
			"e", 1, "key\n", "value"));
}

/* At every size of the buffer's growth, give or take one. */
static void test_every_length(void **state)
{
	(void)state;
	for (size_t size = 1024; size <= 8192; size *= 2)
		for (size_t n = size - 8; n < size + 2; n++) {
			char *text = malloc(n + 1);

			memset(text, 'x', n);
			text[n] = '\0';
			check(json_string(text));
			check(json_pack("{s:s,s:i}", "a", text, "b", 1));
			free(text);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_character),
		cmocka_unit_test(test_every_kind),
		cmocka_unit_test(test_every_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
