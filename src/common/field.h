/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Members of a JSON object, one by one, for message.c.  Pure.
 *
 * Reading: field_begin(), a field_*() for each member, field_end().  The first failure sticks and
 * makes the rest do nothing; field_end() also refuses members that nobody asked for.  Every member
 * is required.
 */
#ifndef SIVSHM_FIELD_H
#define SIVSHM_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

struct field_reader {
	json_t *object; /* borrowed */
	struct failure *error;
	size_t n_seen;
	int r;
};

struct field_reader field_begin(json_t *object, struct failure *error);
int field_end(struct field_reader *f);
/** field_fail() - the first one counts */
void field_fail(struct field_reader *f, const char *name, const char *what);
/** field_get() - the member, NULL after a failure */
json_t *field_get(struct field_reader *f, const char *name);

void field_integer(struct field_reader *f, const char *name, int64_t min, int64_t max,
		   int64_t *ret);
/** field_text() - one line without control characters that fits @size with its NUL */
void field_text(struct field_reader *f, const char *name, char *ret, size_t size);
/** field_name() - as field_text(), and @is_valid says yes */
void field_name(struct field_reader *f, const char *name, bool (*is_valid)(const char *), char *ret,
		size_t size);
/** field_pem() - printable ASCII and line ends, at most @max bytes; a new string */
void field_pem(struct field_reader *f, const char *name, size_t max, char **ret);
/** field_hex() - exactly @size bytes in lower-case hex */
void field_hex(struct field_reader *f, const char *name, uint8_t *ret, size_t size);
/** field_binary() - 1 to @max bytes in canonical base64; a new buffer */
void field_binary(struct field_reader *f, const char *name, size_t max, uint8_t **ret,
		  size_t *ret_size);
/** field_binary_exact() - exactly @size bytes in canonical base64 */
void field_binary_exact(struct field_reader *f, const char *name, uint8_t *ret, size_t size);

/** struct field_writer - the first failure sticks */
struct field_writer {
	json_t *object; /* owned until field_finish() */
	bool failed;
};

struct field_writer field_new(void);
/** field_put() - @value is taken over; NULL: out of memory */
void field_put(struct field_writer *w, const char *name, json_t *value);
void field_put_hex(struct field_writer *w, const char *name, const uint8_t *data, size_t size);
void field_put_binary(struct field_writer *w, const char *name, const uint8_t *data, size_t size);
/** field_finish() - the object, or NULL when anything failed */
json_t *field_finish(struct field_writer *w);

#endif
