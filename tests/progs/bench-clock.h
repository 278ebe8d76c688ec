/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A clock that costs little beside a round trip by polling: the processor's counter where there is
 * one. */
#ifndef SIVSHM_TEST_BENCH_CLOCK_H
#define SIVSHM_TEST_BENCH_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#if defined(__x86_64__)
#include <x86intrin.h>

static inline uint64_t ticks(void)
{
	return __rdtsc();
}
#else
static inline uint64_t ticks(void)
{
	return monotonic_ns();
}
#endif

/* Nanoseconds of a tick, measured over 50 ms. */
static inline double tick_ns(void)
{
	uint64_t t = ticks(), start = monotonic_ns(), now;

	do
		now = monotonic_ns();
	while (now - start < 50000000);
	return (double)(now - start) / (double)(ticks() - t);
}

#endif
