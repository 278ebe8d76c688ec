/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* OpenSSL with what a handshake is made of, and no more.  Pure. */
#ifndef SIVSHM_CRYPTO_H
#define SIVSHM_CRYPTO_H

#include <openssl/types.h>
#include <stddef.h>

/**
 * crypto_context() - library context for handshakes, the certificates in them, and their keys
 *
 * It has the algorithms of docs/protocol.md, in the implementation of OpenSSL's default provider,
 * and of all decoders those alone that read a certificate's public key.  So a peer's bytes do not
 * reach what no handshake needs.  And OpenSSL 3.0, which looks through all algorithms for the key
 * of each certificate that it reads, has few to look through: less than a third of the time.
 *
 * A key for it has to be made in it (EVP_PKEY_Q_keygen()), or it is converted for each use.
 * Lives as long as the process; sivshmd has it before anything else.  NULL when there is no memory.
 * One thread alone may use it.
 */
OSSL_LIB_CTX *crypto_context(void);

/**
 * crypto_mix() - add @bytes to what random numbers are made from, for crypto_context() and without
 * Nothing is taken away: bytes that somebody knows do no harm.  -ENOMEM: not done.
 */
int crypto_mix(const void *bytes, size_t size);

#endif
