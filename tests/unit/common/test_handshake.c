/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "bio-text.h"
#include "handshake-verify.h"
#include "handshake.h"
#include "pki.h"

#define ID_A "spiffe://sivshm.local/vm/rtos/service/sensor"
#define ID_B "spiffe://sivshm.local/vm/ivi/service/dashboard"

static const struct peer_name name_a = {"rtos", "sensor"}, name_b = {"ivi", "dashboard"};
static const uint8_t session[SESSION_ID_SIZE] = "0123456789abcdef";

static struct pki_pair ca, other_ca, leaf_a, leaf_b;
static X509_STORE *trust, *other_trust;
static struct failure error;

/* struct ends - one handshake; what is NULL is taken from the good ones */
struct ends {
	struct handshake *a, *b;
	struct flight flights[3];
};

static int set_up_group(void **state)
{
	(void)state;
	ca = pki_ca("ca", NULL);
	other_ca = pki_ca("ca", NULL); /* same name, other key */
	leaf_a = pki_leaf(&ca, ID_A);
	leaf_b = pki_leaf(&ca, ID_B);
	trust = pki_store(&ca);
	other_trust = pki_store(&other_ca);
	return 0;
}

static int tear_down_group(void **state)
{
	(void)state;
	pki_done(&ca);
	pki_done(&other_ca);
	pki_done(&leaf_a);
	pki_done(&leaf_b);
	X509_STORE_free(trust);
	X509_STORE_free(other_trust);
	return 0;
}

static struct handshake *new_end(bool initiator, const struct pki_pair *leaf,
				 STACK_OF(X509) * chain, X509_STORE *store, const char *peer_id,
				 int64_t now)
{
	struct handshake_identity identity = {leaf->key, leaf->certificate, chain};
	struct handshake_config config = {.initiator = initiator,
					  .identity = &identity,
					  .trust = store,
					  .peer_id = peer_id,
					  .now = now};
	struct handshake *h = NULL;

	if (handshake_new(&config, &h, &error) < 0)
		fail_msg("%s", error.text);
	return h;
}

static struct handshake *new_a(void)
{
	return new_end(true, &leaf_a, NULL, trust, ID_B, PKI_NOW);
}

static struct handshake *new_b(void)
{
	return new_end(false, &leaf_b, NULL, trust, ID_A, PKI_NOW);
}

static void ends_done(struct ends *e)
{
	handshake_free(e->a);
	handshake_free(e->b);
	for (size_t i = 0; i < 3; i++)
		flight_done(&e->flights[i]);
	assert_int_equal(ERR_peek_error(), 0);
}

/* Runs flights up to number @n; returns how many worked. */
static unsigned run(struct ends *e, unsigned n)
{
	struct flight none;

	if (n < 1 || handshake_start(e->a, &e->flights[0], &error) < 0)
		return 0;
	if (n < 2 || handshake_step(e->b, &e->flights[0], &e->flights[1], &error) < 0)
		return 1;
	if (n < 3 || handshake_step(e->a, &e->flights[1], &e->flights[2], &error) < 0)
		return 2;
	if (n < 4 || handshake_step(e->b, &e->flights[2], &none, &error) < 0)
		return 3;
	assert_int_equal(none.size, 0);
	assert_null(none.data);
	return 4;
}

static void assert_failed(struct handshake *h, const char *expected)
{
	struct flight in = {(uint8_t *)"x", 1}, out;
	uint8_t exporter[EXPORTER_SIZE];
	char *pem;

	assert_int_equal(error.code, ERR_HANDSHAKE_FAILED);
	if (!strstr(error.text, expected))
		fail_msg("'%s' is not in '%s'", expected, error.text);
	assert_int_equal(ERR_peek_error(), 0);
	/* and stays failed */
	assert_true(handshake_step(h, &in, &out, NULL) < 0);
	assert_true(handshake_start(h, &out, NULL) < 0);
	assert_int_equal(handshake_result(h, session, &name_a, &name_b, 4096, exporter, NULL),
			 -ENOTCONN);
	assert_int_equal(handshake_peer_certificate(h, &pem), -ENOTCONN);
}

