/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ends.h"

#include <errno.h>
#include <openssl/err.h>

const struct peer_name name_a = {"rtos", "sensor"}, name_b = {"ivi", "dashboard"};
const uint8_t ends_session[SESSION_ID_SIZE] = "0123456789abcdef";

struct pki_pair ca, other_ca, leaf_a, leaf_b;
X509_STORE *trust, *other_trust;
struct failure ends_error;

int ends_set_up_group(void **state)
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

int ends_tear_down_group(void **state)
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

struct handshake *new_end(bool initiator, const struct pki_pair *leaf, STACK_OF(X509) * chain,
			  X509_STORE *store, const char *peer_id, int64_t now)
{
	struct handshake_identity identity = {leaf->key, leaf->certificate, chain};
	struct handshake_config config = {.initiator = initiator,
					  .identity = &identity,
					  .trust = store,
					  .peer_id = peer_id,
					  .now = now};
	struct handshake *h = NULL;

	if (handshake_new(&config, &h, &ends_error) < 0)
		fail_msg("%s", ends_error.text);
	return h;
}

struct handshake *new_a(void)
{
	return new_end(true, &leaf_a, NULL, trust, ID_B, PKI_NOW);
}

struct handshake *new_b(void)
{
	return new_end(false, &leaf_b, NULL, trust, ID_A, PKI_NOW);
}

void ends_done(struct ends *e)
{
	handshake_free(e->a);
	handshake_free(e->b);
	for (size_t i = 0; i < 3; i++)
		flight_done(&e->flights[i]);
	assert_int_equal(ERR_peek_error(), 0);
}

unsigned ends_run(struct ends *e, unsigned n)
{
	struct flight none;

	if (n < 1 || handshake_start(e->a, &e->flights[0], &ends_error) < 0)
		return 0;
	if (n < 2 || handshake_step(e->b, &e->flights[0], &e->flights[1], &ends_error) < 0)
		return 1;
	if (n < 3 || handshake_step(e->a, &e->flights[1], &e->flights[2], &ends_error) < 0)
		return 2;
	if (n < 4 || handshake_step(e->b, &e->flights[2], &none, &ends_error) < 0)
		return 3;
	assert_int_equal(none.size, 0);
	assert_null(none.data);
	return 4;
}

void assert_failed(struct handshake *h, const char *expected)
{
	struct flight in = {(uint8_t *)"x", 1}, out;
	uint8_t exporter[EXPORTER_SIZE];
	char *pem;

	assert_int_equal(ends_error.code, ERR_HANDSHAKE_FAILED);
	if (!strstr(ends_error.text, expected))
		fail_msg("'%s' is not in '%s'", expected, ends_error.text);
	assert_int_equal(ERR_peek_error(), 0);
	/* and stays failed */
	assert_true(handshake_step(h, &in, &out, NULL) < 0);
	assert_true(handshake_start(h, &out, NULL) < 0);
	assert_int_equal(handshake_result(h, ends_session, &name_a, &name_b, 4096, exporter, NULL),
			 -ENOTCONN);
	assert_int_equal(handshake_peer_certificate(h, &pem), -ENOTCONN);
}

void assert_a_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain, X509_STORE *a_trusts,
		      const char *a_expects, int64_t a_now, const char *expected)
{
	struct ends e = {.a = new_end(true, &leaf_a, NULL, a_trusts, a_expects, a_now),
			 .b = new_end(false, leaf, chain, trust, ID_A, PKI_NOW)};

	assert_int_equal(ends_run(&e, 4), 2);
	assert_failed(e.a, expected);
	assert_null(e.flights[2].data);
	ends_done(&e);
}

void assert_b_refuses(const struct pki_pair *leaf, STACK_OF(X509) * chain, X509_STORE *b_trusts,
		      const char *b_expects, int64_t b_now, const char *expected)
{
	struct ends e = {.a = new_end(true, leaf, chain, trust, ID_B, PKI_NOW),
			 .b = new_end(false, &leaf_b, NULL, b_trusts, b_expects, b_now)};

	assert_int_equal(ends_run(&e, 4), 3);
	assert_failed(e.b, expected);
	ends_done(&e);
}
