/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A kernel that has nothing to say: for tests in which the peer's words alone decide. */
#ifndef SIVSHM_TEST_QUIET_BACKEND_H
#define SIVSHM_TEST_QUIET_BACKEND_H

#include <errno.h>

#include "client/backend.h"
#include "client/ring-abi.h"

/* Of an open channel whose rings have @ring_size bytes each way. */
static inline struct sivshm_channel_info quiet_info(uint64_t ring_size)
{
	return (struct sivshm_channel_info){
		.abi = SIVSHM_ABI,
		.state = SIVSHM_STATE_ACTIVE,
		.tx_ring_size = ring_size,
		.rx_ring_size = ring_size,
		.tx_map_size = SIVSHM_CONTROL_SIZE + 2 * ring_size,
		.rx_map_size = SIVSHM_CONTROL_SIZE + 2 * ring_size,
	};
}

static inline int quiet_notify(void *userdata)
{
	(void)userdata;
	return 0;
}

static inline int quiet_wait(void *userdata, uint64_t timeout_ns)
{
	(void)userdata, (void)timeout_ns;
	return -ETIMEDOUT;
}

static inline void quiet_close(void *userdata)
{
	(void)userdata;
}

static inline int quiet_fd(void *userdata)
{
	(void)userdata;
	return -1;
}

#endif