/* B is refused by A. */
static void assert_a_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain,
			     X509_STORE *a_trusts, const char *a_expects, int64_t a_now,
			     const char *expected)
{
	struct ends e = {.a = new_end(true, &leaf_a, NULL, a_trusts, a_expects, a_now),
			 .b = new_end(false, leaf, chain, trust, ID_A, PKI_NOW)};

	assert_int_equal(run(&e, 4), 2);
	assert_failed(e.a, expected);
	assert_null(e.flights[2].data);
	ends_done(&e);
}

/* A is refused by B. */
static void assert_b_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain,
			     X509_STORE *b_trusts, const char *b_expects, int64_t b_now,
			     const char *expected)
{
	struct ends e = {.a = new_end(true, leaf, chain, trust, ID_B, PKI_NOW),
			 .b = new_end(false, &leaf_b, NULL, b_trusts, b_expects, b_now)};

	assert_int_equal(run(&e, 4), 3);
	assert_failed(e.b, expected);
	ends_done(&e);
}

static void refuses_other_id(void **state)
{
	static const char *const others[] = {
		"spiffe://sivshm.local/vm/ivi/service/dashboard2",
		"spiffe://sivshm.local/vm/ivi/service/dashboar",
		"spiffe://sivshm.local/vm/ivi/service/Dashboard",
		"spiffe://sivshm.locaL/vm/ivi/service/dashboard",
		ID_A,
		"",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(others); i++)
		assert_a_refuses(&leaf_b, NULL, trust, others[i], PKI_NOW, "another service");
	assert_b_refuses(&leaf_a, NULL, trust, ID_B, PKI_NOW, "another service");
}

static void refuses_other_ca(void **state)
{
	struct pki_pair self = pki_issue("leaf", NULL, &(struct pki_options){.san = "URI:" ID_B});
	struct pki_pair foreign = pki_leaf(&other_ca, ID_A);

	(void)state;
	assert_a_refuses(&leaf_b, NULL, other_trust, ID_B, PKI_NOW,
			 "certificate signature failure");
	assert_a_refuses(&self, NULL, trust, ID_B, PKI_NOW, "self-signed");
	assert_b_refuses(&leaf_a, NULL, other_trust, ID_A, PKI_NOW,
			 "certificate signature failure");
	assert_b_refuses(&foreign, NULL, trust, ID_A, PKI_NOW, "certificate signature failure");
	pki_done(&self);
	pki_done(&foreign);
}

static void refuses_by_time(void **state)
{
	(void)state;
	assert_a_refuses(&leaf_b, NULL, trust, ID_B, PKI_NOW + 3600, "expired");
	assert_a_refuses(&leaf_b, NULL, trust, ID_B, PKI_NOW - 61, "not yet valid");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW + 3600, "expired");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW - 61, "not yet valid");
	assert_b_refuses(&leaf_a, NULL, trust, ID_A, PKI_NOW + 86400 * 400, "expired");
}

/* subjectAltName with a NUL in the URI */
static X509_EXTENSION *san_with_nul(const char *before, const char *after)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
	char text[400];
	int n = snprintf(text, sizeof(text), "%s%c%s", before, 0, after);
	X509_EXTENSION *e;

	ASN1_STRING_set(uri, text, n);
	GENERAL_NAME_set0_value(name, GEN_URI, uri);
	sk_GENERAL_NAME_push(names, name);
	e = X509V3_EXT_i2d(NID_subject_alt_name, 0, names);
	GENERAL_NAMES_free(names);
	return e;
}

/* subjectAltName as these bytes are */
static X509_EXTENSION *san_of(const void *data, int size)
{
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e;

	ASN1_OCTET_STRING_set(value, data, size);
	e = X509_EXTENSION_create_by_NID(NULL, NID_subject_alt_name, 0, value);
	ASN1_OCTET_STRING_free(value);
	return e;
}

static X509_EXTENSION *unknown_critical(void)
{
	ASN1_OBJECT *object = OBJ_txt2obj("1.2.3.4.5", 1);
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e = X509_EXTENSION_create_by_OBJ(NULL, object, 1, value);

	ASN1_OBJECT_free(object);
	ASN1_OCTET_STRING_free(value);
	return e;
}

