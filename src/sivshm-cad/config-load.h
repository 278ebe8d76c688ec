/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The readers of each kind of file; part of config_load(). */
#ifndef CAD_CONFIG_LOAD_H
#define CAD_CONFIG_LOAD_H

#include "config.h"

int config_load_ca(const char *root, struct config *config, struct conf_error *error);
int config_load_vms(const char *root, struct config *config, struct conf_error *error);
int config_load_regions(const char *root, struct config *config, struct conf_error *error);
int config_load_rules(const char *root, struct config *config, struct conf_error *error);

#endif
