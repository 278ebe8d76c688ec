/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PEM in memory: a BIO's text as a string, and no password.  Pure. */
#ifndef SIVSHM_BIO_TEXT_H
#define SIVSHM_BIO_TEXT_H

#include <openssl/bio.h>

/** bio_text() - the caller frees; NULL when @bio is NULL or empty, or out of memory */
char *bio_text(BIO *bio);
/** no_password() - for PEM_read_*(): without one OpenSSL asks on the terminal, and waits */
int no_password(char *buffer, int size, int writing, void *userdata);

#endif
