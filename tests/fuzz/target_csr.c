/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A certificate request, as a guest sends it: what is taken, OpenSSL's own reader takes as well,
 * and the other way about.
 *
 * Input: flags, then what they say: the request in PEM; or in DER; or the part of it that is
 * signed, which is then signed by the key 1 of P-256, whose public key is the generator of the
 * curve.
 */
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "bio-text.h"
#include "csr.h"
#include "fuzz.h"

enum { FORM = 3, PEM = 0, DER = 1, TRAILING = 4 };

static EVP_PKEY *one, *other;

/* key_one() - a private key that all runs have */
static EVP_PKEY *key_one(void)
{
	unsigned char number[] = {1}, *point;
	EC_GROUP *group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
	size_t size = EC_POINT_point2buf(group, EC_GROUP_get0_generator(group),
					 POINT_CONVERSION_UNCOMPRESSED, &point, NULL);
	OSSL_PARAM params[] = {
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)"prime256v1", 10),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, size),
		OSSL_PARAM_BN(OSSL_PKEY_PARAM_PRIV_KEY, number, sizeof(number)),
		OSSL_PARAM_END,
	};
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	EVP_PKEY *key = NULL;

	must(EVP_PKEY_fromdata_init(ctx) == 1);
	must(EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params) == 1);
	EVP_PKEY_CTX_free(ctx);
	EC_GROUP_free(group);
	OPENSSL_free(point);
	return key;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	one = key_one();
	other = EVP_EC_gen("P-384");
	must(one && other);
	return 0;
}

/* SEQUENCE { body, ecdsa-with-SHA256, BIT STRING }; the caller frees */
static unsigned char *sign(const struct input *body, size_t *ret)
{
	static const unsigned char algorithm[] = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
	unsigned char signature[128], *der, *p;
	size_t size = sizeof(signature), inside;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	must(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, one) == 1);
	must(EVP_DigestSign(ctx, signature, &size, body->data, body->size) == 1);
	EVP_MD_CTX_free(ctx);
	inside = body->size + sizeof(algorithm) - 1 + 3 + size;
	*ret = (size_t)ASN1_object_size(1, (int)inside, V_ASN1_SEQUENCE);
	p = der = malloc(*ret);
	must(der);
	ASN1_put_object(&p, 1, (int)inside, V_ASN1_SEQUENCE, V_ASN1_UNIVERSAL);
	memcpy(p, body->data, body->size);
	p += body->size;
	memcpy(p, algorithm, sizeof(algorithm) - 1);
	p += sizeof(algorithm) - 1;
	*p++ = V_ASN1_BIT_STRING;
	*p++ = (unsigned char)(size + 1);
	*p++ = 0; /* bits left over */
	memcpy(p, signature, size);
	return der;
}

/* to_pem() - with a byte behind the request, if that is asked for; the caller frees */
static char *to_pem(const void *der, size_t size, bool trailing)
{
	BIO *bio = BIO_new(BIO_s_mem());
	unsigned char *more = calloc(1, size + 1);
	char *text;

	must(bio && more);
	if (size > 0)
		memcpy(more, der, size);
	PEM_write_bio(bio, PEM_STRING_X509_REQ, "", more, (long)(size + trailing));
	text = bio_text(bio);
	must(text);
	BIO_free(bio);
	free(more);
	return text;
}

static char *make(struct input *in)
{
	uint8_t flags = input_u8(in);
	unsigned char *der;
	char *pem;
	size_t size;

	if ((flags & FORM) == PEM) {
		pem = malloc(in->size + 1);
		must(pem);
		if (in->size > 0)
			memcpy(pem, in->data, in->size);
		pem[in->size] = '\0';
		return pem;
	}
	if ((flags & FORM) == DER)
		return to_pem(in->data, in->size, flags & TRAILING);
	der = sign(in, &size);
	pem = to_pem(der, size, flags & TRAILING);
	free(der);
	return pem;
}

static bool is_allowed(EVP_PKEY *key, X509_REQ *request)
{
	char group[32] = "", encoding[32] = "";
	const unsigned char *bits;
	int size;

	X509_PUBKEY_get0_param(NULL, &bits, &size, NULL, X509_REQ_get_X509_PUBKEY(request));
	if (EVP_PKEY_is_a(key, "ED25519"))
		return true;
	return EVP_PKEY_is_a(key, "EC") && size > 1 &&
	       EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
	       (!strcmp(group, "prime256v1") || !strcmp(group, "secp384r1")) &&
	       EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_EC_ENCODING, encoding,
					      sizeof(encoding), NULL) == 1 &&
	       !strcmp(encoding, "named_curve");
}

/* is_whole() - nothing follows in the block */
static bool is_whole(const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	unsigned char *der;
	const unsigned char *p;
	long size;
	X509_REQ *request;
	bool whole;

	must(PEM_bytes_read_bio(&der, &size, NULL, PEM_STRING_X509_REQ, bio, no_password, NULL) ==
	     1);
	p = der;
	request = d2i_X509_REQ(NULL, &p, size);
	whole = request && p == der + size;
	X509_REQ_free(request);
	OPENSSL_free(der);
	BIO_free(bio);
	return whole;
}

/* reference() - as OpenSSL reads and verifies it */
static bool reference(const char *pem, X509_REQ **ret)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509_REQ *request = PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL);
	EVP_PKEY *key = request ? X509_REQ_get0_pubkey(request) : NULL;
	bool good = key && is_allowed(key, request) && X509_REQ_verify(request, key) == 1 &&
		    is_whole(pem);

	BIO_free(bio);
	*ret = request;
	return good;
}

/* check_copy() - in a certificate it is the key that was verified, to the byte */
static void check_copy(const struct csr *csr, X509_REQ *request)
{
	X509 *certificate = X509_new();
	unsigned char *ours = NULL, *theirs = NULL;
	int size, n;

	must(csr_copy_key(csr, certificate) == 0);
	size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &ours);
	n = i2d_X509_PUBKEY(X509_REQ_get_X509_PUBKEY(request), &theirs);
	must(size > 0 && size == n && memcmp(ours, theirs, (size_t)n) == 0);
	OPENSSL_free(ours);
	OPENSSL_free(theirs);
	X509_free(certificate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	EVP_PKEY *samples[] = {one, other, NULL};
	struct input in = {data, size};
	char *pem = make(&in);
	X509_REQ *request;
	bool good = reference(pem, &request);

	ERR_clear_error();
	for (size_t i = 0; i < 3; i++) {
		struct csr *csr = NULL;
		struct failure why = {};

		must((csr_read(pem, samples[i], &csr, &why) >= 0) == good);
		must(ERR_peek_error() == 0);
		must(good ? csr != NULL : why.code == ERR_INVALID_PARAMS);
		if (csr)
			check_copy(csr, request);
		csr_free(csr);
	}
	X509_REQ_free(request);
	free(pem);
	return 0;
}
