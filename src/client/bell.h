/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bell: the doorbell of a channel, shared by the threads of this process that sleep on it.
 *
 * The kernel counts doorbells per channel and hands the count to whoever asks first.  If sender and
 * receiver both slept in the kernel, one could take the ring that was meant for the other.  So one
 * of them sleeps there (the leader), the other on a condition variable, and every ring is passed
 * on to all by moving @seq.
 */
#ifndef SIVSHM_BELL_H
#define SIVSHM_BELL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/backend.h"

struct bell {
	pthread_mutex_t lock;
	pthread_cond_t rang;
	uint64_t seq;
	bool leader;
};

#define BELL_INIT \
	((struct bell){.lock = PTHREAD_MUTEX_INITIALIZER, .rang = PTHREAD_COND_INITIALIZER})

/* Take it before the last look at the ring; bell_sleep() returns at once when it has moved since.
 */
uint64_t bell_seq(struct bell *b);
/* Who sleeps looks again: at once behind a leader, whose own sleep in the kernel goes on. */
void bell_pass_on(struct bell *b);
/* 0: look again; -ETIMEDOUT, -EINTR, -EPIPE, -ENOLINK, -EPERM: as struct backend's wait */
int bell_sleep(struct bell *b, const struct backend *backend, void *userdata, uint64_t seq,
	       uint64_t timeout_ns);

#endif
