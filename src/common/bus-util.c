/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdbool.h>

#include "bus-util.h"

int bus_open(sd_event *event, const char *address, sd_bus **ret)
{
	_cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
	int r;

	if (!address || !*address) {
		r = sd_bus_open_system(&bus);
	} else {
		r = sd_bus_new(&bus);
		if (r >= 0)
			r = sd_bus_set_address(bus, address);
		if (r >= 0)
			r = sd_bus_set_bus_client(bus, true);
		if (r >= 0)
			r = sd_bus_start(bus);
	}
	if (r < 0)
		return r;
	r = sd_bus_attach_event(bus, event, SD_EVENT_PRIORITY_NORMAL);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(bus);
	return 0;
}

int bus_error_set_failure(sd_bus_error *error, const struct failure *f)
{
	sd_bus_error_set(error, error_dbus_name(f->code), f->text);
	return -error_errno(f->code);
}

int bus_reply_failure(sd_bus_message *m, const struct failure *f)
{
	return sd_bus_reply_method_errorf(m, error_dbus_name(f->code), "%s", f->text);
}
