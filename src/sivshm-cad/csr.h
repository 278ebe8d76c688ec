/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A certificate request: the key in it, and the proof that who asks has that key. */
#ifndef CAD_CSR_H
#define CAD_CSR_H

#include <openssl/x509.h>

#include "cleanup.h"
#include "errors.h"

struct csr;

/**
 * csr_read() - from PEM, with the key checked: P-256, P-384 or Ed25519, and the request signed by
 * it.
 * OpenSSL's own reader looks through all of its decoders for the key, which takes longer than
 * verifying the signature; so this one takes the key's encoding apart itself.  @sample: any key, or
 * NULL; a key on the same curve spares setting that up.
 */
int csr_read(const char *pem, EVP_PKEY *sample, struct csr **ret, struct failure *error);
struct csr *csr_free(struct csr *csr);
DEFINE_CLEANUP(struct csr *, csr_free)

/** csr_copy_key() - into a certificate, as it was encoded in the request */
int csr_copy_key(const struct csr *csr, X509 *certificate);

#endif
