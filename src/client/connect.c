/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>

#include "client/bus.h"
#include "client/channel.h"
#include "client/error.h"

#define DEFAULT_TIMEOUT_US 10000000ull
#define BUS_GRACE_US 2000000ull /* so that sivshmd's own error comes first */

static int call_connect(sd_bus *bus, const char *as, const char *to, const struct sivshm_options *o,
			sd_bus_error *e, sd_bus_message **ret)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	uint64_t timeout = o->timeout_us ?: DEFAULT_TIMEOUT_US;
	int r;

	r = sd_bus_message_new_method_call(bus, &m, BUS_NAME, BUS_PATH, BUS_MANAGER, "Connect");
	if (r >= 0)
		r = sd_bus_message_append(m, "ss", as ?: "", to);
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'a', "{sv}");
	if (r >= 0 && o->ring_size)
		r = sd_bus_message_append(m, "{sv}", "RingSize", "t", o->ring_size);
	if (r >= 0)
		r = sd_bus_message_append(m, "{sv}", "TimeoutUSec", "t", timeout);
	if (r >= 0)
		r = sd_bus_message_close_container(m);
	if (r >= 0)
		r = sd_bus_call(bus, m, timeout + BUS_GRACE_US, e, ret);
	return r;
}

int sivshm_connect(const char *as, const char *to, const struct sivshm_options *opts,
		   struct sivshm_channel **ret)
{
	_cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
	_cleanup_message_ sd_bus_message *reply = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	struct sivshm_options o;
	char what[160];
	int r;

	if (!to || !ret)
		return error_channel(-EINVAL);
	r = channel_check_options(opts, &o);
	if (r < 0)
		return r;
	if (o.timeout_us > 60000000ull)
		return error_set(-EINVAL, "timeout_us is more than 60 s");
	r = bus_open(o.bus, &bus);
	if (r < 0)
		return r;
	r = call_connect(bus, as, to, &o, &e, &reply);
	if (r < 0) {
		snprintf(what, sizeof(what), "connect to %s%s%s", to, as && *as ? " as " : "",
			 as ?: "");
		return bus_failed(r, &e, what);
	}
	return bus_take_channel(reply, &o, ret);
}
