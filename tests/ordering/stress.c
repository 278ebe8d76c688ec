/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stress of the library's data path: both ends of a channel in one process, one thread for each end
 * and direction, under many schedules.
 *
 *	stress [--one-address] [--percent N] [--patience MS] [--list] [SCHEDULE...]
 *
 * Ring, waiting and bell are the sources of the tree; the kernel is a few lines here.  Length and
 * contents of each message follow from its number, so that the receiver knows every byte.  A
 * wake-up that got lost is told by time: nobody gets on for so long.  (The library's naps, which
 * would heal it after a second, are made an hour long by who builds this.)
 *
 * The doorbell is a counter that is changed relaxed, and a futex called by number: it orders
 * nothing that a race detector could see, so what the ring itself does not order is told as a race.
 * For that both ends also have to use the same addresses: --one-address.  Otherwise each end maps
 * the windows for itself, the peer's read-only, as in production.
 *
 * Ends with 0; 1: wrong data or a wrong answer; 2: a lost wake-up.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"

#define FOREVER UINT64_MAX
#define LONGEST 16384u
#define ENOUGH (LONGEST + 8)

enum how { COPY, IN_PLACE, MIXED };

/* BLOCK for ever; POLL with timeout 0; ARM and an event loop; BRIEF timeouts, over and over */
enum wait { BLOCK, POLL, ARM, BRIEF };

enum end { SHUTDOWN, LEAVE, REVOKE };

/**
 * struct schedule
 * @ring:     of both ends
 * @shortest, @longest: messages, with every length between
 * @messages: of each sender
 * @both:     each end sends and receives, in two threads; else end 0 sends and end 1 receives
 * @turns:    one thread for each end: a message there, a message back, each sent at about the time
 *            at which the other end falls asleep
 * @spin_us:  as in struct sivshm_options
 * @room:     end 1 gives room back at about the time at which end 0 falls asleep for want of it
 * @pause:    up to so many turns of an empty loop before a message, by each thread
 * @end:      how it ends: a sender shuts down; end 1 closes half way; the channel is revoked then
 */
struct schedule {
	const char *name;
	uint64_t ring[2];
	uint32_t shortest, longest;
	uint32_t messages;
	bool both, turns, room;
	enum how how;
	enum wait wait;
	uint32_t spin_us;
	uint32_t pause;
	enum end end;
};

/* clang-format off */
static const struct schedule schedules[] = {
	{"short", {4096, 4096}, 0, 64, 40000, .how = MIXED, .spin_us = 1, .pause = 300},
	{"copy", {4096, 4096}, 0, 2000, 20000, .how = COPY, .pause = 200},
	{"in-place", {4096, 4096}, 0, 2000, 20000, .how = IN_PLACE, .pause = 200},
	{"full", {4096, 4096}, 4000, 4088, 15000, .how = MIXED, .spin_us = 1, .pause = 100},
	{"large", {65536, 4096}, 1, LONGEST, 6000, .how = MIXED, .spin_us = 5},
	{"both", {4096, 16384}, 0, 600, 15000, .both = true, .how = MIXED, .spin_us = 1, .pause = 400},
	{"turns", {4096, 4096}, 8, 64, 30000, .turns = true, .spin_us = 1},
	{"room", {4096, 4096}, 4080, 4088, 15000, .room = true, .how = IN_PLACE, .spin_us = 1},
	{"poll", {4096, 4096}, 0, 500, 20000, .how = MIXED, .wait = POLL},
	{"arm", {4096, 4096}, 0, 500, 20000, .how = MIXED, .wait = ARM, .pause = 200},
	{"brief", {4096, 4096}, 0, 1000, 15000, .both = true, .wait = BRIEF, .spin_us = 1, .pause = 400},
	{"leave", {4096, 4096}, 0, 300, 20000, .both = true, .spin_us = 1, .pause = 200, .end = LEAVE},
	{"revoke", {4096, 4096}, 0, 300, 20000, .both = true, .spin_us = 1, .pause = 200, .end = REVOKE},
};
/* clang-format on */

/* What stands for the kernel at one end. */
struct station {
	struct run *run;
	struct station *peer;
	int window;
	uint8_t *shared; /* own window, when there is one address */
	uint32_t rung;
	uint32_t rings; /* of this end */
	bool closed;
};

