/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One TLS 1.3 handshake between two services over memory BIOs, as three flights (docs/protocol.md).
 * Pure: no I/O, no clock (the caller gives the time), no logger.
 *
 *	initiator:  handshake_start() -> CH;  handshake_step(SH..SF) -> CC..CF;  handshake_result()
 *	responder:  handshake_step(CH) -> SH..SF;  handshake_step(CC..CF) -> nothing;  handshake_result()
 *
 * Any other number of flights, a HelloRetryRequest, TLS 1.2, a ticket or application data is an
 * error, and an object that has failed stays failed.
 */
#ifndef SIVSHM_HANDSHAKE_H
#define SIVSHM_HANDSHAKE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "message.h"
#include "names.h"

#define EXPORTER_LABEL "EXPORTER-sivshm-channel-v1"

struct handshake;

/** struct handshake_identity - a service's key and certificate; handshake_new() takes references */
struct handshake_identity {
	EVP_PKEY *key;
	X509 *certificate;
	STACK_OF(X509) *chain; /* intermediates, may be NULL */
};

/**
 * struct handshake_config - all strings are copied
 * @identity: an initiator may do without and say it by handshake_set_identity() before its second
 *            flight, since ClientHello says nothing of it
 */
struct handshake_config {
	bool initiator;
	const struct handshake_identity *identity;
	X509_STORE *trust; /* trust bundle; a reference is taken */
	const char *peer_id; /* exact SPIFFE id the peer must have */
	int64_t now; /* host's time, seconds since the epoch */
};

int handshake_new(const struct handshake_config *config, struct handshake **ret, struct failure *error);
struct handshake *handshake_free(struct handshake *h);

/** handshake_set_identity() - once, for an initiator that was made without */
int handshake_set_identity(struct handshake *h, const struct handshake_identity *identity,
			   struct failure *error);

/** handshake_start() - initiator's first flight; @ret is owned by the caller */
int handshake_start(struct handshake *h, struct flight *ret, struct failure *error);
/** handshake_step() - process one flight, make the next (@ret->size 0 when there is none to send) */
int handshake_step(struct handshake *h, const struct flight *in, struct flight *ret, struct failure *error);
/** handshake_result() - after the last step: exporter bound to @session, names and @ring_size; -ENOTCONN before */
int handshake_result(struct handshake *h, const uint8_t session[SESSION_ID_SIZE],
		     const struct peer_name *from, const struct peer_name *to, uint64_t ring_size,
		     uint8_t ret_exporter[EXPORTER_SIZE], struct failure *error);
/** handshake_peer_certificate() - PEM of the verified peer; the caller frees */
int handshake_peer_certificate(struct handshake *h, char **ret_pem);

#endif
