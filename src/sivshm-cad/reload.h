/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bringing VMs and regions in line with a configuration, at start and at reload. */
#ifndef CAD_RELOAD_H
#define CAD_RELOAD_H

struct manager;

/** reload_objects() - make what manager->config names and is not there yet; logs its errors */
int reload_objects(struct manager *m);

#endif
