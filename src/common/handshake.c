/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tokens are RFC 8446's: CH ClientHello, SH ServerHello, EE EncryptedExtensions, CR
 * CertificateRequest, SCT/SCV/SF the server's Certificate, CertificateVerify and Finished,
 *CCT/CCV/CF the client's, HRR HelloRetryRequest.
 *
 * OpenSSL drives the messages; this file insists on the shape of the flights:
 *
 *	flight 1	initiator -> responder	CH
 *	flight 2	responder -> initiator	SH EE CR SCT SCV SF
 *	flight 3	initiator -> responder	CCT CCV CF
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bio-text.h"
#include "cleanup.h"
#include "crypto.h"
#include "handshake.h"
#include "handshake-verify.h"

#define CONTEXT_MAX (2 * SESSION_ID_SIZE + 2 * PEER_NAME_SIZE + 32)

enum handshake_state {
	START, /* initiator: nothing sent */
	WAIT_FLIGHT_1,
	WAIT_FLIGHT_2,
	WAIT_FLIGHT_3,
	CONNECTED,
	FAILED,
};

struct handshake {
	enum handshake_state state;
	SSL *ssl;	   /* owned; gone once FAILED */
	BIO *in, *out;	   /* owned by @ssl */
	int last_sent;	   /* type of the last handshake message OpenSSL wrote, -1: none */
	const char *wrong; /* why the peer's certificate was refused, static */
	bool peer_checked; /* its leaf is the expected service's */
	char peer_id[SPIFFE_ID_SIZE];
};

static int fail(struct handshake *h, struct failure *error, const char *what)
{
	h->state = FAILED;
	SSL_free(h->ssl);
	h->ssl = NULL;
	h->in = h->out = NULL;
	ERR_clear_error();
	return failure_set(error, ERR_HANDSHAKE_FAILED, "%s", what);
}

/* OpenSSL refused: the check that failed, its reason, and where in the handshake. */
static int fail_ssl(struct handshake *h, struct failure *error)
{
	const char *reason = ERR_reason_error_string(ERR_peek_error());
	long verify = SSL_get_verify_result(h->ssl);
	char text[SPIFFE_ID_SIZE + 128];

	if (h->wrong)
		snprintf(text, sizeof(text), "%s (expected %s)", h->wrong, h->peer_id);
	else if (verify != X509_V_OK)
		snprintf(text, sizeof(text), "peer's certificate: %s",
			 X509_verify_cert_error_string(verify));
	else
		snprintf(text, sizeof(text), "%s (%s)", reason ? reason : "flight is incomplete",
			 SSL_state_string_long(h->ssl));
	return fail(h, error, text);
}

/* Notes what OpenSSL sends: a flight that does not end as it has to is a HelloRetryRequest, an
 * answer to one, or half a flight. */
static void on_message(int is_sent, int version, int content_type, const void *data, size_t size,
		       SSL *ssl, void *userdata)
{
	struct handshake *h = userdata;

	(void)version;
	(void)ssl;
	if (is_sent && content_type == SSL3_RT_HANDSHAKE && size > 0)
		h->last_sent = *(const uint8_t *)data;
}

/* Called for each certificate of the chain, leaf last.  Refusing here, before CertificateVerify is
 * looked at, keeps our own certificate from a peer who is not the expected one. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct handshake *h = SSL_get_app_data(ssl);

	if (!ok || X509_STORE_CTX_get_error_depth(store) > 0)
		return ok;
	h->wrong = leaf_certificate_check(X509_STORE_CTX_get_current_cert(store), h->peer_id);
	if (h->wrong) {
		X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
		return 0;
	}
	h->peer_checked = true;
	return 1;
}

static SSL_CTX *context_new(void)
{
	OSSL_LIB_CTX *crypto = crypto_context();
	SSL_CTX *context = crypto ? SSL_CTX_new_ex(crypto, NULL, TLS_method()) : NULL;

	if (!context)
		return NULL;
	SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
					     SSL_OP_NO_COMPRESSION |
					     SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_clear_options(context, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
	SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_security_level(context, CHAIN_SECURITY_LEVEL);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
	SSL_CTX_set_verify_depth(context, CHAIN_DEPTH_MAX);
	SSL_CTX_set_msg_callback(context, on_message);
	if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_num_tickets(context, 0) != 1 ||
	    /* one group: whoever offers a share of another gets an error, not a HRR */
	    SSL_CTX_set1_groups_list(context, "X25519") != 1 ||
	    SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:"
					      "TLS_CHACHA20_POLY1305_SHA256") != 1) {
		SSL_CTX_free(context);
		return NULL;
	}
	return context;
}

/* Nothing in it belongs to one handshake, and making one costs as much as the handshake. */
static SSL_CTX *shared_context(void)
{
	static SSL_CTX *context;

	if (!context)
		context = context_new();
	return context;
}

