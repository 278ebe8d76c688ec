/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fake kernel: channel fds without the module, in one process or (preloaded) between several.
 *
 * A fake channel fd is a connected Unix stream socket; a doorbell is a byte.  The socket is bound
 * to DIR/sivshm-fake-ID.SIDE (SIDE 0 or 1); beside it lie
 *
 *	DIR/sivshm-fake-ID.SIDE.info	struct sivshm_channel_info as the ioctl returns it
 *	DIR/sivshm-fake-ID.SIDE.window	control page and ring that SIDE writes
 *
 * info.state FAKE_STATE_FOREIGN makes every call fail with EPERM, as for one who is not the holder.
 */
#ifndef SIVSHM_FAKE_KERNEL_H
#define SIVSHM_FAKE_KERNEL_H

#include <stdint.h>

#include "kmod/uapi/sivshm.h"

#define FAKE_STATE_FOREIGN 99

/* Makes both ends below @dir; @fd are the channel fds. */
int fake_channel_new(const char *dir, const char *id, uint64_t ring_size, int fd[static 2]);
/* What the host does: @state for both ends, and zero windows when that is REVOKED. */
int fake_channel_set_state(const char *dir, const char *id, uint32_t state);

#endif
