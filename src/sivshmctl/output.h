/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Output: a list is a JSON array first; the table is one view of it. */
#ifndef SIVSHMCTL_OUTPUT_H
#define SIVSHMCTL_OUTPUT_H

#include <jansson.h>
#include <systemd/sd-bus.h>

#include "verbs.h"

enum format {
	FORMAT_PLAIN,
	FORMAT_YES_NO,
	FORMAT_BYTES,
	FORMAT_TIME_S,
	FORMAT_TIME_US,
};

/**
 * struct column - a field of the rows
 * @key:  in JSON
 * @type: D-Bus type of the field: s, b, u, t, o, or 'A' for an array of strings
 * @title: NULL: JSON only
 */
struct column {
	const char *key;
	char type;
	const char *title;
	enum format format;
};

/* Enters the next container of @type, whatever it is of; 0 at the end of an array. */
int output_enter(sd_bus_message *m, char type);
/* Reads "a(...)" whose fields are @columns. */
int output_read_rows(sd_bus_message *m, const struct column *columns, size_t n, json_t **ret);
/* Reads one struct's fields, the container being open. */
int output_read_fields(sd_bus_message *m, const struct column *columns, size_t n, json_t *row);
void output_rows(const struct settings *s, const json_t *rows, const struct column *columns,
		 size_t n, const char *nothing);
void output_json(const json_t *value);
/* {allowed, reason}; returns the exit code. */
int output_verdict(const struct settings *s, const json_t *answer);

static inline void output_json_decref(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_ __attribute__((cleanup(output_json_decref)))
#define N_COLUMNS(c) (sizeof(c) / sizeof(*(c)))

#endif
