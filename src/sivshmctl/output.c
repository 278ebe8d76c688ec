/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "output.h"

#define CELL 128
#define MAX_COLUMNS 16

static int read_strings(sd_bus_message *m, json_t **ret)
{
	const char *text;
	int r;

	*ret = json_array();
	r = sd_bus_message_enter_container(m, 'a', "s");
	while (r >= 0 && (r = sd_bus_message_read(m, "s", &text)) > 0)
		json_array_append_new(*ret, json_string(text));
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_field(sd_bus_message *m, char type, json_t **ret)
{
	const char *text;
	uint64_t t;
	uint32_t u;
	int b, r;

	switch (type) {
	case 'b':
		r = sd_bus_message_read(m, "b", &b);
		*ret = r < 0 ? NULL : json_boolean(b);
		return r;
	case 'u':
		r = sd_bus_message_read(m, "u", &u);
		*ret = r < 0 ? NULL : json_integer(u);
		return r;
	case 't':
		r = sd_bus_message_read(m, "t", &t);
		*ret = r < 0 ? NULL : json_integer((json_int_t)t);
		return r;
	case 'A':
		return read_strings(m, ret);
	default:
		r = sd_bus_message_read_basic(m, type, &text);
		*ret = r < 0 ? NULL : json_string(text);
		return r;
	}
}

int output_read_fields(sd_bus_message *m, const struct column *columns, size_t n, json_t *row)
{
	for (size_t i = 0; i < n; i++) {
		json_t *value = NULL;
		int r = read_field(m, columns[i].type, &value);

		if (r <= 0) {
			json_decref(value);
			return r < 0 ? r : -EBADMSG;
		}
		json_object_set_new(row, columns[i].key, value);
	}
	return 0;
}

int output_enter(sd_bus_message *m, char type)
{
	const char *contents;
	char found;
	int r = sd_bus_message_peek_type(m, &found, &contents);

	if (r <= 0)
		return r;
	return found == type ? sd_bus_message_enter_container(m, type, contents) : -EBADMSG;
}

int output_read_rows(sd_bus_message *m, const struct column *columns, size_t n, json_t **ret)
{
	_cleanup_json_ json_t *rows = json_array();
	int r = output_enter(m, 'a');

	while (r >= 0 && (r = output_enter(m, 'r')) > 0) {
		json_t *row = json_object();

		json_array_append_new(rows, row);
		r = output_read_fields(m, columns, n, row);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	if (r >= 0)
		r = sd_bus_message_exit_container(m);
	if (r < 0)
		return r;
	*ret = json_incref(rows);
	return 0;
}

static void format_bytes(uint64_t n, char cell[static CELL])
{
	static const char units[] = " KMGT";
	size_t u = 0;

	while (n && n % 1024 == 0 && u < 4) {
		n /= 1024;
		u++;
	}
	snprintf(cell, CELL, "%" PRIu64 "%.*s", n, u ? 1 : 0, units + u);
}

static void format_time(time_t t, char cell[static CELL])
{
	struct tm tm;

	if (!localtime_r(&t, &tm) || !strftime(cell, CELL, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(cell, CELL, "%jd", (intmax_t)t);
}

static void format_array(const json_t *value, char cell[static CELL])
{
	size_t i, used = 0;
	json_t *item;

	cell[0] = 0;
	json_array_foreach(value, i, item) {
		if (used < CELL)
			used += (size_t)snprintf(cell + used, CELL - used, "%s%s", i ? " " : "",
						 json_string_value(item) ?: "?");
	}
	if (!i)
		snprintf(cell, CELL, "-");
}

static void format_cell(const json_t *value, enum format format, char cell[static CELL])
{
	json_int_t n = json_integer_value(value);

	if (json_is_array(value))
		format_array(value, cell);
	else if (json_is_boolean(value))
		snprintf(cell, CELL, "%s", json_is_true(value) ? "yes" : "no");
	else if (json_is_string(value))
		snprintf(cell, CELL, "%s",
			 *json_string_value(value) ? json_string_value(value) : "-");
	else if (format == FORMAT_BYTES)
		format_bytes((uint64_t)n, cell);
	else if (format == FORMAT_TIME_S || format == FORMAT_TIME_US)
		format_time((time_t)(format == FORMAT_TIME_S ? n : n / 1000000), cell);
	else
		snprintf(cell, CELL, "%" JSON_INTEGER_FORMAT, n);
}

static void measure(const json_t *rows, const struct column *columns, size_t n,
		    int width[static MAX_COLUMNS])
{
	char cell[CELL];
	json_t *row;
	size_t i;

	for (size_t c = 0; c < n; c++)
		width[c] = columns[c].title ? (int)strlen(columns[c].title) : 0;
	json_array_foreach(rows, i, row) {
		for (size_t c = 0; c < n; c++) {
			format_cell(json_object_get(row, columns[c].key), columns[c].format, cell);
			if (columns[c].title && (int)strlen(cell) > width[c])
				width[c] = (int)strlen(cell);
		}
	}
}

static size_t last_shown(const struct column *columns, size_t n)
{
	while (n && !columns[n - 1].title)
		n--;
	return n ? n - 1 : 0;
}

static void print_row(const json_t *row, const struct column *columns, size_t n,
		      const int width[static MAX_COLUMNS])
{
	size_t last = last_shown(columns, n);
	char cell[CELL];

	for (size_t c = 0; c <= last; c++) {
		if (!columns[c].title)
			continue;
		if (row)
			format_cell(json_object_get(row, columns[c].key), columns[c].format, cell);
		else
			snprintf(cell, sizeof(cell), "%s", columns[c].title);
		printf("%-*s%s", c == last ? 0 : width[c], cell, c == last ? "\n" : "  ");
	}
}

void output_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

int output_verdict(const struct settings *s, const json_t *answer)
{
	bool allowed = json_is_true(json_object_get(answer, "allowed"));

	if (s->json)
		output_json(answer);
	else
		printf("%s: %s\n", allowed ? "allowed" : "refused",
		       json_string_value(json_object_get(answer, "reason")));
	return allowed ? 0 : EXIT_REFUSED;
}

void output_rows(const struct settings *s, const json_t *rows, const struct column *columns,
		 size_t n, const char *nothing)
{
	int width[MAX_COLUMNS] = {};
	json_t *row;
	size_t i;

	if (s->json) {
		output_json(rows);
		return;
	}
	if (!json_array_size(rows)) {
		puts(nothing);
		return;
	}
	measure(rows, columns, n, width);
	print_row(NULL, columns, n, width);
	json_array_foreach(rows, i, row) {
		print_row(row, columns, n, width);
	}
}
