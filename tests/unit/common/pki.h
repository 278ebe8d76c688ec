/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A certificate authority in memory, for tests.  Anything that goes wrong ends the test program. */
#ifndef SIVSHM_TEST_PKI_H
#define SIVSHM_TEST_PKI_H

#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdint.h>

#define PKI_NOW INT64_C(1764000000)

/** struct pki_pair - a key and its certificate; both owned */
struct pki_pair {
	EVP_PKEY *key;
	X509 *certificate;
};

/**
 * struct pki_options - what the certificate says; zero means what a proper leaf has
 * @san: extension value in OpenSSL's syntax ("URI:..."); NULL: none
 * @usage, @extended_usage: extension values; "": none; NULL: what sivshm-cad gives
 * @curve: "P-256", "P-384", or "RSA"
 * @lifetime: seconds from @not_before
 */
struct pki_options {
	const char *san;
	const char *usage;
	const char *extended_usage;
	const char *curve;
	bool is_ca;
	int64_t not_before;
	int64_t lifetime;
	X509_EXTENSION *extra; /* borrowed */
};

/** pki_issue() - @issuer NULL: self-signed */
struct pki_pair pki_issue(const char *name, const struct pki_pair *issuer,
			  const struct pki_options *options);
struct pki_pair pki_ca(const char *name, const struct pki_pair *issuer);
/** pki_leaf() - as sivshm-cad makes them, for the SPIFFE id @id */
struct pki_pair pki_leaf(const struct pki_pair *issuer, const char *id);
void pki_done(struct pki_pair *p);
/** pki_store() - trusts @ca; the caller frees */
X509_STORE *pki_store(const struct pki_pair *ca);

#endif
