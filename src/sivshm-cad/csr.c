/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "csr.h"

#include <errno.h>
#include <openssl/asn1t.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdbool.h>
#include <string.h>

#include "bio-text.h"

DEFINE_CLEANUP(BIO *, BIO_free)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)
DEFINE_CLEANUP(EVP_PKEY_CTX *, EVP_PKEY_CTX_free)

/* RFC 2986 as OpenSSL has it, but for the key, which is left as it is encoded (RFC 5280
 * SubjectPublicKeyInfo). */

struct csr_key {
	X509_ALGOR *algorithm;
	ASN1_BIT_STRING *bits;
};
typedef struct csr_key CSR_KEY;

struct csr_body {
	ASN1_ENCODING encoding; /* what was signed, to the byte */
	ASN1_INTEGER *version;
	X509_NAME *subject;
	CSR_KEY *key;
	STACK_OF(X509_ATTRIBUTE) * attributes;
};
typedef struct csr_body CSR_BODY;

struct csr {
	CSR_BODY *body;
	X509_ALGOR *algorithm;
	ASN1_BIT_STRING *signature;
};
typedef struct csr CSR;

/* clang-format off */
ASN1_SEQUENCE(CSR_KEY) = {
	ASN1_SIMPLE(CSR_KEY, algorithm, X509_ALGOR),
	ASN1_SIMPLE(CSR_KEY, bits, ASN1_BIT_STRING),
} static_ASN1_SEQUENCE_END(CSR_KEY)

ASN1_SEQUENCE_enc(CSR_BODY, encoding, NULL) = {
	ASN1_SIMPLE(CSR_BODY, version, ASN1_INTEGER),
	ASN1_SIMPLE(CSR_BODY, subject, X509_NAME),
	ASN1_SIMPLE(CSR_BODY, key, CSR_KEY),
	ASN1_IMP_SET_OF_OPT(CSR_BODY, attributes, X509_ATTRIBUTE, 0),
} static_ASN1_SEQUENCE_END_ref(CSR_BODY, CSR_BODY)

ASN1_SEQUENCE(CSR) = {
	ASN1_SIMPLE(CSR, body, CSR_BODY),
	ASN1_SIMPLE(CSR, algorithm, X509_ALGOR),
	ASN1_SIMPLE(CSR, signature, ASN1_BIT_STRING),
} static_ASN1_SEQUENCE_END(CSR)
struct csr; /* ends what looks like one declaration from the first template on */
/* clang-format on */

struct csr *csr_free(struct csr *csr)
{
	ASN1_item_free((ASN1_VALUE *)csr, ASN1_ITEM_rptr(CSR));
	return NULL;
}

static struct csr *parse(const char *pem)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	unsigned char *der = NULL;
	const unsigned char *end;
	struct csr *csr;
	long size = 0;

	if (!bio ||
	    PEM_bytes_read_bio(&der, &size, NULL, PEM_STRING_X509_REQ, bio, no_password, NULL) != 1)
		return NULL;
	end = der;
	csr = (struct csr *)ASN1_item_d2i(NULL, &end, size, ASN1_ITEM_rptr(CSR));
	if (csr && end != der + size)
		csr = csr_free(csr);
	OPENSSL_free(der);
	return csr;
}

/* A curve spelled out in parameters could be any curve: only names are taken. */
static const char *curve_of(const X509_ALGOR *algorithm)
{
	const void *parameter;
	int kind;

	X509_ALGOR_get0(NULL, &kind, &parameter, algorithm);
	switch (kind == V_ASN1_OBJECT ? OBJ_obj2nid(parameter) : NID_undef) {
	case NID_X9_62_prime256v1:
		return "prime256v1";
	case NID_secp384r1:
		return "secp384r1";
	default:
		return NULL;
	}
}

/* ec_key() - NULL also if @bits is no point of the curve */
static EVP_PKEY *ec_key(const char *curve, const ASN1_BIT_STRING *bits)
{
	_cleanup_(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx =
		EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	EVP_PKEY *key = NULL;
	OSSL_PARAM params[] = {
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)curve, strlen(curve)),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY,
					(void *)ASN1_STRING_get0_data(bits),
					(size_t)ASN1_STRING_length(bits)),
		OSSL_PARAM_END,
	};

	if (!ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
	    EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		return NULL;
	return key;
}