struct run {
	const struct schedule *s;
	struct station station[2];
	struct sivshm_channel *channel[2];
	bool revoked;
	uint32_t messages;
};

/* One thread. */
struct hand {
	struct run *run;
	int end;
	bool sends;
	uint32_t done; /* messages */
	uint32_t over;
	uint64_t chance;
	uint32_t edge;
	pthread_t thread;
	uint64_t buffer[ENOUGH / 8];
};

static bool one_address;
static unsigned int percent = 100, patience_ms = 20000;

static void __attribute__((noreturn, format(printf, 2, 3))) die(int code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(code);
}

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what))                                                                 \
			die(1, "stress: line %d: %s: %s", __LINE__, #what, strerror(errno)); \
	} while (0)

/* the kernel's part */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void ring(struct station *s)
{
	__atomic_fetch_add(&s->rung, 1, __ATOMIC_RELAXED);
	syscall(SYS_futex, &s->rung, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Until the counter is not 0, which stays. */
static void doze(struct station *s, uint64_t ns)
{
	struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	syscall(SYS_futex, &s->rung, FUTEX_WAIT, 0, ns == FOREVER ? NULL : &t, NULL, 0);
}

static bool revoked(const struct station *s)
{
	return __atomic_load_n(&s->run->revoked, __ATOMIC_RELAXED);
}

static bool peer_closed(const struct station *s)
{
	return __atomic_load_n(&s->peer->closed, __ATOMIC_RELAXED);
}

static int station_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	struct station *s = userdata;
	int me = s == &s->run->station[1];
	uint64_t tx = s->run->s->ring[me], rx = s->run->s->ring[!me];

	*ret = (struct sivshm_channel_info){
		.abi = SIVSHM_ABI,
		.state = revoked(s)	  ? SIVSHM_STATE_REVOKED
			 : peer_closed(s) ? SIVSHM_STATE_DRAINING
					  : SIVSHM_STATE_ACTIVE,
		.tx_ring_size = tx,
		.rx_ring_size = rx,
		.tx_map_size = SIVSHM_CONTROL_SIZE + 2 * tx,
		.rx_map_size = SIVSHM_CONTROL_SIZE + 2 * rx,
	};
	return 0;
}

/* Control page, ring, the same ring again. */
static uint8_t *map_window(int fd, size_t size, int prot)
{
	size_t size_once = (size + SIVSHM_CONTROL_SIZE) / 2;
	uint8_t *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(p != MAP_FAILED);
	check(mmap(p, size_once, prot, MAP_SHARED | MAP_FIXED, fd, 0) == p);
	check(mmap(p + size_once, size - size_once, prot, MAP_SHARED | MAP_FIXED, fd,
		   SIVSHM_CONTROL_SIZE) == p + size_once);
	return p;
}

static int station_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	struct station *s = userdata, *writer = offset == SIVSHM_TX_OFFSET ? s : s->peer;

	*ret = one_address ? writer->shared : map_window(writer->window, size, prot);
	return 0;
}

static int station_notify(void *userdata)
{
	struct station *s = userdata;

	if (revoked(s))
		return -ENOLINK;
	if (peer_closed(s))
		return -EPIPE;
	__atomic_fetch_add(&s->rings, 1, __ATOMIC_RELAXED); /* for the pace alone */
	ring(s->peer);
	return 0;
}

static int station_wait(void *userdata, uint64_t timeout_ns)
{
	struct station *s = userdata;
	uint64_t start = timeout_ns ? now_ns() : 0, left = timeout_ns;

	for (;;) {
		uint64_t gone;

		if (__atomic_exchange_n(&s->rung, 0, __ATOMIC_RELAXED))
			return revoked(s) ? -ENOLINK : 0;
		if (revoked(s))
			return -ENOLINK;
		if (peer_closed(s))
			return -EPIPE;
		if (!left)
			return -ETIMEDOUT;
		doze(s, left);
		gone = now_ns() - start;
		left = timeout_ns == FOREVER ? FOREVER : timeout_ns > gone ? timeout_ns - gone : 0;
	}
}

static void station_close(void *userdata)
{
	struct station *s = userdata;

	__atomic_store_n(&s->closed, true, __ATOMIC_RELAXED);
	ring(s->peer);
}

