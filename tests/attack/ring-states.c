/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's ring under a peer that writes what it likes.
 *
 *	ring-states [--states N] [--seconds S] [--seed N] [--ring BYTES] [--scribble] [--crash-only]
 *
 * One state: the peer changes words of its window, then the real sivshm_*() calls are made over
 * it.  With --scribble a second thread changes them all the time instead, also between two loads
 * of one call.  Around each window lie 4 GiB that nobody may touch on each side: no 32-bit length
 * leads out of them, so an access out of bounds is a SIGSEGV.
 *
 * After each call the private state is looked at: within what the rules allow, the message shown
 * within what was published, an error one of those documented.  What the peer did by the rules
 * must be received as it was sent; a call that ended in EPROTO must go on to do so whatever the
 * peer writes afterwards.  A breach ends the program with SIGABRT and a line that says which, and
 * a watchdog ends a call that does not return.  --crash-only leaves it to the guards alone.
 *
 * Prints one JSON object: states, and how often each class of outcome was seen.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"
#include "quiet-backend.h"

#define GUARD (UINT64_C(1) << 32)
#define CALL_LIMIT_SECONDS 20
#define SIZES_MAX (UINT64_C(1) << 20)

enum outcome {
	OUT_DATA,
	OUT_EMPTY,
	OUT_SENT,
	OUT_FULL,
	OUT_CLOSED,
	OUT_PROTO,
	OUT_TOO_LONG,
	OUT_RELEASED,
	OUT_NOTHING_SHOWN,
	OUT_READY,
	OUT_IDLE,
	OUT_STILL_PROTO,
	OUT_LAST,
};

static const char *const outcome_names[OUT_LAST] = {
	"data",	    "empty",	"sent",		 "full",  "closed", "proto",
	"too_long", "released", "nothing_shown", "ready", "idle",   "proto_again",
};

static uint64_t ring_size = 4096, counts[OUT_LAST], states, seed = 1, random_state;
static _Atomic uint64_t progress;
static atomic_bool stop;
static volatile sig_atomic_t sink;

/* The windows: own one, the peer's as it is mapped read-only, and as the peer writes it. */
static void *own_window, *peer_view;
static const void *peer_window;
static struct sivshm_channel *channel;

/* The peer has kept to the rules since the channel was new. */
static bool sane;
static bool scribbles, crash_only;

__attribute__((format(printf, 1, 2))) static void breach(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "breach in state %llu of seed %llu: ", (unsigned long long)states,
		(unsigned long long)seed);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	abort();
}

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static uint64_t below(uint64_t n)
{
	return (next_random() >> 33) % n;
}

/* Windows */

static int memory_new(void)
{
	int fd = memfd_create("window", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(SIVSHM_CONTROL_SIZE + ring_size)) < 0)
		breach("memfd: %s", strerror(errno));
	return fd;
}

/* Control page, ring, the same ring again, between two guards. */
static void *map_guarded(int fd, int prot)
{
	uint64_t inner = SIVSHM_CONTROL_SIZE + 2 * ring_size;
	uint8_t *p = mmap(NULL, inner + 2 * GUARD, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		breach("mmap: %s", strerror(errno));
	p += GUARD;
	if (mmap(p, SIVSHM_CONTROL_SIZE + ring_size, prot, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    MAP_FAILED ||
	    mmap(p + SIVSHM_CONTROL_SIZE + ring_size, ring_size, prot, MAP_SHARED | MAP_FIXED, fd,
		 SIVSHM_CONTROL_SIZE) == MAP_FAILED)
		breach("mmap: %s", strerror(errno));
	return p;
}

static struct sivshm_control *peer_page(void)
{
	return peer_view;
}

static uint64_t *peer_word(uint64_t index)
{
	return (uint64_t *)(void *)((uint8_t *)peer_view + SIVSHM_CONTROL_SIZE +
				    (index & (ring_size - 1)));
}

static void put64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static void put32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static int fake_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	(void)userdata;
	*ret = quiet_info(ring_size);
	return 0;
}

static int fake_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	(void)userdata, (void)size, (void)prot;
	*ret = offset == SIVSHM_TX_OFFSET ? own_window : (void *)(uintptr_t)peer_window;
	return 0;
}

