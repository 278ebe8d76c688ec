/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One handshake of the daemon with itself, thrown away.  OpenSSL looks up what it needs when it is
 * first used: without this the first service that connects after a boot would wait for it.
 */
#ifndef SIVSHMD_WARM_UP_H
#define SIVSHMD_WARM_UP_H

#include "errors.h"

struct warm_up;

/** warm_up_new() - NULL: out of memory */
struct warm_up *warm_up_new(void);
struct warm_up *warm_up_free(struct warm_up *w);
/** warm_up_step() - a small part of it; 1: there is more to do, 0: done, negative: failed, @error says why */
int warm_up_step(struct warm_up *w, struct failure *error);

#endif
