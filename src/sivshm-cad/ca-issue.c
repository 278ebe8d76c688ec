/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

#include "bio-text.h"
#include "ca-internal.h"
#include "message.h"

DEFINE_CLEANUP(X509_REQ *, X509_REQ_free)

void issued_done(struct issued *issued)
{
	free(issued->pem);
	*issued = (struct issued){};
}

/* A curve spelled out in parameters could be any curve: only names are taken. */
static bool is_named_curve(EVP_PKEY *key)
{
	char group[32], encoding[32];

	if (EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_EC_ENCODING, encoding,
					   sizeof(encoding), NULL) != 1 ||
	    strcmp(encoding, "named_curve") != 0)
		return false;
	if (EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) != 1)
		return false;
	return strcmp(group, "prime256v1") == 0 || strcmp(group, "secp384r1") == 0;
}

static bool key_is_allowed(EVP_PKEY *key)
{
	return EVP_PKEY_is_a(key, "ED25519") || (EVP_PKEY_is_a(key, "EC") && is_named_curve(key));
}

static int read_csr(const char *text, X509_REQ **ret, struct failure *error)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(text, -1);
	_cleanup_(X509_REQ_freep) X509_REQ *csr =
		bio ? PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL) : NULL;
	EVP_PKEY *key = csr ? X509_REQ_get0_pubkey(csr) : NULL;

	ERR_clear_error();
	if (!key)
		return failure_set(error, ERR_INVALID_PARAMS, "csr: no certificate request in PEM");
	if (!key_is_allowed(key)) {
		ERR_clear_error();
		return failure_set(error, ERR_INVALID_PARAMS,
				   "csr: keys are P-256, P-384 or Ed25519");
	}
	if (X509_REQ_verify(csr, key) != 1) {
		ERR_clear_error();
		return failure_set(error, ERR_INVALID_PARAMS,
				   "csr: it is not signed by its own key");
	}
	*ret = TAKE_PTR(csr);
	return 0;
}

/* end_of_life() - of the leaf: never beyond the CA's own */
static int64_t end_of_life(const struct ca *ca, int64_t now, uint64_t lifetime_sec)
{
	ASN1_TIME *wanted = ASN1_TIME_set(NULL, (time_t)(now + (int64_t)lifetime_sec));
	const ASN1_TIME *last = X509_get0_notAfter(ca->certificate);
	int days = 0, seconds = 0;

	if (wanted && ASN1_TIME_diff(&days, &seconds, wanted, last) && (days < 0 || seconds < 0))
		lifetime_sec = (uint64_t)((int64_t)lifetime_sec + days * 86400LL + seconds);
	ASN1_TIME_free(wanted);
	return now + (int64_t)lifetime_sec;
}

