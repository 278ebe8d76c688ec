/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ring: refusals first, then what a hostile peer may try, then success, then two threads. */
#include "windows.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#define SIZE 4096u

/* Two ends; `bad_*` are writable views of what end a and b must not write. */
struct pair {
	int fd[2];
	void *tx[2];
	const void *rx[2];
	struct ring end[2];
	uint64_t size;
};

static void pair_map(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		p->fd[i] = window_new(p->size);
		assert_true(p->fd[i] >= 0);
		p->tx[i] = window_map(p->fd[i], p->size, PROT_READ | PROT_WRITE);
		p->rx[!i] = window_map(p->fd[i], p->size, PROT_READ);
		assert_non_null(p->tx[i]);
		assert_non_null(p->rx[!i]);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(ring_init(&p->end[i], p->tx[i], p->size, p->rx[i], p->size), 0);
}

static struct pair *pair_new(uint64_t size)
{
	struct pair *p = aligned_alloc(RING_CACHE_LINE, sizeof(*p));

	assert_non_null(p);
	p->size = size;
	pair_map(p);
	return p;
}

static void pair_free(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		window_unmap(p->tx[i], p->size);
		window_unmap((void *)(uintptr_t)p->rx[i], p->size);
		close(p->fd[i]);
	}
	free(p);
}

static int setup(void **state)
{
	struct pair *p = pair_new(SIZE);

	for (int i = 0; i < 2; i++)
		assert_int_equal(ring_attach(&p->end[i]), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	pair_free(*state);
	return 0;
}

static struct sivshm_control *control(struct pair *p, int end)
{
	return p->tx[end];
}

static int put(struct ring *r, const void *data, size_t size)
{
	void *room;
	int q = ring_reserve(&r->tx, size, &room);

	if (q < 0)
		return q;
	memcpy(room, data, size);
	return ring_commit(&r->tx, size);
}

/* Length of the message that was taken, or a negative errno. */
static int get(struct ring *r, void *data, size_t size)
{
	const void *message;
	uint32_t length;
	int q = ring_peek(&r->rx, &message, &length);

	if (q < 0)
		return q;
	assert_true(length <= size);
	memcpy(data, message, length);
	q = ring_release(&r->rx);
	return q < 0 ? q : (int)length;
}

static void test_init_refuses_bad_sizes(void **state)
{
	static const uint64_t bad[] = {0, 1, 4095, 4097, 2048, 12288, 1ull << 31, UINT64_MAX};
	struct pair *p = *state;
	struct ring r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(ring_init(&r, p->tx[0], bad[i], p->rx[0], SIZE), -EINVAL);
		assert_int_equal(ring_init(&r, p->tx[0], SIZE, p->rx[0], bad[i]), -EINVAL);
	}
}

static void test_attach_twice_is_refused(void **state)
{
	struct pair *p = *state;

	assert_int_equal(ring_attach(&p->end[0]), -EBUSY);
	control(p, 1)->magic = 7;
	assert_int_equal(ring_attach(&p->end[1]), -EBUSY);
}

static void test_too_long_is_refused(void **state)
{
	struct pair *p = *state;
	void *room;

	assert_int_equal(ring_reserve(&p->end[0].tx, SIZE - 7, &room), -EMSGSIZE);
	assert_int_equal(ring_reserve(&p->end[0].tx, SIZE_MAX, &room), -EMSGSIZE);
	assert_int_equal(ring_reserve(&p->end[0].tx, SIZE_MAX - 6, &room), -EMSGSIZE);
}

static void test_commit_without_reserve(void **state)
{
	struct pair *p = *state;
	void *room;

	assert_int_equal(ring_commit(&p->end[0].tx, 0), -EINVAL);
	assert_int_equal(ring_reserve(&p->end[0].tx, 8, &room), 0);
	assert_int_equal(ring_commit(&p->end[0].tx, 9), -EINVAL);
	assert_int_equal(ring_commit(&p->end[0].tx, 8), 0);
	assert_int_equal(ring_commit(&p->end[0].tx, 8), -EINVAL);
	assert_int_equal(ring_release(&p->end[1].rx), -EINVAL);
}

