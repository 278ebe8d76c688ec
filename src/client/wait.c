/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Wait: look, spin, announce, look again, sleep. */
#include <errno.h>
#include <time.h>

#include "client/channel.h"
#include "client/error.h"

#define ASK_EVERY_LOOKS                                              \
	4096		      /* with timeout 0: then ask the kernel \
			       */
#define ASK_EVERY_BURSTS 1024 /* the same while spinning */
#define NEVER UINT64_MAX
/* What another thread has found out about the channel ends no sleep in the kernel, so none lasts
 * longer. */
#define NAP_MAX_NS 1000000000ull

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int look_read(struct sivshm_channel *c)
{
	bool gone = channel_gone(c);
	int r = ring_readable(&c->ring.rx);

	return r == -EAGAIN && gone ? 0 : r;
}

static int look_write(struct sivshm_channel *c)
{
	bool gone = channel_gone(c);
	int r = ring_writable(&c->ring.tx);

	return r == -EAGAIN && gone ? 0 : r;
}

/* The events that are there, 0 for none, -EPROTO; and what has ended the channel. */
static int look(struct sivshm_channel *c, int events)
{
	int ready = 0, r = __atomic_load_n(&c->rx_error, __ATOMIC_RELAXED);

	if (r)
		return r;
	if (events & SIVSHM_READ) {
		r = look_read(c);
		if (r == 0)
			ready |= SIVSHM_READ;
		else if (r != -EAGAIN)
			return r;
	}
	if (events & SIVSHM_WRITE) {
		r = look_write(c);
		if (r == 0)
			ready |= SIVSHM_WRITE;
		else if (r != -EAGAIN)
			return r;
	}
	return ready;
}

static void announce(struct sivshm_channel *c, int events)
{
	if (events & SIVSHM_READ)
		ring_want_data(&c->ring.rx);
	if (events & SIVSHM_WRITE)
		ring_want_space(&c->ring.tx);
	ring_announce();
}

/* A caller that polls with timeout 0 must learn of a dead peer too. */
static int idle(struct sivshm_channel *c, int events)
{
	unsigned int *n = events & SIVSHM_READ ? &c->rx_idle : &c->tx_idle;
	int r;

	if (++*n % ASK_EVERY_LOOKS)
		return -EAGAIN;
	r = channel_ask(c);
	return r < 0 ? r : look(c, events) ?: -EAGAIN;
}

static bool moved(const struct sivshm_channel *c, int events)
{
	return (events & SIVSHM_READ && ring_data_moved(&c->ring.rx)) ||
	       (events & SIVSHM_WRITE && ring_space_moved(&c->ring.tx));
}

/* As look(), but between the first and the last one only at the index that is waited for. */
static int burst(struct sivshm_channel *c, int events)
{
	int r = look(c, events);

	for (int i = 0; i < SPIN_BURST && r == 0; i++) {
		spin_relax();
		if (moved(c, events))
			r = look(c, events);
	}
	return r;
}

/* 0: not worth spinning any longer */
static int spin(struct sivshm_channel *c, int events, uint64_t until, uint64_t deadline)
{
	for (unsigned int n = 1;; n++) {
		uint64_t t;
		int r = burst(c, events);

		if (r == 0 && n % ASK_EVERY_BURSTS == 0)
			r = channel_ask(c);
		if (r)
			return r;
		if (until == NEVER && deadline == NEVER)
			continue;
		t = now_ns();
		if (t >= deadline)
			return -ETIMEDOUT;
		if (t >= until)
			return 0;
	}
}

/* As bell_sleep(), but what only ends this sleep is 0. */
static int nap(struct sivshm_channel *c, uint64_t seq, uint64_t deadline)
{
	uint64_t t = deadline == NEVER ? 0 : now_ns(), left = deadline - t;
	int r;

	if (t >= deadline)
		return -ETIMEDOUT;
	r = bell_sleep(&c->bell, c->backend, c->userdata, seq,
		       left < NAP_MAX_NS ? left : NAP_MAX_NS);
	if (r == -EPIPE) {
		channel_set_gone(c);
		return 0;
	}
	/* One more look, then the clock says whether the time is up. */
	return r == -ETIMEDOUT ? 0 : r;
}

static int sleep_for(struct sivshm_channel *c, int events, uint64_t deadline)
{
	for (;;) {
		uint64_t seq = bell_seq(&c->bell);
		int r;

		announce(c, events);
		r = look(c, events);
		if (r)
			return r;
		r = nap(c, seq, deadline);
		if (r < 0)
			return r;
	}
}

static uint64_t after(uint64_t start, uint64_t ns)
{
	return ns >= NEVER - start ? NEVER : start + ns;
}

static int wait_long(struct sivshm_channel *c, int events, uint64_t timeout_us)
{
	struct spin *s = events & SIVSHM_READ ? &c->rx_spin : &c->tx_spin;
	uint64_t start, deadline;
	int r;

	start = now_ns();
	deadline = timeout_us >= NEVER / 1000 ? NEVER : after(start, timeout_us * 1000);
	r = spin(c, events, after(start, s->limit_ns), deadline);
	if (r)
		return r;
	r = sleep_for(c, events, deadline);
	spin_learn(s, now_ns() - start);
	return r;
}

/**
 * channel_wait_more() - until one of @events, the first burst having been the caller's
 * Returns the events (never 0), or an error whose text is set.
 */
int channel_wait_more(struct sivshm_channel *c, int events, uint64_t timeout_us)
{
	int r = look(c, events);

	if (r == 0)
		r = timeout_us ? wait_long(c, events, timeout_us) : idle(c, events);
	return r < 0 ? channel_fail(c, r) : r;
}

/** channel_wait() - the same from the beginning */
int channel_wait(struct sivshm_channel *c, int events, uint64_t timeout_us)
{
	/* The first burst comes before any clock: an answer that is on its way costs no more. */
	int r = timeout_us ? burst(c, events) : 0;

	if (r == 0)
		return channel_wait_more(c, events, timeout_us);
	return r < 0 ? channel_fail(c, r) : r;
}

static int check_wait(struct sivshm_channel *c, int events)
{
	int r;

	if (!c || !events || events & ~(SIVSHM_READ | SIVSHM_WRITE))
		return error_channel(-EINVAL);
	/* -EPIPE of one direction is an event; what killed both is an error. */
	r = __atomic_load_n(&c->rx_error, __ATOMIC_RELAXED);
	return r ? error_channel(r) : 0;
}

int sivshm_wait(struct sivshm_channel *c, int events, uint64_t timeout_us)
{
	int r = check_wait(c, events);

	return r < 0 ? r : channel_wait(c, events, timeout_us);
}

int sivshm_arm(struct sivshm_channel *c, int events)
{
	int r = check_wait(c, events);

	if (r < 0)
		return r;
	/* The bell first: what rings from here on makes poll() return. */
	r = c->backend->wait(c->userdata, 0);
	if (r == -EPIPE)
		channel_set_gone(c);
	else if (r < 0 && r != -ETIMEDOUT && r != -EINTR)
		return channel_fail(c, r);
	announce(c, events);
	r = look(c, events);
	return r < 0 ? channel_fail(c, r) : r;
}
