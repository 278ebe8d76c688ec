/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What cmocka.h wants included before it. */
#ifndef SIVSHM_TEST_H
#define SIVSHM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

/* @n times @c, in a static buffer */
static inline const char *repeated(char c, size_t n)
{
	static char text[140000]; /* more than FRAME_MAX */

	assert_true(n < sizeof(text));
	memset(text, c, n);
	text[n] = '\0';
	return text;
}

#endif
