/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "bio-text.h"
#include "ends.h"

/* An initiator whose certificate is not there yet. */
static struct handshake *new_a_without_identity(void)
{
	struct handshake_config config = {
		.initiator = true, .trust = trust, .peer_id = ID_B, .now = PKI_NOW};
	struct handshake *h = NULL;

	if (handshake_new(&config, &h, &ends_error) < 0)
		fail_msg("%s", ends_error.text);
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
	assert_true(handshake_new(&responder, &h, &ends_error) < 0);
	assert_null(h);

	/* never said */
	e = (struct ends){.a = new_a_without_identity(), .b = new_b()};
	assert_int_equal(ends_run(&e, 3), 2);
	assert_failed(e.a, "no certificate of our own");
	ends_done(&e);

	/* said twice, by halves, of a responder, too late */
	h = new_a();
	assert_true(handshake_set_identity(h, &own, &ends_error) < 0);
	assert_failed(h, "out of turn");
	assert_true(handshake_set_identity(h, &own, &ends_error) < 0);
	handshake_free(h);
	h = new_a_without_identity();
	assert_true(handshake_set_identity(h, &mixed, &ends_error) < 0);
	assert_failed(h, "do not belong together");
	handshake_free(h);
	h = new_b();
	assert_true(handshake_set_identity(h, &own, &ends_error) < 0);
	assert_failed(h, "out of turn");
	handshake_free(h);
}

static void identity_while_the_peer_works(void **state)
{
	struct handshake_identity own = {leaf_a.key, leaf_a.certificate, NULL};
	struct ends e = {.a = new_a_without_identity(), .b = new_b()};
	struct flight none;

	(void)state;
	assert_int_equal(ends_run(&e, 2), 2);
	assert_int_equal(handshake_set_identity(e.a, &own, &ends_error), 0);
	assert_int_equal(handshake_step(e.a, &e.flights[1], &e.flights[2], &ends_error), 0);
	assert_int_equal(handshake_step(e.b, &e.flights[2], &none, &ends_error), 0);
	ends_done(&e);
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
	assert_true(handshake_step(b, &hello, &out, &ends_error) < 0);
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
	assert_int_equal(handshake_start(a, &hello, &ends_error), 0);
	answer = raw_step(&r, &hello); /* an alert */
	assert_true(handshake_step(a, &answer, &out, &ends_error) < 0);
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
	assert_int_equal(handshake_step(b, &one, &two, &ends_error), 0);
	three = raw_step(&r, &two);
	assert_true(three.size > 0);
	assert_true(handshake_step(b, &three, &out, &ends_error) < 0);
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
	assert_int_equal(handshake_step(b, &one, &two, &ends_error), 0);
	three = raw_step(&r, &two);
	assert_int_equal(handshake_step(b, &three, &out, &ends_error), 0);
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
	if (handshake_start(e->a, &e->flights[0], &ends_error) < 0)
		return 0;
	for (unsigned i = 0; i < 3; i++) {
		struct flight out;

		if (i == which)
			change(&e->flights[i], at);
		if (handshake_step(order[i], &e->flights[i], &out, &ends_error) < 0)
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

	assert_int_equal(ends_run(&e, 4), 4);
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
	assert_true(handshake_start(e.b, &out, &ends_error) < 0); /* the responder does not start */
	assert_failed(e.b, "out of turn");
	handshake_free(e.b);
	e.b = new_b();
	assert_int_equal(ends_run(&e, 1), 1);
	assert_true(handshake_step(e.a, &e.flights[0], &out, &ends_error) < 0); /* reflected */
	assert_failed(e.a, "");
	ends_done(&e);

	e = (struct ends){.a = new_a(), .b = new_b()};
	assert_true(handshake_step(e.a, &(struct flight){(uint8_t *)"x", 1}, &out, &ends_error) <
		    0);
	assert_failed(e.a, "out of turn"); /* not started */
	assert_true(handshake_step(e.b, &empty, &out, &ends_error) < 0);
	assert_failed(e.b, "empty");
	ends_done(&e);

	e = (struct ends){.a = new_a(), .b = new_b()};
	assert_int_equal(ends_run(&e, 1), 1);
	assert_true(handshake_start(e.a, &out, &ends_error) < 0);
	assert_failed(e.a, "out of turn"); /* twice */
	ends_done(&e);
}

/* Flights of one handshake in another one between the same two. */
static void replayed(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()}, f = {.a = new_a(), .b = new_b()};
	struct flight out;

	(void)state;
	assert_int_equal(ends_run(&e, 4), 4);
	assert_int_equal(ends_run(&f, 2), 2);
	assert_true(handshake_step(f.a, &e.flights[1], &out, &ends_error) < 0);
	assert_failed(f.a, "");
	assert_true(handshake_step(f.b, &e.flights[2], &out, &ends_error) < 0);
	assert_failed(f.b, "");
	ends_done(&f);

	/* first flight again as the third */
	f = (struct ends){.a = new_a(), .b = new_b()};
	assert_int_equal(ends_run(&f, 2), 2);
	assert_true(handshake_step(f.b, &f.flights[0], &out, &ends_error) < 0);
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
	assert_int_equal(ends_run(&e, 4), 4);
	assert_true(handshake_step(e.a, &e.flights[1], &out, &ends_error) < 0);
	assert_failed(e.a, "out of turn");
	assert_true(handshake_step(e.b, &e.flights[2], &out, &ends_error) < 0);
	assert_failed(e.b, "out of turn");
	ends_done(&e);
}

