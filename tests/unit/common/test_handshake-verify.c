/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <openssl/err.h>
#include <openssl/pem.h>

#include "bio-text.h"
#include "ends.h"
#include "handshake-verify.h"

static void refuses_other_id(void **state)
{
	static const char *const others[] = {
		"spiffe://sivshm.local/vm/ivi/service/dashboard2",
		"spiffe://sivshm.local/vm/ivi/service/dashboar",
		"spiffe://sivshm.local/vm/ivi/service/Dashboard",
		"spiffe://sivshm.locaL/vm/ivi/service/dashboard",
		ID_A,
		"",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(others); i++)
		assert_a_refuses(&leaf_b, NULL, trust, others[i], PKI_NOW, "another service");
	assert_b_refuses(&leaf_a, NULL, trust, ID_B, PKI_NOW, "another service");
}

static void refuses_other_ca(void **state)
{
	struct pki_pair self = pki_issue("leaf", NULL, &(struct pki_options){.san = "URI:" ID_B});
	struct pki_pair foreign = pki_leaf(&other_ca, ID_A);

	(void)state;
	assert_a_refuses(&leaf_b, NULL, other_trust, ID_B, PKI_NOW,
			 "certificate signature failure");
	assert_a_refuses(&self, NULL, trust, ID_B, PKI_NOW, "self-signed");
	assert_b_refuses(&leaf_a, NULL, other_trust, ID_A, PKI_NOW,
			 "certificate signature failure");
	assert_b_refuses(&foreign, NULL, trust, ID_A, PKI_NOW, "certificate signature failure");
	pki_done(&self);
	pki_done(&foreign);
}

static void refuses_by_time(void **state)
{
	(void)state;
	assert_a_refuses(&leaf_b, NULL, trust, ID_B, PKI_NOW + 3600, "expired");
	assert_a_refuses(&leaf_b, NULL, trust, ID_B, PKI_NOW - 61, "not yet valid");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW + 3600, "expired");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW - 61, "not yet valid");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW + 86400 * 400, "expired");
}

/* subjectAltName with a NUL in the URI */
static X509_EXTENSION *san_with_nul(const char *before, const char *after)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
	char text[400];
	int n = snprintf(text, sizeof(text), "%s%c%s", before, 0, after);
	X509_EXTENSION *e;

	ASN1_STRING_set(uri, text, n);
	GENERAL_NAME_set0_value(name, GEN_URI, uri);
	sk_GENERAL_NAME_push(names, name);
	e = X509V3_EXT_i2d(NID_subject_alt_name, 0, names);
	GENERAL_NAMES_free(names);
	return e;
}

/* subjectAltName as these bytes are */
static X509_EXTENSION *san_of(const void *data, int size)
{
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e;

	ASN1_OCTET_STRING_set(value, data, size);
	e = X509_EXTENSION_create_by_NID(NULL, NID_subject_alt_name, 0, value);
	ASN1_OCTET_STRING_free(value);
	return e;
}

static X509_EXTENSION *unknown_critical(void)
{
	ASN1_OBJECT *object = OBJ_txt2obj("1.2.3.4.5", 1);
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e = X509_EXTENSION_create_by_OBJ(NULL, object, 1, value);

	ASN1_OBJECT_free(object);
	ASN1_OCTET_STRING_free(value);
	return e;
}

/* What a guest sends as PEM may say that it is encrypted. */
static void asks_nobody_for_a_password(void **state)
{
	static const unsigned char secret[] = "secret";
	BIO *bio = BIO_new(BIO_s_mem());

	(void)state;
	assert_int_equal(PEM_write_bio_PrivateKey(bio, leaf_a.key, EVP_aes_128_cbc(), secret,
						  sizeof(secret), NULL, NULL),
			 1);
	assert_null(PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL));
	ERR_clear_error();
	BIO_free(bio);
}

static void refuses_names_that_are_not_in_der(void **state)
{
	static const struct {
		const char bytes[sizeof(ID_B) + 8];
		int size;
		const char *wrong;
	} cases[] = {
		{"\x30\x30\x86\x2e" ID_B, 50, NULL},
		/* OpenSSL finds the right name in these, too: something behind it, no length, a
		   longer one, a string in pieces */
		{"\x30\x30\x86\x2e" ID_B "\x05", 52, "not in DER"},
		{"\x30\x80\x86\x2e" ID_B, 52, "not in DER"},
		{"\x30\x81\x30\x86\x2e" ID_B, 51, "not in DER"},
		{"\x30\x32\xa6\x30\x16\x2e" ID_B, 52, "not in DER"},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		X509_EXTENSION *san = san_of(cases[i].bytes, cases[i].size);
		struct pki_pair leaf = pki_issue("leaf", &ca, &(struct pki_options){.extra = san});
		const char *wrong = leaf_certificate_check(leaf.certificate, ID_B);

		assert_int_equal(!wrong, !cases[i].wrong);
		assert_true(!wrong || strstr(wrong, cases[i].wrong));
		pki_done(&leaf);
		X509_EXTENSION_free(san);
	}
}