static int station_fd(void *userdata)
{
	(void)userdata;
	return -1;
}

static const struct backend backend_station = {
	.get_info = station_get_info,
	.map = station_map,
	.notify = station_notify,
	.wait = station_wait,
	.close = station_close,
	.fd = station_fd,
};

/* Of the library: a window that both ends use at one address goes with the second of them. */
int __real_munmap(void *p, size_t size);
int __wrap_munmap(void *p, size_t size);

int __wrap_munmap(void *p, size_t size)
{
	return one_address ? 0 : __real_munmap(p, size);
}

/* messages */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
	return x ^ x >> 32;
}

static uint64_t seed_of(int sender, uint32_t number)
{
	return mix((uint64_t)number << 1 | (unsigned int)sender);
}

static uint32_t length_of(const struct schedule *s, uint64_t seed)
{
	return s->shortest + (uint32_t)((seed >> 16) % (s->longest - s->shortest + 1));
}

/* The place is aligned and may be written up to a multiple of 8: so are records. */
static void fill(uint64_t *place, uint32_t length, uint64_t seed)
{
	for (uint32_t i = 0; i < (length + 7) / 8; i++)
		place[i] = seed + i * 0x0101010101010101u;
}

static bool is_right(const uint64_t *place, uint32_t length, uint64_t seed)
{
	uint64_t wrong = 0;
	uint32_t i;

	for (i = 0; i < length / 8; i++)
		wrong |= place[i] ^ (seed + i * 0x0101010101010101u);
	if (length % 8)
		wrong |= (place[i] ^ (seed + i * 0x0101010101010101u)) &
			 (UINT64_MAX >> (64 - 8 * (length % 8)));
	return !wrong;
}

static uint64_t roll(struct hand *h)
{
	return h->chance = mix(h->chance + 0x632be59bd9b4e019u);
}

static void idle(uint64_t turns)
{
	for (; turns > 0; turns--)
		__asm__ volatile("" ::: "memory");
}

static void pause_a_little(struct hand *h)
{
	uint32_t most = h->run->s->pause;

	/* So that at end 0 one sleeps, who learns of it, and one does not, who is told. */
	if (h->run->s->end == REVOKE && h->end == 1 && h->sends)
		most *= 100;
	if (most)
		idle(roll(h) % most);
}

/*
 * A wake-up can only be lost when the message and the sleeper's wish cross.  Who had to ring came
 * after that, who had not came before: so the pause is held at the edge between the two.
 */
static void pause_to_the_edge(struct hand *h)
{
	idle(h->edge + roll(h) % (h->edge / 16 + 1));
}

static uint32_t rings(struct hand *h)
{
	return __atomic_load_n(&h->run->station[h->end].rings, __ATOMIC_RELAXED);
}

static void find_the_edge(struct hand *h, bool rang)
{
	uint32_t step = h->edge / 64 + 1;

	h->edge = rang ? h->edge - (step < h->edge ? step : h->edge) : h->edge + step;
}

/* sending and receiving */

static struct sivshm_channel *channel_of(struct hand *h)
{
	return h->run->channel[h->end];
}

/* A call came back empty-handed; false: that is an answer. */
static bool again(struct hand *h, int r, int event)
{
	if (r == -ETIMEDOUT)
		return true;
	if (r != -EAGAIN)
		return false;
	if (h->run->s->wait != ARM)
		return true;
	r = sivshm_arm(channel_of(h), event);
	if (r == 0)
		doze(&h->run->station[h->end], FOREVER);
	return true;
}

static uint64_t timeout(struct hand *h)
{
	switch (h->run->s->wait) {
	case BLOCK:
		return FOREVER;
	case BRIEF:
		return 1 + roll(h) % 100;
	default:
		return 0;
	}
}

static bool in_place(struct hand *h)
{
	return h->run->s->how == IN_PLACE || (h->run->s->how == MIXED && roll(h) & 1);
}

