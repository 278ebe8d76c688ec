/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keys, certificate requests, certificates in PEM.  Pure: OpenSSL over memory. */
#ifndef SIVSHMD_KEYPAIR_H
#define SIVSHMD_KEYPAIR_H

#include <openssl/x509.h>

#include "errors.h"

/** struct keypair - a service's key and the certificate issued for it */
struct keypair {
	EVP_PKEY *key;
	X509 *certificate;
	STACK_OF(X509) * chain; /* intermediates, leaf excluded; may be NULL */
};

void keypair_done(struct keypair *k);

/** key_new() - fresh P-256 key, for crypto_context(); NULL when OpenSSL fails */
EVP_PKEY *key_new(void);
/** key_copy_public() - the public half of a P-256 key; 1: done */
int key_copy_public(EVP_PKEY *key, X509_PUBKEY *to);
/** csr_new() - PEM of a request for @key; the caller frees; NULL when OpenSSL fails */
char *csr_new(EVP_PKEY *key);
/** trust_new() - PEM bundle to a store; @ret owned by the caller */
int trust_new(const char *bundle, X509_STORE **ret, struct failure *error);
/**
 * keypair_new() - join @key with the PEM that was issued for it
 * Takes a reference to @key.  Refuses a certificate that is not for this key, not for exactly
 * @spiffe_id, or not trusted by @trust at @now.
 */
int keypair_new(EVP_PKEY *key, const char *pem, const char *spiffe_id, X509_STORE *trust,
		int64_t now, struct keypair *ret, struct failure *error);
/** keypair_check() - the same checks, once more */
int keypair_check(const struct keypair *k, const char *spiffe_id, X509_STORE *trust, int64_t now,
		  struct failure *error);
/** certificate_not_after() - seconds since the epoch; -1 when it cannot be told */
int64_t certificate_not_after(const X509 *certificate);
/** certificate_serial() - hex; the caller frees */
char *certificate_serial(const X509 *certificate);

#endif
