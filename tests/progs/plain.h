/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain: what users have without sivshm. One piece of memory that both guests map and write, here
 * under the very same ring: sivshm_send() and sivshm_recv() work on it unchanged.
 *
 * Side 0 writes the first window, side 1 the second; a window is a control page and a ring.
 */
#ifndef SIVSHM_TEST_PLAIN_H
#define SIVSHM_TEST_PLAIN_H

#include "client/backend.h"

struct plain {
	int fd;
	int side;
	uint64_t ring_size;
};

/* @path: resource2 of an ivshmem device, or any file; enables the PCI device if need be. */
int plain_open(const char *path, int side, uint64_t ring_size, struct plain *ret);
/* Zeros the own window: a fresh start, to be agreed on with the other side. */
int plain_reset(const struct plain *p);

/* Parts of the backend, for one that has this memory and a doorbell as well. */
int plain_get_info(void *userdata, struct sivshm_channel_info *ret);
int plain_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret);
void plain_close(void *userdata);

/* Userdata is a struct plain. Polling only: there is no doorbell. */
extern const struct backend backend_plain;

#endif