static int set_identity(SSL *ssl, const struct handshake_identity *identity)
{
	if (SSL_use_certificate(ssl, identity->certificate) != 1 ||
	    SSL_use_PrivateKey(ssl, identity->key) != 1)
		return -EINVAL;
	return SSL_set1_chain(ssl, identity->chain) == 1 ? 0 : -EINVAL;
}

/* @in and @out belong to @h->ssl from here on. */
static int set_bios(struct handshake *h)
{
	h->in = BIO_new(BIO_s_mem());
	h->out = BIO_new(BIO_s_mem());
	if (!h->in || !h->out) {
		BIO_free(h->in);
		BIO_free(h->out);
		h->in = h->out = NULL;
		return -ENOMEM;
	}
	SSL_set_bio(h->ssl, h->in, h->out);
	return 0;
}

static int set_up(struct handshake *h, const struct handshake_config *config)
{
	SSL_CTX *context = shared_context();

	if (!context)
		return -ENOMEM;
	h->ssl = SSL_new(context);
	if (!h->ssl || set_bios(h) < 0)
		return -ENOMEM;
	SSL_set_app_data(h->ssl, h);
	SSL_set_msg_callback_arg(h->ssl, h);
	if (SSL_set1_verify_cert_store(h->ssl, config->trust) != 1)
		return -ENOMEM;
	X509_VERIFY_PARAM_set_time(SSL_get0_param(h->ssl), (time_t)config->now);
	if (config->initiator)
		SSL_set_connect_state(h->ssl);
	else
		SSL_set_accept_state(h->ssl);
	if (!config->identity)
		return config->initiator ? 0 : -EINVAL;
	return set_identity(h->ssl, config->identity);
}

DEFINE_CLEANUP(struct handshake *, handshake_free)

int handshake_new(const struct handshake_config *config, struct handshake **ret,
		  struct failure *error)
{
	_cleanup_(handshake_freep) struct handshake *h = calloc(1, sizeof(*h));

	ERR_clear_error();
	if (!h)
		return failure_set(error, ERR_FAILED, "out of memory");
	if (strlen(config->peer_id) >= sizeof(h->peer_id))
		return failure_set(error, ERR_INVALID_PARAMS, "SPIFFE id is too long");
	strcpy(h->peer_id, config->peer_id);
	h->state = config->initiator ? START : WAIT_FLIGHT_1;
	h->last_sent = -1;
	if (set_up(h, config) < 0) {
		const char *reason = ERR_reason_error_string(ERR_peek_error());

		failure_set(error, ERR_HANDSHAKE_FAILED, "cannot set up TLS: %s",
			    reason ? reason : "out of memory");
		ERR_clear_error();
		return -error_errno(ERR_HANDSHAKE_FAILED);
	}
	*ret = TAKE_PTR(h);
	return 0;
}

int handshake_set_identity(struct handshake *h, const struct handshake_identity *identity,
			   struct failure *error)
{
	if ((h->state != START && h->state != WAIT_FLIGHT_2) || SSL_get_certificate(h->ssl))
		return fail(h, error, "an identity out of turn");
	if (set_identity(h->ssl, identity) < 0)
		return fail(h, error, "key and certificate do not belong together");
	return 0;
}

struct handshake *handshake_free(struct handshake *h)
{
	if (!h)
		return NULL;
	SSL_free(h->ssl);
	free(h);
	return NULL;
}

/* Everything was read: what follows the last message of a flight is not ours to ignore. */
static bool input_is_used_up(struct handshake *h)
{
	return BIO_pending(h->in) == 0 && !SSL_has_pending(h->ssl);
}

/* Runs OpenSSL as far as it goes.  1: handshake complete; 0: waits for the peer. */
static int advance(struct handshake *h, struct failure *error)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(h->ssl);
	if (r == 1)
		return 1;
	if (SSL_get_error(h->ssl, r) == SSL_ERROR_WANT_READ)
		return 0;
	return fail_ssl(h, error);
}

static int take_output(struct handshake *h, struct flight *ret, struct failure *error)
{
	size_t size = BIO_pending(h->out);
	uint8_t *data;

	if (size == 0 || size > FLIGHT_MAX)
		return fail(h, error, "own flight is empty or too long");
	data = malloc(size);
	if (!data || BIO_read(h->out, data, (int)size) != (int)size) {
		free(data);
		return fail(h, error, "out of memory");
	}
	*ret = (struct flight){.data = data, .size = size};
	return 0;
}

static int feed(struct handshake *h, const struct flight *in, struct failure *error)
{
	if (in->size == 0 || in->size > FLIGHT_MAX)
		return fail(h, error, "flight is empty or too long");
	if (BIO_write(h->in, in->data, (int)in->size) != (int)in->size)
		return fail(h, error, "out of memory");
	return 0;
}

