/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs that ask sivshmd. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "ask.h"

static const struct column channel_columns[] = {
	{"object", 'o', NULL, 0},
	{"slot", 'u', "SLOT", 0},
	{"generation", 'u', NULL, 0},
	{"local", 's', "SERVICE", 0},
	{"peer", 's', "PEER", 0},
	{"state", 's', "STATE", 0},
	{"uid", 'u', "UID", 0},
	{"unit", 's', "UNIT", 0},
	{"ring_size", 't', "RING", FORMAT_BYTES},
};

static const struct column listener_columns[] = {
	{"object", 'o', NULL, 0}, {"service", 's', "SERVICE", 0}, {"uid", 'u', "UID", 0},
	{"unit", 's', "UNIT", 0}, {"waiting", 'u', "WAITING", 0}, {"backlog", 'u', "BACKLOG", 0},
};

static const struct column section_columns[] = {
	{"region", 's', "REGION", 0},	{"vm", 's', "WRITTEN BY", 0},
	{"own", 'b', "OWN", 0},		{"size", 't', "SIZE", FORMAT_BYTES},
	{"mapping", 's', "MAPPING", 0}, {"ready", 'b', "READY", 0},
};

static const struct column certificate_columns[] = {
	{"service", 's', "SERVICE", 0},
	{"id", 's', "ID", 0},
	{"serial", 's', "SERIAL", 0},
	{"not_after", 't', "NOT AFTER", FORMAT_TIME_S},
};

static const struct column status_fields[] = {
	{"version", 's', "Version", 0},		 {"vm", 's', "VM", 0},
	{"trust_domain", 's', "TrustDomain", 0}, {"host_connected", 'b', "HostConnected", 0},
	{"kernel_abi", 'u', "KernelABI", 0},
};

int verb_list(const struct settings *s)
{
	return ask_rows(s, &guest_daemon, "ListChannels", channel_columns,
			N_COLUMNS(channel_columns), "No channels.");
}

int verb_listeners(const struct settings *s)
{
	return ask_rows(s, &guest_daemon, "ListListeners", listener_columns,
			N_COLUMNS(listener_columns), "Nobody listens.");
}

static int read_status_fields(sd_bus *bus, json_t *status)
{
	for (size_t i = 0; i < N_COLUMNS(status_fields); i++) {
		_cleanup_message_ sd_bus_message *m = NULL;
		const struct column *f = &status_fields[i];
		int r = call_property(bus, &guest_daemon, f->title, (char[]){f->type, 0}, &m);

		if (r)
			return r;
		r = output_read_fields(m, f, 1, status);
		if (r < 0)
			return call_bad_reply(&guest_daemon, f->title, r);
	}
	return 0;
}

static int read_status_rows(sd_bus *bus, const char *property, const char *type,
			    const struct column *columns, size_t n, const char *key, json_t *status)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	json_t *rows;
	int r;

	r = call_property(bus, &guest_daemon, property, type, &m);
	if (r)
		return r;
	r = output_read_rows(m, columns, n, &rows);
	if (r < 0)
		return call_bad_reply(&guest_daemon, property, r);
	json_object_set_new(status, key, rows);
	return 0;
}

static void print_status(const struct settings *s, const json_t *status)
{
	const char *vm = json_string_value(json_object_get(status, "vm"));
	json_int_t abi = json_integer_value(json_object_get(status, "kernel_abi"));

	printf("VM:            %s\n", vm && *vm ? vm : "unknown until the host has answered");
	printf("Trust domain:  %s\n", json_string_value(json_object_get(status, "trust_domain")));
	printf("Host:          %s\n", json_is_true(json_object_get(status, "host_connected"))
					      ? "connected"
					      : "NOT connected (is sivshm-cad running?)");
	if (abi)
		printf("Kernel module: ABI %" JSON_INTEGER_FORMAT "\n", abi);
	else
		printf("Kernel module: NOT loaded (journalctl -u sivshmd)\n");
	printf("sivshmd:       %s\n\n", json_string_value(json_object_get(status, "version")));
	output_rows(s, json_object_get(status, "sections"), section_columns,
		    N_COLUMNS(section_columns), "No sections.");
	putchar('\n');
	output_rows(s, json_object_get(status, "certificates"), certificate_columns,
		    N_COLUMNS(certificate_columns), "No certificates.");
}

int verb_status(const struct settings *s)
{
	_cleanup_json_ json_t *status = json_object();
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	if (r == 0)
		r = read_status_fields(bus, status);
	if (r == 0)
		r = read_status_rows(bus, "Sections", "a(ssbtsb)", section_columns,
				     N_COLUMNS(section_columns), "sections", status);
	if (r == 0)
		r = read_status_rows(bus, "Certificates", "a(ssst)", certificate_columns,
				     N_COLUMNS(certificate_columns), "certificates", status);
	if (r)
		return r;
	if (s->json)
		output_json(status);
	else
		print_status(s, status);
	return EXIT_SUCCESS;
}

int verb_explain(const struct settings *s)
{
	return ask_verdict(s, &guest_daemon, "Explain", s->args[0],
			   s->n_args > 1 ? s->args[1] : "");
}

int verb_reload(const struct settings *s)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	return r
		       ?: call_as_administrator(bus, s->host ? &host_daemon : &guest_daemon,
						"Reload", &m, "");
}
