/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>
#include <openssl/pem.h>

#include "spare-key.h"

#define LONG_USEC UINT64_C(3000000)

EVP_PKEY *__real_key_new(void);
EVP_PKEY *__wrap_key_new(void);

static unsigned int made;
static bool broken;
static sd_event *event;
static struct spare_key *spare;

EVP_PKEY *__wrap_key_new(void)
{
	made++;
	return broken ? NULL : __real_key_new();
}

static int set_up(void **state)
{
	(void)state;
	made = 0;
	broken = false;
	assert_true(sd_event_new(&event) >= 0);
	assert_int_equal(spare_key_new(event, &spare), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	assert_null(spare_key_free(spare));
	sd_event_unref(event);
	return 0;
}

/* Takes one; its request has to be signed by it. */
static EVP_PKEY *take(void)
{
	EVP_PKEY *key = NULL;
	char *csr = NULL;
	X509_REQ *request;
	BIO *bio;

	assert_int_equal(spare_key_take(spare, &key, &csr), 0);
	bio = BIO_new_mem_buf(csr, -1);
	request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
	assert_non_null(request);
	assert_int_equal(X509_REQ_verify(request, key), 1);
	X509_REQ_free(request);
	BIO_free(bio);
	free(csr);
	return key;
}

static void pass_on(EVP_PKEY *a, EVP_PKEY *b)
{
	assert_int_equal(EVP_PKEY_eq(a, b), 0);
	EVP_PKEY_free(a);
}

static void one_is_made_ahead(void **state)
{
	EVP_PKEY *first = take(), *second, *third;

	(void)state;
	assert_int_equal(made, 1);
	assert_true(sd_event_run(event, LONG_USEC) > 0);
	assert_int_equal(made, 2);
	second = take();
	assert_int_equal(made, 2);
	third = take();
	assert_int_equal(made, 3);
	pass_on(first, second);
	pass_on(second, third);
	EVP_PKEY_free(third);
}

static void none_outlives_a_welcome(void **state)
{
	(void)state;
	spare_key_renew(spare);
	assert_true(sd_event_run(event, LONG_USEC) > 0);
	assert_int_equal(made, 1);
	spare_key_renew(spare);
	EVP_PKEY_free(take());
	assert_int_equal(made, 2);
}

static void failures(void **state)
{
	EVP_PKEY *key = NULL;
	char *csr = NULL;

	(void)state;
	broken = true;
	assert_int_equal(spare_key_take(spare, &key, &csr), -EIO);
	assert_true(sd_event_run(event, LONG_USEC) > 0);
	assert_int_equal(made, 2);
	assert_int_equal(spare_key_take(spare, &key, &csr), -EIO);
	assert_true(!key && !csr);
	broken = false;
	EVP_PKEY_free(take());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_is_made_ahead, set_up, tear_down),
		cmocka_unit_test_setup_teardown(none_outlives_a_welcome, set_up, tear_down),
		cmocka_unit_test_setup_teardown(failures, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
