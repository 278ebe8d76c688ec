/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arguments of methods: names and a{sv} options, checked. */
#ifndef SIVSHMD_BUS_ARGS_H
#define SIVSHMD_BUS_ARGS_H

#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

/**
 * struct bus_option - one key that a method knows
 * @type: 't' or 'u'
 * @ret:  gets the value; untouched when the option is not given
 */
struct bus_option {
	const char *key;
	char type;
	uint64_t min, max;
	uint64_t *ret;
};

/** bus_args_invalid() - InvalidArgs with a text; -EINVAL */
int bus_args_invalid(sd_bus_error *error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/** bus_args_options() - read an a{sv}; unknown or repeated keys, wrong types, values out of range
 * are refused */
int bus_args_options(sd_bus_message *m, const struct bus_option *options, size_t n,
		     sd_bus_error *error);

#endif
