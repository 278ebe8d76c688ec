/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define OPENSSL_SUPPRESS_DEPRECATED /* RAND_METHOD: the short way to repeatable keys */
#include "peer.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#define EDITS_MAX 16

struct pki_pair peer_ca;
static struct pki_pair other_ca, leaves[2][PEER_LEAVES];
static X509_STORE *trust;
static uint64_t random_state;

static int next_random(unsigned char *ret, int size)
{
	for (int i = 0; i < size; i++) {
		random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
		ret[i] = (unsigned char)(random_state >> 56);
	}
	return 1;
}

static int random_is_ready(void)
{
	return 1;
}

void peer_restart(void)
{
	random_state = 1;
}

static void make_leaves(struct pki_pair *ret, const char *id)
{
	char san[400], two[800];

	snprintf(san, sizeof(san), "URI:%s", id);
	snprintf(two, sizeof(two), "URI:%s,URI:%s2", id, id);
	ret[0] = pki_leaf(&peer_ca, id);
	ret[1] = pki_leaf(&peer_ca, "spiffe://sivshm.local/vm/rtos/service/camera");
	ret[2] = pki_leaf(&other_ca, id);
	ret[3] = pki_issue(
		"late", &peer_ca,
		&(struct pki_options){.san = san, .not_before = PKI_NOW - 7200, .lifetime = 3600});
	ret[4] = pki_issue("rsa", &peer_ca, &(struct pki_options){.san = san, .curve = "RSA"});
	ret[5] = pki_issue("p384", &peer_ca, &(struct pki_options){.san = san, .curve = "P-384"});
	ret[6] = pki_issue("two", &peer_ca, &(struct pki_options){.san = two});
	ret[7] = pki_issue("half", &peer_ca,
			   &(struct pki_options){.san = san, .extended_usage = "clientAuth"});
}

void peer_init(void)
{
	static const RAND_METHOD method = {
		.bytes = next_random, .pseudorand = next_random, .status = random_is_ready};

	must(RAND_set_rand_method(&method) == 1);
	peer_restart();
	peer_ca = pki_ca("ca", NULL);
	other_ca = pki_ca("ca", NULL); /* same name, other key */
	make_leaves(leaves[0], ID_A);
	make_leaves(leaves[1], ID_B);
	trust = pki_store(&peer_ca);
}

struct handshake *peer_ours(bool initiator)
{
	const struct pki_pair *leaf = &leaves[initiator ? 0 : 1][0];
	struct handshake_identity identity = {leaf->key, leaf->certificate, NULL};
	struct handshake_config config = {.initiator = initiator,
					  .identity = &identity,
					  .trust = trust,
					  .peer_id = initiator ? ID_B : ID_A,
					  .now = PKI_NOW};
	struct handshake *h = NULL;

	must(handshake_new(&config, &h, NULL) == 0);
	return h;
}

/* It checks nothing: whether ours does is the question. */
static int accept_any(int ok, X509_STORE_CTX *store)
{
	(void)ok, (void)store;
	return 1;
}

static const char *groups_of(uint8_t options)
{
	if (options & PEER_OTHER_GROUP)
		return "P-256";
	return options & PEER_BOTH_GROUPS ? "P-256:X25519" : "X25519";
}

