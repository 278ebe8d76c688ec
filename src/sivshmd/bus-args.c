/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bus-args.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

int bus_args_invalid(sd_bus_error *error, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	sd_bus_error_setfv(error, SD_BUS_ERROR_INVALID_ARGS, format, ap);
	va_end(ap);
	return -EINVAL;
}

static const struct bus_option *find(const struct bus_option *options, size_t n, const char *key)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(options[i].key, key) == 0)
			return &options[i];
	return NULL;
}

static int read_number(sd_bus_message *m, char type, uint64_t *ret)
{
	uint32_t u = 0;
	int r;

	if (type == 't')
		return sd_bus_message_read(m, "t", ret);
	r = sd_bus_message_read(m, "u", &u);
	*ret = u;
	return r;
}

static int read_value(sd_bus_message *m, const struct bus_option *o, sd_bus_error *error)
{
	const char type[2] = {o->type, '\0'};
	const char *contents;
	char kind;
	uint64_t value;
	int r;

	r = sd_bus_message_peek_type(m, &kind, &contents);
	if (r < 0)
		return r;
	if (strcmp(contents, type) != 0)
		return bus_args_invalid(error, "option %s has type %s", o->key, type);
	r = sd_bus_message_enter_container(m, 'v', type);
	if (r >= 0)
		r = read_number(m, o->type, &value);
	if (r >= 0)
		r = sd_bus_message_exit_container(m);
	if (r < 0)
		return r;
	if (value < o->min || value > o->max)
		return bus_args_invalid(error, "option %s is out of range", o->key);
	*o->ret = value;
	return 0;
}

static int read_option(sd_bus_message *m, const struct bus_option *options, size_t n,
		       uint64_t *seen, sd_bus_error *error)
{
	const struct bus_option *o;
	const char *key;
	int r;

	r = sd_bus_message_read(m, "s", &key);
	if (r < 0)
		return r;
	o = find(options, n, key);
	if (!o)
		return bus_args_invalid(error, "no option '%.100s'", key);
	if (*seen & 1ULL << (o - options))
		return bus_args_invalid(error, "option %s is given twice", key);
	*seen |= 1ULL << (o - options);
	return read_value(m, o, error);
}

int bus_args_options(sd_bus_message *m, const struct bus_option *options, size_t n,
		     sd_bus_error *error)
{
	uint64_t seen = 0;
	int r;

	r = sd_bus_message_enter_container(m, 'a', "{sv}");
	if (r < 0)
		return r;
	while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		r = read_option(m, options, n, &seen, error);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}
