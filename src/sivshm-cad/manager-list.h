/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The four lists of org.sivshm.ca1.Manager, as sd-bus method handlers. */
#ifndef CAD_MANAGER_LIST_H
#define CAD_MANAGER_LIST_H

#include <systemd/sd-bus.h>

int list_vms(sd_bus_message *msg, void *manager, sd_bus_error *error);
int list_regions(sd_bus_message *msg, void *manager, sd_bus_error *error);
int list_channels(sd_bus_message *msg, void *manager, sd_bus_error *error);
int list_certificates(sd_bus_message *msg, void *manager, sd_bus_error *error);

#endif
