/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every control message as a struct (docs/protocol.md): total decoders from, encoders to the
 * params/result object of a struct rpc_message.  Pure.
 *
 * A decoder checks every member's type, length and alphabet, refuses members it does not know, and
 * returns -EBADMSG with the reason in @error (ERR_INVALID_PARAMS).  On success strings are valid
 * names; on failure nothing is owned.  Encoders return a new object or NULL (out of memory).
 */
#ifndef SIVSHM_MESSAGE_H
#define SIVSHM_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"
#include "names.h"
#include "sivshm_table.h"

#define PROTOCOL_VERSION 1
#define NONCE_SIZE 16
#define SESSION_ID_SIZE 16
#define EXPORTER_SIZE 32
#define HOST_RANDOM_SIZE 64
#define FLIGHT_MAX 24576
#define PEM_MAX 16384
#define REASON_SIZE 128
#define BOOT_ID_SIZE 40

struct slot_ref {
	uint32_t slot;
	uint32_t generation;
};

/** struct flight - one opaque TLS flight; @data is owned */
struct flight {
	uint8_t *data;
	size_t size;
};
void flight_done(struct flight *f);

struct msg_hello {
	uint32_t version;
	uint8_t nonce[NONCE_SIZE];
	char boot_id[BOOT_ID_SIZE];
	size_t n_channels;
	struct slot_ref *channels; /* owned, at most SIVSHM_MAX_SLOTS */
};
struct msg_welcome {
	uint32_t version;
	uint8_t nonce[NONCE_SIZE];
	char vm[SIVSHM_VM_NAME_SIZE];
	char trust_domain[TRUST_DOMAIN_SIZE];
	uint64_t time_usec;
	uint8_t random[HOST_RANDOM_SIZE];
	char *trust_bundle; /* owned, PEM */
};
struct msg_issue {
	char service[SIVSHM_SERVICE_NAME_SIZE];
	char *csr; /* owned, PEM */
};
struct msg_issued {
	char *certificate; /* owned, PEM */
	uint64_t not_after;
};
struct msg_service { /* Listen, Unlisten, CertificateRevoked */
	char service[SIVSHM_SERVICE_NAME_SIZE];
};
struct msg_connect {
	char from[SIVSHM_SERVICE_NAME_SIZE];
	struct peer_name to;
	uint64_t ring_size;
	struct flight flight;
};
struct msg_incoming {
	uint8_t session[SESSION_ID_SIZE];
	struct peer_name from;
	char to[SIVSHM_SERVICE_NAME_SIZE];
	uint64_t ring_size;
	struct flight flight;
};
struct msg_flight { /* result of Connect (with session), of Incoming (without); params of Finish (with) */
	uint8_t session[SESSION_ID_SIZE];
	struct flight flight;
};
struct msg_confirm {
	uint8_t session[SESSION_ID_SIZE];
	struct flight flight;
	char peer[SPIFFE_ID_SIZE];
	uint8_t exporter[EXPORTER_SIZE];
};
struct msg_finished { /* result of Finish */
	char peer[SPIFFE_ID_SIZE];
	uint8_t exporter[EXPORTER_SIZE];
};
struct msg_session { /* Cancel */
	uint8_t session[SESSION_ID_SIZE];
};
struct msg_granted { /* Granted, Opened */
	uint8_t session[SESSION_ID_SIZE];
	struct slot_ref ref;
};
struct msg_abort {
	uint8_t session[SESSION_ID_SIZE];
	struct failure error;
};
struct msg_revoked {
	struct slot_ref ref;
	char reason[REASON_SIZE];
};

#define MESSAGE_CODEC(name)                                                                        \
	int msg_##name##_decode(json_t *body, struct msg_##name *ret, struct failure *error);      \
	json_t *msg_##name##_encode(const struct msg_##name *m);

MESSAGE_CODEC(hello)
MESSAGE_CODEC(welcome)
MESSAGE_CODEC(issue)
MESSAGE_CODEC(issued)
MESSAGE_CODEC(service)
MESSAGE_CODEC(connect)
MESSAGE_CODEC(incoming)
MESSAGE_CODEC(confirm)
MESSAGE_CODEC(finished)
MESSAGE_CODEC(session)
MESSAGE_CODEC(granted)
MESSAGE_CODEC(abort)
MESSAGE_CODEC(revoked)

/* msg_flight is { session, flight } when @with_session, else { flight } */
int msg_flight_decode(json_t *body, bool with_session, struct msg_flight *ret, struct failure *error);
json_t *msg_flight_encode(const struct msg_flight *m, bool with_session);

/* { slot, generation }: params of Released, result of Confirm */
int slot_ref_decode(json_t *body, struct slot_ref *ret, struct failure *error);
json_t *slot_ref_encode(const struct slot_ref *ref);

/* {}: params or results without members */
int msg_empty_decode(json_t *body, struct failure *error);

void msg_hello_done(struct msg_hello *m);
void msg_welcome_done(struct msg_welcome *m);
void msg_issue_done(struct msg_issue *m);
void msg_issued_done(struct msg_issued *m);

/** hex_encode() - @ret has 2 * size + 1 bytes */
void hex_encode(const uint8_t *data, size_t size, char *ret);
/** hex_decode() - exactly @size bytes, lower case; -EINVAL else */
int hex_decode(const char *text, uint8_t *ret, size_t size);

#endif
