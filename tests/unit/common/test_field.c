/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "field.h"
#include "message.h"

/* One member "x" with @value (taken over). */
static json_t *object_with(json_t *value)
{
	json_t *o = json_object();

	assert_int_equal(json_object_set_new(o, "x", value), 0);
	return o;
}

static int end(struct field_reader *f, json_t *object, const char *expected)
{
	int r = field_end(f);

	if (expected)
		assert_non_null(strstr(f->error->text, expected));
	json_decref(object);
	return r;
}

static void not_an_object(void **state)
{
	struct failure error = {};
	json_t *array = json_array();
	struct field_reader f = field_begin(array, &error);

	(void)state;
	assert_null(field_get(&f, "x"));
	assert_int_equal(end(&f, array, "object"), -EBADMSG);
	assert_int_equal(error.code, ERR_INVALID_PARAMS);
	f = field_begin(NULL, &error);
	assert_int_equal(field_end(&f), -EBADMSG);
}

static void missing_and_unknown(void **state)
{
	struct failure error = {};
	json_t *o = object_with(json_true());
	struct field_reader f = field_begin(o, &error);

	(void)state;
	assert_int_equal(end(&f, o, "unknown member"), -EBADMSG);
	o = object_with(json_true());
	f = field_begin(o, &error);
	field_get(&f, "y");
	assert_null(field_get(&f, "x")); /* the first failure sticks */
	assert_int_equal(end(&f, o, "y: missing"), -EBADMSG);
}

static void integers(void **state)
{
	const struct {
		json_t *value;
		const char *expected;
	} cases[] = {
		{json_string("5"), "whole number"},
		{json_real(5.0), "whole number"},
		{json_true(), "whole number"},
		{json_null(), "whole number"},
		{json_array(), "whole number"},
		{json_integer(4), "range"},
		{json_integer(8), "range"},
		{json_integer(INT64_MIN), "range"},
		{json_integer(INT64_MAX), "range"},
		{json_integer(5), NULL},
		{json_integer(7), NULL},
	};
	struct failure error = {};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		json_t *o = object_with(cases[i].value);
		struct field_reader f = field_begin(o, &error);
		int64_t n = 99;

		field_integer(&f, "x", 5, 7, &n);
		assert_int_equal(end(&f, o, cases[i].expected), cases[i].expected ? -EBADMSG : 0);
		assert_true(cases[i].expected ? n == 99 : n >= 5 && n <= 7);
	}
}

static void texts(void **state)
{
	const struct {
		json_t *value;
		const char *expected;
	} cases[] = {
		{json_integer(5), "string"},
		{json_null(), "string"},
		{json_string("12345678"), "too long"},
		{json_stringn("a\0b", 3), "NUL"},
		{json_string("a\nb"), "control"},
		{json_string("a\x7f"), "control"},
		{json_string(""), NULL},
		{json_string("1234567"), NULL},
		{json_string("\xc3\xa4"), NULL},
	};
	struct failure error = {};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		json_t *o = object_with(cases[i].value);
		struct field_reader f = field_begin(o, &error);
		char text[8];

		field_text(&f, "x", text, sizeof(text));
		assert_int_equal(end(&f, o, cases[i].expected), cases[i].expected ? -EBADMSG : 0);
	}
}

static void pems(void **state)
{
	const struct {
		json_t *value;
		const char *expected;
	} cases[] = {
		{json_array(), "string"},	   {json_string(""), "empty"},
		{json_string("a\tb"), "not PEM"},  {json_string("\xc3\xa4"), "not PEM"},
		{json_string("\x1b"), "not PEM"},  {json_string("123456789"), "too long"},
		{json_string("a\r\nb=/ +"), NULL},
	};
	struct failure error = {};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		json_t *o = object_with(cases[i].value);
		struct field_reader f = field_begin(o, &error);
		char *text = NULL;

		field_pem(&f, "x", 8, &text);
		assert_int_equal(end(&f, o, cases[i].expected), cases[i].expected ? -EBADMSG : 0);
		assert_true(cases[i].expected ? text == NULL : text != NULL);
		free(text);
	}
}

