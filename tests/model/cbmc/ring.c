// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * src/client/ring.c and ring.h against a peer that writes anything at any time.
 *
 * By induction, so that no bound on the number of messages is needed: ring_init() makes a state
 * that is sane(), and every call on any sane state, with any argument, against any peer, keeps it
 * sane, touches nothing outside the windows and returns one of a few results.  All ring sizes, all
 * indices, every possible 64-bit word of the peer.
 */
#include "client/ring.h"

#define CHECK(condition) __CPROVER_assert(condition, #condition)

/* CBMC: any value, anew at each call. */
uint64_t nondet_u64(void);
struct ring nondet_ring(void);

static struct ring ring;
static uint8_t *own;	    /* control page, ring, ring */
static const uint8_t *peer; /* likewise */
static bool attaching;
static unsigned int writes; /* to the own control page */

/* Any word, from an address that lies in the peer's window. */
uint64_t model_load(const void *from, size_t size)
{
	uintptr_t offset = (uintptr_t)from - (uintptr_t)peer;

	if (!attaching || from != &ring.tx.own->magic) {
		CHECK(offset % size == 0);
		CHECK(offset <= SIVSHM_CONTROL_SIZE + 2 * ring.rx.size - size);
	}
	return nondet_u64();
}

static size_t own_offset(const void *p)
{
	CHECK(__CPROVER_same_object(p, own));
	return __CPROVER_POINTER_OFFSET(p);
}

_Bool model_is_private(const void *word)
{
	return word == &ring.tx.producer;
}

/* Words: only in the own control page. */
void model_store(const void *to, size_t size)
{
	size_t offset = own_offset(to);

	CHECK(__CPROVER_w_ok(to, size));
	CHECK(offset % size == 0 && offset + size <= offsetof(struct sivshm_control, pad3));
	writes++;
}

/* Bytes: only into the own ring, from private memory, and never over what the peer has yet to read.
 */
void model_copy(const void *to, const void *from, size_t size)
{
	const struct ring_tx *t = &ring.tx;
	uint64_t at = own_offset(to) - SIVSHM_CONTROL_SIZE;

	CHECK(__CPROVER_r_ok(from, size));
	CHECK(__CPROVER_w_ok(to, size));
	CHECK(own_offset(to) >= SIVSHM_CONTROL_SIZE);
	CHECK(at - (t->producer & (t->size - 1)) + size <= t->size - (t->producer - t->consumer));
}

static bool size_sane(uint64_t size)
{
	return size >= 4096 && size <= 1ull << 30 && !(size & (size - 1));
}

static bool indices_sane(uint64_t producer, uint64_t consumer, uint64_t size)
{
	return producer - consumer <= size && producer % 8 == 0 && consumer % 8 == 0;
}

static bool tx_sane(const struct ring_tx *t)
{
	if (!size_sane(t->size) || !indices_sane(t->producer, t->consumer, t->size))
		return false;
	if (t->need < SIVSHM_RECORD_HEADER_SIZE || t->need > t->size || t->need % 8)
		return false;
	return t->reserved == RING_NOTHING ||
	       (t->reserved <= t->size - 8 &&
		ring_record_size(t->reserved) <= t->size - (t->producer - t->consumer));
}

static bool rx_sane(const struct ring_rx *x)
{
	if (!size_sane(x->size) || !indices_sane(x->producer, x->consumer, x->size))
		return false;
	return x->shown % 8 == 0 && x->shown <= x->producer - x->consumer;
}

static bool places_sane(void)
{
	return (uint8_t *)ring.tx.own == own && (uint8_t *)ring.rx.own == own &&
	       ring.tx.data == own + SIVSHM_CONTROL_SIZE && (const uint8_t *)ring.tx.peer == peer &&
	       (const uint8_t *)ring.rx.peer == peer && ring.rx.data == peer + SIVSHM_CONTROL_SIZE;
}

