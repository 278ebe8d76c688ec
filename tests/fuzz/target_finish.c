/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handshake, third flight: the client's certificate to Finished, at the responder.
 *
 * Input: what the client does wrong (peer.h), which certificate it shows, and edits of its flight.
 */
#include "peer.h"

/* A client that is wrong in its hello already never comes here. */
#define OF_THIS_FLIGHT (PEER_EXTRA_DATA | PEER_ASKS_NOTHING | PEER_MIDDLEBOX)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	peer_init();
	return 0;
}

static void complete(struct handshake *ours, SSL *peer, const struct flight *flight, bool changed,
		     uint8_t options, unsigned leaf)
{
	bool is_right = leaf == 0 && !(options & ~PEER_HARMLESS);
	struct failure error;
	struct flight none;
	int r = handshake_step(ours, flight, &none, &error);

	must(!none.data && none.size == 0);
	must(changed || (r == 0) == is_right);
	must(r < 0 || leaf == 0);
	if (r < 0)
		peer_check_failed(ours, r, &error);
	else
		peer_check_connected(ours, peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t options = input_u8(&in) & OF_THIS_FLIGHT;
	unsigned leaf = input_u8(&in) % PEER_LEAVES;
	struct flight hello, answer, last;
	struct handshake *ours;
	bool changed;
	SSL *peer;

	peer_restart();
	ours = peer_ours(false);
	peer = peer_new(true, options, leaf);
	hello = peer_talk(peer, NULL, 0);
	must(handshake_step(ours, &hello, &answer, NULL) == 0);
	last = peer_talk(peer, &answer, options);
	changed = peer_edit(&last, &in);
	complete(ours, peer, &last, changed, options, leaf);
	flight_done(&hello);
	flight_done(&answer);
	flight_done(&last);
	handshake_free(ours);
	SSL_free(peer);
	return 0;
}
