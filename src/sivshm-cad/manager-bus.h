/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.sivshm.ca1 (dbus/org.sivshm.ca1.xml).  Without a bus all of this does nothing. */
#ifndef CAD_MANAGER_BUS_H
#define CAD_MANAGER_BUS_H

struct manager;

#define CA_BUS_NAME "org.sivshm.ca1"
#define CA_OBJECT_PATH "/org/sivshm/ca1"
#define CA_INTERFACE "org.sivshm.ca1.Manager"
#define CA_ACTION "org.sivshm.ca1.manage"

/**
 * manager_bus_start() - connect, export the object, ask for the name; a bus that goes away is looked for again
 * @ready: called once, from the loop or from here: the name is there, or there is none for now
 */
int manager_bus_start(struct manager *m, void (*ready)(struct manager *m));
void manager_bus_stop(struct manager *m);

void manager_bus_channel_opened(struct manager *m, const char *id, const char *from,
				const char *to);
void manager_bus_channel_closed(struct manager *m, const char *id, const char *reason);
void manager_bus_refused(struct manager *m, const char *from, const char *to, const char *error,
			 const char *reason);

#endif
