/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "bio-text.h"
#include "csr.h"
#include "fixture.h"

static struct failure why;
static EVP_PKEY *sample;

static int begin(void **state)
{
	(void)state;
	sample = EVP_EC_gen("P-256");
	return sample ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	EVP_PKEY_free(sample);
	return 0;
}

static char *to_pem(X509_REQ *request, EVP_PKEY *signer)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;

	X509_REQ_sign(request, signer, EVP_PKEY_is_a(signer, "EC") ? EVP_sha256() : NULL);
	PEM_write_bio_X509_REQ(bio, request);
	text = bio_text(bio);
	BIO_free(bio);
	return text;
}

static char *request_of(EVP_PKEY *key)
{
	X509_REQ *request = X509_REQ_new();
	char *text;

	assert_int_equal(X509_REQ_set_pubkey(request, key), 1);
	text = to_pem(request, key);
	X509_REQ_free(request);
	return text;
}

/* request_of_bits() - its key as encoded by the caller, signed by @sample */
static char *request_of_bits(int curve, const void *bits, size_t size)
{
	X509_REQ *request = X509_REQ_new();
	char *text;

	X509_PUBKEY_set0_param(X509_REQ_get_X509_PUBKEY(request),
			       OBJ_nid2obj(NID_X9_62_id_ecPublicKey), V_ASN1_OBJECT,
			       OBJ_nid2obj(curve), OPENSSL_memdup(bits, size), (int)size);
	text = to_pem(request, sample);
	X509_REQ_free(request);
	return text;
}

/* signature_of_nobody() - r = x(kG), s = e/k: made without any key, and right for the point at
 * infinity */
static ECDSA_SIG *signature_of_nobody(const unsigned char *digest)
{
	EC_GROUP *group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
	const BIGNUM *order = EC_GROUP_get0_order(group);
	BIGNUM *k = BN_new(), *x = BN_new(), *r = BN_new(), *s = BN_new();
	BIGNUM *e = BN_bin2bn(digest, 32, NULL);
	EC_POINT *point = EC_POINT_new(group);
	ECDSA_SIG *signature = ECDSA_SIG_new();
	BN_CTX *ctx = BN_CTX_new();

	assert_int_equal(BN_priv_rand_range(k, order), 1);
	EC_POINT_mul(group, point, k, NULL, NULL, ctx);
	EC_POINT_get_affine_coordinates(group, point, x, NULL, ctx);
	BN_nnmod(r, x, order, ctx);
	BN_mod_inverse(s, k, order, ctx);
	BN_mod_mul(s, s, e, order, ctx);
	assert_int_equal(ECDSA_SIG_set0(signature, r, s), 1);
	BN_free(k);
	BN_free(x);
	BN_free(e);
	EC_POINT_free(point);
	EC_GROUP_free(group);
	BN_CTX_free(ctx);
	return signature;
}

static char *request_of_nobody(X509_REQ *request)
{
	unsigned char *body = NULL, *der = NULL, digest[32];
	const ASN1_BIT_STRING *place;
	ECDSA_SIG *signature;
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	int size;

	X509_PUBKEY_set0_param(X509_REQ_get_X509_PUBKEY(request),
			       OBJ_nid2obj(NID_X9_62_id_ecPublicKey), V_ASN1_OBJECT,
			       OBJ_nid2obj(NID_X9_62_prime256v1), OPENSSL_memdup("", 1), 1);
	X509_REQ_sign(request, sample, EVP_sha256()); /* for the algorithm's name */
	size = i2d_re_X509_REQ_tbs(request, &body);
	EVP_Digest(body, (size_t)size, digest, NULL, EVP_sha256(), NULL);
	signature = signature_of_nobody(digest);
	size = i2d_ECDSA_SIG(signature, &der);
	X509_REQ_get0_signature(request, &place, NULL);
	ASN1_STRING_set((ASN1_BIT_STRING *)(uintptr_t)place, der, size);
	PEM_write_bio_X509_REQ(bio, request);
	text = bio_text(bio);
	BIO_free(bio);
	OPENSSL_free(body);
	OPENSSL_free(der);
	ECDSA_SIG_free(signature);
	return text;
}

/* read() - with the sample and without gives the same; @csr is freed */
static int read_both(char *pem, struct csr **ret)
{
	_cleanup_(csr_freep) struct csr *with = NULL, *without = NULL;
	int r = csr_read(pem, sample, &with, &why);

	assert_int_equal(csr_read(pem, NULL, &without, &why), r);
	assert_int_equal(ERR_peek_error(), 0);
	assert_int_equal(with != NULL, r == 0);
	free(pem);
	if (ret)
		*ret = TAKE_PTR(with);
	return r;
}

static void refuse_request(char *pem, const char *word)
{
	assert_true(read_both(pem, NULL) < 0);
	assert_int_equal(why.code, ERR_INVALID_PARAMS);
	if (!strstr(why.text, word))
		fail_msg("\"%s\" lacks \"%s\"", why.text, word);
}

/* check_copy() - as a reader of the certificate decodes it; @csr is freed before: it lends nothing
 */
