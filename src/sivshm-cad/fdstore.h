/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * systemd's fd store: what has to outlive this process.  Without $NOTIFY_SOCKET nothing is stored.
 *
 * Names are short, since all of them together come back in one environment variable (128 KiB):
 *	l<region>.<member>	listening socket for QEMU's ivshmem device
 *	c<region>.<member>	connection of it
 *	e<region>.<member>.<vector>	eventfd
 *	d<region>	eventfd that stands for every foreign vector 0
 *	L.<vm>, C.<vm>	control socket and its connection
 */
#ifndef CAD_FDSTORE_H
#define CAD_FDSTORE_H

#include <stdbool.h>

#include "cleanup.h"

#define FDSTORE_NAME_SIZE 96
#define FDSTORE_SIZE 8192 /* FileDescriptorStoreMax= of units/sivshm-cad.service */

struct fdstore;

/** fdstore_open() - take over what systemd kept */
int fdstore_open(struct fdstore **ret);
/** fdstore_close() - closes what nobody took; with @forget systemd does not keep it for a next
 * start either */
struct fdstore *fdstore_close(struct fdstore *store, bool forget);

/** fdstore_take() - the caller owns the fd; -1: none of that name */
int fdstore_take(struct fdstore *store, const char *name);
/** fdstore_has() - could be taken */
bool fdstore_has(const struct fdstore *store, const char *name);
/** fdstore_peek() - borrowed; -1: none of that name */
int fdstore_peek(const struct fdstore *store, const char *name);
/** fdstore_put() - systemd keeps a duplicate, until it hangs up */
void fdstore_put(const char *name, int fd);
/** fdstore_put_unwatched() - an eventfd: whoever shares it can bring it to an error */
void fdstore_put_unwatched(const char *name, int fd);
/** fdstore_remove() - systemd forgets it */
void fdstore_remove(const char *name);

#endif
