/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "field.h"
#include "message.h"

#define BASE64_SIZE(n) (((n) + 2) / 3 * 4)

struct field_reader field_begin(json_t *object, struct failure *error)
{
	struct field_reader f = {.object = object, .error = error};

	if (!json_is_object(object)) {
		failure_set(error, ERR_INVALID_PARAMS, "not an object");
		f.r = -EBADMSG;
	}
	return f;
}

void field_fail(struct field_reader *f, const char *name, const char *what)
{
	if (f->r < 0)
		return;
	failure_set(f->error, ERR_INVALID_PARAMS, "%s: %s", name, what);
	f->r = -EBADMSG;
}

static void out_of_memory(struct field_reader *f)
{
	if (f->r < 0)
		return;
	failure_set(f->error, ERR_FAILED, "out of memory");
	f->r = -ENOMEM;
}

int field_end(struct field_reader *f)
{
	if (f->r >= 0 && json_object_size(f->object) != f->n_seen)
		field_fail(f, "params", "unknown member");
	return f->r;
}

json_t *field_get(struct field_reader *f, const char *name)
{
	json_t *value;

	if (f->r < 0)
		return NULL;
	value = json_object_get(f->object, name);
	if (!value)
		field_fail(f, name, "missing");
	f->n_seen++;
	return value;
}

void field_integer(struct field_reader *f, const char *name, int64_t min, int64_t max, int64_t *ret)
{
	const json_t *value = field_get(f, name);
	int64_t number = json_integer_value(value);

	if (!value)
		return;
	if (!json_is_integer(value))
		field_fail(f, name, "no whole number");
	else if (number < min || number > max)
		field_fail(f, name, "out of range");
	else
		*ret = number;
}

/* The string of a member; NULL after a failure. */
static const char *get_string(struct field_reader *f, const char *name, size_t max,
			      size_t *ret_length)
{
	const json_t *value = field_get(f, name);
	const char *text = json_string_value(value);
	size_t length = json_string_length(value);

	if (!value)
		return NULL;
	if (!text)
		field_fail(f, name, "no string");
	else if (length > max)
		field_fail(f, name, "too long");
	else if (memchr(text, '\0', length))
		field_fail(f, name, "contains NUL");
	if (f->r < 0)
		return NULL;
	*ret_length = length;
	return text;
}

void field_text(struct field_reader *f, const char *name, char *ret, size_t size)
{
	size_t length = 0;
	const char *text = get_string(f, name, size - 1, &length);

	if (!text)
		return;
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return field_fail(f, name, "control character");
	memcpy(ret, text, length + 1);
}

void field_name(struct field_reader *f, const char *name, bool (*is_valid)(const char *), char *ret,
		size_t size)
{
	field_text(f, name, ret, size);
	if (f->r >= 0 && !is_valid(ret))
		field_fail(f, name, "not a valid name");
}

void field_pem(struct field_reader *f, const char *name, size_t max, char **ret)
{
	size_t length = 0;
	const char *text = get_string(f, name, max, &length);

	if (!text)
		return;
	if (length == 0)
		return field_fail(f, name, "empty");
	for (size_t i = 0; i < length; i++)
		if (text[i] != '\n' && text[i] != '\r' && (text[i] < 0x20 || text[i] > 0x7e))
			return field_fail(f, name, "not PEM");
	*ret = strdup(text);
	if (!*ret)
		out_of_memory(f);
}

void field_hex(struct field_reader *f, const char *name, uint8_t *ret, size_t size)
{
	size_t length = 0;
	const char *text = get_string(f, name, 2 * size, &length);

	if (text && hex_decode(text, ret, size) < 0)
		field_fail(f, name, "not lower-case hex of the right length");
}

/* EVP_DecodeBlock() skips blanks and takes any trailing bits, so one value would have many texts:
 * only what encodes back to the same text is accepted.  Returns the size, or -1; @ret has
 * length / 4 * 3 bytes. */
static int base64_decode(const char *text, size_t length, uint8_t *ret)
{
	size_t padding = length >= 2 ? (text[length - 1] == '=') + (text[length - 2] == '=') : 0;
	_cleanup_free_ char *again = NULL;
	int size;

	if (length % 4 != 0)
		return -1;
	size = EVP_DecodeBlock(ret, (const unsigned char *)text, (int)length);
	if (size < 0 || (size_t)size != length / 4 * 3)
		return -1;
	size -= (int)padding;
	again = malloc(length + 1);
	if (!again)
		return -ENOMEM;
	if (EVP_EncodeBlock((unsigned char *)again, ret, size) != (int)length ||
	    memcmp(again, text, length) != 0)
		return -1;
	return size;
}

void field_binary(struct field_reader *f, const char *name, size_t max, uint8_t **ret,
		  size_t *ret_size)
{
	_cleanup_free_ uint8_t *data = NULL;
	size_t length = 0;
	const char *text = get_string(f, name, BASE64_SIZE(max), &length);
	int size;

	if (!text)
		return;
	data = malloc(length / 4 * 3 + 1);
	if (!data)
		return out_of_memory(f);
	size = base64_decode(text, length, data);
	if (size == -ENOMEM)
		return out_of_memory(f);
	if (size <= 0 || (size_t)size > max)
		return field_fail(f, name, "not base64 of the right length");
	*ret = TAKE_PTR(data);
	*ret_size = (size_t)size;
}

void field_binary_exact(struct field_reader *f, const char *name, uint8_t *ret, size_t size)
{
	uint8_t *data = NULL;
	size_t got = 0;

	field_binary(f, name, size, &data, &got);
	if (!data)
		return;
	if (got == size)
		memcpy(ret, data, size);
	else
		field_fail(f, name, "not base64 of the right length");
	OPENSSL_cleanse(data, got);
	free(data);
}

struct field_writer field_new(void)
{
	return (struct field_writer){.object = json_object()};
}

void field_put(struct field_writer *w, const char *name, json_t *value)
{
	if (json_object_set_new(w->object, name, value) < 0)
		w->failed = true;
}

void field_put_hex(struct field_writer *w, const char *name, const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(2 * size + 1);

	if (text)
		hex_encode(data, size, text);
	field_put(w, name, text ? json_string(text) : NULL);
}

void field_put_binary(struct field_writer *w, const char *name, const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(BASE64_SIZE(size) + 1);

	if (text)
		EVP_EncodeBlock((unsigned char *)text, data, (int)size);
	field_put(w, name, text ? json_string(text) : NULL);
}

json_t *field_finish(struct field_writer *w)
{
	json_t *object = TAKE_PTR(w->object);

	if (w->failed) {
		json_decref(object);
		return NULL;
	}
	return object;
}

void hex_encode(const uint8_t *data, size_t size, char *ret)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		ret[2 * i] = digits[data[i] >> 4];
		ret[2 * i + 1] = digits[data[i] & 15];
	}
	ret[2 * size] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int hex_decode(const char *text, uint8_t *ret, size_t size)
{
	if (strlen(text) != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}
