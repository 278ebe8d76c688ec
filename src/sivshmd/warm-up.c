/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "warm-up.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include "bio-text.h"
#include "cleanup.h"
#include "crypto.h"
#include "handshake.h"
#include "keypair.h"

/* Of nobody: neither key nor certificate leaves this file. */
#define ID "spiffe://nowhere/vm/nobody/service/nobody"
#define NOW INT64_C(1)
#define LIFETIME 60

struct warm_up {
	unsigned step;
	EVP_PKEY *key;
	char *pem;
	X509_STORE *trust; /* the certificate itself */
	struct keypair pair;
	struct handshake *initiator, *responder;
	struct flight flight; /* the last that was made */
};

DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(BIO *, BIO_free)

struct warm_up *warm_up_new(void)
{
	return calloc(1, sizeof(struct warm_up));
}

struct warm_up *warm_up_free(struct warm_up *w)
{
	if (!w)
		return NULL;
	flight_done(&w->flight);
	handshake_free(w->initiator);
	handshake_free(w->responder);
	keypair_done(&w->pair);
	X509_STORE_free(w->trust);
	free(w->pem);
	EVP_PKEY_free(w->key);
	free(w);
	return NULL;
}

static int make_key(struct warm_up *w, struct failure *error)
{
	_cleanup_free_ char *csr = NULL;

	w->key = key_new();
	csr = w->key ? csr_new(w->key) : NULL;
	return csr ? 0 : failure_set(error, ERR_FAILED, "no key can be made");
}

static int add_extension(X509 *certificate, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
	int r = e ? X509_add_ext(certificate, e, -1) : 0;

	X509_EXTENSION_free(e);
	return r;
}

static int make_certificate(struct warm_up *w, struct failure *error)
{
	_cleanup_(X509_freep) X509 *x = X509_new_ex(crypto_context(), NULL);
	_cleanup_(BIO_freep) BIO *bio = BIO_new(BIO_s_mem());

	if (!x || !bio || X509_set_version(x, X509_VERSION_3) != 1 ||
	    ASN1_INTEGER_set(X509_get_serialNumber(x), 1) != 1 ||
	    !ASN1_TIME_set(X509_getm_notBefore(x), NOW) ||
	    !ASN1_TIME_set(X509_getm_notAfter(x), NOW + LIFETIME) ||
	    key_copy_public(w->key, X509_get_X509_PUBKEY(x)) != 1 ||
	    add_extension(x, NID_key_usage, "critical,digitalSignature") != 1 ||
	    add_extension(x, NID_ext_key_usage, "serverAuth,clientAuth") != 1 ||
	    add_extension(x, NID_subject_alt_name, "critical,URI:" ID) != 1 ||
	    X509_sign(x, w->key, EVP_sha256()) <= 0 || PEM_write_bio_X509(bio, x) != 1) {
		ERR_clear_error();
		return failure_set(error, ERR_FAILED, "no certificate can be made");
	}
	w->pem = bio_text(bio);
	return w->pem ? 0 : failure_set(error, ERR_FAILED, "out of memory");
}

static int take_certificate(struct warm_up *w, struct failure *error)
{
	int r = trust_new(w->pem, &w->trust, error);

	return r < 0 ? r : keypair_new(w->key, w->pem, ID, w->trust, NOW, &w->pair, error);
}

static int new_end(struct warm_up *w, bool initiator, struct handshake **ret, struct failure *error)
{
	struct handshake_identity identity = {w->pair.key, w->pair.certificate, w->pair.chain};
	struct handshake_config config = {
		.initiator = initiator,
		.identity = &identity,
		.trust = w->trust,
		.peer_id = ID,
		.now = NOW,
	};

	return handshake_new(&config, ret, error);
}

static int begin(struct warm_up *w, struct failure *error)
{
	int r = new_end(w, true, &w->initiator, error);

	return r < 0 ? r : handshake_start(w->initiator, &w->flight, error);
}

/* The flight that was made last goes to @to, which makes the next. */
static int pass(struct warm_up *w, struct handshake *to, struct failure *error)
{
	struct flight next;
	int r = handshake_step(to, &w->flight, &next, error);

	flight_done(&w->flight);
	w->flight = next;
	return r;
}

static int respond(struct warm_up *w, struct failure *error)
{
	int r = new_end(w, false, &w->responder, error);

	return r < 0 ? r : pass(w, w->responder, error);
}

static int conclude(struct warm_up *w, struct failure *error)
{
	return pass(w, w->initiator, error);
}

static int complete(struct warm_up *w, struct failure *error)
{
	static const struct peer_name nobody = {.vm = "nobody", .service = "nobody"};
	static const uint8_t session[SESSION_ID_SIZE];
	_cleanup_free_ char *certificate = NULL;
	uint8_t exporter[EXPORTER_SIZE];
	int r;

	r = pass(w, w->responder, error);
	if (r >= 0)
		r = handshake_result(w->responder, session, &nobody, &nobody, 0, exporter, error);
	if (r >= 0 && handshake_peer_certificate(w->responder, &certificate) < 0)
		r = failure_set(error, ERR_FAILED, "out of memory");
	return r;
}

int warm_up_step(struct warm_up *w, struct failure *error)
{
	static int (*const steps[])(struct warm_up * w, struct failure * error) = {
		make_key, make_certificate, take_certificate, begin, respond, conclude, complete,
	};
	int r = w->step < ELEMENTSOF(steps) ? steps[w->step++](w, error) : 0;

	return r < 0 ? r : w->step < ELEMENTSOF(steps);
}