/* Every value has one text. */
static void base64_refused(void **state)
{
	static const char *const bad[] = {
		"",	  "=",	    "====", "A",     "AA",	     "AAA",
		"A===",	  "AB==",   "AAB=", "AA=A",  " AAAA",	     "AAAA ",
		"AA\nAA", "AAAA\n", "AA-_", "AAAA=", "AAAA====",     "AA==AAAA",
		"A A=",	  "AA= ",   "=AAA", "AAA*",  "AAAAAAAAAAAA", "A=A=",
	};
	struct failure error = {};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		json_t *o = object_with(json_string(bad[i]));
		struct field_reader f = field_begin(o, &error);
		uint8_t *data = NULL;
		size_t size = 0;

		field_binary(&f, "x", 6, &data, &size);
		if (end(&f, o, NULL) != -EBADMSG)
			fail_msg("accepted '%s'", bad[i]);
		assert_null(data);
	}
}

static void base64_lengths(void **state)
{
	static const char *const good[] = {"AA==",     "AAA=",	   "AAAA",
					   "AAAAAA==", "AAAAAAA=", "AAAAAAAA"};
	struct failure error = {};
	uint8_t exact[4];

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		json_t *o = object_with(json_string(good[i]));
		struct field_reader f = field_begin(o, &error);
		uint8_t *data = NULL;
		size_t size = 0;

		field_binary(&f, "x", 6, &data, &size);
		assert_int_equal(end(&f, o, NULL), 0);
		assert_int_equal(size, i + 1);
		free(data);

		o = object_with(json_string(good[i]));
		f = field_begin(o, &error);
		field_binary_exact(&f, "x", exact, sizeof(exact));
		assert_int_equal(end(&f, o, NULL), i + 1 == sizeof(exact) ? 0 : -EBADMSG);
	}
}

static void hex(void **state)
{
	uint8_t data[2] = {1, 2};
	char text[5];

	(void)state;
	assert_int_equal(hex_decode("", data, 2), -EINVAL);
	assert_int_equal(hex_decode("000", data, 2), -EINVAL);
	assert_int_equal(hex_decode("00000", data, 2), -EINVAL);
	assert_int_equal(hex_decode("00AA", data, 2), -EINVAL);
	assert_int_equal(hex_decode("00g0", data, 2), -EINVAL);
	assert_int_equal(hex_decode("0x00", data, 2), -EINVAL);
	assert_int_equal(hex_decode("fe09", data, 2), 0);
	assert_int_equal(data[0], 0xfe);
	hex_encode(data, 2, text);
	assert_string_equal(text, "fe09");
}

/* All 256 values, all three paddings. */
static void writer_round_trip(void **state)
{
	struct failure error = {};
	uint8_t in[258], *out = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7);
	for (size_t size = 256; size <= sizeof(in); size++) {
		struct field_writer w = field_new();
		struct field_reader f;
		size_t got;
		uint8_t again[258];
		json_t *o;

		field_put_binary(&w, "x", in, size);
		field_put_hex(&w, "y", in, size);
		o = field_finish(&w);
		assert_non_null(o);
		f = field_begin(o, &error);
		field_binary(&f, "x", sizeof(in), &out, &got);
		field_hex(&f, "y", again, size);
		assert_int_equal(end(&f, o, NULL), 0);
		assert_int_equal(got, size);
		assert_memory_equal(out, in, size);
		assert_memory_equal(again, in, size);
		free(out);
	}
}

static void writer_failure_sticks(void **state)
{
	struct field_writer w = field_new();

	(void)state;
	field_put(&w, "a", json_true());
	field_put(&w, "b", NULL);
	field_put(&w, "c", json_true());
	assert_null(field_finish(&w));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(not_an_object),
		cmocka_unit_test(missing_and_unknown),
		cmocka_unit_test(integers),
		cmocka_unit_test(texts),
		cmocka_unit_test(pems),
		cmocka_unit_test(base64_refused),
		cmocka_unit_test(base64_lengths),
		cmocka_unit_test(hex),
		cmocka_unit_test(writer_failure_sticks),
		cmocka_unit_test(writer_round_trip),
	};

	return cmocka_run_group_tests_name("field", tests, NULL, NULL);
}
