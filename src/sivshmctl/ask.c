/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>

#include "ask.h"

int ask_rows(const struct settings *s, const struct daemon *d, const char *method,
	     const struct column *columns, size_t n, const char *nothing)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	_cleanup_json_ json_t *rows = NULL;
	int r;

	r = call_open(s, &bus);
	if (r == 0)
		r = call(bus, d, method, &m, "");
	if (r)
		return r;
	r = output_read_rows(m, columns, n, &rows);
	if (r < 0)
		return call_bad_reply(d, method, r);
	output_rows(s, rows, columns, n, nothing);
	return EXIT_SUCCESS;
}

int ask_verdict(const struct settings *s, const struct daemon *d, const char *method,
		const char *one, const char *other)
{
	static const struct column fields[] = {{"allowed", 'b', NULL, 0}, {"reason", 's', NULL, 0}};
	_cleanup_json_ json_t *answer = json_object();
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	if (r == 0)
		r = call(bus, d, method, &m, "ss", one, other);
	if (r)
		return r;
	r = output_read_fields(m, fields, N_COLUMNS(fields), answer);
	if (r < 0)
		return call_bad_reply(d, method, r);
	return output_verdict(s, answer);
}