/* What a guest sends as PEM may say that it is encrypted. */
static void asks_nobody_for_a_password(void **state)
{
	static const unsigned char secret[] = "secret";
	BIO *bio = BIO_new(BIO_s_mem());

	(void)state;
	assert_int_equal(PEM_write_bio_PrivateKey(bio, leaf_a.key, EVP_aes_128_cbc(), secret,
						  sizeof(secret), NULL, NULL),
			 1);
	assert_null(PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL));
	ERR_clear_error();
	BIO_free(bio);
}

static void refuses_names_that_are_not_in_der(void **state)
{
	static const struct {
		const char bytes[sizeof(ID_B) + 8];
		int size;
		const char *wrong;
	} cases[] = {
		{"\x30\x30\x86\x2e" ID_B, 50, NULL},
		/* OpenSSL finds the right name in these, too: something behind it, no length, a
		   longer one, a string in pieces */
		{"\x30\x30\x86\x2e" ID_B "\x05", 52, "not in DER"},
		{"\x30\x80\x86\x2e" ID_B, 52, "not in DER"},
		{"\x30\x81\x30\x86\x2e" ID_B, 51, "not in DER"},
		{"\x30\x32\xa6\x30\x16\x2e" ID_B, 52, "not in DER"},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		X509_EXTENSION *san = san_of(cases[i].bytes, cases[i].size);
		struct pki_pair leaf = pki_issue("leaf", &ca, &(struct pki_options){.extra = san});
		const char *wrong = leaf_certificate_check(leaf.certificate, ID_B);

		assert_int_equal(!wrong, !cases[i].wrong);
		assert_true(!wrong || strstr(wrong, cases[i].wrong));
		pki_done(&leaf);
		X509_EXTENSION_free(san);
	}
}

static void refuses_odd_leafs(void **state)
{
	X509_EXTENSION *nul = san_with_nul(ID_B, "x"), *again = san_with_nul(ID_B, "");
	X509_EXTENSION *unknown = unknown_critical();
	const struct {
		struct pki_options options;
		const char *expected;
	} cases[] = {
		{{.san = NULL}, "subject alternative name"},
		{{.san = "URI:" ID_B ",URI:" ID_A}, "exactly one"},
		{{.san = "URI:" ID_B ",URI:" ID_B}, "exactly one"},
		{{.san = "URI:" ID_B ",DNS:ivi"}, "exactly one"},
		{{.san = "DNS:ivi"}, "no URI"},
		{{.san = "email:a@b"}, "no URI"},
		{{.extra = nul}, "another service"},
		{{.san = "URI:" ID_B, .extra = again}, ""},
		{{.san = "URI:" ID_B, .extra = unknown}, "critical"},
		{{.san = "URI:" ID_B, .extended_usage = "clientAuth"}, "purpose"},
		{{.san = "URI:" ID_B, .extended_usage = "serverAuth"}, "extended key usage"},
		{{.san = "URI:" ID_B, .extended_usage = "codeSigning"}, "purpose"},
		{{.san = "URI:" ID_B, .extended_usage = ""}, "extended key usage"},
		{{.san = "URI:" ID_B, .extended_usage = "anyExtendedKeyUsage"}, ""},
		{{.san = "URI:" ID_B, .usage = ""}, "key usage"},
		{{.san = "URI:" ID_B,
		  .is_ca = true,
		  .usage = "digitalSignature,keyCertSign",
		  .extended_usage = "clientAuth,serverAuth"},
		 "CA"},
		{{.san = "URI:" ID_B, .curve = "P-384"}, "P-256"},
		{{.san = "URI:" ID_B, .curve = "RSA"}, "P-256"},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct pki_pair leaf = pki_issue("leaf", &ca, &cases[i].options);

		assert_a_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, cases[i].expected);
		/* the same from the other side, where OpenSSL's own check may come first */
		assert_b_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "");
		pki_done(&leaf);
	}
	X509_EXTENSION_free(nul);
	X509_EXTENSION_free(again);
	X509_EXTENSION_free(unknown);
}