static bool sane(void)
{
	return tx_sane(&ring.tx) && rx_sane(&ring.rx) && places_sane();
}

/*
 * Proved twice.  With memory behind the peer's window, CBMC checks all pointers into it.  Without,
 * its addresses are mere integers and each *plain* read of it is refused: the one way to read a
 * word is an atomic load.
 */
static void map(uint64_t tx_size, uint64_t rx_size)
{
	own = __CPROVER_allocate(SIVSHM_CONTROL_SIZE + 2 * tx_size, 0);
#ifdef PEER_WITHOUT_MEMORY
	(void)rx_size;
	peer = (const uint8_t *)(1ull << 40);
#else
	peer = __CPROVER_allocate(SIVSHM_CONTROL_SIZE + 2 * rx_size, 0);
#endif
}

/* Any sane state, as any number of calls may have left it. */
static struct ring begin(void)
{
	ring = nondet_ring();
	ring.tx.attached = nondet_u64() & 1;
	ring.rx.attached = nondet_u64() & 1;
	__CPROVER_assume(tx_sane(&ring.tx) && rx_sane(&ring.rx));
	map(ring.tx.size, ring.rx.size);
	ring.tx.own = ring.rx.own = (struct sivshm_control *)own;
	ring.tx.data = own + SIVSHM_CONTROL_SIZE;
	ring.tx.peer = ring.rx.peer = (const struct sivshm_control *)peer;
	ring.rx.data = peer + SIVSHM_CONTROL_SIZE;
	return ring;
}

/* Sizes and places stay, and no index goes back. */
static void end(const struct ring *before)
{
	CHECK(sane());
	CHECK(ring.tx.size == before->tx.size && ring.rx.size == before->rx.size);
	CHECK(ring.tx.consumer - before->tx.consumer <= ring.tx.size);
	CHECK(ring.rx.producer - before->rx.producer <= ring.rx.size);
	CHECK(ring.rx.attached >= before->rx.attached && ring.tx.attached >= before->tx.attached);
}

void prove_init(void)
{
	uint64_t tx_size = nondet_u64(), rx_size = nondet_u64();
	int r;

	/* Two mappings can not be longer than the address space. */
	__CPROVER_assume(tx_size <= 1ull << 40 && rx_size <= 1ull << 40);
	map(tx_size, rx_size);
	r = ring_init(&ring, own, tx_size, peer, rx_size);
	CHECK(r == (size_sane(tx_size) && size_sane(rx_size) ? 0 : -EINVAL));
	if (r == 0)
		CHECK(sane());
	CHECK(writes == 0);
}

void prove_attach(void)
{
	struct ring before = begin();
	int r;

	attaching = true;
	r = ring_attach(&ring);
	attaching = false;
	CHECK(r == 0 ? writes == 1 : r == -EBUSY && writes == 0);
	ring_close(&ring, (uint32_t)nondet_u64());
	end(&before);
}

/* Also twice in a row, and after a peek(): the state in between is sane. */
void prove_reserve(void)
{
	struct ring before = begin();
	uint64_t size = nondet_u64();
	void *room;
	int r = ring_reserve(&ring.tx, size, &room);

	end(&before);
	CHECK(r == 0 || r == -EMSGSIZE || r == -EAGAIN || r == -EPIPE || r == -EPROTO);
	CHECK((r == -EMSGSIZE) == (size > ring_max_message(ring.tx.size)));
	if (r == -EAGAIN)
		CHECK(ring.tx.need == ring_record_size(size));
	if (r == 0) {
		CHECK(ring.tx.reserved == size && __CPROVER_w_ok(room, size));
		CHECK(own_offset(room) >= SIVSHM_CONTROL_SIZE + SIVSHM_RECORD_HEADER_SIZE);
	}
	CHECK(writes == 0);
}

