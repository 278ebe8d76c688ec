/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A key and its certificate request, made ahead: whoever needs a certificate need not wait for
 * them.
 */
#ifndef SIVSHMD_SPARE_KEY_H
#define SIVSHMD_SPARE_KEY_H

#include <systemd/sd-event.h>

#include "cleanup.h"
#include "keypair.h"

struct spare_key;

int spare_key_new(sd_event *event, struct spare_key **ret);
struct spare_key *spare_key_free(struct spare_key *s);
DEFINE_CLEANUP(struct spare_key *, spare_key_free)

/**
 * spare_key_take() - a key that nobody has had before, and its request in PEM
 * Both are the caller's.  Makes them now if there are none, and the next ones a moment later.
 * Returns 0, or -EIO when OpenSSL fails.
 */
int spare_key_take(struct spare_key *s, EVP_PKEY **ret_key, char **ret_csr);

/**
 * spare_key_renew() - drop what is kept, and make another when the daemon has had time to start
 * For each Welcome: this machine may be a copy of one that has the same key in its memory.
 */
void spare_key_renew(struct spare_key *s);

#endif