static void refuses_key_of_another(void **state)
{
	struct handshake_identity identity = {leaf_b.key, leaf_a.certificate, NULL};
	struct handshake_config config = {.initiator = true,
					  .identity = &identity,
					  .trust = trust,
					  .peer_id = ID_B,
					  .now = PKI_NOW};
	struct handshake *h = NULL;

	(void)state;
	assert_true(handshake_new(&config, &h, &error) < 0);
	assert_null(h);
	assert_int_equal(error.code, ERR_HANDSHAKE_FAILED);
	config.peer_id = repeated('x', SPIFFE_ID_SIZE);
	assert_int_equal(handshake_new(&config, &h, &error), -EINVAL);
	assert_int_equal(ERR_peek_error(), 0);
	assert_null(handshake_free(NULL));
}

/* An initiator whose certificate is not there yet. */
static struct handshake *new_a_without_identity(void)
{
	struct handshake_config config = {
		.initiator = true, .trust = trust, .peer_id = ID_B, .now = PKI_NOW};
	struct handshake *h = NULL;

	if (handshake_new(&config, &h, &error) < 0)
		fail_msg("%s", error.text);
	return h;
}

static void refuses_identity_out_of_turn(void **state)
{
	struct handshake_identity own = {leaf_a.key, leaf_a.certificate, NULL};
	struct handshake_identity mixed = {leaf_b.key, leaf_a.certificate, NULL};
	struct handshake_config responder = {.trust = trust, .peer_id = ID_A, .now = PKI_NOW};
	struct handshake *h = NULL;
	struct ends e;

	(void)state;
	/* a responder shows its certificate at once */
	assert_true(handshake_new(&responder, &h, &error) < 0);
	assert_null(h);

	/* never said */
	e = (struct ends){.a = new_a_without_identity(), .b = new_b()};
	assert_int_equal(run(&e, 3), 2);
	assert_failed(e.a, "no certificate of our own");
	ends_done(&e);

	/* said twice, by halves, of a responder, too late */
	h = new_a();
	assert_true(handshake_set_identity(h, &own, &error) < 0);
	assert_failed(h, "out of turn");
	assert_true(handshake_set_identity(h, &own, &error) < 0);
	handshake_free(h);
	h = new_a_without_identity();
	assert_true(handshake_set_identity(h, &mixed, &error) < 0);
	assert_failed(h, "do not belong together");
	handshake_free(h);
	h = new_b();
	assert_true(handshake_set_identity(h, &own, &error) < 0);
	assert_failed(h, "out of turn");
	handshake_free(h);
}

static void identity_while_the_peer_works(void **state)
{
	struct handshake_identity own = {leaf_a.key, leaf_a.certificate, NULL};
	struct ends e = {.a = new_a_without_identity(), .b = new_b()};
	struct flight none;

	(void)state;
	assert_int_equal(run(&e, 2), 2);
	assert_int_equal(handshake_set_identity(e.a, &own, &error), 0);
	assert_int_equal(handshake_step(e.a, &e.flights[1], &e.flights[2], &error), 0);
	assert_int_equal(handshake_step(e.b, &e.flights[2], &none, &error), 0);
	ends_done(&e);
}

static STACK_OF(X509) * chain_of(X509 *certificate)
{
	STACK_OF(X509) *chain = sk_X509_new_null();

	assert_true(sk_X509_push(chain, certificate) > 0);
	return chain;
}

static void intermediates(void **state)
{
	struct pki_pair middle = pki_ca("middle", &ca);
	struct pki_pair no_ca = pki_issue("middle", &ca, &(struct pki_options){.san = NULL});
	struct pki_pair leaf = pki_leaf(&middle, ID_B), bad_leaf = pki_leaf(&no_ca, ID_B);
	STACK_OF(X509) *chain = chain_of(middle.certificate),
		       *bad_chain = chain_of(no_ca.certificate);
	struct ends e;

	(void)state;
	assert_a_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "issuer certificate");
	assert_b_refuses(&leaf, NULL, trust, ID_B, PKI_NOW, "issuer certificate");
	assert_a_refuses(&bad_leaf, bad_chain, trust, ID_B, PKI_NOW, "peer's certificate");
	/* an intermediate is no root by being sent */
	assert_a_refuses(&leaf, chain, other_trust, ID_B, PKI_NOW, "peer's certificate");

	e = (struct ends){.a = new_a(), .b = new_end(false, &leaf, chain, trust, ID_A, PKI_NOW)};
	assert_int_equal(run(&e, 4), 4);
	ends_done(&e);
	e = (struct ends){.a = new_end(true, &leaf, chain, trust, ID_B, PKI_NOW),
			  .b = new_end(false, &leaf_b, NULL, trust, ID_B, PKI_NOW)};
	assert_int_equal(run(&e, 4), 4);
	ends_done(&e);
	sk_X509_free(chain);
	sk_X509_free(bad_chain);
	pki_done(&middle);
	pki_done(&no_ca);
	pki_done(&leaf);
	pki_done(&bad_leaf);
}