static const struct backend fake = {
	.get_info = fake_get_info,
	.map = fake_map,
	.notify = quiet_notify,
	.wait = quiet_wait,
	.close = quiet_close,
	.fd = quiet_fd,
};

/* Channel */

/* A new channel's private state; both sides begin at indices of our choice, for old ones are huge.
 */
static void channel_renew(void)
{
	uint64_t rx = next_random() & ~7ull, tx = next_random() & ~7ull;

	channel->tx_error = channel->rx_error = 0;
	channel->gone = false;
	channel->closed = 0;
	ring_init(&channel->ring, own_window, ring_size, peer_window, ring_size);
	channel->ring.rx.producer = channel->ring.rx.consumer = rx;
	channel->ring.tx.producer = channel->ring.tx.consumer = tx;
	put64(&channel->ring.tx.own->consumer, rx);
	put64(&channel->ring.tx.own->producer, tx);
	put64(&peer_page()->producer, rx);
	put64(&peer_page()->consumer, tx);
	put32(&peer_page()->closed, 0);
	put32(&peer_page()->magic, SIVSHM_RING_MAGIC);
	sane = true;
}

static void check_private(void)
{
	const struct ring_rx *x = &channel->ring.rx;
	const struct ring_tx *t = &channel->ring.tx;

	if (crash_only)
		return;
	if (x->producer - x->consumer > ring_size || (x->producer | x->consumer) % 8)
		breach("receiver's indices %llx %llx", (unsigned long long)x->producer,
		       (unsigned long long)x->consumer);
	if (t->producer - t->consumer > ring_size || (t->producer | t->consumer) % 8)
		breach("sender's indices %llx %llx", (unsigned long long)t->producer,
		       (unsigned long long)t->consumer);
	if (x->size != ring_size || t->size != ring_size)
		breach("a size changed");
}

/* What the peer restores after an error must not bring the channel back. */
static void check_stays_dead(void)
{
	const void *message;
	void *room;

	channel->ring.rx.shown = 0;
	put32(&peer_page()->magic, SIVSHM_RING_MAGIC);
	put64(&peer_page()->producer, channel->ring.rx.producer);
	put64(&peer_page()->consumer, channel->ring.tx.consumer);
	if (sivshm_peek(channel, &message, 0) != -EPROTO ||
	    sivshm_reserve(channel, 8, &room, 0) != -EPROTO ||
	    sivshm_wait(channel, SIVSHM_READ | SIVSHM_WRITE, 0) != -EPROTO)
		breach("a channel is back after a protocol error");
	counts[OUT_STILL_PROTO]++;
}

/* A negative result: which class?  Only EPROTO ends the channel. */
static void take_error(ssize_t r, enum outcome if_again)
{
	if (r == -EAGAIN || r == -ETIMEDOUT)
		counts[if_again]++;
	else if (r == -EPIPE)
		counts[OUT_CLOSED]++;
	else if (r == -EPROTO && sane)
		breach("an honest peer is blamed");
	else if (r == -EPROTO) {
		counts[OUT_PROTO]++;
		if (!stop)
			check_stays_dead();
		channel_renew();
	} else
		breach("undocumented error %zd", r);
}

/* The peer's acts */

/* By the rules: a message whose bytes say how long it is. */
static void publish(uint64_t length)
{
	uint64_t at = channel->ring.rx.producer;
	uint8_t *data;

	if (!sane || channel->ring.rx.producer != channel->ring.rx.consumer)
		return;
	put64(peer_word(at), length);
	data = (uint8_t *)peer_word(at) + 8;
	if (length > 0)
		data[0] = data[length - 1] = (uint8_t)length;
	put64(&peer_page()->producer, at + ring_record_size(length));
}

