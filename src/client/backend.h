/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backend: what a channel needs of the kernel.
 *
 * The module's channel fd in production; memfds in the unit tests; a plain ivshmem BAR in the
 * benchmark.
 */
#ifndef SIVSHM_BACKEND_H
#define SIVSHM_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "kmod/uapi/sivshm.h"

/**
 * struct backend - operations over @userdata; all return 0 or a negative errno
 * @get_info: sizes, names, state
 * @map:      window at @offset (SIVSHM_TX_OFFSET or SIVSHM_RX_OFFSET)
 * @notify:   ring the peer.  -EPIPE: it has closed
 * @wait:     sleep until rung and clear the bell; -ETIMEDOUT, -EINTR, -EPIPE the peer has closed
 *            and nothing rang, -ENOLINK revoked
 * @close:    end of @userdata
 * @fd:       for an event loop
 */
struct backend {
	int (*get_info)(void *userdata, struct sivshm_channel_info *ret);
	int (*map)(void *userdata, uint64_t offset, size_t size, int prot, void **ret);
	int (*notify)(void *userdata);
	int (*wait)(void *userdata, uint64_t timeout_ns);
	void (*close)(void *userdata);
	int (*fd)(void *userdata);
};

/* Userdata is the fd itself. */
extern const struct backend backend_kernel;

static inline void *backend_kernel_userdata(int fd)
{
	return (void *)(intptr_t)fd;
}

#endif