/* Every index that is not between what was seen and what fits is a lie. */
static void test_hostile_producer(void **state)
{
	static const uint64_t bad[] = {16 + SIZE + 8, 16 - 8,	      17,	 20, 0,
				       UINT64_MAX,    UINT64_MAX - 7, 1ull << 63};
	struct pair *p = *state;
	char b[64];

	assert_int_equal(put(&p->end[1], "x", 1), 0);
	assert_int_equal(get(&p->end[0], b, sizeof(b)), 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		control(p, 1)->producer = bad[i];
		assert_int_equal(get(&p->end[0], b, sizeof(b)), -EPROTO);
		assert_int_equal(ring_readable(&p->end[0].rx), -EPROTO);
	}
	control(p, 1)->producer = 16;
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EAGAIN);
}

static void test_hostile_length(void **state)
{
	static const uint64_t bad[] = {1,	   9,	       4096,	   0x7fffffff,
				       0xffffffff, 0xfffffff8, 0xfffffff1, 1ull << 32};
	struct pair *p = *state;
	const void *m;
	uint32_t length;

	control(p, 1)->producer = 8;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		memcpy(p->end[1].tx.data, &bad[i], 8);
		assert_int_equal(ring_peek(&p->end[0].rx, &m, &length), -EPROTO);
	}
	memset(p->end[1].tx.data, 0, 8);
	assert_int_equal(ring_peek(&p->end[0].rx, &m, &length), 0);
	assert_int_equal(length, 0);
}

static void test_hostile_consumer(void **state)
{
	static const uint64_t bad[] = {24, 4096, 15, 9, 0, UINT64_MAX, UINT64_MAX - 7};
	struct pair *p = *state;
	void *room;

	assert_int_equal(put(&p->end[0], "x", 1), 0);
	control(p, 1)->consumer = 16;
	assert_int_equal(ring_refresh_space(&p->end[0].tx, 16), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		control(p, 1)->consumer = bad[i];
		p->end[0].tx.consumer = 16;
		assert_int_equal(ring_refresh_space(&p->end[0].tx, 16), -EPROTO);
	}
	control(p, 1)->consumer = 16;
	assert_int_equal(ring_reserve(&p->end[0].tx, SIZE - 8, &room), 0);
}

/* A peer that lies about its consumer index gets its own data overwritten, nothing else. */
static void test_consumer_ahead_of_reading(void **state)
{
	struct pair *p = *state;
	char big[SIZE - 8] = {};

	for (uint64_t i = 1; i < 100; i++) {
		assert_true(put(&p->end[0], big, sizeof(big)) >= 0);
		control(p, 1)->consumer = i * SIZE;
	}
}

static void test_magic(void **state)
{
	struct pair *p = *state;
	char b[64];
	void *room;

	control(p, 1)->magic = 0x1234;
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EPROTO);
	assert_int_equal(ring_reserve(&p->end[0].tx, 8, &room), -EPROTO);
	/* Not seen yet: a peer that has not come is an empty ring. */
	control(p, 1)->magic = 0;
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EAGAIN);
	assert_int_equal(ring_reserve(&p->end[0].tx, 8, &room), 0);
	/* Seen and gone: revoked, the kernel knows. */
	control(p, 1)->magic = SIVSHM_RING_MAGIC;
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EAGAIN);
	control(p, 1)->magic = 0;
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EPROTO);
	assert_int_equal(ring_readable(&p->end[0].rx), -EPROTO);
}

/* Zeros under the reader are not a message of length 0. */
static void test_revoked_while_data_is_known(void **state)
{
	struct pair *p = *state;
	char b[64];

	assert_int_equal(put(&p->end[1], "a", 1), 0);
	assert_int_equal(put(&p->end[1], "b", 1), 0);
	assert_int_equal(get(&p->end[0], b, sizeof(b)), 1);
	memset(p->tx[1], 0, SIVSHM_CONTROL_SIZE + SIZE);
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EPROTO);
}

