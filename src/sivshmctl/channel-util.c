/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "channel-util.h"

struct sivshm_options channel_options(const struct settings *s)
{
	return (struct sivshm_options){
		.size = sizeof(struct sivshm_options),
		.ring_size = s->ring_size,
		.timeout_us = s->timeout_us,
		.bus = s->bus,
	};
}

int channel_failed(int r)
{
	fprintf(stderr, "sivshmctl: %s\n", sivshm_last_error());
	return call_exit_code(r);
}

/* Straight from the peer's ring into the own one. */
static int echo_one(struct sivshm_channel *c)
{
	const void *in;
	void *out;
	ssize_t n = sivshm_peek(c, &in, SIVSHM_FOREVER);
	int r;

	if (n < 0)
		return (int)n;
	r = sivshm_reserve(c, (size_t)n, &out, SIVSHM_FOREVER);
	if (r < 0)
		return r;
	memcpy(out, in, (size_t)n);
	r = sivshm_commit(c, (size_t)n);
	return r < 0 ? r : sivshm_release(c);
}

int echo_run(struct sivshm_channel *c)
{
	int r;

	do
		r = echo_one(c);
	while (r >= 0);
	return r == -EPIPE ? 0 : channel_failed(r);
}
