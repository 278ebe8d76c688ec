/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <time.h>

#include "client/bell.h"

#define NSEC_PER_SEC 1000000000ull

uint64_t bell_seq(struct bell *b)
{
	uint64_t seq;

	pthread_mutex_lock(&b->lock);
	seq = b->seq;
	pthread_mutex_unlock(&b->lock);
	return seq;
}

/* Called with the lock held. */
static void pass_on(struct bell *b)
{
	b->seq++;
	pthread_cond_broadcast(&b->rang);
}

void bell_pass_on(struct bell *b)
{
	pthread_mutex_lock(&b->lock);
	pass_on(b);
	pthread_mutex_unlock(&b->lock);
}

/* Called with the lock held. */
static int follow(struct bell *b, uint64_t timeout_ns)
{
	struct timespec t;

	if (timeout_ns == UINT64_MAX)
		return -pthread_cond_wait(&b->rang, &b->lock);
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)(timeout_ns / NSEC_PER_SEC);
	t.tv_nsec += (long)(timeout_ns % NSEC_PER_SEC);
	if (t.tv_nsec >= (long)NSEC_PER_SEC) {
		t.tv_nsec -= (long)NSEC_PER_SEC;
		t.tv_sec++;
	}
	return -pthread_cond_clockwait(&b->rang, &b->lock, CLOCK_MONOTONIC, &t);
}

/* Called with the lock held; gives it up while asleep. */
static int lead(struct bell *b, const struct backend *backend, void *userdata, uint64_t timeout_ns)
{
	int r;

	b->leader = true;
	pthread_mutex_unlock(&b->lock);
	r = backend->wait(userdata, timeout_ns);
	pthread_mutex_lock(&b->lock);
	b->leader = false;
	/* Whatever ended the sleep: the others look again, and one of them leads. */
	pass_on(b);
	return r;
}

int bell_sleep(struct bell *b, const struct backend *backend, void *userdata, uint64_t seq,
	       uint64_t timeout_ns)
{
	int r = 0;

	pthread_mutex_lock(&b->lock);
	if (b->seq == seq)
		r = b->leader ? follow(b, timeout_ns) : lead(b, backend, userdata, timeout_ns);
	pthread_mutex_unlock(&b->lock);
	return r;
}
