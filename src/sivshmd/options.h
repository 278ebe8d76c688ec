/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line. */
#ifndef SIVSHMD_OPTIONS_H
#define SIVSHMD_OPTIONS_H

#include <stdbool.h>

/** struct options - strings are of argv or literals */
struct options {
	const char *port;
	const char *device;
	const char *bus;	 /* NULL: system bus */
	const char *config_root; /* "" normally */
	bool load_module;	 /* false with --no-module */
	bool only_load_module;
	bool check_config;
};

/** options_parse() - 1: go on; 0: done (help, version); -EINVAL: said what is wrong */
int options_parse(int argc, char **argv, struct options *ret);

#endif
