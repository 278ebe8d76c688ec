/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ring: one direction each way between this process and a peer that may be hostile.
 *
 * No system call, no clock, no bus: two mapped windows and private sizes.  Who sleeps and who is
 * rung is the caller's business.
 *
 * Rules that keep a hostile peer out:
 *  - every word of the peer's window is loaded once, validated against private state, then used;
 *  - the own control page is only written; the private indices are the truth;
 *  - sizes come from the caller (who has them from the kernel) and are powers of two.
 *
 * -EPROTO from here means "these words make no sense".  A revoked window reads as zeros, so the
 * caller asks the kernel before it blames the peer.
 *
 * The sender's and the receiver's state share no cache line: one thread may own each, and may ask
 * the other's for ring_sent() alone.
 */
#ifndef SIVSHM_RING_H
#define SIVSHM_RING_H

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "client/ring-abi.h"

#define RING_CACHE_LINE 128
#define ring_likely(x) __builtin_expect(!!(x), 1)
#define ring_unlikely(x) __builtin_expect(!!(x), 0)

/**
 * struct ring_tx - what the sender knows
 * @own:      own control page; written, never read after ring_attach()
 * @peer:     peer's control page
 * @data:     own ring, mapped twice in a row
 * @size:     bytes of the own ring
 * @producer: own index
 * @consumer: peer's index, last value seen that was valid
 * @reserved: payload bytes of the open reservation, RING_NOTHING without one
 * @need:     record size that did not fit last time: what to wait for
 * @attached: the peer's magic has been seen
 */
struct ring_tx {
	struct sivshm_control *own;
	const struct sivshm_control *peer;
	uint8_t *data;
	uint64_t size;
	uint64_t producer;
	uint64_t consumer;
	uint64_t reserved;
	uint64_t need;
	bool attached;
} __attribute__((aligned(RING_CACHE_LINE)));

/**
 * struct ring_rx - what the receiver knows
 * @size:     bytes of the peer's ring
 * @producer: peer's index, last value seen that was valid
 * @consumer: own index
 * @shown:    record size of the message that ring_peek() showed, 0 without one
 * Others as in struct ring_tx.
 */
struct ring_rx {
	struct sivshm_control *own;
	const struct sivshm_control *peer;
	const uint8_t *data;
	uint64_t size;
	uint64_t producer;
	uint64_t consumer;
	uint64_t shown;
	bool attached;
} __attribute__((aligned(RING_CACHE_LINE)));

struct ring {
	struct ring_tx tx;
	struct ring_rx rx;
};

#define RING_NOTHING UINT64_MAX
#define RING_SMALLEST (SIVSHM_RECORD_HEADER_SIZE + SIVSHM_RECORD_ALIGN)

int ring_init(struct ring *ring, void *tx, uint64_t tx_size, const void *rx, uint64_t rx_size);
int ring_attach(struct ring *ring);
void ring_close(struct ring *ring, uint32_t bits);
int ring_refresh_space(struct ring_tx *t, uint64_t need);
int ring_refresh_data(struct ring_rx *x);

static inline uint32_t ring_load32(const uint32_t *p)
{
	return le32toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static inline uint64_t ring_load64(const uint64_t *p)
{
	return le64toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static inline void ring_store32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, htole32(v), __ATOMIC_RELEASE);
}

static inline void ring_store64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, htole64(v), __ATOMIC_RELEASE);
}

/* Between the own store (index or want) and the load of the peer's (want or index). */
static inline void ring_full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline uint64_t ring_record_size(uint64_t length)
{
	return SIVSHM_RECORD_HEADER_SIZE +
	       ((length + SIVSHM_RECORD_ALIGN - 1) & ~(SIVSHM_RECORD_ALIGN - 1ull));
}

/* Longest message of a ring: its record fills the ring. */
static inline uint64_t ring_max_message(uint64_t size)
{
	return size - SIVSHM_RECORD_HEADER_SIZE;
}

/* Has an index that moved from @old to @new passed what the sleeper asked for?  old < want <= new
 */
static inline bool ring_passed(uint64_t old, uint64_t new, uint64_t want)
{
	return want - old - 1 < new - old;
}

/*
 * Is the peer there?  0: it is, or has not come yet; -EPIPE: it has said one of @closed; -EPROTO:
 * its magic is gone or was never one.
 */
static inline int ring_check_peer(const struct sivshm_control *peer, bool *attached,
				  uint32_t closed)
{
	uint32_t magic = ring_load32(&peer->magic);

	if (ring_unlikely(magic != SIVSHM_RING_MAGIC))
		return magic || *attached ? -EPROTO : 0;
	*attached = true;
	return ring_unlikely(ring_load32(&peer->closed) & closed) ? -EPIPE : 0;
}

/**
 * ring_reserve() - room for one message of @size bytes
 * @ret: contiguous, behind the space for the header; stays until the next reserve or commit
 * -EMSGSIZE never fits, -EAGAIN does not fit now (then @t->need says what to wait for).
 */
static inline int ring_reserve(struct ring_tx *t, uint64_t size, void **ret)
{
	uint64_t need;
	int r;

	if (ring_unlikely(size > ring_max_message(t->size)))
		return -EMSGSIZE;
	r = ring_check_peer(t->peer, &t->attached, SIVSHM_CLOSED_RECV);
	if (ring_unlikely(r < 0))
		return r;
	need = ring_record_size(size);
	if (ring_unlikely(need > t->size - (t->producer - t->consumer))) {
		r = ring_refresh_space(t, need);
		if (r < 0)
			return r;
	}
	t->reserved = size;
	t->need = RING_SMALLEST;
	*ret = t->data + (t->producer & (t->size - 1)) + SIVSHM_RECORD_HEADER_SIZE;
	return 0;
}