static int send_in_place(struct hand *h, uint32_t length, uint64_t seed)
{
	uint32_t most = (uint32_t)sivshm_max_message(channel_of(h));
	/* more than is used, now and then */
	uint32_t size = roll(h) & 3 || length + 40 > most ? length : length + 40;
	void *room;
	int r;

	do
		r = sivshm_reserve(channel_of(h), size, &room, timeout(h));
	while (again(h, r, SIVSHM_WRITE));
	if (r < 0)
		return r;
	fill(room, length, seed);
	return sivshm_commit(channel_of(h), length);
}

static int send_copy(struct hand *h, uint32_t length, uint64_t seed)
{
	int r;

	fill(h->buffer, length, seed);
	do
		r = sivshm_send(channel_of(h), h->buffer, length, timeout(h));
	while (again(h, r, SIVSHM_WRITE));
	return r;
}

static int send_one(struct hand *h, uint32_t number)
{
	uint64_t seed = seed_of(h->end, number);
	uint32_t length = length_of(h->run->s, seed);

	return in_place(h) ? send_in_place(h, length, seed) : send_copy(h, length, seed);
}

static int receive_in_place(struct hand *h, const uint64_t **ret, ssize_t *ret_length)
{
	const void *message;
	ssize_t n;

	do
		n = sivshm_peek(channel_of(h), &message, timeout(h));
	while (again(h, (int)n, SIVSHM_READ));
	*ret = message;
	*ret_length = n;
	return n < 0 ? (int)n : 0;
}

static int receive_copy(struct hand *h, const uint64_t **ret, ssize_t *ret_length)
{
	ssize_t n;

	do
		n = sivshm_recv(channel_of(h), h->buffer, sizeof(h->buffer), NULL, timeout(h));
	while (again(h, (int)n, SIVSHM_READ));
	*ret = h->buffer;
	*ret_length = n;
	return n < 0 ? (int)n : 0;
}

static int give_back(struct hand *h)
{
	uint32_t before = rings(h);
	int r;

	if (h->run->s->room)
		pause_to_the_edge(h);
	r = sivshm_release(channel_of(h));
	if (h->run->s->room)
		find_the_edge(h, rings(h) != before);
	return r;
}

static int receive_one(struct hand *h, uint32_t number)
{
	uint64_t seed = seed_of(!h->end, number);
	uint32_t length = length_of(h->run->s, seed);
	bool stays = in_place(h);
	const uint64_t *message;
	ssize_t n;
	int r;

	r = stays ? receive_in_place(h, &message, &n) : receive_copy(h, &message, &n);
	if (r < 0)
		return r;
	if (n != (ssize_t)length)
		die(1, "stress: %s: message %u has %zd bytes, not %u", h->run->s->name, number, n,
		    length);
	if (!is_right(message, length, seed))
		die(1, "stress: %s: message %u has wrong contents", h->run->s->name, number);
	return stays ? give_back(h) : 0;
}

/* threads */

static void got_on(struct hand *h)
{
	__atomic_store_n(&h->done, h->done + 1, __ATOMIC_RELAXED);
}

/* What may end a hand before its last message. */
static bool may_end(struct hand *h, int r)
{
	switch (h->run->s->end) {
	case LEAVE:
		return r == -EPIPE && h->end == 0;
	case REVOKE:
		return r == -ENOLINK;
	default:
		return false;
	}
}

static bool in_time(struct hand *h, uint32_t number)
{
	uint32_t last = h->run->messages;

	if (h->run->s->end == LEAVE && h->end == 1)
		last /= 2;
	return number < last;
}

static void revoke_half_way(struct hand *h, uint32_t number)
{
	if (h->run->s->end != REVOKE || h->end != 0 || !h->sends || number != h->run->messages / 2)
		return;
	__atomic_store_n(&h->run->revoked, true, __ATOMIC_RELAXED);
	ring(&h->run->station[0]);
	ring(&h->run->station[1]);
}

static int one_message(struct hand *h, bool sends, uint32_t number)
{
	int r;

	if (!h->run->s->turns)
		pause_a_little(h);
	r = sends ? send_one(h, number) : receive_one(h, number);
	if (r < 0 && !may_end(h, r))
		die(1, "stress: %s: end %d: message %u: %s", h->run->s->name, h->end, number,
		    sivshm_last_error());
	if (r == 0)
		got_on(h);
	return r;
}