static void test_closed(void **state)
{
	struct pair *p = *state;
	char b[64];
	void *room;

	assert_int_equal(put(&p->end[1], "last", 4), 0);
	ring_close(&p->end[1], SIVSHM_CLOSED_SEND);
	assert_int_equal(get(&p->end[0], b, sizeof(b)), 4);
	assert_int_equal(get(&p->end[0], b, sizeof(b)), -EPIPE);
	assert_int_equal(ring_readable(&p->end[0].rx), 0);
	/* Half closed: the other direction goes on. */
	assert_int_equal(ring_reserve(&p->end[0].tx, 8, &room), 0);
	ring_close(&p->end[1], SIVSHM_CLOSED_SEND | SIVSHM_CLOSED_RECV);
	assert_int_equal(ring_reserve(&p->end[0].tx, 8, &room), -EPIPE);
	assert_int_equal(ring_writable(&p->end[0].tx), 0);
}

static void test_boundaries(void **state)
{
	struct pair *p = *state;
	char in[64], out[64];

	for (size_t n = 0; n < sizeof(in); n++) {
		memset(in, (int)n, n);
		assert_int_equal(put(&p->end[0], in, n), 0);
		assert_int_equal(get(&p->end[1], out, sizeof(out)), n);
		assert_memory_equal(in, out, n);
	}
}

static void test_commit_less_than_reserved(void **state)
{
	struct pair *p = *state;
	char b[64];
	void *room = NULL;

	assert_int_equal(ring_reserve(&p->end[0].tx, 1000, &room), 0);
	memcpy(room, "abc", 3);
	assert_int_equal(ring_commit(&p->end[0].tx, 3), 0);
	assert_int_equal(ring_sent(&p->end[0].tx), 16);
	assert_int_equal(get(&p->end[1], b, sizeof(b)), 3);
	assert_memory_equal(b, "abc", 3);
}

static void test_full_and_exact_fit(void **state)
{
	struct pair *p = *state;
	char big[SIZE - 8], out[SIZE];
	void *room;

	memset(big, 'x', sizeof(big));
	assert_int_equal(put(&p->end[0], big, sizeof(big)), 0);
	assert_int_equal(ring_reserve(&p->end[0].tx, 0, &room), -EAGAIN);
	assert_int_equal(p->end[0].tx.need, 8);
	assert_int_equal(ring_writable(&p->end[0].tx), -EAGAIN);
	assert_int_equal(get(&p->end[1], out, sizeof(out)), sizeof(big));
	assert_memory_equal(big, out, sizeof(big));
	assert_int_equal(ring_writable(&p->end[0].tx), 0);
	/* Now at SIZE: the next one begins at position 0 of the second lap. */
	assert_int_equal(put(&p->end[0], big, sizeof(big)), 0);
	assert_int_equal(get(&p->end[1], out, sizeof(out)), sizeof(big));
}

/* Odd lengths over many laps: every offset is a wrap once; a wrapped message is contiguous. */
static void test_wrap(void **state)
{
	struct pair *p = *state;
	char in[1500], out[1500];

	for (unsigned int i = 0; i < 5000; i++) {
		size_t n = (i * 7919u) % sizeof(in);

		for (size_t k = 0; k < n; k++)
			in[k] = (char)(i + k);
		assert_true(put(&p->end[0], in, n) >= 0);
		assert_int_equal(get(&p->end[1], out, sizeof(out)), n);
		assert_memory_equal(in, out, n);
	}
	assert_true(p->end[0].tx.producer > 100 * SIZE);
}