static uint64_t odd_length(void)
{
	const struct ring_rx *x = &channel->ring.rx;
	uint64_t there = x->producer - x->consumer;

	switch (below(6)) {
	case 0:
		return there - 8 + below(24) - 8;
	case 1:
		return 0xffffffffu - below(32);
	case 2:
		return ring_size - 16 + below(32);
	case 3:
		return next_random() & 0xffffffffu;
	case 4:
		return UINT64_C(1) << (32 + below(32)) | below(ring_size);
	default:
		return next_random();
	}
}

/* An index near @from, or anywhere. */
static uint64_t odd_index(uint64_t from)
{
	switch (below(6)) {
	case 0:
		return from + 8 * below(ring_size / 8 + 2);
	case 1:
		return from + ring_size - 8 + 8 * below(3);
	case 2:
		return from - 8 * (1 + below(4));
	case 3:
		return from + below(64);
	case 4:
		return from ^ UINT64_C(1) << below(64);
	default:
		return next_random();
	}
}

static void mutate(void)
{
	struct sivshm_control *page = peer_page();
	const struct ring_rx *x = &channel->ring.rx;

	sane = false;
	switch (below(12)) {
	case 0:
	case 1:
		put64(&page->producer, odd_index(x->producer));
		break;
	case 2:
	case 3:
		put64(peer_word(x->consumer), odd_length());
		break;
	case 4:
		put64(peer_word(x->producer), odd_length());
		put64(&page->producer, odd_index(x->producer));
		break;
	case 5:
	case 6:
		put64(&page->consumer, odd_index(channel->ring.tx.consumer));
		break;
	case 7:
		put32(&page->magic, below(2) ? SIVSHM_RING_MAGIC : (uint32_t)next_random());
		break;
	case 8:
		put32(&page->magic, below(2) ? SIVSHM_RING_MAGIC : 0);
		break;
	case 9:
		put32(&page->closed, (uint32_t)below(8));
		break;
	case 10:
		put64(&page->want_data, odd_index(channel->ring.tx.producer));
		put64(&page->want_space, odd_index(x->consumer));
		break;
	default:
		put64(peer_word(next_random()), next_random());
	}
}

/* A long ring in one go: any word of the page, any record. */
static void scramble(void)
{
	uint64_t *words = peer_view;

	sane = false;
	for (int i = 0; i < 8; i++)
		put64(&words[below(SIVSHM_CONTROL_SIZE / 8)], next_random());
	for (int i = 0; i < 8; i++)
		put64(peer_word(next_random()), below(ring_size));
}

static void act(void)
{
	uint64_t which = below(64);

	if (sane && which < 28)
		publish(below(ring_max_message(ring_size) + 1));
	else if (sane && which < 30)
		put64(&peer_page()->consumer, channel->ring.tx.producer);
	else if (which == 63)
		scramble();
	else if (which >= 40 || !sane)
		mutate();
}

/* Waits cost time, and only a peer that changes words meanwhile makes them odd. */
static uint64_t timeout(void)
{
	return scribbles && below(256) == 0 ? 1 + below(30) : 0;
}

/* Our acts, each a few calls of the library */

static void check_message(const uint8_t *data, uint64_t length)
{
	const uint8_t *begin = (const uint8_t *)peer_window + SIVSHM_CONTROL_SIZE;
	const struct ring_rx *x = &channel->ring.rx;

	if (crash_only) {
		sink += data[length];
		return;
	}
	if (data < begin + 8 || data > begin + ring_size || length > ring_max_message(ring_size) ||
	    x->shown > x->producer - x->consumer)
		breach("a message of %llu bytes at %td", (unsigned long long)length, data - begin);
	if (!scribbles && *(const uint64_t *)(const void *)(data - 8) != length)
		breach("a record with flags was shown");
	if (length == 0)
		return;
	/* Read as a user would; what is out of bounds is fatal. */
	for (uint64_t i = 0; i < length; i += 512)
		sink += data[i];
	sink += data[length - 1];
	if (sane && (data[0] != (uint8_t)length || data[length - 1] != (uint8_t)length))
		breach("an honest message arrived changed");
}