/**
 * ring_commit() - publish @size bytes of the reservation
 * Returns 1 when the peer sleeps and has to be rung, else 0.
 */
static inline int ring_commit(struct ring_tx *t, uint64_t size)
{
	struct sivshm_record header = {.length = htole32((uint32_t)size)};
	uint64_t old = t->producer, new = old + ring_record_size(size);

	if (ring_unlikely(t->reserved == RING_NOTHING || size > t->reserved))
		return -EINVAL;
	memcpy(t->data + (old & (t->size - 1)), &header, sizeof(header));
	t->reserved = RING_NOTHING;
	/* Atomic for the receiving thread, see ring_sent(). */
	__atomic_store_n(&t->producer, new, __ATOMIC_RELAXED);
	/* Header and payload before the index: partner is the load in ring_refresh_data(). */
	ring_store64(&t->own->producer, new);
	/* Index before want_data: partner is the barrier in ring_announce() of the peer. */
	ring_full_barrier();
	return ring_passed(old, new, ring_load64(&t->peer->want_data));
}

/*
 * Was what has been read from the ring the peer's?  The acquire fence keeps the reads of the data
 * before the load of the magic; its partner is the kernel, which takes all pages of a window away
 * before it lets anyone see a zero page.
 */
static inline int ring_still_there(struct ring_rx *x)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return ring_likely(ring_load32(&x->peer->magic) == SIVSHM_RING_MAGIC) ? 0 : -EPROTO;
}

/**
 * ring_peek() - next message in place
 * @ret: contiguous bytes that the peer may change at any time; until ring_release()
 * -EAGAIN nothing there; -EPIPE nothing there and never will be; -EPROTO lies.
 */
static inline int ring_peek(struct ring_rx *x, const void **ret, uint32_t *ret_length)
{
	const void *record;
	uint64_t header, need;
	int r;

	if (x->producer == x->consumer) {
		r = ring_refresh_data(x);
		if (r < 0)
			return r;
	}
	record = x->data + (x->consumer & (x->size - 1));
	/* Length and flags in one load: both are validated, neither is looked at again. */
	header = le64toh(__atomic_load_n((const uint64_t *)record, __ATOMIC_RELAXED));
	need = ring_record_size((uint32_t)header);
	if (ring_unlikely(header >> 32 || need > x->producer - x->consumer))
		return -EPROTO;
	r = ring_still_there(x);
	if (ring_unlikely(r < 0))
		return r;
	x->shown = need;
	*ret = (const uint8_t *)record + SIVSHM_RECORD_HEADER_SIZE;
	*ret_length = (uint32_t)header;
	return 0;
}

/**
 * ring_release() - give back the message that ring_peek() showed
 * Returns 1 when the peer waits for room and has to be rung, else 0.
 */
static inline int ring_release(struct ring_rx *x)
{
	uint64_t old = x->consumer, new = old + x->shown;

	if (ring_unlikely(!x->shown))
		return -EINVAL;
	x->shown = 0;
	x->consumer = new;
	/* Reads of the data before the index: partner is the load in ring_refresh_space(). */
	ring_store64(&x->own->consumer, new);
	/* Index before want_space: partner is the barrier in ring_announce() of the peer. */
	ring_full_barrier();
	return ring_passed(old, new, ring_load64(&x->peer->want_space));
}

/*
 * Going to sleep: ring_want_*() say until when, ring_announce() makes it visible, and only then is
 * the ring looked at once more.  Partner of the barrier: those in ring_commit() and ring_release()
 * of the peer.  Either the peer sees the wish, or the look after the barrier sees its index.
 */
static inline void ring_want_data(struct ring_rx *x)
{
	ring_store64(&x->own->want_data, x->producer + 1);
}

static inline void ring_want_space(struct ring_tx *t)
{
	ring_store64(&t->own->want_space, t->producer + t->need - t->size);
}

static inline void ring_announce(void)
{
	ring_full_barrier();
}

/* How much was sent so far; any thread may ask. */
static inline uint64_t ring_sent(const struct ring_tx *t)
{
	return __atomic_load_n(&t->producer, __ATOMIC_RELAXED);
}

/* Hints that a look is worth it; what is there is for ring_refresh_data() and _space() to say. */
static inline bool ring_data_moved(const struct ring_rx *x)
{
	return ring_load64(&x->peer->producer) != x->producer;
}

static inline bool ring_space_moved(const struct ring_tx *t)
{
	return ring_load64(&t->peer->consumer) != t->consumer;
}

/* 0: a message (or the end) is there.  -EAGAIN, -EPROTO. */
static inline int ring_readable(struct ring_rx *x)
{
	int r = x->producer == x->consumer ? ring_refresh_data(x) : 0;

	return r == -EPIPE ? 0 : r;
}

/* 0: room for @t->need (or nobody to receive it).  -EAGAIN, -EPROTO. */
static inline int ring_writable(struct ring_tx *t)
{
	int r = ring_check_peer(t->peer, &t->attached, SIVSHM_CLOSED_RECV);

	if (r == 0 && t->need > t->size - (t->producer - t->consumer))
		r = ring_refresh_space(t, t->need);
	return r == -EPIPE ? 0 : r;
}

#endif