static void one_way(struct hand *h)
{
	const void *message;
	int r = 0;

	for (uint32_t i = 0; in_time(h, i) && r == 0; i++) {
		revoke_half_way(h, i);
		r = one_message(h, h->sends, i);
	}
	if (h->run->s->end != SHUTDOWN)
		return;
	if (h->sends) {
		check(sivshm_shutdown(channel_of(h)) == 0);
		return;
	}
	/* That was all, and it is told. */
	do
		r = (int)sivshm_peek(channel_of(h), &message, timeout(h));
	while (again(h, r, SIVSHM_READ));
	if (r != -EPIPE)
		die(1, "stress: %s: not the end: %d", h->run->s->name, r);
}

static void in_turns(struct hand *h)
{
	for (uint32_t i = 0; i < 2 * h->run->messages; i++) {
		bool sends = h->sends == !(i & 1);
		uint32_t before = rings(h);

		if (sends)
			pause_to_the_edge(h);
		one_message(h, sends, i / 2);
		if (sends)
			find_the_edge(h, rings(h) != before);
	}
}

/* On one processor the two would take turns by themselves, and never cross. */
static void own_processor(struct hand *h)
{
	cpu_set_t all, mine;
	int seen = 0;

	check(sched_getaffinity(0, sizeof(all), &all) == 0);
	if (CPU_COUNT(&all) < 2)
		return;
	CPU_ZERO(&mine);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all) && seen++ == h->end)
			CPU_SET(i, &mine);
	check(sched_setaffinity(0, sizeof(mine), &mine) == 0);
}