static void chain_too_long(void **state)
{
	struct pki_pair links[7], leaf;
	STACK_OF(X509) *chain = sk_X509_new_null();

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(links); i++) {
		char name[16];

		snprintf(name, sizeof(name), "link%zu", i);
		links[i] = pki_ca(name, i ? &links[i - 1] : &ca);
		sk_X509_unshift(chain, links[i].certificate);
	}
	leaf = pki_leaf(&links[ELEMENTSOF(links) - 1], ID_B);
	assert_a_refuses(&leaf, chain, trust, ID_B, PKI_NOW, "peer's certificate");
	for (size_t i = 0; i < ELEMENTSOF(links); i++)
		pki_done(&links[i]);
	pki_done(&leaf);
	sk_X509_free(chain);
}

/* struct raw - a peer that is OpenSSL without our rules */
struct raw {
	SSL_CTX *context;
	SSL *ssl;
};

static int accept_any(int ok, X509_STORE_CTX *store)
{
	(void)ok;
	(void)store;
	return 1;
}

static struct raw raw_new(bool client, const struct pki_pair *leaf, int version, const char *groups)
{
	struct raw r = {.context = SSL_CTX_new(client ? TLS_client_method() : TLS_server_method())};

	SSL_CTX_set_verify(r.context, SSL_VERIFY_PEER, accept_any);
	assert_int_equal(SSL_CTX_set_min_proto_version(r.context, version), 1);
	assert_int_equal(SSL_CTX_set_max_proto_version(r.context, version), 1);
	assert_int_equal(SSL_CTX_set1_groups_list(r.context, groups), 1);
	r.ssl = SSL_new(r.context);
	SSL_set_bio(r.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	if (leaf) {
		assert_int_equal(SSL_use_certificate(r.ssl, leaf->certificate), 1);
		assert_int_equal(SSL_use_PrivateKey(r.ssl, leaf->key), 1);
	}
	if (client)
		SSL_set_connect_state(r.ssl);
	else
		SSL_set_accept_state(r.ssl);
	return r;
}

static struct flight raw_step(struct raw *r, const struct flight *in)
{
	struct flight out = {};

	if (in)
		BIO_write(SSL_get_rbio(r->ssl), in->data, (int)in->size);
	SSL_do_handshake(r->ssl);
	ERR_clear_error();
	out.size = BIO_pending(SSL_get_wbio(r->ssl));
	out.data = malloc(out.size + 1);
	BIO_read(SSL_get_wbio(r->ssl), out.data, (int)out.size);
	return out;
}

static void raw_done(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->context);
}

static void assert_hello_refused(struct raw r, const char *expected)
{
	struct handshake *b = new_b();
	struct flight hello = raw_step(&r, NULL), out;

	assert_true(hello.size > 0);
	assert_true(handshake_step(b, &hello, &out, &error) < 0);
	assert_null(out.data);
	assert_failed(b, expected);
	handshake_free(b);
	flight_done(&hello);
	raw_done(&r);
}

static void refuses_other_protocols(void **state)
{
	(void)state;
	assert_hello_refused(raw_new(true, &leaf_a, TLS1_2_VERSION, "X25519"),
			     "unsupported protocol");
	assert_hello_refused(raw_new(true, &leaf_a, TLS1_3_VERSION, "P-256"),
			     "no suitable key share");
	/* offers X25519 as well, but a share of P-256: would be a HelloRetryRequest */
	assert_hello_refused(raw_new(true, &leaf_a, TLS1_3_VERSION, "P-256:X25519"), "X25519");
}