/* add_extensions() - those that all leaves have.  OpenSSL's syntax is read once, for the sample. */
static int add_extensions(const struct ca *ca, X509 *leaf)
{
	for (int i = 0; ca->sample && i < X509_get_ext_count(ca->sample); i++)
		if (!X509_add_ext(leaf, X509_get_ext(ca->sample, i), -1))
			return -ENOMEM;
	if (ca->sample)
		return 0;
	if (add_extension(leaf, ca->certificate, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
	    add_extension(leaf, ca->certificate, NID_key_usage, "critical,digitalSignature") < 0 ||
	    add_extension(leaf, ca->certificate, NID_ext_key_usage, "serverAuth,clientAuth") < 0 ||
	    add_extension(leaf, ca->certificate, NID_authority_key_identifier, "keyid") < 0)
		return -EIO;
	return 0;
}

/* fill_leaf() - all but key and name */
static int fill_leaf(const struct ca *ca, X509 *leaf, struct issued *issued)
{
	if (!X509_set_version(leaf, X509_VERSION_3) || random_serial(leaf, issued->serial) < 0 ||
	    !X509_set_issuer_name(leaf, X509_get_subject_name(ca->certificate)) ||
	    !ASN1_TIME_set(X509_getm_notBefore(leaf), (time_t)issued->not_before) ||
	    !ASN1_TIME_set(X509_getm_notAfter(leaf), (time_t)issued->not_after))
		return -EIO;
	return add_extensions(ca, leaf);
}

/*
 * copy_key() - the key that was verified, as it is encoded
 * X509_set_pubkey() would have all of OpenSSL's encoders and then its decoders looked through,
 * which takes longer than verifying the request and signing the certificate together.
 */
static int copy_key(X509 *leaf, X509_REQ *request)
{
	X509_PUBKEY *from = X509_REQ_get_X509_PUBKEY(request);
	const ASN1_OBJECT *type;
	ASN1_OBJECT *type_copy, *curve = NULL;
	const unsigned char *point;
	unsigned char *point_copy;
	X509_ALGOR *algorithm;
	const void *parameter;
	int size, kind;

	if (X509_PUBKEY_get0_param(NULL, &point, &size, &algorithm, from) != 1)
		return -EIO;
	X509_ALGOR_get0(&type, &kind, &parameter, algorithm);
	if (kind != V_ASN1_OBJECT && kind != V_ASN1_UNDEF)
		return -EIO; /* no kind of key that is allowed */
	type_copy = OBJ_dup(type);
	if (kind == V_ASN1_OBJECT)
		curve = OBJ_dup(parameter);
	point_copy = OPENSSL_memdup(point, (size_t)size);
	if (type_copy && point_copy && (curve || kind == V_ASN1_UNDEF) &&
	    X509_PUBKEY_set0_param(X509_get_X509_PUBKEY(leaf), type_copy, kind, curve, point_copy,
				   size) == 1)
		return 0;
	ASN1_OBJECT_free(type_copy);
	ASN1_OBJECT_free(curve);
	OPENSSL_free(point_copy);
	return -ENOMEM;
}

X509 *sample_leaf(const struct ca *ca, int64_t now)
{
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
	_cleanup_(X509_freep) X509 *leaf = X509_new();
	struct issued issued = {.not_before = now - BACKDATE_SEC, .not_after = now + BACKDATE_SEC};

	if (!key || !leaf || fill_leaf(ca, leaf, &issued) < 0 || !X509_set_pubkey(leaf, key) ||
	    sign(leaf, ca->key) < 0)
		return NULL;
	return TAKE_PTR(leaf);
}

static char *chain_to_pem(const struct ca *ca, X509 *leaf)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new(BIO_s_mem());

	if (!bio || !PEM_write_bio_X509(bio, leaf))
		return NULL;
	if (X509_self_signed(ca->certificate, 0) != 1)
		PEM_write_bio_X509(bio, ca->certificate);
	for (int i = 0; i < sk_X509_num(ca->chain); i++)
		PEM_write_bio_X509(bio, sk_X509_value(ca->chain, i));
	return BIO_pending(bio) < PEM_MAX ? bio_text(bio) : NULL;
}

int ca_issue(const struct ca *ca, const char *csr, const char *spiffe_id, int64_t now,
	     uint64_t lifetime_sec, struct issued *ret, struct failure *error)
{
	_cleanup_(X509_REQ_freep) X509_REQ *request = NULL;
	_cleanup_(X509_freep) X509 *leaf = X509_new();
	struct issued issued = {.not_before = now - BACKDATE_SEC};
	int r = read_csr(csr, &request, error);

	if (r < 0)
		return r;
	issued.not_after = end_of_life(ca, now, lifetime_sec);
	if (issued.not_after <= now)
		return failure_set(error, ERR_FAILED, "the CA's certificate has expired");
	/* the name is critical, for the subject is empty (RFC 5280) */
	if (!leaf || fill_leaf(ca, leaf, &issued) < 0 || copy_key(leaf, request) < 0 ||
	    add_uri_san(leaf, spiffe_id, true) < 0 || sign(leaf, ca->key) < 0)
		return crypto_fail(error, "making the certificate");
	issued.pem = chain_to_pem(ca, leaf);
	if (!issued.pem)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	*ret = issued;
	return 0;
}
