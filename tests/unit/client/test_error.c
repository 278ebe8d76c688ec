/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Error: texts per thread; every name of the D-Bus contract has an errno of its own meaning. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/bus.h"
#include "client/channel.h"
#include "client/error.h"

static char contract[64 * 1024];

static int load(void **state)
{
	FILE *f = fopen(SIVSHM_XML, "re");
	size_t n = f ? fread(contract, 1, sizeof(contract) - 1, f) : 0;

	(void)state;
	if (f)
		fclose(f);
	return n ? 0 : -1;
}

static void test_long_text_is_cut(void **state)
{
	char text[4096];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	assert_int_equal(error_set(-EIO, "%s", text), -EIO);
	assert_true(strlen(sivshm_last_error()) < sizeof(text) - 1);
}

static void test_unknown_errno_has_a_text(void **state)
{
	(void)state;
	assert_int_equal(error_channel(-EFAULT), -EFAULT);
	assert_string_equal(sivshm_last_error(), "channel: Bad address");
	error_channel(-99999);
	assert_string_equal(sivshm_last_error(), "channel: unknown error");
}

/* Returns NULL when all was well. */
static void *other_thread(void *arg)
{
	if (strcmp(sivshm_last_error(), "no error"))
		return arg;
	error_set(-EIO, "of the other thread");
	return NULL;
}

static void test_threads_have_their_own(void **state)
{
	pthread_t t;
	void *r;

	(void)state;
	error_set(-EIO, "mine");
	assert_int_equal(pthread_create(&t, NULL, other_thread, contract), 0);
	pthread_join(t, &r);
	assert_null(r);
	assert_string_equal(sivshm_last_error(), "mine");
}

/* Every "org.sivshm1.Error.X" and D-Bus error that the XML lists, "Failed" alone being EIO. */
static void test_contract(void **state)
{
	static const char prefix[] = "\n    org.";
	unsigned int n = 0;

	(void)state;
	for (char *p = contract; (p = strstr(p, prefix)); n++) {
		char name[128];

		p += sizeof(prefix) - 1 - strlen("org.");
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, " \n"), p);
		if (strstr(name, "Error.") && !strstr(name, ".Failed") &&
		    bus_error_to_errno(name) == -EIO)
			fail_msg("%s has no errno", name);
	}
	assert_true(n > 10);
	assert_int_equal(bus_error_to_errno("org.sivshm1.Error.Failed"), -EIO);
	assert_int_equal(bus_error_to_errno("org.example.Unheard"), -EIO);
	assert_int_equal(bus_error_to_errno(NULL), -EIO);
}

static void test_bus_text(void **state)
{
	sd_bus_error e = SD_BUS_ERROR_MAKE_CONST("org.sivshm1.Error.NoSuchPeer", "no region");

	(void)state;
	assert_int_equal(bus_failed(-EREMOTEIO, &e, "connect to x/y"), -ENOENT);
	assert_string_equal(sivshm_last_error(),
			    "connect to x/y: no region (org.sivshm1.Error.NoSuchPeer); "
			    "a region of the host has to join both VMs");
	assert_int_equal(bus_failed(-ECONNRESET, NULL, "listen as y"), -EHOSTDOWN);
}

static void test_options(void **state)
{
	struct sivshm_options o, in = {.size = sizeof(in), .ring_size = 8192};

	(void)state;
	assert_int_equal(channel_check_options(&(struct sivshm_options){.ring_size = 1}, &o),
			 -EINVAL);
	assert_int_equal(channel_check_options(NULL, &o), 0);
	assert_int_equal(o.ring_size, 0);
	assert_int_equal(channel_check_options(&in, &o), 0);
	assert_int_equal(o.ring_size, 8192);
}

static void test_options_of_other_versions(void **state)
{
	struct {
		struct sivshm_options o;
		uint64_t more;
	} newer = {.o = {.size = sizeof(newer), .flags = SIVSHM_PREFAULT}, .more = UINT64_MAX};
	struct sivshm_options o, older = {.size = offsetof(struct sivshm_options, flags),
					  .spin_us = 7,
					  .flags = UINT64_MAX};

	(void)state;
	assert_int_equal(channel_check_options(&older, &o), 0);
	assert_int_equal(o.spin_us, 7);
	assert_int_equal(o.flags, 0);
	assert_int_equal(channel_check_options(&newer.o, &o), 0);
	assert_int_equal(o.flags, SIVSHM_PREFAULT);
	assert_int_equal(o.size, sizeof(o));
	newer.o.flags |= 1ull << 63;
	assert_int_equal(channel_check_options(&newer.o, &o), -EINVAL);
	assert_non_null(strstr(sivshm_last_error(), "0x8000000000000000"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_text_is_cut),
		cmocka_unit_test(test_unknown_errno_has_a_text),
		cmocka_unit_test(test_threads_have_their_own),
		cmocka_unit_test(test_contract),
		cmocka_unit_test(test_bus_text),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_options_of_other_versions),
	};

	return cmocka_run_group_tests(tests, load, NULL);
}