static void refuses_other_server(void **state)
{
	struct raw r = raw_new(false, &leaf_b, TLS1_2_VERSION, "X25519");
	struct handshake *a = new_a();
	struct flight hello, answer, out;

	(void)state;
	assert_int_equal(handshake_start(a, &hello, &error), 0);
	answer = raw_step(&r, &hello); /* an alert */
	assert_true(handshake_step(a, &answer, &out, &error) < 0);
	assert_failed(a, "alert");
	flight_done(&hello);
	flight_done(&answer);
	handshake_free(a);
	raw_done(&r);
}

/* A server that asks for no certificate of ours would not know who we are: its Finished is not
 * enough; but it is the peer's loss, and it never says Confirm's equal exporter without us.  What
 * must not happen is a client that shows none. */
static void refuses_missing_client_certificate(void **state)
{
	struct raw r = raw_new(true, NULL, TLS1_3_VERSION, "X25519");
	struct handshake *b = new_b();
	struct flight one = raw_step(&r, NULL), two, three, out;

	(void)state;
	assert_int_equal(handshake_step(b, &one, &two, &error), 0);
	three = raw_step(&r, &two);
	assert_true(three.size > 0);
	assert_true(handshake_step(b, &three, &out, &error) < 0);
	assert_failed(b, "did not return a certificate");
	flight_done(&one);
	flight_done(&two);
	flight_done(&three);
	handshake_free(b);
	raw_done(&r);
}

/* A raw client that plays by the rules is accepted: the cases above fail for their own reason. */
static void accepts_plain_client(void **state)
{
	struct raw r = raw_new(true, &leaf_a, TLS1_3_VERSION, "X25519:P-256");
	struct handshake *b = new_b();
	struct flight one = raw_step(&r, NULL), two, three, out;

	(void)state;
	assert_int_equal(handshake_step(b, &one, &two, &error), 0);
	three = raw_step(&r, &two);
	assert_int_equal(handshake_step(b, &three, &out, &error), 0);
	assert_int_equal(out.size, 0);
	flight_done(&one);
	flight_done(&two);
	flight_done(&three);
	handshake_free(b);
	raw_done(&r);
}

/* As run(), but flight @which is changed by @change before it is delivered. */
static unsigned run_changed(struct ends *e, unsigned which,
			    void (*change)(struct flight *f, size_t at), size_t at)
{
	struct handshake *order[] = {e->b, e->a, e->b};

	e->a = new_a();
	e->b = new_b();
	order[0] = order[2] = e->b;
	order[1] = e->a;
	if (handshake_start(e->a, &e->flights[0], &error) < 0)
		return 0;
	for (unsigned i = 0; i < 3; i++) {
		struct flight out;

		if (i == which)
			change(&e->flights[i], at);
		if (handshake_step(order[i], &e->flights[i], &out, &error) < 0)
			return i + 1;
		if (i < 2)
			e->flights[i + 1] = out;
	}
	return 4;
}

static size_t flight_size(unsigned which)
{
	struct ends e = {.a = new_a(), .b = new_b()};
	size_t size;

	assert_int_equal(run(&e, 4), 4);
	size = e.flights[which].size;
	ends_done(&e);
	return size;
}

static void flip(struct flight *f, size_t at)
{
	f->data[at < f->size ? at : f->size - 1] ^= 0x20;
}

static void cut(struct flight *f, size_t at)
{
	f->size = at < f->size ? at : f->size - 1;
}

static void extend(struct flight *f, size_t extra)
{
	f->data = realloc(f->data, f->size + extra);
	memset(f->data + f->size, 0x17, extra);
	f->size += extra;
}

static void repeat(struct flight *f, size_t at)
{
	(void)at;
	f->data = realloc(f->data, 2 * f->size);
	memcpy(f->data + f->size, f->data, f->size);
	f->size *= 2;
}

static void grow(struct flight *f, size_t size)
{
	size_t old = f->size;

	f->data = realloc(f->data, size);
	memset(f->data + old, 0, size - old);
	f->size = size;
}

