/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON lines of the test programs: a line is an object, written whole and at once. */
#ifndef SIVSHM_TEST_JSON_OUT_H
#define SIVSHM_TEST_JSON_OUT_H

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static inline void print_json(json_t *object)
{
	json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

/* "ENOLINK" for -ENOLINK or ENOLINK; "" for 0 */
static inline const char *errno_name(int r)
{
	const char *name = r ? strerrorname_np(r < 0 ? -r : r) : "";

	return name ?: "?";
}

#endif
