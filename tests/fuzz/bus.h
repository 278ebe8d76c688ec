/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A message bus with one client, the daemon under test, in the same process: it answers what a daemon
 * asks the bus and polkit, and speaks for all callers there are.
 */
#ifndef SIVSHM_FUZZ_BUS_H
#define SIVSHM_FUZZ_BUS_H

#include <systemd/sd-bus.h>

#include "fuzz.h"

/** struct bus_method - one that the daemon has, or has not; @signature of its arguments */
struct bus_method {
	const char *path, *interface, *member, *signature;
};

/**
 * struct bus_daemon - what a target tells of its daemon
 * @name:    its well-known name
 * @methods: ended by an empty one
 * @words:   strings that mean something to it, ended by NULL
 * @run:     its event loop until there is nothing to do
 */
struct bus_daemon {
	const char *name;
	const struct bus_method *methods;
	const char *const *words;
	void (*run)(void);
};

/** bus_address() - the bus listens there, and a thread serves it until bus_take_over() */
const char *bus_address(void);
/** bus_take_over() - the daemon has started: from now on bus_calls() moves things */
void bus_take_over(const struct bus_daemon *daemon);

/** bus_calls() - messages made of the input, and all that follows; then all callers leave */
void bus_calls(struct input *in);

#endif
