/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "json-text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

#define FIRST_ALLOCATION 1024

struct text {
	char *data;
	size_t used, allocated;
};

static int put(struct text *t, const char *bytes, size_t size)
{
	if (size >= t->allocated - t->used) {
		size_t allocated = t->allocated ? t->allocated : FIRST_ALLOCATION;
		char *data;

		while (size >= allocated - t->used)
			allocated *= 2;
		data = realloc(t->data, allocated);
		if (!data)
			return -ENOMEM;
		t->data = data;
		t->allocated = allocated;
	}
	memcpy(t->data + t->used, bytes, size);
	t->used += size;
	return 0;
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c != '"' && c != '\\';
}

static int put_escape(struct text *t, unsigned char c)
{
	static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
	char escape[8];

	for (const char *p = names; *p; p += 2)
		if ((unsigned char)*p == c)
			return put(t, (char[]){'\\', p[1]}, 2);
	snprintf(escape, sizeof(escape), "\\u%04X", c);
	return put(t, escape, 6);
}

/* jansson has seen to it that strings are UTF-8: all but ASCII goes as it is. */
static int put_string(struct text *t, const char *s, size_t size)
{
	int r = put(t, "\"", 1);

	while (r >= 0 && size > 0) {
		size_t n = 0;

		while (n < size && is_plain((unsigned char)s[n]))
			n++;
		r = put(t, s, n);
		if (r >= 0 && n < size)
			r = put_escape(t, (unsigned char)s[n++]);
		s += n;
		size -= n;
	}
	return r < 0 ? r : put(t, "\"", 1);
}

static int put_integer(struct text *t, json_int_t n)
{
	char digits[24];

	return put(t, digits, (size_t)snprintf(digits, sizeof(digits), "%lld", (long long)n));
}

static int put_value(struct text *t, const json_t *value);

static int put_object(struct text *t, json_t *object)
{
	int r = put(t, "{", 1);

	for (void *i = json_object_iter(object), *next; i && r >= 0; i = next) {
		const char *key = json_object_iter_key(i);

		next = json_object_iter_next(object, i);
		r = put_string(t, key, strlen(key));
		if (r >= 0)
			r = put(t, ":", 1);
		if (r >= 0)
			r = put_value(t, json_object_iter_value(i));
		if (r >= 0 && next)
			r = put(t, ",", 1);
	}
	return r < 0 ? r : put(t, "}", 1);
}

static int put_array(struct text *t, const json_t *array)
{
	int r = put(t, "[", 1);

	for (size_t i = 0; i < json_array_size(array) && r >= 0; i++) {
		if (i > 0)
			r = put(t, ",", 1);
		if (r >= 0)
			r = put_value(t, json_array_get(array, i));
	}
	return r < 0 ? r : put(t, "]", 1);
}

static int put_other(struct text *t, const json_t *value)
{
	_cleanup_free_ char *s = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	return s ? put(t, s, strlen(s)) : -ENOMEM;
}

static int put_value(struct text *t, const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return put_object(t, (json_t *)value);
	case JSON_ARRAY:
		return put_array(t, value);
	case JSON_STRING:
		return put_string(t, json_string_value(value), json_string_length(value));
	case JSON_INTEGER:
		return put_integer(t, json_integer_value(value));
	default:
		return put_other(t, value);
	}
}

char *json_text(const json_t *value)
{
	struct text t = {};

	if (put_value(&t, value) < 0 || put(&t, "", 1) < 0) {
		free(t.data);
		return NULL;
	}
	return t.data;
}
