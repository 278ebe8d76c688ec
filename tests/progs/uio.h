/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UIO: what users have today who want to sleep.  The memory of plain.h, and tests/kmod/ivshmem_uio
 * for the rest: a doorbell is a store, a sleep is a read().
 */
#ifndef SIVSHM_TEST_UIO_H
#define SIVSHM_TEST_UIO_H

#include "plain.h"

struct uio {
	struct plain plain; /* first: memory is the business of plain's calls */
	int fd;
	volatile uint32_t *registers;
	uint32_t peer; /* its ivshmem id */
};

/* @name: uioN; side 0 is that of the lower id of the two, @peer the other's */
int uio_open(const char *name, int side, uint32_t peer, uint64_t ring_size, struct uio *ret);
/* Rings the peer: one store, no system call. */
void uio_ring(const struct uio *u);
/* Sleeps until it has rung since the last call. */
int uio_sleep(const struct uio *u);

/* The library's own way of waiting over it: rings only who sleeps, and spins before it sleeps. */
extern const struct backend backend_uio;

#endif
