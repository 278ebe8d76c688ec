/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of a handshake and when each ended (Steps of org.sivshm1.Manager.Connect). */
#ifndef SIVSHMD_STEPS_H
#define SIVSHMD_STEPS_H

#include <inttypes.h>
#include <stdio.h>

#include "clock.h"

#define STEPS_MAX 12
#define STEPS_TEXT_SIZE 384

struct steps {
	uint64_t began; /* CLOCK_MONOTONIC */
	unsigned n;
	struct {
		const char *name; /* literal */
		uint64_t usec;	  /* since @began */
	} items[STEPS_MAX];
};

static inline uint64_t steps_elapsed(const struct steps *s)
{
	return clock_usec(CLOCK_MONOTONIC) - s->began;
}

static inline void steps_ended(struct steps *s, const char *name)
{
	if (s->n >= STEPS_MAX)
		return;
	s->items[s->n].name = name;
	s->items[s->n++].usec = steps_elapsed(s);
}

/* "caller=2646 policy=2787 ..." */
static inline void steps_format(const struct steps *s, char ret[STEPS_TEXT_SIZE])
{
	size_t used = 0;

	ret[0] = '\0';
	for (unsigned i = 0; i < s->n && used < STEPS_TEXT_SIZE; i++)
		used += (size_t)snprintf(ret + used, STEPS_TEXT_SIZE - used, "%s%s=%" PRIu64,
					 i ? " " : "", s->items[i].name, s->items[i].usec);
}

#endif