/* Indices count on where 64 bits end. */
static void test_index_wrap(void **state)
{
	struct pair *p = *state;
	uint64_t start = UINT64_MAX - 63;
	char out[64];

	control(p, 0)->producer = start;
	control(p, 1)->consumer = start;
	p->end[0].tx.producer = p->end[0].tx.consumer = start;
	p->end[1].rx.producer = p->end[1].rx.consumer = start;
	for (int i = 0; i < 20; i++) {
		assert_true(put(&p->end[0], "wrap", 4) >= 0);
		assert_int_equal(get(&p->end[1], out, sizeof(out)), 4);
	}
	assert_true(p->end[0].tx.producer < start);
}

static void test_passed(void **state)
{
	(void)state;
	assert_false(ring_passed(0, 16, 0));
	assert_true(ring_passed(0, 16, 1));
	assert_true(ring_passed(0, 16, 16));
	assert_false(ring_passed(0, 16, 17));
	assert_false(ring_passed(16, 32, 16));
	assert_true(ring_passed(16, 32, 17));
	assert_false(ring_passed(16, 32, 0));
	assert_false(ring_passed(16, 16, 17));
}

static void test_want_data(void **state)
{
	struct pair *p = *state;
	char b[64];

	assert_int_equal(put(&p->end[0], "x", 1), 0);
	assert_int_equal(get(&p->end[1], b, sizeof(b)), 1);
	ring_want_data(&p->end[1].rx);
	ring_announce();
	assert_int_equal(ring_readable(&p->end[1].rx), -EAGAIN);
	/* One ring, however many messages. */
	assert_int_equal(put(&p->end[0], "y", 1), 1);
	assert_int_equal(put(&p->end[0], "z", 1), 0);
	assert_int_equal(get(&p->end[1], b, sizeof(b)), 1);
	assert_int_equal(get(&p->end[1], b, sizeof(b)), 1);
	/* The stale wish is behind us. */
	assert_int_equal(put(&p->end[0], "w", 1), 0);
}

static void test_want_space(void **state)
{
	struct pair *p = *state;
	char b[1024] = {};
	void *room;

	for (int i = 0; i < 4; i++)
		assert_int_equal(put(&p->end[0], b, 1016), 0);
	assert_int_equal(ring_reserve(&p->end[0].tx, 2040, &room), -EAGAIN);
	ring_want_space(&p->end[0].tx);
	ring_announce();
	/* Half the room is no reason to ring. */
	assert_int_equal(ring_peek(&p->end[1].rx, &(const void *){NULL}, &(uint32_t){0}), 0);
	assert_int_equal(ring_release(&p->end[1].rx), 0);
	assert_int_equal(ring_writable(&p->end[0].tx), -EAGAIN);
	assert_int_equal(ring_peek(&p->end[1].rx, &(const void *){NULL}, &(uint32_t){0}), 0);
	assert_int_equal(ring_release(&p->end[1].rx), 1);
	assert_int_equal(ring_writable(&p->end[0].tx), 0);
	assert_int_equal(ring_reserve(&p->end[0].tx, 2040, &room), 0);
}

/* Any bytes in the peer's window: an error or a message inside the ring, never anything else. */
static void test_random_windows(void **state)
{
	struct pair *p = *state;
	uint64_t *words = p->tx[1];
	unsigned int seed = 1;

	for (int i = 0; i < 20000; i++) {
		struct ring victim = p->end[0];
		const void *m;
		uint32_t length;

		control(p, 1)->producer = (uint64_t)rand_r(&seed) % 5000 * (i & 1 ? 8 : 1);
		for (int k = 0; k < 8; k++)
			words[SIVSHM_CONTROL_SIZE / 8 + k] = (uint64_t)rand_r(&seed) % 5000;
		for (int k = 0; k < 20 && ring_peek(&victim.rx, &m, &length) == 0; k++) {
			const uint8_t *b = m;

			assert_true(b >= victim.rx.data && b + length <= victim.rx.data + 2 * SIZE);
			assert_true(length <= SIZE - 8);
			ring_release(&victim.rx);
		}
	}
}

/*
 * Two threads that sleep whenever they may: a lost wake-up is a time-out here.  The semaphores are
 * the doorbells.
 */