static void do_peek(void)
{
	const void *message;
	ssize_t n = sivshm_peek(channel, &message, timeout());
	int r;

	if (n < 0)
		return take_error(n, OUT_EMPTY);
	check_message(message, (uint64_t)n);
	counts[OUT_DATA]++;
	if (below(8) == 0)
		return; /* shown, and never given back: the next peek shows it again */
	r = sivshm_release(channel);
	if (r < 0)
		return take_error(r, OUT_EMPTY);
	counts[OUT_RELEASED]++;
}

static void do_recv(void)
{
	static uint8_t room[SIZES_MAX + 64];
	size_t size = below(4) ? ring_size : below(ring_size), length = 0;
	ssize_t n;

	memset(room + size, 0x5a, 64);
	n = sivshm_recv(channel, room, size, &length, timeout());
	for (int i = 0; i < 64; i++)
		if (room[size + (size_t)i] != 0x5a)
			breach("more was copied than there is room for");
	if (n == -EMSGSIZE) {
		if (length <= size || length > ring_max_message(ring_size))
			breach("%zu bytes do not fit %zu", length, size);
		counts[OUT_TOO_LONG]++;
		return;
	}
	if (n < 0)
		return take_error(n, OUT_EMPTY);
	if ((size_t)n > size || (size_t)n != length)
		breach("%zd bytes in %zu", n, size);
	counts[OUT_DATA]++;
}

static void do_send(void)
{
	uint64_t size = below(4) ? below(256) : below(ring_size + 16);
	const uint8_t *begin = (const uint8_t *)own_window + SIVSHM_CONTROL_SIZE;
	void *room;
	int r = sivshm_reserve(channel, size, &room, timeout());

	if (r == -EMSGSIZE && size > ring_max_message(ring_size)) {
		counts[OUT_TOO_LONG]++;
		return;
	}
	if (r < 0)
		return take_error(r, OUT_FULL);
	if ((uint8_t *)room < begin + 8 || (uint8_t *)room > begin + ring_size)
		breach("room at %td", (uint8_t *)room - begin);
	if (size > 0)
		((uint8_t *)room)[0] = ((uint8_t *)room)[size - 1] = 1;
	if (below(8) == 0)
		return;
	r = sivshm_commit(channel, size ? below(size + 1) : 0);
	if (r < 0)
		return take_error(r, OUT_FULL);
	counts[OUT_SENT]++;
}

static void do_wait(void)
{
	int events = 1 + (int)below(3);
	int r = below(2) ? sivshm_wait(channel, events, timeout()) : sivshm_arm(channel, events);

	if (r < 0)
		return take_error(r, OUT_IDLE);
	if (r & ~events)
		breach("events %x instead of %x", r, events);
	counts[r ? OUT_READY : OUT_IDLE]++;
}

static void do_release(void)
{
	int r = sivshm_release(channel);

	if (r == -EINVAL)
		counts[OUT_NOTHING_SHOWN]++;
	else if (r < 0)
		take_error(r, OUT_EMPTY);
	else
		counts[OUT_RELEASED]++;
}

static void use(void)
{
	uint64_t which = below(16);

	if (which < 6)
		do_peek();
	else if (which < 9)
		do_recv();
	else if (which < 13)
		do_send();
	else if (which < 15)
		do_wait();
	else
		do_release();
	check_private();
	/* A channel that its peer has closed, or that nobody empties, has little left to show. */
	if (below(256) == 0)
		channel_renew();
}