static void *hand_main(void *userdata)
{
	struct hand *h = userdata;

	if (h->run->s->turns || h->run->s->room)
		own_processor(h);
	if (h->run->s->turns)
		in_turns(h);
	else
		one_way(h);
	__atomic_store_n(&h->over, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* runs */

static void tell_end(struct run *run, int end)
{
	const struct sivshm_channel *c = run->channel[end];
	const struct sivshm_control *own = c->tx_map, *peer = c->rx_map;
	uint64_t data = ring_load64(&own->want_data), space = ring_load64(&own->want_space);
	uint64_t producer = ring_load64(&peer->producer), consumer = ring_load64(&peer->consumer);

	fprintf(stderr,
		"  end %d: waits for data at %llu, the peer's are %llu%s; for space at %llu, "
		"the peer is at %llu%s; bell %u\n",
		end, (unsigned long long)data, (unsigned long long)producer,
		data && producer >= data ? " (is there)" : "", (unsigned long long)space,
		(unsigned long long)consumer, space && consumer >= space ? " (is there)" : "",
		__atomic_load_n(&run->station[end].rung, __ATOMIC_RELAXED));
}

static void tell_lost(struct run *run, struct hand *hands, int n)
{
	fprintf(stderr, "stress: %s: lost wake-up: nobody gets on for %u ms\n", run->s->name,
		patience_ms);
	for (int i = 0; i < n; i++)
		fprintf(stderr, "  hand %d of end %d: %u messages%s\n", i, hands[i].end,
			__atomic_load_n(&hands[i].done, __ATOMIC_RELAXED),
			__atomic_load_n(&hands[i].over, __ATOMIC_RELAXED) ? ", over" : "");
	for (int end = 0; end < 2; end++)
		tell_end(run, end);
	_exit(2);
}

/* Until all hands are through, or none gets on. */
static void watch(struct run *run, struct hand *hands, int n)
{
	uint64_t sum = 0, since = now_ns();
	int over;

	do {
		uint64_t now = 0;

		over = 0;
		usleep(2000);
		for (int i = 0; i < n; i++) {
			now += __atomic_load_n(&hands[i].done, __ATOMIC_RELAXED);
			over += (int)__atomic_load_n(&hands[i].over, __ATOMIC_RELAXED);
		}
		if (now + (uint64_t)over != sum)
			since = now_ns();
		else if (now_ns() - since > patience_ms * 1000000ull)
			tell_lost(run, hands, n);
		sum = now + (uint64_t)over;
	} while (over < n);
}

static void stations_start(struct run *run)
{
	for (int i = 0; i < 2; i++) {
		struct station *s = &run->station[i];
		uint64_t size = SIVSHM_CONTROL_SIZE + run->s->ring[i];

		*s = (struct station){.run = run, .peer = &run->station[!i]};
		s->window = memfd_create("window", MFD_CLOEXEC);
		check(s->window >= 0 && ftruncate(s->window, (off_t)size) == 0);
		if (one_address)
			s->shared = map_window(s->window, size + run->s->ring[i],
					       PROT_READ | PROT_WRITE);
	}
}

static void stations_end(struct run *run)
{
	for (int i = 0; i < 2; i++) {
		struct station *s = &run->station[i];

		close(s->window);
		if (one_address)
			__real_munmap(s->shared, SIVSHM_CONTROL_SIZE + 2 * run->s->ring[i]);
	}
}

static void channels_start(struct run *run)
{
	const struct sivshm_options options = {.size = sizeof(options), .spin_us = run->s->spin_us};

	for (int i = 0; i < 2; i++) {
		int r = channel_new(&backend_station, &run->station[i], &options, &run->channel[i]);

		if (r < 0)
			die(1, "stress: %s", sivshm_last_error());
	}
}

/* Of one end; with LEAVE the other one is at work meanwhile. */
static void join_end(struct run *run, struct hand *hands, int n, int end)
{
	for (int i = 0; i < n; i++)
		if (hands[i].end == end)
			pthread_join(hands[i].thread, NULL);
	sivshm_close(run->channel[end]);
}

static void *leave(void *userdata)
{
	struct hand *hands = userdata;

	join_end(hands->run, hands, 4, 1);
	return NULL;
}

static void one_run(const struct schedule *s, uint64_t chance)
{
	static struct hand hands[4];
	struct run run = {.s = s, .messages = s->messages * percent / 100 + 1};
	int n = s->both ? 4 : 2;
	pthread_t leaver;

	memset(hands, 0, sizeof(hands));
	stations_start(&run);
	channels_start(&run);
	for (int i = 0; i < n; i++) {
		hands[i].run = &run;
		hands[i].end = i & 1;
		hands[i].sends = (i & 1) == i >> 1;
		hands[i].chance = mix(chance + (unsigned int)i);
	}
	for (int i = 0; i < n; i++)
		check(pthread_create(&hands[i].thread, NULL, hand_main, &hands[i]) == 0);
	if (s->end == LEAVE)
		check(pthread_create(&leaver, NULL, leave, hands) == 0);
	watch(&run, hands, n);
	if (s->end == LEAVE)
		pthread_join(leaver, NULL);
	else
		join_end(&run, hands, n, 1);
	join_end(&run, hands, n, 0);
	if (s->end == LEAVE && hands[2].done != hands[3].done)
		die(1, "stress: %s: %u messages arrived, not %u", s->name, hands[2].done,
		    hands[3].done);
	stations_end(&run);
}

static const struct schedule *schedule(const char *name)
{
	for (size_t i = 0; i < sizeof(schedules) / sizeof(*schedules); i++)
		if (strcmp(schedules[i].name, name) == 0)
			return &schedules[i];
	die(1, "stress: no schedule is named %s, see --list", name);
}

static void run_named(const struct schedule *s)
{
	uint64_t start = now_ns();

	one_run(s, 1);
	printf("%s %u %.3f\n", s->name, s->messages * percent / 100 + 1,
	       (double)(now_ns() - start) / 1e9);
	fflush(stdout);
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!*text || *end || n < 1 || n > 1000000)
		die(1, "stress: %s is no number from 1 to 1000000", text);
	return (unsigned int)n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"one-address", no_argument, NULL, 'a'},
		{"percent", required_argument, NULL, 'n'},
		{"patience", required_argument, NULL, 'p'},
		{"list", no_argument, NULL, 'l'},
		{},
	};
	const size_t n = sizeof(schedules) / sizeof(*schedules);
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'a')
			one_address = true;
		else if (c == 'n')
			percent = number(optarg);
		else if (c == 'p')
			patience_ms = number(optarg);
		else if (c != 'l')
			return 1;
		for (size_t i = 0; c == 'l' && i < n; i++)
			puts(schedules[i].name);
		if (c == 'l')
			return 0;
	}
	for (size_t i = 0; optind == argc && i < n; i++)
		run_named(&schedules[i]);
	for (int i = optind; i < argc; i++)
		run_named(schedule(argv[i]));
	return 0;
}
