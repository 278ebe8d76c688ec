/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Channel: a ring over the windows of one channel fd, and what is known about its end. */
#ifndef SIVSHM_CHANNEL_H
#define SIVSHM_CHANNEL_H

#include "client/backend.h"
#include "client/bell.h"
#include "client/ring.h"
#include "client/sivshm.h"
#include "client/spin.h"

/**
 * struct sivshm_channel
 * @tx_error, @rx_error: 0 or the errno that every further send or receive gets; either thread may
 *            find it out, so they are atomic
 * @gone:     the kernel says that the peer has closed; what lies in the ring can still be received
 * @closed:   SIVSHM_CLOSED_* told to the peer
 * @tx_idle, @rx_idle: looks in a row (timeout 0) that found nothing
 */
struct sivshm_channel {
	struct ring ring;
	int tx_error;
	int rx_error;
	bool gone;
	uint32_t closed;
	unsigned int tx_idle;
	unsigned int rx_idle;
	struct spin tx_spin;
	struct spin rx_spin;
	struct pace rx_pace;
	struct bell bell;
	const struct backend *backend;
	void *userdata;
	void *tx_map;
	void *rx_map;
	size_t tx_map_size;
	size_t rx_map_size;
	char local[SIVSHM_SERVICE_NAME_SIZE];
	char peer[SIVSHM_VM_NAME_SIZE + SIVSHM_SERVICE_NAME_SIZE];
	char *peer_spiffe;
};

int channel_check_options(const struct sivshm_options *opts, struct sivshm_options *ret);
int channel_new(const struct backend *backend, void *userdata, const struct sivshm_options *opts,
		struct sivshm_channel **ret);
int channel_fail(struct sivshm_channel *c, int r);
int channel_ask(struct sivshm_channel *c);
void channel_set_gone(struct sivshm_channel *c);
int channel_wait_more(struct sivshm_channel *c, int events, uint64_t timeout_us);
int channel_wait(struct sivshm_channel *c, int events, uint64_t timeout_us);

static inline bool channel_gone(const struct sivshm_channel *c)
{
	/* Acquire: a look at the ring after this one sees all that the peer has sent. */
	return __atomic_load_n(&c->gone, __ATOMIC_ACQUIRE);
}

#endif