static void no_result_before_the_end(void **state)
{
	struct ends e = {.a = new_a(), .b = new_b()};
	uint8_t exporter[EXPORTER_SIZE];

	(void)state;
	assert_int_equal(ends_run(&e, 2), 2);
	/* the responder has the keys, but does not know the peer yet */
	assert_int_equal(
		handshake_result(e.b, ends_session, &name_a, &name_b, 4096, exporter, &ends_error),
		-ENOTCONN);
	ends_done(&e);
}

static void exporter_of(struct handshake *h, const uint8_t *id, uint64_t ring_size, uint8_t *ret)
{
	assert_int_equal(handshake_result(h, id, &name_a, &name_b, ring_size, ret, &ends_error), 0);
}

static void exporter_binds(void **state)
{
	static const uint8_t other_session[SESSION_ID_SIZE] = "0123456789abcdeg";
	uint8_t a[EXPORTER_SIZE], b[EXPORTER_SIZE], c[EXPORTER_SIZE];
	struct ends e = {.a = new_a(), .b = new_b()}, f = {.a = new_a(), .b = new_b()};

	(void)state;
	assert_int_equal(ends_run(&e, 4), 4);
	exporter_of(e.a, ends_session, 4096, a);
	exporter_of(e.b, ends_session, 4096, b);
	assert_memory_equal(a, b, EXPORTER_SIZE);
	exporter_of(e.b, ends_session, 8192, c);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	exporter_of(e.b, other_session, 4096, c);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	assert_int_equal(
		handshake_result(e.b, ends_session, &name_b, &name_a, 4096, c, &ends_error), 0);
	assert_memory_not_equal(a, c, EXPORTER_SIZE);
	assert_int_equal(ends_run(&f, 4), 4);
	exporter_of(f.a, ends_session, 4096, c);
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
	assert_int_equal(ends_run(&e, 4), 4);
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
	assert_int_equal(ends_run(&e, 4), 4);
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
		cmocka_unit_test(refuses_identity_out_of_turn),
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
		cmocka_unit_test(exporter_binds),
		cmocka_unit_test(peer_certificate),
		cmocka_unit_test(wire_shape),
	};

	return cmocka_run_group_tests_name("handshake", tests, ends_set_up_group,
					   ends_tear_down_group);
}