static void refuses_odd_leafs(void **state)
{
	X509_EXTENSION *nul = san_with_nul(ID_B, "x"), *again = san_with_nul(ID_B, "");
	X509_EXTENSION *unknown = unknown_critical();
	const struct {
		struct pki_options options;
		const char *expected;
	} cases[] = {
		{{.san = NULL}, "subject alternative name"},
		{{.san = "URI:" ID_B ",URI:" ID_A}, "exactly one"},
		{{.san = "URI:" ID_B ",URI:" ID_B}, "exactly one"},
		{{.san = "URI:" ID_B ",DNS:ivi"}, "exactly one"},
		{{.san = "DNS:ivi"}, "no URI"},
		{{.san = "email:a@b"}, "no URI"},
		{{.extra = nul}, "another service"},
		{{.san = "URI:" ID_B, .extra = again}, ""},
		{{.san = "URI:" ID_B, .extra = unknown}, "critical"},
		{{.san = "URI:" ID_B, .extended_usage = "clientAuth"}, "purpose"},
		{{.san = "URI:" ID_B, .extended_usage = "serverAuth"}, "extended key usage"},
		{{.san = "URI:" ID_B, .extended_usage = "codeSigning"}, "purpose"},
		{{.san = "URI:" ID_B, .extended_usage = ""}, "extended key usage"},
		{{.san = "URI:" ID_B, .extended_usage = "anyExtendedKeyUsage"}, ""},
		{{.san = "URI:" ID_B, .usage = ""}, "key usage"},
		{{.san = "URI:" ID_B,
		  .is_ca = true,
		  .usage = "digitalSignature,keyCertSign",
		  .extended_usage = "clientAuth,serverAuth"},
		 "CA"},
		{{.san = "URI:" ID_B, .curve = "P-384"}, "P-256"},
		{{.san = "URI:" ID_B, .curve = "RSA"}, "P-256"},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct pki_pair leaf = pki_issue("leaf", &ca, &cases[i].options);

		assert_a_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, cases[i].expected);
		/* the same from the other side, where OpenSSL's own check may come first */
		assert_b_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "");
		pki_done(&leaf);
	}
	X509_EXTENSION_free(nul);
	X509_EXTENSION_free(again);
	X509_EXTENSION_free(unknown);
}

static void refuses_key_of_another(void **state)
{
	struct handshake_identity identity = {leaf_b.key, leaf_a.certificate, NULL};
	struct handshake_config config = {.initiator = true,
					  .identity = &identity,
					  .trust = trust,
					  .peer_id = ID_B,
					  .now = PKI_NOW};
	struct handshake *h = NULL;

	(void)state;
	assert_true(handshake_new(&config, &h, &ends_error) < 0);
	assert_null(h);
	assert_int_equal(ends_error.code, ERR_HANDSHAKE_FAILED);
	config.peer_id = repeated('x', SPIFFE_ID_SIZE);
	assert_int_equal(handshake_new(&config, &h, &ends_error), -EINVAL);
	assert_int_equal(ERR_peek_error(), 0);
	assert_null(handshake_free(NULL));
}

static STACK_OF(X509) * chain_of(X509 *certificate)
{
	STACK_OF(X509) *chain = sk_X509_new_null();

	assert_true(sk_X509_push(chain, certificate) > 0);
	return chain;
}

static void intermediates(void **state)
{
	struct pki_pair middle = pki_ca("middle", &ca);
	struct pki_pair no_ca = pki_issue("middle", &ca, &(struct pki_options){.san = NULL});
	struct pki_pair leaf = pki_leaf(&middle, ID_B), bad_leaf = pki_leaf(&no_ca, ID_B);
	STACK_OF(X509) *chain = chain_of(middle.certificate),
		       *bad_chain = chain_of(no_ca.certificate);
	struct ends e;

	(void)state;
	assert_a_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "issuer certificate");
	assert_b_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "issuer certificate");
	assert_a_refuses(&bad_leaf, bad_chain, trust, ID_B, PKI_NOW, "peer's certificate");
	/* an intermediate is no root by being sent */
	assert_a_refuses(&leaf, chain, other_trust, ID_B, PKI_NOW, "peer's certificate");

	e = (struct ends){.a = new_a(), .b = new_end(false, &leaf, chain, trust, ID_A, PKI_NOW)};
	assert_int_equal(ends_run(&e, 4), 4);
	ends_done(&e);
	e = (struct ends){.a = new_end(true, &leaf, chain, trust, ID_B, PKI_NOW),
			  .b = new_end(false, &leaf_b, NULL, trust, ID_B, PKI_NOW)};
	assert_int_equal(ends_run(&e, 4), 4);
	ends_done(&e);
	sk_X509_free(chain);
	sk_X509_free(bad_chain);
	pki_done(&middle);
	pki_done(&no_ca);
	pki_done(&leaf);
	pki_done(&bad_leaf);
}

static void chain_too_long(void **state)
{
	struct pki_pair links[7], leaf;
	STACK_OF(X509) *chain = sk_X509_new_null();

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(links); i++) {
		char name[16];

		snprintf(name, sizeof(name), "link%zu", i);
		links[i] = pki_ca(name, i ? &links[i - 1] : &ca);
		sk_X509_unshift(chain, links[i].certificate);
	}
	leaf = pki_leaf(&links[ELEMENTSOF(links) - 1], ID_B);
	assert_a_refuses(&leaf, chain, trust, ID_B, PKI_NOW, "peer's certificate");
	for (size_t i = 0; i < ELEMENTSOF(links); i++)
		pki_done(&links[i]);
	pki_done(&leaf);
	sk_X509_free(chain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_other_id),
		cmocka_unit_test(refuses_other_ca),
		cmocka_unit_test(refuses_by_time),
		cmocka_unit_test(asks_nobody_for_a_password),
		cmocka_unit_test(refuses_names_that_are_not_in_der),
		cmocka_unit_test(refuses_odd_leafs),
		cmocka_unit_test(refuses_key_of_another),
		cmocka_unit_test(chain_too_long),
		cmocka_unit_test(intermediates),
	};

	return cmocka_run_group_tests_name("handshake-verify", tests, ends_set_up_group,
					   ends_tear_down_group);
}
