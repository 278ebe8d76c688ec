/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Spsc: the ring that two trusting programs would write in an afternoon, to compare with.
 *
 * The windows are those of a channel (indices in a page in front, the ring mapped twice in a row,
 * records with a length in front), each index has cache lines of its own, and each end remembers
 * the other's.  But no word is validated, nobody sleeps, closes or is revoked.
 */
#ifndef SIVSHM_TEST_SPSC_H
#define SIVSHM_TEST_SPSC_H

#include <stdint.h>
#include <string.h>

#include "client/ring-abi.h"
#include "client/spin.h"

/**
 * struct spsc - one end
 * @own, @peer: windows; the own one is written, the other one read
 * @sent, @taken: own indices
 * @seen_sent, @seen_taken: the peer's, as seen last
 */
struct spsc {
	struct sivshm_control *own;
	const struct sivshm_control *peer;
	uint64_t size;
	uint64_t sent, seen_taken __attribute__((aligned(128)));
	uint64_t taken, seen_sent __attribute__((aligned(128)));
};

static inline uint64_t spsc_record(uint64_t length)
{
	return 8 + ((length + 7) & ~7ull);
}

static inline void spsc_send(struct spsc *s, const void *data, uint64_t length)
{
	uint64_t need = spsc_record(length);
	uint8_t *to = (uint8_t *)(s->own + 1) + (s->sent & (s->size - 1));

	while (s->sent + need - s->seen_taken > s->size)
		spin_relax(), s->seen_taken = __atomic_load_n(&s->peer->consumer, __ATOMIC_ACQUIRE);
	memcpy(to, &length, sizeof(length));
	memcpy(to + sizeof(length), data, length);
	s->sent += need;
	__atomic_store_n(&s->own->producer, s->sent, __ATOMIC_RELEASE);
}

static inline uint64_t spsc_recv(struct spsc *s, void *data)
{
	const uint8_t *from = (const uint8_t *)(s->peer + 1) + (s->taken & (s->size - 1));
	uint64_t length;

	while (s->taken == s->seen_sent)
		spin_relax(), s->seen_sent = __atomic_load_n(&s->peer->producer, __ATOMIC_ACQUIRE);
	memcpy(&length, from, sizeof(length));
	memcpy(data, from + sizeof(length), length);
	s->taken += spsc_record(length);
	__atomic_store_n(&s->own->consumer, s->taken, __ATOMIC_RELEASE);
	return length;
}

#endif
