/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two ends of a handshake, with good certificates of one authority: what its tests begin with. */
#ifndef SIVSHM_TEST_ENDS_H
#define SIVSHM_TEST_ENDS_H

#include "test.h"

#include "handshake.h"
#include "pki.h"

#define ID_A "spiffe://sivshm.local/vm/rtos/service/sensor"
#define ID_B "spiffe://sivshm.local/vm/ivi/service/dashboard"

extern const struct peer_name name_a, name_b;
extern const uint8_t ends_session[SESSION_ID_SIZE];

/* Between ends_set_up_group() and ends_tear_down_group(); other_ca has the same name and another
 * key. */
extern struct pki_pair ca, other_ca, leaf_a, leaf_b;
extern X509_STORE *trust, *other_trust;
extern struct failure ends_error; /* of the last step that failed */

/* struct ends - one handshake; what is NULL is taken from the good ones */
struct ends {
	struct handshake *a, *b;
	struct flight flights[3];
};

int ends_set_up_group(void **state);
int ends_tear_down_group(void **state);

struct handshake *new_end(bool initiator, const struct pki_pair *leaf, STACK_OF(X509) * chain,
			  X509_STORE *store, const char *peer_id, int64_t now);
struct handshake *new_a(void);
struct handshake *new_b(void);
void ends_done(struct ends *e);
/* Runs flights up to number @n; returns how many worked. */
unsigned ends_run(struct ends *e, unsigned n);

void assert_failed(struct handshake *h, const char *expected);
/* B is refused by A. */
void assert_a_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain, X509_STORE *a_trusts,
		      const char *a_expects, int64_t a_now, const char *expected);
/* A is refused by B. */
void assert_b_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain, X509_STORE *b_trusts,
		      const char *b_expects, int64_t b_now, const char *expected);

#endif