/* key_like() - as ec_key() for the curve of @sample, which is not set up anew */
static EVP_PKEY *key_like(EVP_PKEY *sample, const ASN1_BIT_STRING *bits)
{
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_PKEY_new();

	if (!key || EVP_PKEY_copy_parameters(key, sample) != 1 ||
	    EVP_PKEY_set1_encoded_public_key(key, ASN1_STRING_get0_data(bits),
					     (size_t)ASN1_STRING_length(bits)) != 1)
		return NULL;
	return TAKE_PTR(key);
}

static bool is_of_curve(EVP_PKEY *key, const char *curve)
{
	char name[32];

	return EVP_PKEY_get_group_name(key, name, sizeof(name), NULL) == 1 && !strcmp(name, curve);
}

static bool has_no_parameter(const X509_ALGOR *algorithm)
{
	int kind;

	X509_ALGOR_get0(NULL, &kind, NULL, algorithm);
	return kind == V_ASN1_UNDEF;
}

/* point_key() - NULL also if the bits are no point of the curve.  The point at infinity, the only
 * one of a single byte, is nobody's key: who has none can make signatures that it verifies. */
static EVP_PKEY *point_key(const char *curve, const ASN1_BIT_STRING *bits, EVP_PKEY *sample)
{
	if (ASN1_STRING_length(bits) <= 1)
		return NULL;
	return sample && is_of_curve(sample, curve) ? key_like(sample, bits) : ec_key(curve, bits);
}

/* key_of() - of a kind that is allowed; NULL with @error set */
static EVP_PKEY *key_of(const struct csr_key *k, EVP_PKEY *sample, struct failure *error)
{
	const char *curve = curve_of(k->algorithm);
	const ASN1_OBJECT *kind;
	EVP_PKEY *key;

	X509_ALGOR_get0(&kind, NULL, NULL, k->algorithm);
	if (OBJ_obj2nid(kind) == NID_X9_62_id_ecPublicKey && curve) {
		key = point_key(curve, k->bits, sample);
	} else if (OBJ_obj2nid(kind) == NID_ED25519 && has_no_parameter(k->algorithm)) {
		key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL,
						  ASN1_STRING_get0_data(k->bits),
						  (size_t)ASN1_STRING_length(k->bits));
	} else {
		failure_set(error, ERR_INVALID_PARAMS, "csr: keys are P-256, P-384 or Ed25519");
		return NULL;
	}
	if (!key)
		failure_set(error, ERR_INVALID_PARAMS, "csr: its key is not one");
	return key;
}

/* signed_by() - the proof that who asks has the key */
static bool signed_by(const struct csr *csr, EVP_PKEY *key)
{
	return ASN1_item_verify(ASN1_ITEM_rptr(CSR_BODY), csr->algorithm, csr->signature, csr->body,
				key) == 1;
}

static int check(const struct csr *csr, EVP_PKEY *sample, struct failure *error)
{
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = key_of(csr->body->key, sample, error);

	if (!key)
		return -EINVAL;
	if (!signed_by(csr, key))
		return failure_set(error, ERR_INVALID_PARAMS,
				   "csr: it is not signed by its own key");
	return 0;
}

int csr_read(const char *pem, EVP_PKEY *sample, struct csr **ret, struct failure *error)
{
	_cleanup_(csr_freep) struct csr *csr = parse(pem);
	int r;

	if (!csr)
		r = failure_set(error, ERR_INVALID_PARAMS, "csr: no certificate request in PEM");
	else
		r = check(csr, sample, error);
	ERR_clear_error();
	if (r >= 0)
		*ret = TAKE_PTR(csr);
	return r;
}

int csr_copy_key(const struct csr *csr, X509 *certificate)
{
	const struct csr_key *k = csr->body->key;
	X509_PUBKEY *to = X509_get_X509_PUBKEY(certificate);
	const ASN1_OBJECT *type;
	ASN1_OBJECT *type_copy, *curve = NULL;
	unsigned char *bits;
	const void *parameter;
	int kind, size = ASN1_STRING_length(k->bits);

	/* the curve's name, or nothing: check() has seen to it */
	X509_ALGOR_get0(&type, &kind, &parameter, k->algorithm);
	type_copy = OBJ_dup(type);
	if (kind == V_ASN1_OBJECT)
		curve = OBJ_dup(parameter);
	bits = OPENSSL_memdup(ASN1_STRING_get0_data(k->bits), (size_t)size);
	if (type_copy && bits && (curve || kind == V_ASN1_UNDEF) &&
	    X509_PUBKEY_set0_param(to, type_copy, kind, curve, bits, size) == 1)
		return 0;
	ASN1_OBJECT_free(type_copy);
	ASN1_OBJECT_free(curve);
	OPENSSL_free(bits);
	return -ENOMEM;
}
