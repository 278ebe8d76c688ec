/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handshake, second flight: server hello to Finished, at the initiator.
 *
 * Input: what the server does wrong (peer.h), which certificate it shows, and edits of its flight.
 */
#include "peer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	peer_init();
	return 0;
}

static bool is_right(uint8_t options, unsigned leaf)
{
	return leaf == 0 && !(options & ~PEER_HARMLESS);
}

static void conclude(struct handshake *ours, SSL *peer, const struct flight *flight, bool changed,
		     uint8_t options, unsigned leaf)
{
	struct flight last, none;
	struct failure error;
	int r = handshake_step(ours, flight, &last, &error);

	must(changed || r == 0 || !is_right(options, leaf));
	if (r < 0) {
		must(!last.data && last.size == 0);
		peer_check_failed(ours, r, &error);
		return;
	}
	must(leaf == 0);
	must(!(options & (PEER_TLS12 | PEER_OTHER_GROUP)));
	none = peer_talk(peer, &last, 0);
	must(SSL_is_init_finished(peer));
	peer_check_connected(ours, peer);
	flight_done(&none);
	flight_done(&last);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t options = input_u8(&in) & (uint8_t)~PEER_EXTRA_DATA; /* edits do that */
	unsigned leaf = input_u8(&in) % PEER_LEAVES;
	struct handshake *ours;
	struct flight hello, flight;
	bool changed;
	SSL *peer;

	peer_restart();
	ours = peer_ours(true);
	must(handshake_start(ours, &hello, NULL) == 0);
	peer = peer_new(false, options, leaf);
	flight = peer_talk(peer, &hello, options);
	changed = peer_edit(&flight, &in);
	conclude(ours, peer, &flight, changed, options, leaf);
	flight_done(&flight);
	flight_done(&hello);
	handshake_free(ours);
	SSL_free(peer);
	return 0;
}
