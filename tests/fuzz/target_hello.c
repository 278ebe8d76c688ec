/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handshake, first flight: a client hello at the responder.
 *
 * Input: what the client does wrong (peer.h), which certificate it will show, and edits of its
 * hello; or 0xff first, and the hello is the rest of the input.
 */
#include "peer.h"

#define RAW 0xff
#define WRONG_HELLO (PEER_TLS12 | PEER_OTHER_GROUP | PEER_BOTH_GROUPS | PEER_OTHER_CIPHER)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	peer_init();
	return 0;
}

/* The hello was taken: who can finish then is the right one, and both saw the same. */
static void go_on(struct handshake *ours, SSL *peer, const struct flight *answer, uint8_t options,
		  unsigned leaf)
{
	struct flight last = peer_talk(peer, answer, 0), none;
	struct failure error;
	int r = handshake_step(ours, &last, &none, &error);

	must(!none.data && none.size == 0);
	if (r < 0)
		peer_check_failed(ours, r, &error);
	else
		must(leaf == 0 && !(options & PEER_ASKS_NOTHING));
	if (r == 0)
		peer_check_connected(ours, peer);
	flight_done(&last);
}

static void respond(uint8_t options, unsigned leaf, SSL *peer, struct flight *hello, bool changed)
{
	struct handshake *ours = peer_ours(false);
	struct flight answer;
	struct failure error;
	int r = handshake_step(ours, hello, &answer, &error);

	must(changed || r == 0 || options & WRONG_HELLO);
	must(changed || r < 0 || !(options & WRONG_HELLO));
	if (r < 0) {
		must(!answer.data && answer.size == 0);
		peer_check_failed(ours, r, &error);
	} else {
		must(answer.size > 0 && answer.size <= FLIGHT_MAX);
		go_on(ours, peer, &answer, options, leaf);
	}
	flight_done(&answer);
	handshake_free(ours);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t options = input_u8(&in);
	bool raw = options == RAW, changed = true;
	unsigned leaf;
	struct flight hello;
	SSL *peer;

	peer_restart();
	options = raw ? 0 : options;
	leaf = raw ? 0 : input_u8(&in) % PEER_LEAVES;
	peer = peer_new(true, options, leaf);
	hello = peer_talk(peer, NULL, options);
	if (raw) {
		flight_done(&hello);
		hello.size = in.size;
		hello.data = malloc(in.size + 1);
		must(hello.data);
		input_bytes(&in, hello.data, hello.size);
	} else {
		changed = peer_edit(&hello, &in);
	}
	respond(options, leaf, peer, &hello, changed);
	flight_done(&hello);
	SSL_free(peer);
	return 0;
}
