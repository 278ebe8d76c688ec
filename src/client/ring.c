/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/ring.h"

#define RING_MIN_SIZE 4096ull
#define RING_MAX_SIZE (1ull << 30)

static bool size_ok(uint64_t size)
{
	return size >= RING_MIN_SIZE && size <= RING_MAX_SIZE && !(size & (size - 1));
}

/**
 * ring_init() - private state over two mapped windows
 * @tx, @rx: control page, ring, the same ring again; they stay the caller's
 * Touches neither window.
 */
int ring_init(struct ring *ring, void *tx, uint64_t tx_size, const void *rx, uint64_t rx_size)
{
	if (!size_ok(tx_size) || !size_ok(rx_size))
		return -EINVAL;
	*ring = (struct ring){
		.tx =
			{
				.own = tx,
				.peer = rx,
				.data = (uint8_t *)tx + SIVSHM_CONTROL_SIZE,
				.size = tx_size,
				.reserved = RING_NOTHING,
				.need = RING_SMALLEST,
			},
		.rx =
			{
				.own = tx,
				.peer = rx,
				.data = (const uint8_t *)rx + SIVSHM_CONTROL_SIZE,
				.size = rx_size,
			},
	};
	return 0;
}

/**
 * ring_attach() - be seen by the peer
 * -EBUSY: somebody has attached to this window before; two writers would destroy each other's
 * indices.  This is the only look at the own page, before it is in use.
 */
int ring_attach(struct ring *ring)
{
	struct sivshm_control *own = ring->tx.own;

	if (ring_load32(&own->magic))
		return -EBUSY;
	/* The host has zeroed the page; partner: the load in ring_check_peer(). */
	ring_store32(&own->magic, SIVSHM_RING_MAGIC);
	return 0;
}

/**
 * ring_close() - tell the peer that this side is through
 * @bits: SIVSHM_CLOSED_*, all of them that hold by now
 */
void ring_close(struct ring *ring, uint32_t bits)
{
	ring_store32(&ring->tx.own->closed, bits);
}

/**
 * ring_refresh_space() - look at the peer's consumer index
 * 0: @need bytes are free; -EAGAIN: not yet; -EPROTO: the index makes no sense.
 */
int ring_refresh_space(struct ring_tx *t, uint64_t need)
{
	/* Partner: the store in ring_release().  The space is written only after this load. */
	uint64_t consumer = ring_load64(&t->peer->consumer);

	/* Unsigned: an index that went back is as far off as one beyond what was produced. */
	if (consumer - t->consumer > t->producer - t->consumer || consumer % SIVSHM_RECORD_ALIGN)
		return -EPROTO;
	t->consumer = consumer;
	if (need > t->size - (t->producer - consumer)) {
		t->need = need;
		return -EAGAIN;
	}
	return 0;
}

static int take_producer(struct ring_rx *x)
{
	/* Partner: the store in ring_commit().  The data is read only after this load. */
	uint64_t producer = ring_load64(&x->peer->producer);
	uint64_t room = x->size - (x->producer - x->consumer);

	if (producer - x->producer > room || producer % SIVSHM_RECORD_ALIGN)
		return -EPROTO;
	x->producer = producer;
	return producer == x->consumer ? -EAGAIN : 0;
}

/**
 * ring_refresh_data() - look at the peer's producer index
 * 0: something is there; -EAGAIN: not yet; -EPIPE: never more; -EPROTO: the words make no sense.
 */
int ring_refresh_data(struct ring_rx *x)
{
	int r = take_producer(x), q;

	if (r != -EAGAIN)
		return r;
	q = ring_check_peer(x->peer, &x->attached, SIVSHM_CLOSED_SEND);
	if (q == -EPIPE) {
		/* It may have sent between the two loads; after "closed" there is no more. */
		r = take_producer(x);
		return r == -EAGAIN ? -EPIPE : r;
	}
	return q < 0 ? q : r;
}