static void tampered(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 3; which++) {
		size_t size = flight_size(which);

		for (size_t at = 0; at < size; at += at < 16 ? 1 : 11) {
			struct ends e = {};

			/* the version in the header of a record in the clear is ignored, by RFC
			 * 8446 5.1 */
			if (which < 2 && (at == 1 || at == 2))
				continue;
			if (run_changed(&e, which, flip, at) == 4)
				fail_msg("byte %zu of flight %u changed, and accepted", at, which);
			ends_done(&e);
		}
	}
}

static void truncated(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 3; which++) {
		size_t size = flight_size(which);

		for (size_t at = 0; at < size; at += at < 8 || at > size - 8 ? 1 : 13) {
			struct ends e = {};

			assert_int_equal(run_changed(&e, which, cut, at), which + 1);
			ends_done(&e);
		}
	}
}

static void extended(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 3; which++) {
		static const size_t extras[] = {1, 4, 5, 6, 300};

		for (size_t i = 0; i < ELEMENTSOF(extras); i++) {
			struct ends e = {};

			assert_int_equal(run_changed(&e, which, extend, extras[i]), which + 1);
			ends_done(&e);
		}
		for (size_t size = FLIGHT_MAX; size <= FLIGHT_MAX + 1; size++) {
			struct ends e = {};

			assert_int_equal(run_changed(&e, which, grow, size), which + 1);
			ends_done(&e);
		}
		struct ends e = {};

		assert_int_equal(run_changed(&e, which, repeat, 0), which + 1);
		ends_done(&e);
	}
}

static void out_of_turn(void **state)
{
	struct flight out, empty = {};
	struct ends e = {.a = new_a(), .b = new_b()};

	(void)state;
	assert_true(handshake_start(e.b, &out, &error) < 0); /* the responder does not start */
	assert_failed(e.b, "out of turn");
	handshake_free(e.b);
	e.b = new_b();
	assert_int_equal(run(&e, 1), 1);
	assert_true(handshake_step(e.a, &e.flights[0], &out, &error) < 0); /* reflected */
	assert_failed(e.a, "");
	ends_done(&e);

	e = (struct ends){.a = new_a(), .b = new_b()};
	assert_true(handshake_step(e.a, &(struct flight){(uint8_t *)"x", 1}, &out, &error) < 0);
	assert_failed(e.a, "out of turn"); /* not started */
	assert_true(handshake_step(e.b, &empty, &out, &error) < 0);
	assert_failed(e.b, "empty");
	ends_done(&e);

	e = (struct ends){.a = new_a(), .b = new_b()};
	assert_int_equal(run(&e, 1), 1);
	assert_true(handshake_start(e.a, &out, &error) < 0);
	assert_failed(e.a, "out of turn"); /* twice */
	ends_done(&e);
}

/* Flights of one handshake in another one between the same two. */
static void replayed(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()}, f = {.a = new_a(), .b = new_b()};
	struct flight out;

	(void)state;
	assert_int_equal(run(&e, 4), 4);
	assert_int_equal(run(&f, 2), 2);
	assert_true(handshake_step(f.a, &e.flights[1], &out, &error) < 0);
	assert_failed(f.a, "");
	assert_true(handshake_step(f.b, &e.flights[2], &out, &error) < 0);
	assert_failed(f.b, "");
	ends_done(&f);

	/* first flight again as the third */
	f = (struct ends){.a = new_a(), .b = new_b()};
	assert_int_equal(run(&f, 2), 2);
	assert_true(handshake_step(f.b, &f.flights[0], &out, &error) < 0);
	assert_failed(f.b, "");
	ends_done(&f);
	ends_done(&e);
}

/* One step too many ends what was connected. */
static void data_after_finish(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()};
	struct flight out;

	(void)state;
	assert_int_equal(run(&e, 4), 4);
	assert_true(handshake_step(e.a, &e.flights[1], &out, &error) < 0);
	assert_failed(e.a, "out of turn");
	assert_true(handshake_step(e.b, &e.flights[2], &out, &error) < 0);
	assert_failed(e.b, "out of turn");
	ends_done(&e);
}

