/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "spare-key.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"

/* Behind the handshake that took the last one, and behind the warm-up. */
#define AFTER_TAKE_USEC (100 * USEC_PER_MSEC)
#define AFTER_START_USEC (2 * USEC_PER_SEC)
#define ACCURACY_USEC (5 * USEC_PER_MSEC) /* by default a quarter of a second */

struct spare_key {
	sd_event_source *timer;
	EVP_PKEY *key; /* NULL: none */
	char *csr;
};

static int make(EVP_PKEY **ret_key, char **ret_csr)
{
	EVP_PKEY *key = key_new();
	char *csr = key ? csr_new(key) : NULL;

	if (!csr) {
		EVP_PKEY_free(key);
		return -EIO;
	}
	*ret_key = key;
	*ret_csr = csr;
	return 0;
}

static void drop(struct spare_key *s)
{
	EVP_PKEY_free(TAKE_PTR(s->key));
	free(TAKE_PTR(s->csr));
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct spare_key *s = userdata;

	(void)source;
	(void)usec;
	/* There is none while the timer runs.  If this fails the next request makes its own, and
	 * says so if that fails, too. */
	make(&s->key, &s->csr);
	return 0;
}

static void make_later(struct spare_key *s, uint64_t usec)
{
	/* A timer that cannot be set costs the next request some time and nothing else. */
	if (sd_event_source_set_time_relative(s->timer, usec) >= 0)
		sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
}

int spare_key_new(sd_event *event, struct spare_key **ret)
{
	_cleanup_(spare_key_freep) struct spare_key *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = sd_event_add_time(event, &s->timer, CLOCK_MONOTONIC, 0, ACCURACY_USEC, on_timer, s);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	r = sd_event_source_set_priority(s->timer, SD_EVENT_PRIORITY_IDLE);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

struct spare_key *spare_key_free(struct spare_key *s)
{
	if (!s)
		return NULL;
	sd_event_source_disable_unref(s->timer);
	drop(s);
	free(s);
	return NULL;
}

int spare_key_take(struct spare_key *s, EVP_PKEY **ret_key, char **ret_csr)
{
	make_later(s, AFTER_TAKE_USEC);
	if (!s->key)
		return make(ret_key, ret_csr);
	*ret_key = TAKE_PTR(s->key);
	*ret_csr = TAKE_PTR(s->csr);
	return 0;
}

void spare_key_renew(struct spare_key *s)
{
	drop(s);
	make_later(s, AFTER_START_USEC);
}
