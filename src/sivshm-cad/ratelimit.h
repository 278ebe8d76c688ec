/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* So many things per interval.  Pure. */
#ifndef CAD_RATELIMIT_H
#define CAD_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct ratelimit {
	uint64_t begin;
	unsigned n;
};

/** ratelimit_take() - false: @max were taken in the @interval that @now is in */
static inline bool ratelimit_take(struct ratelimit *r, uint64_t now, uint64_t interval,
				  unsigned max)
{
	if (now - r->begin >= interval)
		*r = (struct ratelimit){.begin = now};
	if (r->n >= max)
		return false;
	r->n++;
	return true;
}

#endif