static SSL_CTX *context(uint8_t options)
{
	static SSL_CTX *contexts[256];
	SSL_CTX *c = contexts[options];

	if (c)
		return c;
	c = SSL_CTX_new(TLS_method());
	must(c && SSL_CTX_set1_groups_list(c, groups_of(options)) == 1);
	if (options & PEER_TLS12)
		must(SSL_CTX_set_max_proto_version(c, TLS1_2_VERSION) == 1);
	must(SSL_CTX_set_num_tickets(c, options & PEER_TICKETS ? 2 : 0) == 1);
	if (options & PEER_OTHER_CIPHER)
		must(SSL_CTX_set_ciphersuites(c, "TLS_AES_256_GCM_SHA384") == 1);
	if (!(options & PEER_MIDDLEBOX))
		SSL_CTX_clear_options(c, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
	SSL_CTX_set_mode(c, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_verify(c, options & PEER_ASKS_NOTHING ? SSL_VERIFY_NONE : SSL_VERIFY_PEER,
			   accept_any);
	contexts[options] = c;
	return c;
}

SSL *peer_with(bool initiator, uint8_t options, const struct pki_pair *pair)
{
	SSL *ssl = SSL_new(context(options));
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	must(ssl && in && out);
	SSL_set_bio(ssl, in, out);
	if (!initiator || !(options & PEER_ASKS_NOTHING)) {
		must(SSL_use_certificate(ssl, pair->certificate) == 1);
		must(SSL_use_PrivateKey(ssl, pair->key) == 1);
	}
	if (initiator)
		SSL_set_connect_state(ssl);
	else
		SSL_set_accept_state(ssl);
	return ssl;
}

SSL *peer_new(bool initiator, uint8_t options, unsigned leaf)
{
	return peer_with(initiator, options, &leaves[initiator ? 0 : 1][leaf % PEER_LEAVES]);
}

struct flight peer_talk(SSL *ssl, const struct flight *in, uint8_t options)
{
	struct flight out = {};

	if (in)
		must(BIO_write(SSL_get_rbio(ssl), in->data, (int)in->size) == (int)in->size);
	SSL_do_handshake(ssl);
	if (options & PEER_EXTRA_DATA && SSL_is_init_finished(ssl))
		SSL_write(ssl, "more", 4);
	out.size = BIO_pending(SSL_get_wbio(ssl));
	out.data = malloc(out.size + 1);
	must(out.data && BIO_read(SSL_get_wbio(ssl), out.data, (int)out.size) <= (int)out.size);
	ERR_clear_error();
	return out;
}

/* edits */

static void replace(struct flight *f, size_t at, size_t n_old, const uint8_t *data, size_t n_new)
{
	uint8_t *copy = malloc(f->size + n_new + 1);
	size_t rest = f->size - at - n_old;

	must(copy);
	memcpy(copy, f->data, at);
	memcpy(copy + at, data, n_new);
	memcpy(copy + at + n_new, f->data + at + n_old, rest);
	free(f->data);
	f->data = copy;
	f->size = at + n_new + rest;
}

static void edit(struct flight *f, struct input *in)
{
	uint8_t how = input_u8(in);
	size_t at = input_u16(in) % (f->size + 1), n = input_u8(in), left = f->size - at;
	uint8_t bytes[256];

	switch (how % 6) {
	case 0: /* instead */
	case 1: /* in between */
	{
		struct input part = input_part(in, n);

		n = part.size;
		input_bytes(&part, bytes, n);
		replace(f, at, how % 6 == 0 ? (n < left ? n : left) : 0, bytes, n);
		break;
	}
	case 2: /* gone */
		replace(f, at, n < left ? n : left, bytes, 0);
		break;
	case 3: /* the rest is gone */
		f->size = at;
		break;
	case 4: /* one bit */
		if (left > 0)
			f->data[at] ^= (uint8_t)(1U << n % 8);
		break;
	default: /* twice, up to more than a flight may have */
		for (n = n % 16 + 1; n > 0 && f->size > 0 && f->size <= FLIGHT_MAX; n--) {
			uint8_t *again = malloc(f->size);

			must(again);
			memcpy(again, f->data, f->size);
			replace(f, f->size, 0, again, f->size);
			free(again);
		}
	}
}

bool peer_edit(struct flight *f, struct input *in)
{
	struct flight before = {malloc(f->size + 1), f->size};
	bool changed;

	must(before.data);
	memcpy(before.data, f->data, f->size);
	for (unsigned n = 0; in->size > 0 && n < EDITS_MAX; n++)
		edit(f, in);
	changed = f->size != before.size || memcmp(f->data, before.data, f->size) != 0;
	flight_done(&before);
	return changed;
}

/* what has to hold */

static const uint8_t session[SESSION_ID_SIZE] = "0123456789abcdef";
static const struct peer_name name_a = {"rtos", "sensor"}, name_b = {"ivi", "dashboard"};

void peer_check_failed(struct handshake *h, int r, const struct failure *error)
{
	struct flight in = {(uint8_t *)"x", 1}, out;
	uint8_t exporter[EXPORTER_SIZE];
	char *pem = NULL;

	must(r < 0 && error->code == ERR_HANDSHAKE_FAILED && error->text[0]);
	must(ERR_peek_error() == 0);
	must(handshake_step(h, &in, &out, NULL) < 0 && !out.data && out.size == 0);
	must(handshake_start(h, &out, NULL) < 0 && !out.data);
	must(handshake_result(h, session, &name_a, &name_b, 4096, exporter, NULL) == -ENOTCONN);
	must(handshake_peer_certificate(h, &pem) == -ENOTCONN && !pem);
}

void peer_check_connected(struct handshake *h, SSL *ssl)
{
	uint8_t mine[EXPORTER_SIZE], theirs[EXPORTER_SIZE];
	static const char context_text[] =
		"30313233343536373839616263646566\nrtos/sensor\nivi/dashboard\n4096";
	char *pem = NULL;

	must(handshake_result(h, session, &name_a, &name_b, 4096, mine, NULL) == 0);
	must(SSL_export_keying_material(ssl, theirs, sizeof(theirs), EXPORTER_LABEL,
					strlen(EXPORTER_LABEL), (const uint8_t *)context_text,
					strlen(context_text), 1) == 1);
	must(memcmp(mine, theirs, sizeof(mine)) == 0);
	must(handshake_peer_certificate(h, &pem) == 0 && strstr(pem, "BEGIN CERTIFICATE"));
	free(pem);
}
