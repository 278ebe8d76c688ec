/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was written to a memory BIO, as a string.  Pure. */
#ifndef SIVSHM_BIO_TEXT_H
#define SIVSHM_BIO_TEXT_H

#include <openssl/bio.h>

/** bio_text() - the caller frees; NULL when @bio is NULL or empty, or out of memory */
char *bio_text(BIO *bio);

#endif