struct side {
	struct ring *ring;
	sem_t *own_bell;
	sem_t *peer_bell;
	unsigned int messages;
	unsigned int rings;
	unsigned int sleeps;
};

static void sleep_side(struct side *s)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 20;
	s->sleeps++;
	if (sem_timedwait(s->own_bell, &t) < 0)
		abort(); /* lost wake-up */
}

static size_t length_of(unsigned int i)
{
	return (i * 2654435761u >> 8) % 700 + 4;
}

static void *produce(void *arg)
{
	struct side *s = arg;

	for (unsigned int i = 0; i < s->messages; i++) {
		size_t n = length_of(i);
		void *room;
		int r;

		while ((r = ring_reserve(&s->ring->tx, n, &room)) == -EAGAIN) {
			ring_want_space(&s->ring->tx);
			ring_announce();
			if (ring_writable(&s->ring->tx) == -EAGAIN)
				sleep_side(s);
		}
		if (r < 0)
			abort();
		memset(room, (int)i, n);
		memcpy(room, &i, sizeof(i));
		if (ring_commit(&s->ring->tx, n) > 0) {
			s->rings++;
			sem_post(s->peer_bell);
		}
	}
	return NULL;
}

static void check_message(unsigned int i, const uint8_t *m, size_t length)
{
	unsigned int got;

	memcpy(&got, m, sizeof(got));
	if (got != i || length != length_of(i))
		abort();
	for (size_t k = sizeof(got); k < length; k++)
		if (m[k] != (uint8_t)i)
			abort();
}

static void *consume(void *arg)
{
	struct side *s = arg;

	for (unsigned int i = 0; i < s->messages; i++) {
		const void *m;
		uint32_t length;
		int r;

		while ((r = ring_peek(&s->ring->rx, &m, &length)) == -EAGAIN) {
			ring_want_data(&s->ring->rx);
			ring_announce();
			if (ring_readable(&s->ring->rx) == -EAGAIN)
				sleep_side(s);
		}
		if (r < 0)
			abort();
		check_message(i, m, length);
		if (ring_release(&s->ring->rx) > 0) {
			s->rings++;
			sem_post(s->peer_bell);
		}
	}
	return NULL;
}

static void test_threads_lose_no_wakeup(void **state)
{
	struct pair *p = *state;
	struct side a = {&p->end[0], NULL, NULL, 200000, 0, 0},
		    b = {&p->end[1], NULL, NULL, 200000, 0, 0};
	sem_t bell[2];
	pthread_t ta, tb;

	sem_init(&bell[0], 0, 0);
	sem_init(&bell[1], 0, 0);
	a.own_bell = b.peer_bell = &bell[0];
	b.own_bell = a.peer_bell = &bell[1];
	assert_int_equal(pthread_create(&ta, NULL, produce, &a), 0);
	assert_int_equal(pthread_create(&tb, NULL, consume, &b), 0);
	pthread_join(ta, NULL);
	pthread_join(tb, NULL);
	print_message("sleeps %u/%u, rings %u/%u\n", a.sleeps, b.sleeps, a.rings, b.rings);
	/* One sleep, at most one doorbell; a wish that was never slept on costs one more. */
	assert_int_equal(p->end[0].tx.producer, p->end[1].rx.consumer);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_init_refuses_bad_sizes),
		TEST(test_attach_twice_is_refused),
		TEST(test_too_long_is_refused),
		TEST(test_commit_without_reserve),
		TEST(test_hostile_producer),
		TEST(test_hostile_length),
		TEST(test_hostile_consumer),
		TEST(test_consumer_ahead_of_reading),
		TEST(test_magic),
		TEST(test_revoked_while_data_is_known),
		TEST(test_closed),
		TEST(test_boundaries),
		TEST(test_commit_less_than_reserved),
		TEST(test_full_and_exact_fit),
		TEST(test_wrap),
		TEST(test_index_wrap),
		TEST(test_passed),
		TEST(test_want_data),
		TEST(test_want_space),
		TEST(test_random_windows),
		TEST(test_threads_lose_no_wakeup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
