/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clocks in microseconds.  The guest's wall clock is never asked: a resumed VM's is wrong. */
#ifndef SIVSHMD_CLOCK_H
#define SIVSHMD_CLOCK_H

#include <stdint.h>
#include <time.h>

#define USEC_PER_SEC 1000000ULL
#define USEC_PER_MSEC 1000ULL

static inline uint64_t clock_usec(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / 1000;
}

#endif
