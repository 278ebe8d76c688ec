/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The certificate authority: makes or loads its key, turns a CSR into a service certificate.  No
 * policy here. */
#ifndef CAD_CA_H
#define CAD_CA_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdint.h>

#include "cleanup.h"
#include "config.h"
#include "errors.h"

#define SERIAL_SIZE 41 /* 160 bits in hex, and NUL */

/** struct ca - @chain: intermediates above @certificate, sent along with each leaf */
struct ca {
	EVP_PKEY *key;
	X509 *certificate;
	STACK_OF(X509) * chain;
	X509 *sample; /* a leaf of no name: has the extensions that all leaves have */
	char *bundle; /* PEM, what verifiers trust */
};

/** struct issued - one certificate that was made */
struct issued {
	char *pem; /* leaf first; owned, issued_done() */
	char serial[SERIAL_SIZE];
	int64_t not_before, not_after; /* seconds since the epoch */
};

/** struct ca_files - where the CA is; @bundle may be NULL: the certificate itself */
struct ca_files {
	const char *key, *certificate, *bundle;
};

/** ca_load() - key (readable by its owner alone), certificate chain, bundle; checks that they
 * belong together */
int ca_load(const struct ca_files *files, struct ca **ret, struct failure *error);
/** ca_make() - a new self-signed CA for @trust_domain into two files that do not exist yet */
int ca_make(const char *key_file, const char *certificate_file, const char *trust_domain,
	    struct failure *error);
struct ca *ca_free(struct ca *ca);
DEFINE_CLEANUP(struct ca *, ca_free)

/**
 * ca_issue() - certificate for @spiffe_id with the key of @csr
 * Takes nothing but the key from the CSR, and that only when the CSR is signed by it and it is
 * P-256, P-384 or Ed25519.  @now: seconds since the epoch.  Never longer than the CA's own life.
 */
int ca_issue(const struct ca *ca, const char *csr, const char *spiffe_id, int64_t now,
	     uint64_t lifetime_sec, struct issued *ret, struct failure *error);
void issued_done(struct issued *issued);

#endif
