/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The other side of a handshake: a real OpenSSL with a key, that speaks as badly as the input says,
 * and whose flight is edited on its way.  All randomness is a function of nothing: the same input
 * gives the same bytes.
 */
#ifndef SIVSHM_FUZZ_PEER_H
#define SIVSHM_FUZZ_PEER_H

#include "fuzz.h"
#include "handshake.h"
#include "pki.h"

#define ID_A "spiffe://sivshm.local/vm/rtos/service/sensor"
#define ID_B "spiffe://sivshm.local/vm/ivi/service/dashboard"

extern struct pki_pair peer_ca;
/* A certificate of each kind: 0 is A's or B's own, all others are refused. */
#define PEER_LEAVES 8

/* What a peer may do wrong; 0 is a peer that does everything right. */
#define PEER_TLS12 0x01	      /* offers nothing newer */
#define PEER_OTHER_GROUP 0x02 /* offers no X25519 */
#define PEER_BOTH_GROUPS 0x04 /* P-256 first: its share is of the wrong one */
#define PEER_TICKETS 0x08
#define PEER_EXTRA_DATA 0x10 /* a client's application data right behind its Finished */
#define PEER_OTHER_CIPHER 0x20
#define PEER_ASKS_NOTHING 0x40 /* a server that wants no certificate; a client that gives none */
#define PEER_MIDDLEBOX 0x80    /* sends ChangeCipherSpec; that alone is refused by nobody */
#define PEER_HARMLESS (PEER_TICKETS | PEER_MIDDLEBOX)

void peer_init(void);
/** peer_restart() - randomness begins anew */
void peer_restart(void);

/** peer_ours() - the handshake under test; @initiator is A */
struct handshake *peer_ours(bool initiator);

/** peer_new() - the other end; @leaf: 0 to PEER_LEAVES - 1 */
SSL *peer_new(bool initiator, uint8_t options, unsigned leaf);
/** peer_with() - the same with this certificate */
SSL *peer_with(bool initiator, uint8_t options, const struct pki_pair *pair);
/** peer_talk() - takes @in (NULL: none), returns what it says to that; the caller frees */
struct flight peer_talk(SSL *ssl, const struct flight *in, uint8_t options);

/** peer_edit() - applies the rest of the input; true: something is different now */
bool peer_edit(struct flight *f, struct input *in);

/** peer_check_failed() - an object that has failed says why and stays failed */
void peer_check_failed(struct handshake *h, int r, const struct failure *error);
/** peer_check_connected() - both ends have the same exporter value */
void peer_check_connected(struct handshake *h, SSL *ssl);

#endif
