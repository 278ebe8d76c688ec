/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A configuration in a temporary folder, written by the test. */
#ifndef CAD_FIXTURE_H
#define CAD_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config.h"

extern char root[];
extern struct conf_error error;

int set_up(void **state);
int tear_down(void **state);

/** put() - write root/etc/sivshm-ca/@name */
void put(const char *name, const char *text);
/** put_example() - two VMs, a third one, two regions, one rule */
void put_example(void);
/** load() - must succeed; the caller frees */
struct config *load(void);
/** refuse() - must fail with all of @words in the message */
void refuse(const char *word, const char *place);

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
