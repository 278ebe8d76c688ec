/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a service's certificate has to look like beyond its chain (docs/protocol.md).  Pure. */
#ifndef SIVSHM_HANDSHAKE_VERIFY_H
#define SIVSHM_HANDSHAKE_VERIFY_H

#include <openssl/x509.h>

/* What chains have to be, wherever one is verified. */
#define CHAIN_DEPTH_MAX 4      /* intermediates between leaf and the fleet's root */
#define CHAIN_SECURITY_LEVEL 2 /* OpenSSL's: 112 bits */

/**
 * leaf_certificate_check() - @certificate, whose chain was verified, is that of @spiffe_id
 * Returns NULL, or what is wrong with it (a static text).
 */
const char *leaf_certificate_check(X509 *certificate, const char *spiffe_id);

/** leaf_name_check() - of that the name alone */
const char *leaf_name_check(X509 *certificate, const char *spiffe_id);

#endif