/* The peer at full rate: it sees what the victim has consumed, and aims at the next record. */
static void *scribble(void *arg)
{
	const struct sivshm_control *victim = own_window;
	struct sivshm_control *page = peer_page();
	uint64_t s = *(uint64_t *)arg, n = 0;

	while (!stop) {
		uint64_t consumer = __atomic_load_n(&victim->consumer, __ATOMIC_RELAXED);
		uint64_t producer = __atomic_load_n(&victim->producer, __ATOMIC_RELAXED);

		s = s * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		switch (s >> 60) {
		case 0 ... 3:
			put64(&page->producer, consumer + 8 * ((s >> 32) % (ring_size / 8 + 1)));
			break;
		case 4 ... 7:
			put64(peer_word(consumer), (s >> 32) % 64);
			break;
		case 8 ... 9:
			put64(peer_word(consumer), 0xfffffff0u - (s >> 40) % 64);
			break;
		case 10 ... 11:
			put64(&page->consumer, producer - 8 * ((s >> 32) % (ring_size / 8 + 1)));
			break;
		case 12:
			put32(&page->closed, (uint32_t)(s >> 32) % 4);
			break;
		case 13:
			put32(&page->magic, (s >> 32) % 8 ? SIVSHM_RING_MAGIC : 0);
			break;
		case 14:
			put64(&page->producer, s);
			break;
		default:
			put32(&page->magic, SIVSHM_RING_MAGIC);
			put32(&page->closed, 0);
		}
		n++;
	}
	*(uint64_t *)arg = n;
	return NULL;
}

/* A call that does not come back is as bad as one that crashes. */
static void *watch(void *arg)
{
	uint64_t last = 0;

	(void)arg;
	for (;;) {
		uint64_t now;

		sleep(CALL_LIMIT_SECONDS);
		now = progress;
		if (now == last)
			breach("a call did not return within %d s", CALL_LIMIT_SECONDS);
		last = now;
	}
	return NULL;
}

static double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run(uint64_t limit, double seconds)
{
	double until = seconds > 0 ? seconds_now() + seconds : 0;

	while (states < limit) {
		if (!scribbles)
			act();
		else
			mutate(); /* so that the states go on changing where there is one CPU */
		use();
		states++;
		if (states % 1024)
			continue;
		progress = states;
		if (until > 0 && states % 65536 == 0 && seconds_now() > until)
			break;
	}
}

static void report(double took, uint64_t scribbled)
{
	printf("{\"states\":%llu,\"seconds\":%.2f,\"seed\":%llu,\"ring\":%llu",
	       (unsigned long long)states, took, (unsigned long long)seed,
	       (unsigned long long)ring_size);
	if (scribbled)
		printf(",\"scribbled\":%llu", (unsigned long long)scribbled);
	for (int i = 0; i < OUT_LAST; i++)
		printf(",\"%s\":%llu", outcome_names[i], (unsigned long long)counts[i]);
	puts("}");
}

static void set_up(void)
{
	int own = memory_new(), peer = memory_new();
	pthread_t watcher;
	int r;

	own_window = map_guarded(own, PROT_READ | PROT_WRITE);
	peer_window = map_guarded(peer, PROT_READ);
	peer_view = map_guarded(peer, PROT_READ | PROT_WRITE);
	r = channel_new(&fake, NULL, NULL, &channel);
	if (r < 0)
		breach("channel_new: %s", sivshm_last_error());
	random_state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	channel_renew();
	if (pthread_create(&watcher, NULL, watch, NULL))
		breach("no thread");
}

int main(int argc, char *argv[])
{
	uint64_t limit = UINT64_MAX, arg;
	double limit_seconds = 0, began;
	pthread_t scribbler;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "0";

		if (!strcmp(argv[i], "--scribble"))
			scribbles = true;
		else if (!strcmp(argv[i], "--crash-only"))
			crash_only = true;
		else if (!strcmp(argv[i], "--states"))
			limit = strtoull(value, NULL, 0), i++;
		else if (!strcmp(argv[i], "--seconds"))
			limit_seconds = atof(value), i++;
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(value, NULL, 0), i++;
		else if (!strcmp(argv[i], "--ring"))
			ring_size = strtoull(value, NULL, 0), i++;
		else
			return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
	}
	set_up();
	began = seconds_now();
	arg = seed;
	if (scribbles && pthread_create(&scribbler, NULL, scribble, &arg))
		breach("no thread");
	run(limit, limit_seconds);
	stop = true;
	if (scribbles)
		pthread_join(scribbler, NULL);
	report(seconds_now() - began, scribbles ? arg : 0);
	return 0;
}
