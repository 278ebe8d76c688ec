/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the demo's sensor sends: numbered, dated, with a checksum over the contents. */
#ifndef SIVSHM_TEST_MEASUREMENT_H
#define SIVSHM_TEST_MEASUREMENT_H

#include <stdint.h>
#include <stddef.h>

#define MEASUREMENT_MAX 65536u

struct measurement {
	uint64_t sequence;
	uint64_t sum;
	uint8_t payload[];
};

static inline uint64_t measurement_sum(uint64_t sequence, const uint8_t *payload, size_t size)
{
	uint64_t h = 0xcbf29ce484222325ull ^ sequence; /* FNV-1a */

	for (size_t i = 0; i < size; i++)
		h = (h ^ payload[i]) * 0x100000001b3ull;
	return h;
}

#endif
