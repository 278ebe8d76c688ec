/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Call: methods of both daemons, with errors that a person can use. */
#ifndef SIVSHMCTL_CALL_H
#define SIVSHMCTL_CALL_H

#include <systemd/sd-bus.h>

#include "verbs.h"

/**
 * struct daemon - whom to call
 * @errors: prefix of its error names
 */
struct daemon {
	const char *name;
	const char *path;
	const char *interface;
	const char *unit;
	const char *where;
};

extern const struct daemon guest_daemon;
extern const struct daemon host_daemon;

/* 0, or an exit code, the error having been printed. */
int call_open(const struct settings *s, sd_bus **ret);
int call(sd_bus *bus, const struct daemon *d, const char *method, sd_bus_message **ret,
	 const char *types, ...);
/* The same for methods that polkit may want an administrator's password for: waits for people. */
int call_as_administrator(sd_bus *bus, const struct daemon *d, const char *method,
			  sd_bus_message **ret, const char *types, ...);
int call_property(sd_bus *bus, const struct daemon *d, const char *property, const char *type,
		  sd_bus_message **ret);
/* A reply that does not read. */
int call_bad_reply(const struct daemon *d, const char *method, int r);
/* Exit code for an errno. */
int call_exit_code(int r);

static inline void call_message_unref(sd_bus_message **m)
{
	sd_bus_message_unref(*m);
}

static inline void call_bus_unref(sd_bus **b)
{
	sd_bus_flush_close_unref(*b);
}

#define _cleanup_message_ __attribute__((cleanup(call_message_unref)))
#define _cleanup_bus_ __attribute__((cleanup(call_bus_unref)))

#endif