static void check_copy(struct csr *csr, EVP_PKEY *key)
{
	X509 *certificate = X509_new();
	unsigned char *der = NULL;
	const unsigned char *p;
	EVP_PKEY *copy;
	int size;

	assert_int_equal(csr_copy_key(csr, certificate), 0);
	csr_free(csr);
	size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
	p = der;
	copy = d2i_PUBKEY(NULL, &p, size);
	assert_non_null(copy);
	assert_int_equal(EVP_PKEY_eq(copy, key), 1);
	EVP_PKEY_free(copy);
	OPENSSL_free(der);
	X509_free(certificate);
}

static void test_key_is_copied(void **state)
{
	static const char *const curves[] = {"P-256", "P-384", NULL};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(curves); i++) {
		EVP_PKEY *key = curves[i] ? EVP_EC_gen(curves[i])
					  : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
		struct csr *csr;

		assert_int_equal(read_both(request_of(key), &csr), 0);
		check_copy(csr, key);
		EVP_PKEY_free(key);
	}
}

static void test_compressed_point(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	struct csr *csr;

	(void)state;
	EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT,
				       "compressed");
	assert_int_equal(read_both(request_of(key), &csr), 0);
	check_copy(csr, key);
	EVP_PKEY_free(key);
}

/* Anybody can make signatures that it verifies with the point at infinity; others are on no curve.
 */
static void test_points_that_are_no_keys(void **state)
{
	unsigned char *point;
	size_t size = EVP_PKEY_get1_encoded_public_key(sample, &point);

	(void)state;
	assert_int_equal(size, 65);
	refuse_request(request_of_bits(NID_X9_62_prime256v1, "\0", 1), "key is not one");
	refuse_request(request_of_bits(NID_X9_62_prime256v1, point, size - 1), "key is not one");
	refuse_request(request_of_bits(NID_secp384r1, point, size), "key is not one");
	assert_int_equal(read_both(request_of_bits(NID_X9_62_prime256v1, point, size), NULL), 0);
	point[40] ^= 1;
	refuse_request(request_of_bits(NID_X9_62_prime256v1, point, size), "key is not one");
	OPENSSL_free(point);
}

/* OpenSSL itself takes that for a proof. */
static void test_proof_of_nobody(void **state)
{
	X509_REQ *request = X509_REQ_new(), *read;
	char *pem = request_of_nobody(request);
	BIO *bio = BIO_new_mem_buf(pem, -1);

	(void)state;
	read = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
	assert_int_equal(X509_REQ_verify(read, X509_REQ_get0_pubkey(read)), 1);
	refuse_request(pem, "key is not one");
	BIO_free(bio);
	X509_REQ_free(read);
	X509_REQ_free(request);
}

static void test_other_curves(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");

	(void)state;
	EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_ENCODING, "explicit");
	refuse_request(request_of(key), "P-256");
	EVP_PKEY_free(key);
	key = EVP_EC_gen("P-521");
	refuse_request(request_of(key), "P-256");
	EVP_PKEY_free(key);
	key = EVP_PKEY_Q_keygen(NULL, NULL, "ED448");
	refuse_request(request_of(key), "P-256");
	EVP_PKEY_free(key);
}

/* Each byte of what is signed, and of the signature, counts. */
static void test_every_byte(void **state)
{
	char *pem = request_of(sample);
	unsigned char *der;
	long size;
	BIO *bio = BIO_new_mem_buf(pem, -1);

	(void)state;
	assert_int_equal(
		PEM_bytes_read_bio(&der, &size, NULL, PEM_STRING_X509_REQ, bio, NULL, NULL), 1);
	BIO_free(bio);
	free(pem);
	for (long i = 0; i < size; i++) {
		struct csr *csr = NULL;
		char *text;

		bio = BIO_new(BIO_s_mem());
		der[i] ^= 1;
		PEM_write_bio(bio, PEM_STRING_X509_REQ, "", der, size);
		der[i] ^= 1;
		text = bio_text(bio);
		BIO_free(bio);
		if (csr_read(text, sample, &csr, &why) >= 0)
			fail_msg("byte %ld of %ld", i, size);
		free(text);
	}
	OPENSSL_free(der);
}

static void test_more_than_a_request(void **state)
{
	char *pem = request_of(sample), *text;
	unsigned char *der;
	long size;
	BIO *bio = BIO_new_mem_buf(pem, -1);

	(void)state;
	PEM_bytes_read_bio(&der, &size, NULL, PEM_STRING_X509_REQ, bio, NULL, NULL);
	BIO_free(bio);
	free(pem);
	bio = BIO_new(BIO_s_mem());
	der = OPENSSL_realloc(der, (size_t)size + 1);
	der[size] = 0;
	PEM_write_bio(bio, PEM_STRING_X509_REQ, "", der, size + 1);
	text = bio_text(bio);
	BIO_free(bio);
	OPENSSL_free(der);
	refuse_request(text, "no certificate request");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_is_copied),
		cmocka_unit_test(test_compressed_point),
		cmocka_unit_test(test_points_that_are_no_keys),
		cmocka_unit_test(test_proof_of_nobody),
		cmocka_unit_test(test_other_curves),
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_more_than_a_request),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
