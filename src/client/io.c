/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Send and receive: a call of the ring on the fast path, channel_wait() behind it.
 *
 * The parts are inline here and have their exported names at the end: a call of an exported name
 * goes through the linkage table, for somebody might replace it.
 */
#include <errno.h>
#include <string.h>

#include "client/channel.h"
#include "client/error.h"

/*
 * The wait said that there is something: a hostile peer can take that back ("closed" is a bit that
 * is only ever added, indices only grow), and could go on with it for ever.  So it is waited for
 * once.
 */
static int after_wait(int r)
{
	return r == -EAGAIN ? -EPROTO : r;
}

static int reserve_slow(struct sivshm_channel *c, int r, size_t size, void **ret,
			uint64_t timeout_us)
{
	if (r == -EAGAIN) {
		r = channel_wait(c, SIVSHM_WRITE, timeout_us);
		if (r < 0)
			return r;
		r = __atomic_load_n(&c->tx_error, __ATOMIC_RELAXED);
		r = after_wait(r ?: ring_reserve(&c->ring.tx, size, ret));
	}
	return r < 0 ? channel_fail(c, r) : 0;
}

static inline int reserve(struct sivshm_channel *c, size_t size, void **ret, uint64_t timeout_us)
{
	int r = __atomic_load_n(&c->tx_error, __ATOMIC_RELAXED);

	if (ring_likely(!r))
		r = ring_reserve(&c->ring.tx, size, ret);
	return ring_likely(!r) ? 0 : reserve_slow(c, r, size, ret, timeout_us);
}

/* Ring the peer; it may be gone, and only a sender cares. */
static int ring_peer(struct sivshm_channel *c)
{
	int r = c->backend->notify(c->userdata);

	if (r == -EPIPE)
		channel_set_gone(c);
	return r < 0 ? channel_fail(c, r) : 0;
}

static inline int commit(struct sivshm_channel *c, size_t size)
{
	int r = __atomic_load_n(&c->tx_error, __ATOMIC_RELAXED);

	/* It may have ended since the reservation: "closed" comes after the last index. */
	if (ring_unlikely(r < 0))
		return channel_fail(c, r);
	r = ring_commit(&c->ring.tx, size);
	if (ring_likely(r == 0))
		return 0;
	return r < 0 ? error_channel(r) : ring_peer(c);
}

int sivshm_send(struct sivshm_channel *c, const void *data, size_t size, uint64_t timeout_us)
{
	void *room;
	int r = reserve(c, size, &room, timeout_us);

	if (ring_unlikely(r < 0))
		return r;
	if (size)
		memcpy(room, data, size);
	return commit(c, size);
}

int sivshm_reserve(struct sivshm_channel *c, size_t size, void **ret, uint64_t timeout_us)
{
	return reserve(c, size, ret, timeout_us);
}

int sivshm_commit(struct sivshm_channel *c, size_t size)
{
	return commit(c, size);
}

/* As ring_peek(), and the end when the peer is gone and has left nothing. */
static int peek_last(struct sivshm_channel *c, const void **ret, uint32_t *ret_length)
{
	bool gone = channel_gone(c);
	int r = __atomic_load_n(&c->rx_error, __ATOMIC_RELAXED);

	if (!r)
		r = ring_peek(&c->ring.rx, ret, ret_length);
	return r == -EAGAIN && gone ? -EPIPE : r;
}

/*
 * The first burst of a wait.  The answer to what was just sent is on its way: look at the one word
 * that will change, and at all the others only then.
 */
static int peek_soon(struct sivshm_channel *c, const void **ret, uint32_t *ret_length)
{
	unsigned int pauses = spin_pace(&c->rx_pace, ring_sent(&c->ring.tx));

	for (unsigned int i = 0; i < SPIN_BURST; i++) {
		spin_relax();
		if (i % pauses == 0 && ring_data_moved(&c->ring.rx))
			return ring_peek(&c->ring.rx, ret, ret_length);
	}
	c->rx_pace.pauses = 0;
	return -EAGAIN;
}

static ssize_t peek_slow(struct sivshm_channel *c, int r, const void **ret, uint64_t timeout_us)
{
	uint32_t length = 0;

	if (r == -EAGAIN && timeout_us)
		r = peek_soon(c, ret, &length);
	if (r == -EAGAIN)
		r = peek_last(c, ret, &length);
	if (r == -EAGAIN) {
		r = channel_wait_more(c, SIVSHM_READ, timeout_us);
		if (r < 0)
			return r;
		r = after_wait(peek_last(c, ret, &length));
	}
	return r < 0 ? channel_fail(c, r) : (ssize_t)length;
}

static inline ssize_t peek(struct sivshm_channel *c, const void **ret, uint64_t timeout_us)
{
	int r = __atomic_load_n(&c->rx_error, __ATOMIC_RELAXED);
	uint32_t length;

	if (ring_likely(!r))
		r = ring_peek(&c->ring.rx, ret, &length);
	return ring_likely(!r) ? (ssize_t)length : peek_slow(c, r, ret, timeout_us);
}

static inline int release(struct sivshm_channel *c)
{
	int r;

	if (ring_unlikely(!c->ring.rx.shown))
		return error_channel(-EINVAL);
	/* What was read may have been the zeros of a revoked window: say so instead of "released".
	 */
	r = ring_still_there(&c->ring.rx);
	if (ring_unlikely(r < 0))
		return channel_fail(c, r);
	r = ring_release(&c->ring.rx);
	if (ring_likely(r == 0))
		return 0;
	if (r < 0)
		return error_channel(r);
	r = ring_peer(c);
	return r == -EPIPE ? 0 : r;
}

ssize_t sivshm_recv(struct sivshm_channel *c, void *data, size_t size, size_t *ret_size,
		    uint64_t timeout_us)
{
	const void *message;
	ssize_t n = peek(c, &message, timeout_us);
	int r;

	if (ring_unlikely(n < 0))
		return n;
	if (ret_size)
		*ret_size = (size_t)n;
	if (ring_unlikely((size_t)n > size))
		return error_channel(-EMSGSIZE);
	if (n)
		memcpy(data, message, (size_t)n);
	r = release(c);
	return ring_unlikely(r < 0) ? r : n;
}

ssize_t sivshm_peek(struct sivshm_channel *c, const void **ret, uint64_t timeout_us)
{
	return peek(c, ret, timeout_us);
}

int sivshm_release(struct sivshm_channel *c)
{
	return release(c);
}
