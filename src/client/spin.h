/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Spin: how long to poll before a sleep is worth its price.
 *
 * As KVM polls for a halted vCPU: a sleep that turned out short makes the next spin longer, a long
 * one makes it shorter.  The first burst needs no clock.
 */
#ifndef SIVSHM_SPIN_H
#define SIVSHM_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define SPIN_BURST 64 /* looks at the ring between two looks at the clock */
#define SPIN_MIN_NS 2000ull
/* A sleep costs a wake-up at each end.  KVM polls as long at most for a halted vCPU. */
#define SPIN_DEFAULT_MAX_NS 200000ull
#define SPIN_FOREVER UINT64_MAX

/**
 * struct spin - one direction of a channel
 * @limit_ns: spin this long now
 * @max_ns:   never longer; SPIN_FOREVER never sleeps
 */
struct spin {
	uint64_t limit_ns;
	uint64_t max_ns;
};

static inline struct spin spin_init(uint32_t spin_us)
{
	uint64_t max = spin_us == UINT32_MAX ? SPIN_FOREVER
		       : spin_us	     ? spin_us * 1000ull
					     : SPIN_DEFAULT_MAX_NS;

	return (struct spin){.limit_ns = max, .max_ns = max};
}

/* After a sleep: @waited_ns from the first look to the wake-up. */
static inline void spin_learn(struct spin *s, uint64_t waited_ns)
{
	if (s->max_ns == SPIN_FOREVER)
		return;
	s->limit_ns = waited_ns <= s->max_ns ? s->limit_ns * 2 : s->limit_ns / 2;
	if (s->limit_ns > s->max_ns)
		s->limit_ns = s->max_ns;
	if (s->limit_ns < SPIN_MIN_NS)
		s->limit_ns = s->max_ns < SPIN_MIN_NS ? s->max_ns : SPIN_MIN_NS;
}

/**
 * struct pace - how often a receiver looks
 * @sent:   own index of the sender when the ring was found empty last
 * @pauses: between two looks then
 *
 * Each look takes the line of the index from the sender, who has to get it back before its next
 * message is out.  One who answers wants his message at once.  One who only receives, and empties
 * the ring faster than it is filled, slows down the sender and so himself: he looks less often, and
 * finds more each time.
 */
struct pace {
	uint64_t sent;
	unsigned int pauses;
};

#define PACE_MAX 16

static inline unsigned int spin_pace(struct pace *p, uint64_t sent)
{
	if (sent != p->sent || !p->pauses)
		p->pauses = 1;
	else if (p->pauses < PACE_MAX)
		p->pauses *= 2;
	p->sent = sent;
	return p->pauses;
}

static inline void spin_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

#endif
