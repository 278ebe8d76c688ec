/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members of org.sivshm1.Manager that have a file of their own; the vtable is in manager-bus.c. */
#ifndef SIVSHMD_MANAGER_BUS_H
#define SIVSHMD_MANAGER_BUS_H

#include "manager.h"

/* manager-list.c */
int manager_list_channels(sd_bus_message *message, void *userdata, sd_bus_error *error);
int manager_list_listeners(sd_bus_message *message, void *userdata, sd_bus_error *error);

/* manager-properties.c */
#define MANAGER_GETTER(name)                                                                       \
	int manager_get_##name(sd_bus *bus, const char *path, const char *interface,               \
			       const char *property, sd_bus_message *reply, void *userdata,        \
			       sd_bus_error *error)

MANAGER_GETTER(version);
MANAGER_GETTER(vm);
MANAGER_GETTER(trust_domain);
MANAGER_GETTER(host_connected);
MANAGER_GETTER(kernel_abi);
MANAGER_GETTER(sections);
MANAGER_GETTER(certificates);

#endif
