/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* OpenSSL helpers that ca.c (loading), ca-make.c and ca-issue.c share. */
#ifndef CAD_CA_INTERNAL_H
#define CAD_CA_INTERNAL_H

#include <openssl/bio.h>
#include <openssl/x509v3.h>

#include "ca.h"

DEFINE_CLEANUP(BIO *, BIO_free)
DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)

/* Ages that tolerate a verifier whose clock is a little behind. */
#define BACKDATE_SEC 60

/** crypto_fail() - @error with OpenSSL's reason appended; empties its queue */
int crypto_fail(struct failure *error, const char *what);
/** random_serial() - positive, 159 random bits */
int random_serial(X509 *certificate, char ret_hex[SERIAL_SIZE]);
/** add_extension() - by OpenSSL's own syntax, for constant values only */
int add_extension(X509 *certificate, X509 *issuer, int nid, const char *value);
/** add_uri_san() - exactly one URI; never parsed as configuration syntax */
int add_uri_san(X509 *certificate, const char *uri, bool critical);
/** sign() - with the digest that suits the key */
int sign(X509 *certificate, EVP_PKEY *key);
/** sample_leaf() - a certificate like those for services, but of no name; owned by the caller */
X509 *sample_leaf(const struct ca *ca, int64_t now);

#endif
