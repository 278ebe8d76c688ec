/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The way to the host: a virtio-serial port, or a Unix socket in its place. */
#ifndef SIVSHMD_PORT_H
#define SIVSHMD_PORT_H

#include "rpc-link.h"

/** port_open() - never waits; @ret is the caller's */
int port_open(const char *path, int *ret, enum rpc_link_kind *ret_kind);

#endif
