/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often a uid may make the daemon write a line or send a signal.  Pure. */
#ifndef SIVSHMD_RATELIMIT_H
#define SIVSHMD_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define RATELIMIT_BUCKETS 64
#define RATELIMIT_BURST 32
#define RATELIMIT_INTERVAL_USEC (10 * 1000000ULL)

/** struct ratelimit - uids share a bucket only when there are many; zero is a fresh one */
struct ratelimit {
	struct {
		uint64_t began;
		unsigned n;
		unsigned suppressed;
	} buckets[RATELIMIT_BUCKETS];
};

/** ratelimit_allow() - @ret_suppressed: how many were not, before this one */
static inline bool ratelimit_allow(struct ratelimit *l, uid_t uid, uint64_t now,
				   unsigned *ret_suppressed)
{
	__typeof__(&l->buckets[0]) b = &l->buckets[uid % RATELIMIT_BUCKETS];

	*ret_suppressed = 0;
	if (b->began == 0 || now - b->began >= RATELIMIT_INTERVAL_USEC) {
		*ret_suppressed = b->suppressed;
		b->began = now;
		b->n = 0;
		b->suppressed = 0;
	}
	if (b->n >= RATELIMIT_BURST) {
		b->suppressed++;
		return false;
	}
	b->n++;
	return true;
}

#endif
