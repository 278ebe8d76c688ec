/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "errors.h"

static void unknown_is_failed(void **state)
{
	(void)state;
	assert_string_equal(error_name(0), "Failed");
	assert_string_equal(error_name(1), "Failed");
	assert_string_equal(error_dbus_name(-1), "org.sivshm1.Error.Failed");
	assert_int_equal(error_errno(12345), EIO);
}

static void names_and_codes(void **state)
{
	(void)state;
	for (int code = ERR_NO_SUCH_OBJECT; code <= ERR_FAILED; code++) {
		assert_true(code == ERR_FAILED || strcmp(error_name(code), "Failed") != 0);
		assert_true(error_errno(code) > 0);
	}
	assert_string_equal(error_name(ERR_REFUSED_BY_HOST), "RefusedByHost");
	assert_string_equal(error_dbus_name(ERR_REVOKED), "org.sivshm1.Error.Revoked");
	assert_string_equal(error_dbus_name(ERR_INVALID_PARAMS),
			    "org.freedesktop.DBus.Error.InvalidArgs");
	assert_int_equal(error_errno(ERR_NOT_AUTHORIZED), EACCES);
	assert_int_equal(error_errno(ERR_PEER_NOT_LISTENING), ECONNREFUSED);
}

static void failure_cuts_long_text(void **state)
{
	struct failure f;

	(void)state;
	assert_int_equal(failure_set(&f, ERR_CLOSED, "%s", repeated('x', 1000)), -EPIPE);
	assert_int_equal(strlen(f.text), ERROR_TEXT_SIZE - 1);
	/* in the middle of a character */
	failure_set(&f, ERR_CLOSED, "%s\xe2\x82\xac", repeated('x', ERROR_TEXT_SIZE - 3));
	assert_int_equal(strlen(f.text), ERROR_TEXT_SIZE - 1);
	assert_string_equal(f.text + ERROR_TEXT_SIZE - 3, "??");
}

static void failure_text_is_printable(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"a\nb\x1b[31m\x7f", "a?b?[31m?"},
		{"\xff\xc3", "??"},
		{"\xc0\xaf", "??"}, /* overlong */
		{"\xe0\x80\x80", "???"},
		{"\xed\xa0\x80", "???"},      /* surrogate */
		{"\xf4\x90\x80\x80", "????"}, /* above U+10FFFF */
		{"\xf0\x80\x80\x80", "????"},
		{"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80",
		 "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"},
	};
	struct failure f;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		failure_set(&f, ERR_FAILED, "%s", cases[i].in);
		assert_string_equal(f.text, cases[i].out);
	}
}

static void failure_without_place(void **state)
{
	(void)state;
	assert_int_equal(failure_set(NULL, ERR_TIMED_OUT, "nobody reads this"), -ETIMEDOUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_is_failed),
		cmocka_unit_test(failure_cuts_long_text),
		cmocka_unit_test(failure_text_is_printable),
		cmocka_unit_test(failure_without_place),
		cmocka_unit_test(names_and_codes),
	};

	return cmocka_run_group_tests_name("errors", tests, NULL, NULL);
}
