/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What connect, listen and ping have in common. */
#ifndef SIVSHMCTL_CHANNEL_UTIL_H
#define SIVSHMCTL_CHANNEL_UTIL_H

#include "client/sivshm.h"
#include "verbs.h"

struct sivshm_options channel_options(const struct settings *s);
/* Prints the library's text; returns the exit code. */
int channel_failed(int r);

/* Until the peer has closed; returns the exit code. */
int echo_run(struct sivshm_channel *c);
/* stdin (if @input) and stdout; returns the exit code.  @quit: close when stdin ends. */
int netcat_run(struct sivshm_channel *c, bool input, bool quit);

#endif
