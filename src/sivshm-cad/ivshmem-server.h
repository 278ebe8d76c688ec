/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's ivshmem protocol (docs/specs/ivshmem-spec), server side, for one member of a region: its
 * listening socket and at most one connection.  What is said is the caller's; here are the wire,
 * the queue, and who may connect.
 */
#ifndef CAD_IVSHMEM_SERVER_H
#define CAD_IVSHMEM_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "cleanup.h"

#define IVSHMEM_PROTOCOL_VERSION 0

struct ivshmem_server;

/**
 * struct ivshmem_handler - from the event loop alone
 * @connected: a QEMU is there; the place to queue its welcome
 * @told: all that was queued is on its way
 * @gone: it hung up, or broke the protocol; the connection is closed already
 */
struct ivshmem_handler {
	void (*connected)(void *userdata);
	void (*told)(void *userdata);
	void (*gone)(void *userdata);
};

/** ivshmem_server_new() - takes over @listen_fd on success; only @uid may connect */
int ivshmem_server_new(sd_event *event, int listen_fd, uint32_t uid,
		       const struct ivshmem_handler *handler, void *userdata,
		       struct ivshmem_server **ret);
struct ivshmem_server *ivshmem_server_free(struct ivshmem_server *s);
DEFINE_CLEANUP(struct ivshmem_server *, ivshmem_server_free)

/** ivshmem_server_adopt() - go on with a connection of a predecessor; takes over @fd on success */
int ivshmem_server_adopt(struct ivshmem_server *s, int fd);
bool ivshmem_server_is_connected(const struct ivshmem_server *s);
/** ivshmem_server_fd() - of the connection, borrowed; -1: none */
int ivshmem_server_fd(const struct ivshmem_server *s);
/**
 * ivshmem_server_send() - queue one message; @fd (-1: none) is borrowed and has to outlive the
 * server.  Without a connection: nothing.  A queue that cannot grow ends it, from the loop.
 */
void ivshmem_server_send(struct ivshmem_server *s, int64_t value, int fd);
/** ivshmem_server_close() - end the connection; gone() follows from the loop */
void ivshmem_server_close(struct ivshmem_server *s);

#endif
