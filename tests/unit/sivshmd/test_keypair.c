/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <openssl/pem.h>

#include "keypair.h"
#include "pki.h"

#define ID "spiffe://test/vm/rtos/service/sensor"

static struct pki_pair ca, other_ca;

/* PEM of up to three certificates, in a static buffer. */
static const char *pem(const X509 *a, const X509 *b, const X509 *c)
{
	static char text[16384];
	const X509 *all[] = {a, b, c};
	BIO *bio = BIO_new(BIO_s_mem());
	int n;

	for (size_t i = 0; i < ELEMENTSOF(all); i++)
		if (all[i])
			assert_int_equal(PEM_write_bio_X509(bio, all[i]), 1);
	n = BIO_read(bio, text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	BIO_free(bio);
	return text;
}

static int try(const struct pki_pair *leaf, EVP_PKEY *key, const char *id, int64_t now,
	       struct failure *error)
{
	X509_STORE *trust = pki_store(&ca);
	struct keypair pair = {};
	int r;

	*error = (struct failure){};
	r = keypair_new(key, pem(leaf->certificate, NULL, NULL), id, trust, now, &pair, error);
	if (r < 0)
		assert_int_equal(error->code, ERR_HANDSHAKE_FAILED);
	keypair_done(&pair);
	X509_STORE_free(trust);
	return r;
}

static void refuse(const struct pki_pair *leaf, EVP_PKEY *key, const char *id, int64_t now,
		   const char *what)
{
	struct failure error;

	assert_true(try(leaf, key, id, now, &error) < 0);
	if (!strstr(error.text, what))
		fail_msg("'%s' does not say '%s'", error.text, what);
}

static void refusals(void **state)
{
	struct pki_pair leaf = pki_leaf(&ca, ID), stranger = pki_leaf(&other_ca, ID);
	struct pki_pair two =
		pki_issue("two", &ca, &(struct pki_options){.san = "URI:" ID ",URI:" ID "2"});
	struct pki_pair dns = pki_issue("dns", &ca, &(struct pki_options){.san = "DNS:sensor"});
	struct pki_pair none = pki_issue("none", &ca, &(struct pki_options){});
	struct failure error;

	(void)state;
	assert_int_equal(try(&leaf, leaf.key, ID, PKI_NOW, &error), 0);
	refuse(&leaf, stranger.key, ID, PKI_NOW, "another key");
	refuse(&leaf, leaf.key, ID "x", PKI_NOW, "not for");
	refuse(&leaf, leaf.key, "spiffe://test/vm/rtos/service/senso", PKI_NOW, "not for");
	refuse(&leaf, leaf.key, ID, PKI_NOW + 7200, "expired");
	refuse(&leaf, leaf.key, ID, PKI_NOW - 7200, "not yet valid");
	refuse(&stranger, stranger.key, ID, PKI_NOW, "certificate");
	refuse(&two, two.key, ID, PKI_NOW, "not for");
	refuse(&dns, dns.key, ID, PKI_NOW, "not for");
	refuse(&none, none.key, ID, PKI_NOW, "not for");
	pki_done(&leaf), pki_done(&stranger), pki_done(&two), pki_done(&dns), pki_done(&none);
}

static void garbage(void **state)
{
	static const char *const texts[] = {
		"",
		"x",
		"-----BEGIN CERTIFICATE-----\n",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	};
	X509_STORE *trust = pki_store(&ca), *none = NULL;
	EVP_PKEY *key = key_new();
	struct keypair pair;
	struct failure error;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
		assert_true(keypair_new(key, texts[i], ID, trust, PKI_NOW, &pair, &error) < 0);
		assert_int_equal(error.code, ERR_HANDSHAKE_FAILED);
		assert_true(trust_new(texts[i], &none, &error) < 0);
		assert_null(none);
	}
	EVP_PKEY_free(key);
	X509_STORE_free(trust);
}

static void intermediate(void **state)
{
	struct pki_pair middle = pki_ca("middle", &ca), leaf = pki_leaf(&middle, ID);
	X509_STORE *root, *only_middle;
	struct keypair pair;
	struct failure error;

	(void)state;
	/* below the fleet's root, the intermediate comes with the leaf */
	assert_int_equal(trust_new(pem(ca.certificate, NULL, NULL), &root, &error), 0);
	assert_int_equal(keypair_new(leaf.key, pem(leaf.certificate, middle.certificate, NULL), ID,
				     root, PKI_NOW, &pair, &error),
			 0);
	assert_int_equal(sk_X509_num(pair.chain), 1);
	assert_int_equal(keypair_check(&pair, ID, root, PKI_NOW, &error), 0);
	assert_true(keypair_check(&pair, ID, root, PKI_NOW + 86400 * 400LL, &error) < 0);
	keypair_done(&pair);
	assert_true(keypair_new(leaf.key, pem(leaf.certificate, NULL, NULL), ID, root, PKI_NOW,
				&pair, &error) < 0);
	/* the bundle may also be the intermediate alone */
	assert_int_equal(trust_new(pem(middle.certificate, NULL, NULL), &only_middle, &error), 0);
	assert_int_equal(keypair_new(leaf.key, pem(leaf.certificate, NULL, NULL), ID, only_middle,
				     PKI_NOW, &pair, &error),
			 0);
	keypair_done(&pair);
	X509_STORE_free(root);
	X509_STORE_free(only_middle);
	pki_done(&middle), pki_done(&leaf);
}

static void request(void **state)
{
	EVP_PKEY *key = key_new();
	_cleanup_free_ char *text = csr_new(key);
	BIO *bio = BIO_new_mem_buf(text, -1);
	X509_REQ *csr = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);

	(void)state;
	assert_non_null(csr);
	assert_int_equal(X509_REQ_verify(csr, key), 1);
	assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(csr)), 0);
	X509_REQ_free(csr);
	BIO_free(bio);
	EVP_PKEY_free(key);
}

static void facts(void **state)
{
	struct pki_pair leaf = pki_leaf(&ca, ID);
	_cleanup_free_ char *serial = certificate_serial(leaf.certificate);

	(void)state;
	assert_int_equal(certificate_not_after(leaf.certificate), PKI_NOW - 60 + 3600);
	assert_true(strtol(serial, NULL, 16) > 1000);
	pki_done(&leaf);
}

static int set_up(void **state)
{
	(void)state;
	ca = pki_ca("ca", NULL);
	other_ca = pki_ca("other", NULL);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	pki_done(&ca);
	pki_done(&other_ca);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals),	cmocka_unit_test(garbage),
		cmocka_unit_test(intermediate), cmocka_unit_test(request),
		cmocka_unit_test(facts),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
