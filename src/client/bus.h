/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bus: the calls to sivshmd (dbus/org.sivshm1.xml), their errors and their results. */
#ifndef SIVSHM_BUS_H
#define SIVSHM_BUS_H

#include <systemd/sd-bus.h>

#include "client/sivshm.h"

#define BUS_NAME "org.sivshm1"
#define BUS_PATH "/org/sivshm1"
#define BUS_MANAGER "org.sivshm1.Manager"
#define BUS_LISTENER "org.sivshm1.Listener"

int bus_open(const char *address, sd_bus **ret);
int bus_error_to_errno(const char *name);
int bus_failed(int r, const sd_bus_error *e, const char *what);
int bus_take_channel(sd_bus_message *reply, const struct sivshm_options *opts,
		     struct sivshm_channel **ret);

static inline void bus_message_unref(sd_bus_message **m)
{
	sd_bus_message_unref(*m);
}

static inline void bus_close_unref(sd_bus **b)
{
	sd_bus_flush_close_unref(*b);
}

#define _cleanup_message_ __attribute__((cleanup(bus_message_unref)))
#define _cleanup_bus_ __attribute__((cleanup(bus_close_unref)))
#define _cleanup_bus_error_ __attribute__((cleanup(sd_bus_error_free)))

#endif
