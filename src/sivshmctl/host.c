/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs that ask sivshm-cad. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"

static const struct column vm_columns[] = {
	{"name", 's', "VM", 0},
	{"uid", 'u', "UID", 0},
	{"control_connected", 'b', "CONTROL", 0},
	{"daemon_ready", 'b', "SIVSHMD", 0},
	{"devices_connected", 'u', "DEVICES", 0},
	{"devices_expected", 'u', "OF", 0},
	{"channels", 'u', "CHANNELS", 0},
	{"channels_allowed", 'u', "OF", 0},
	{"listening", 'A', "LISTENING", 0},
	{"revoked", 'b', "REVOKED", 0},
};

static const struct column channel_columns[] = {
	{"id", 's', "ID", 0},
	{"state", 's', "STATE", 0},
	{"region", 's', "REGION", 0},
	{"from", 's', "FROM", 0},
	{"from_slot", 'u', NULL, 0},
	{"to", 's', "TO", 0},
	{"to_slot", 'u', NULL, 0},
	{"ring_size", 't', "RING", FORMAT_BYTES},
	{"opened_usec", 't', "OPENED", FORMAT_TIME_US},
};

static const struct column certificate_columns[] = {
	{"serial", 's', "SERIAL", 0},
	{"id", 's', "ID", 0},
	{"not_before", 't', "NOT BEFORE", FORMAT_TIME_S},
	{"not_after", 't', "NOT AFTER", FORMAT_TIME_S},
	{"revoked", 'b', "REVOKED", 0},
};

static const struct column region_columns[] = {
	{"name", 's', "REGION", 0},
	{"section_size", 't', "SECTION", FORMAT_BYTES},
	{"vectors", 'u', "VECTORS", 0},
};

static const struct column member_columns[] = {
	{"vm", 's', "MEMBER", 0},
	{"id", 'u', "ID", 0},
	{"connected", 'b', "CONNECTED", 0},
	{"granted", 't', "GRANTED", FORMAT_BYTES},
	{"quarantine", 't', "QUARANTINE", FORMAT_BYTES},
};

/* Opens the bus and calls; the caller owns both. */
static int ask(const struct settings *s, const char *method, sd_bus **ret_bus, sd_bus_message **ret)
{
	int r = call_open(s, ret_bus);

	return r ?: call(*ret_bus, &host_daemon, method, ret, "");
}

int verb_vms(const struct settings *s)
{
	return ask_rows(s, &host_daemon, "ListVMs", vm_columns, N_COLUMNS(vm_columns),
			"No VMs; see /etc/sivshm-ca/vm.d.");
}

int verb_channels(const struct settings *s)
{
	return ask_rows(s, &host_daemon, "ListChannels", channel_columns,
			N_COLUMNS(channel_columns), "No channels.");
}

int verb_certificates(const struct settings *s)
{
	return ask_rows(s, &host_daemon, "ListCertificates", certificate_columns,
			N_COLUMNS(certificate_columns), "No certificates.");
}

static int read_regions(sd_bus_message *m, json_t *regions)
{
	int r = output_enter(m, 'a');

	while (r >= 0 && (r = output_enter(m, 'r')) > 0) {
		json_t *region = json_object(), *members;

		json_array_append_new(regions, region);
		r = output_read_fields(m, region_columns, N_COLUMNS(region_columns), region);
		if (r >= 0)
			r = output_read_rows(m, member_columns, N_COLUMNS(member_columns),
					     &members);
		if (r < 0)
			break;
		json_object_set_new(region, "members", members);
		r = sd_bus_message_exit_container(m);
	}
	return r;
}

int verb_regions(const struct settings *s)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	_cleanup_json_ json_t *regions = json_array();
	json_t *region;
	size_t i;
	int r;

	r = ask(s, "ListRegions", &bus, &m);
	if (r)
		return r;
	r = read_regions(m, regions);
	if (r < 0)
		return call_bad_reply(&host_daemon, "ListRegions", r);
	if (s->json || !json_array_size(regions)) {
		output_rows(s, regions, region_columns, N_COLUMNS(region_columns),
			    "No regions; see /etc/sivshm-ca/region.d.");
		return EXIT_SUCCESS;
	}
	json_array_foreach(regions, i, region) {
		_cleanup_json_ json_t *one = json_pack("[O]", region);

		if (i)
			putchar('\n');
		output_rows(s, one, region_columns, N_COLUMNS(region_columns), "");
		output_rows(s, json_object_get(region, "members"), member_columns,
			    N_COLUMNS(member_columns), "");
	}
	return EXIT_SUCCESS;
}

int verb_policy_explain(const struct settings *s)
{
	return ask_verdict(s, &host_daemon, "ExplainPolicy", s->args[0], s->args[1]);
}

/* One word as a shell reads it back. */
static void print_quoted(const char *word)
{
	static const char plain[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";

	if (*word && !word[strspn(word, plain)]) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word; word++)
		if (*word == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*word);
	putchar('\'');
}

static int print_arguments(const struct settings *s, sd_bus_message *m)
{
	static const struct column field = {"arguments", 'A', NULL, 0};
	_cleanup_json_ json_t *answer = json_object();
	json_t *words, *word;
	size_t i;
	int r;

	r = output_read_fields(m, &field, 1, answer);
	if (r < 0)
		return call_bad_reply(&host_daemon, "GetQemuArguments", r);
	words = json_object_get(answer, "arguments");
	if (s->json) {
		output_json(words);
		return EXIT_SUCCESS;
	}
	json_array_foreach(words, i, word) {
		if (i)
			putchar(' ');
		print_quoted(json_string_value(word));
	}
	putchar('\n');
	return EXIT_SUCCESS;
}

static int print_xml(const struct settings *s, sd_bus_message *m)
{
	const char *xml;
	int r = sd_bus_message_read(m, "s", &xml);

	if (r < 0)
		return call_bad_reply(&host_daemon, "GetLibvirtXML", r);
	if (s->json) {
		_cleanup_json_ json_t *answer = json_pack("{ss}", "xml", xml);

		output_json(answer);
	} else {
		printf("%s%s", xml, *xml && xml[strlen(xml) - 1] == '\n' ? "" : "\n");
	}
	return EXIT_SUCCESS;
}

int verb_qemu_args(const struct settings *s)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	if (r == 0)
		r = call(bus, &host_daemon, s->libvirt ? "GetLibvirtXML" : "GetQemuArguments", &m,
			 "s", s->args[0]);
	if (r)
		return r;
	return s->libvirt ? print_xml(s, m) : print_arguments(s, m);
}

static int call_revoke(const struct settings *s, const char *method)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	return r
		       ?: call_as_administrator(bus, &host_daemon, method, &m, "ss", s->args[0],
						s->reason ?: "by sivshmctl");
}

int verb_revoke_channel(const struct settings *s)
{
	return call_revoke(s, "RevokeChannel");
}

int verb_revoke_service(const struct settings *s)
{
	return call_revoke(s, "RevokeService");
}

int verb_revoke_vm(const struct settings *s)
{
	return call_revoke(s, "RevokeVM");
}

int verb_restore(const struct settings *s)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	_cleanup_bus_ sd_bus *bus = NULL;
	int r;

	r = call_open(s, &bus);
	return r ?: call_as_administrator(bus, &host_daemon, "Restore", &m, "s", s->args[0]);
}
