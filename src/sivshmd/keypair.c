/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "keypair.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>
#include <time.h>

#include "bio-text.h"
#include "cleanup.h"
#include "crypto.h"
#include "handshake-verify.h"

#define CHAIN_MAX 8

DEFINE_CLEANUP(X509_REQ *, X509_REQ_free)
DEFINE_CLEANUP(X509_STORE *, X509_STORE_free)
DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free)
DEFINE_CLEANUP(BIO *, BIO_free)

static void chain_free(STACK_OF(X509) * chain)
{
	sk_X509_pop_free(chain, X509_free);
}

void keypair_done(struct keypair *k)
{
	EVP_PKEY_free(k->key);
	X509_free(k->certificate);
	chain_free(k->chain);
	*k = (struct keypair){};
}

EVP_PKEY *key_new(void)
{
	return EVP_PKEY_Q_keygen(crypto_context(), NULL, "EC", "P-256");
}

/* As it is encoded in @key: OpenSSL's own way goes through all its encoders and decoders, which
 * takes several times as long as a signature, and which crypto_context() has not. */
int key_copy_public(EVP_PKEY *key, X509_PUBKEY *to)
{
	unsigned char *point = NULL;
	size_t size = EVP_PKEY_get1_encoded_public_key(key, &point);

	if (size == 0)
		return 0;
	if (X509_PUBKEY_set0_param(to, OBJ_nid2obj(NID_X9_62_id_ecPublicKey), V_ASN1_OBJECT,
				   OBJ_nid2obj(NID_X9_62_prime256v1), point, (int)size) == 1)
		return 1;
	OPENSSL_free(point);
	return 0;
}

char *csr_new(EVP_PKEY *key)
{
	_cleanup_(X509_REQ_freep) X509_REQ *request = X509_REQ_new_ex(crypto_context(), NULL);
	_cleanup_(BIO_freep) BIO *bio = BIO_new(BIO_s_mem());

	/* No subject: who it is for is the host's to say. */
	if (!request || !bio || X509_REQ_set_version(request, X509_REQ_VERSION_1) != 1 ||
	    key_copy_public(key, X509_REQ_get_X509_PUBKEY(request)) != 1 ||
	    X509_REQ_sign(request, key, EVP_sha256()) <= 0 ||
	    PEM_write_bio_X509_REQ(bio, request) != 1) {
		ERR_clear_error();
		return NULL;
	}
	return bio_text(bio);
}

/* The next certificate of @bio; NULL at the end, with @error set when it was none. */
static X509 *next_certificate(BIO *bio, struct failure *error)
{
	X509 *x = X509_new_ex(crypto_context(), NULL);
	X509 *read = x ? PEM_read_bio_X509(bio, &x, no_password, NULL) : NULL;
	unsigned long e = ERR_peek_last_error();

	if (!read)
		X509_free(x);
	if (!read && ERR_GET_REASON(e) != PEM_R_NO_START_LINE)
		failure_set(error, ERR_HANDSHAKE_FAILED, "the host sent a broken certificate");
	ERR_clear_error();
	return read;
}

int trust_new(const char *bundle, X509_STORE **ret, struct failure *error)
{
	_cleanup_(X509_STORE_freep) X509_STORE *store = X509_STORE_new();
	_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(bundle, -1);
	struct failure broken = {};
	unsigned n = 0;
	X509 *x;

	if (!store || !bio)
		return failure_set(error, ERR_FAILED, "out of memory");
	while ((x = next_certificate(bio, &broken))) {
		int r = X509_STORE_add_cert(store, x);

		X509_free(x);
		if (r != 1)
			return failure_set(error, ERR_FAILED, "the trust bundle is of no use");
		n++;
	}
	if (broken.code || n == 0)
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the host sent a broken trust bundle");
	/* What is in the bundle is trusted, be it a root or an intermediate. */
	X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
	*ret = TAKE_PTR(store);
	return 0;
}

static int read_chain(const char *pem, struct keypair *k, struct failure *error)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	struct failure broken = {};
	X509 *x;

	k->chain = sk_X509_new_null();
	if (!bio || !k->chain)
		return failure_set(error, ERR_FAILED, "out of memory");
	k->certificate = next_certificate(bio, &broken);
	while (!broken.code && k->certificate && sk_X509_num(k->chain) < CHAIN_MAX &&
	       (x = next_certificate(bio, &broken)))
		if (sk_X509_push(k->chain, x) <= 0) {
			X509_free(x);
			return failure_set(error, ERR_FAILED, "out of memory");
		}
	if (broken.code || !k->certificate)
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the host sent a broken certificate");
	return 0;
}

static int check_chain(const struct keypair *k, X509_STORE *trust, int64_t now,
		       struct failure *error)
{
	_cleanup_(X509_STORE_CTX_freep) X509_STORE_CTX *ctx =
		X509_STORE_CTX_new_ex(crypto_context(), NULL);
	int r;

	if (!ctx || X509_STORE_CTX_init(ctx, trust, k->certificate, k->chain) != 1)
		return failure_set(error, ERR_FAILED, "out of memory");
	X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(ctx), (time_t)now);
	r = X509_verify_cert(ctx);
	ERR_clear_error();
	if (r == 1)
		return 0;
	return failure_set(error, ERR_HANDSHAKE_FAILED, "the certificate from the host: %s",
			   X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
}

int keypair_check(const struct keypair *k, const char *spiffe_id, X509_STORE *trust, int64_t now,
		  struct failure *error)
{
	int r = X509_check_private_key(k->certificate, k->key);

	ERR_clear_error();
	if (r != 1)
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the certificate from the host is for another key");
	if (leaf_name_check(k->certificate, spiffe_id))
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the certificate from the host is not for %s", spiffe_id);
	return check_chain(k, trust, now, error);
}

int keypair_new(EVP_PKEY *key, const char *pem, const char *spiffe_id, X509_STORE *trust,
		int64_t now, struct keypair *ret, struct failure *error)
{
	struct keypair k = {.key = key};
	int r;

	EVP_PKEY_up_ref(key);
	r = read_chain(pem, &k, error);
	if (r >= 0)
		r = keypair_check(&k, spiffe_id, trust, now, error);
	if (r < 0) {
		keypair_done(&k);
		return r;
	}
	*ret = k;
	return 0;
}

int64_t certificate_not_after(const X509 *certificate)
{
	struct tm tm;

	if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1)
		return -1;
	return timegm(&tm);
}

char *certificate_serial(const X509 *certificate)
{
	BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
	char *hex = n ? BN_bn2hex(n) : NULL;
	char *ret = hex ? strdup(hex) : NULL;

	OPENSSL_free(hex);
	BN_free(n);
	return ret;
}