static void no_result_before_the_end(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()};
	uint8_t exporter[EXPORTER_SIZE];

	(void)state;
	assert_int_equal(run(&e, 2), 2);
	/* the responder has the keys, but does not know the peer yet */
	assert_int_equal(handshake_result(e.b, session, &name_a, &name_b, 4096, exporter, &error),
			 -ENOTCONN);
	ends_done(&e);
}

static void exporter_of(struct handshake *h, const uint8_t *id, uint64_t ring_size, uint8_t *ret)
{
	assert_int_equal(handshake_result(h, id, &name_a, &name_b, ring_size, ret, &error), 0);
}

static void exporter_binds(void **state)
{
	static const uint8_t other_session[SESSION_ID_SIZE] = "0123456789abcdeg";
	uint8_t a[EXPORTER_SIZE], b[EXPORTER_SIZE], c[EXPORTER_SIZE];
	struct ends e = {.a = new_a(), .b = new_b()}, f = {.a = new_a(), .b = new_b()};

	(void)state;
	assert_int_equal(run(&e, 4), 4);
	exporter_of(e.a, session, 4096, a);
	exporter_of(e.b, session, 4096, b);
	assert_memory_equal(a, b, EXPORTER_SIZE);
	exporter_of(e.b, session, 8192, c);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	exporter_of(e.b, other_session, 4096, c);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	assert_int_equal(handshake_result(e.b, session, &name_b, &name_a, 4096, c, &error), 0);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	assert_int_equal(run(&f, 4), 4);
	exporter_of(f.a, session, 4096, c);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	ends_done(&f);
	ends_done(&e);
}

static void peer_certificate(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()};
	char *pem = NULL;
	BIO *bio;
	X509 *certificate;

	(void)state;
	assert_int_equal(run(&e, 4), 4);
	assert_int_equal(handshake_peer_certificate(e.b, &pem), 0);
	bio = BIO_new_mem_buf(pem, -1);
	certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	assert_int_equal(X509_cmp(certificate, leaf_a.certificate), 0);
	X509_free(certificate);
	BIO_free(bio);
	free(pem);
	ends_done(&e);
}

/* What docs/protocol.md says about the flights, on the wire: no change_cipher_spec, no ticket. */
static void wire_shape(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()};

	(void)state;
	assert_int_equal(run(&e, 4), 4);
	for (size_t i = 0; i < 3; i++) {
		for (size_t at = 0; at < e.flights[i].size;) {
			const uint8_t *record = e.flights[i].data + at;

			assert_true(record[0] == SSL3_RT_HANDSHAKE ||
				    record[0] == SSL3_RT_APPLICATION_DATA);
			at += 5U + (unsigned)(record[3] << 8 | record[4]);
			assert_true(at <= e.flights[i].size);
		}
	}
	ends_done(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_other_id),
		cmocka_unit_test(refuses_other_ca),
		cmocka_unit_test(refuses_by_time),
		cmocka_unit_test(asks_nobody_for_a_password),
		cmocka_unit_test(refuses_names_that_are_not_in_der),
		cmocka_unit_test(refuses_odd_leafs),
		cmocka_unit_test(refuses_key_of_another),
		cmocka_unit_test(refuses_identity_out_of_turn),
		cmocka_unit_test(chain_too_long),
		cmocka_unit_test(refuses_other_protocols),
		cmocka_unit_test(refuses_other_server),
		cmocka_unit_test(refuses_missing_client_certificate),
		cmocka_unit_test(tampered),
		cmocka_unit_test(truncated),
		cmocka_unit_test(extended),
		cmocka_unit_test(out_of_turn),
		cmocka_unit_test(replayed),
		cmocka_unit_test(data_after_finish),
		cmocka_unit_test(no_result_before_the_end),
		cmocka_unit_test(accepts_plain_client),
		cmocka_unit_test(identity_while_the_peer_works),
		cmocka_unit_test(intermediates),
		cmocka_unit_test(exporter_binds),
		cmocka_unit_test(peer_certificate),
		cmocka_unit_test(wire_shape),
	};

	return cmocka_run_group_tests_name("handshake", tests, set_up_group, tear_down_group);
}
