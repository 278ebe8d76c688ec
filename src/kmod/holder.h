/* SPDX-License-Identifier: GPL-2.0-only */
/* Who may use a channel fd: the holder alone, whoever else may have got hold of it. */
#ifndef _SIVSHM_HOLDER_H
#define _SIVSHM_HOLDER_H

#include <linux/types.h>

struct sivshm_channel;

bool sivshm_holder_check(struct sivshm_channel *channel, u32 op);

#endif /* _SIVSHM_HOLDER_H */
