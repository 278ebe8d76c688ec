/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON as text.  Pure. */
#ifndef SIVSHM_JSON_TEXT_H
#define SIVSHM_JSON_TEXT_H

#include <jansson.h>

/**
 * json_text() - the same as json_dumps(@value, JSON_COMPACT | JSON_ENCODE_ANY), in a tenth of the
 * time jansson decodes every character of a string; here, where strings are mostly base64, what
 * needs no escape is copied at once.  The caller frees; NULL: out of memory.  @value must not hold
 * itself.
 */
char *json_text(const json_t *value);

#endif