int handshake_start(struct handshake *h, struct flight *ret, struct failure *error)
{
	int r;

	*ret = (struct flight){};
	if (h->state != START)
		return fail(h, error, "started out of turn");
	r = advance(h, error); /* -> CH */
	if (r < 0)
		return r;
	h->state = WAIT_FLIGHT_2;
	return take_output(h, ret, error);
}

/* <- CH, -> SH EE CR SCT SCV SF */
static int respond(struct handshake *h, struct flight *ret, struct failure *error)
{
	int r = advance(h, error);

	if (r < 0)
		return r;
	if (h->last_sent < 0)
		return fail(h, error, "ClientHello is incomplete");
	if (h->last_sent != SSL3_MT_FINISHED)
		return fail(h, error, "peer offers no share of the group X25519");
	if (r > 0 || !input_is_used_up(h))
		return fail(h, error, "data after ClientHello");
	h->state = WAIT_FLIGHT_3;
	return take_output(h, ret, error);
}

/* The peer is verified, nothing is left over. */
static int finish(struct handshake *h, struct failure *error)
{
	if (!input_is_used_up(h))
		return fail(h, error, "data after Finished");
	if (!h->peer_checked || SSL_get_verify_result(h->ssl) != X509_V_OK)
		return fail(h, error, "peer was not verified");
	if (SSL_session_reused(h->ssl))
		return fail(h, error, "resumed a session");
	h->state = CONNECTED;
	return 0;
}

/* <- SH EE CR SCT SCV SF, -> CCT CCV CF */
static int conclude(struct handshake *h, struct flight *ret, struct failure *error)
{
	int r;

	if (!SSL_get_certificate(h->ssl))
		return fail(h, error, "no certificate of our own");
	r = advance(h, error);
	if (r < 0)
		return r;
	if (r == 0)
		return fail(h, error, "peer's flight does not end with Finished");
	if (!SSL_get0_peer_certificate(h->ssl) || h->last_sent != SSL3_MT_FINISHED)
		return fail(h, error, "peer was not verified");
	r = finish(h, error);
	if (r < 0)
		return r;
	return take_output(h, ret, error);
}

/* <- CCT CCV CF */
static int complete(struct handshake *h, struct failure *error)
{
	int r = advance(h, error);

	if (r < 0)
		return r;
	if (r == 0)
		return fail(h, error, "peer's flight does not end with Finished");
	if (BIO_pending(h->out) != 0)
		return fail(h, error, "unexpected answer to Finished");
	return finish(h, error);
}

int handshake_step(struct handshake *h, const struct flight *in, struct flight *ret,
		   struct failure *error)
{
	int r;

	*ret = (struct flight){};
	if (h->state != WAIT_FLIGHT_1 && h->state != WAIT_FLIGHT_2 && h->state != WAIT_FLIGHT_3)
		return fail(h, error, "flight out of turn");
	r = feed(h, in, error);
	if (r < 0)
		return r;
	if (h->state == WAIT_FLIGHT_1)
		return respond(h, ret, error);
	if (h->state == WAIT_FLIGHT_2)
		return conclude(h, ret, error);
	return complete(h, error);
}

int handshake_result(struct handshake *h, const uint8_t session[SESSION_ID_SIZE],
		     const struct peer_name *from, const struct peer_name *to, uint64_t ring_size,
		     uint8_t ret_exporter[EXPORTER_SIZE], struct failure *error)
{
	char context[CONTEXT_MAX], session_hex[2 * SESSION_ID_SIZE + 1];
	int n;

	if (h->state != CONNECTED) {
		failure_set(error, ERR_HANDSHAKE_FAILED, "handshake is not complete");
		return -ENOTCONN;
	}
	hex_encode(session, SESSION_ID_SIZE, session_hex);
	n = snprintf(context, sizeof(context), "%s\n%s/%s\n%s/%s\n%" PRIu64, session_hex, from->vm,
		     from->service, to->vm, to->service, ring_size);
	ERR_clear_error();
	if (SSL_export_keying_material(h->ssl, ret_exporter, EXPORTER_SIZE, EXPORTER_LABEL,
				       strlen(EXPORTER_LABEL), (const uint8_t *)context, (size_t)n,
				       1) != 1)
		return fail_ssl(h, error);
	return 0;
}

int handshake_peer_certificate(struct handshake *h, char **ret_pem)
{
	BIO *pem;

	if (h->state != CONNECTED)
		return -ENOTCONN;
	*ret_pem = NULL;
	pem = BIO_new(BIO_s_mem());
	if (pem && PEM_write_bio_X509(pem, SSL_get0_peer_certificate(h->ssl)) == 1)
		*ret_pem = bio_text(pem);
	BIO_free(pem);
	ERR_clear_error();
	return *ret_pem ? 0 : -ENOMEM;
}