void prove_commit(void)
{
	struct ring before = begin();
	uint64_t size = nondet_u64();
	int r = ring_commit(&ring.tx, size);

	end(&before);
	CHECK(r == 0 || r == 1 || r == -EINVAL);
	CHECK((r == -EINVAL) == (before.tx.reserved == RING_NOTHING || size > before.tx.reserved));
	CHECK(writes == (r >= 0));
	CHECK(ring.tx.producer - before.tx.producer == (r >= 0 ? ring_record_size(size) : 0));
	if (r >= 0)
		CHECK(ring.tx.reserved == RING_NOTHING);
}

void prove_peek(void)
{
	struct ring before = begin();
	const void *message;
	uint32_t length;
	int r = ring_peek(&ring.rx, &message, &length);

	end(&before);
	CHECK(r == 0 || r == -EAGAIN || r == -EPIPE || r == -EPROTO);
	if (r == 0) {
		uint64_t at = (uintptr_t)message - (uintptr_t)ring.rx.data;

		/* inside what was produced, contiguous, and no longer than a ring holds */
		CHECK(at == (ring.rx.consumer & (ring.rx.size - 1)) + SIVSHM_RECORD_HEADER_SIZE);
		CHECK(length <= ring_max_message(ring.rx.size));
		CHECK(length + SIVSHM_RECORD_HEADER_SIZE <= ring.rx.producer - ring.rx.consumer);
		CHECK(at + length <= 2 * ring.rx.size);
		CHECK(ring.rx.shown == ring_record_size(length));
	}
	CHECK(ring.rx.consumer == before.rx.consumer && writes == 0);
}

void prove_release(void)
{
	struct ring before = begin();
	int r = ring_release(&ring.rx);

	end(&before);
	CHECK(r == 0 || r == 1 || r == -EINVAL);
	CHECK((r == -EINVAL) == (before.rx.shown == 0));
	CHECK(ring.rx.consumer == before.rx.consumer + before.rx.shown && ring.rx.shown == 0);
	CHECK(writes == (r >= 0));
}

void prove_wait(void)
{
	struct ring before = begin();
	int r, q;

	(void)ring_data_moved(&ring.rx);
	(void)ring_space_moved(&ring.tx);
	ring_want_data(&ring.rx);
	ring_want_space(&ring.tx);
	ring_announce();
	r = ring_readable(&ring.rx);
	q = ring_writable(&ring.tx);
	end(&before);
	CHECK(r == 0 || r == -EAGAIN || r == -EPROTO);
	CHECK(q == 0 || q == -EAGAIN || q == -EPROTO);
	r = ring_still_there(&ring.rx);
	CHECK(r == 0 || r == -EPROTO);
	CHECK(writes == 2);
}

/* Not vacuous: each result can be had, so CBMC must find each of these "failures". */
void reach(void)
{
	struct ring before = begin();
	const void *message;
	void *room;
	uint32_t length;
	int r = ring_peek(&ring.rx, &message, &length),
	    q = ring_reserve(&ring.tx, nondet_u64(), &room);

	(void)before;
	__CPROVER_assert(r != 0, "peek 0");
	__CPROVER_assert(r != 0 || length != ring_max_message(1 << 30), "peek longest");
	__CPROVER_assert(r != -EAGAIN, "peek EAGAIN");
	__CPROVER_assert(r != -EPIPE, "peek EPIPE");
	__CPROVER_assert(r != -EPROTO, "peek EPROTO");
	__CPROVER_assert(q != 0, "reserve 0");
	__CPROVER_assert(q != -EAGAIN, "reserve EAGAIN");
	__CPROVER_assert(q != -EPIPE, "reserve EPIPE");
	__CPROVER_assert(q != -EPROTO, "reserve EPROTO");
	__CPROVER_assert(ring_commit(&ring.tx, nondet_u64()) != 1, "commit 1");
	__CPROVER_assert(ring_release(&ring.rx) != 1, "release 1");
}
