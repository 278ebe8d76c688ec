/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

#define CALL_TIMEOUT_US 30000000ull
/* The daemons wait 120 s for polkit: theirs is the better error. */
#define ADMINISTRATOR_TIMEOUT_US 130000000ull

const struct daemon guest_daemon = {
	.name = "org.sivshm1",
	.path = "/org/sivshm1",
	.interface = "org.sivshm1.Manager",
	.unit = "sivshmd",
	.where = "this guest",
};

const struct daemon host_daemon = {
	.name = "org.sivshm.ca1",
	.path = "/org/sivshm/ca1",
	.interface = "org.sivshm.ca1.Manager",
	.unit = "sivshm-cad",
	.where = "this host",
};

static const struct {
	const char *ending; /* one that ends in a point may stand anywhere: a family of names */
	int exit_code;
	const char *advice; /* %s: the unit */
} known[] = {
	{"DBus.Error.ServiceUnknown", EXIT_DOWN, "%s is not running: systemctl start %s"},
	{"DBus.Error.NameHasNoOwner", EXIT_DOWN, "%s is not running: systemctl start %s"},
	{"DBus.Error.NoReply", EXIT_DOWN, "%s went away during the call: journalctl -u %s"},
	{"DBus.Error.AccessDenied", EXIT_REFUSED,
	 "only root may, and whom polkit allows: see %s(8)"},
	{"DBus.Error.InteractiveAuthorizationRequired", EXIT_REFUSED,
	 "only root may, and whom polkit allows: see %s(8)"},
	{"Error.NotAuthorized", EXIT_REFUSED, "see `sivshmctl explain` and /etc/sivshm/policy.d"},
	{"Error.HostUnavailable", EXIT_DOWN, "is sivshm-cad running on the host?"},
	{"Error.NotReady", EXIT_DOWN, "see `journalctl -u %s`"},
	{"Error.NoSuchVM", EXIT_FAILURE, "`sivshmctl vms` lists them"},
	{"Error.NoSuchService", EXIT_FAILURE, "Services= in /etc/sivshm-ca/vm.d names them"},
	{"Error.NoSuchChannel", EXIT_FAILURE, "`sivshmctl channels` lists them"},
	{"Error.BadConfiguration", EXIT_FAILURE, "the old configuration stays in force"},
	{"DBus.Error.InvalidArgs", EXIT_FAILURE, "check the name"},
	{"DBus.Error.Timeout", EXIT_DOWN, "%s does not answer: journalctl -u %s"},
	{"DBus.Error.TimedOut", EXIT_DOWN, "%s does not come up: systemctl status %s"},
	{"DBus.Error.Spawn.", EXIT_DOWN, "%s cannot be started: systemctl start %s"},
	{"org.freedesktop.systemd1.", EXIT_DOWN, "%s cannot be started: systemctl start %s"},
};

static bool matches(const char *text, const char *ending)
{
	size_t a = strlen(text), b = strlen(ending);

	if (ending[b - 1] == '.')
		return strstr(text, ending);
	return a >= b && !strcmp(text + a - b, ending);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static int print_error(const struct daemon *d, const char *method, const sd_bus_error *e)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (!matches(e->name, known[i].ending))
			continue;
		fprintf(stderr, "sivshmctl: %s on %s: %s (%s); ", method, d->where,
			e->message ?: "failed", e->name);
		fprintf(stderr, known[i].advice, d->unit, d->unit);
		fputc('\n', stderr);
		return known[i].exit_code;
	}
	fprintf(stderr, "sivshmctl: %s on %s: %s (%s); see `journalctl -u %s`\n", method, d->where,
		e->message ?: "failed", e->name, d->unit);
	return EXIT_FAILURE;
}
#pragma GCC diagnostic pop

static int failed(const struct daemon *d, const char *method, int r, const sd_bus_error *e)
{
	if (e->name)
		return print_error(d, method, e);
	fprintf(stderr, "sivshmctl: %s on %s: %s\n", method, d->where, strerror(-r));
	return EXIT_FAILURE;
}

int call_exit_code(int r)
{
	switch (r) {
	case 0:
		return EXIT_SUCCESS;
	case -EACCES:
	case -EPERM:
		return EXIT_REFUSED;
	case -EHOSTDOWN:
		return EXIT_DOWN;
	default:
		return EXIT_FAILURE;
	}
}

static int open_address(const char *address, sd_bus **ret)
{
	int r = sd_bus_new(ret);

	if (r >= 0)
		r = sd_bus_set_address(*ret, address);
	if (r >= 0)
		r = sd_bus_set_bus_client(*ret, true);
	return r < 0 ? r : sd_bus_start(*ret);
}

int call_open(const struct settings *s, sd_bus **ret)
{
	int r = s->bus ? open_address(s->bus, ret) : sd_bus_open_system(ret);

	if (r < 0) {
		fprintf(stderr, "sivshmctl: no connection to the %s%s: %s; is dbus running?\n",
			s->bus ? "bus at " : "system bus", s->bus ?: "", strerror(-r));
		return EXIT_DOWN;
	}
	return 0;
}

static int call_and_wait(sd_bus *bus, const struct daemon *d, const char *method,
			 bool administrator, sd_bus_message **ret, const char *types, va_list ap)
{
	sd_bus_error e = SD_BUS_ERROR_NULL;
	_cleanup_message_ sd_bus_message *m = NULL;
	int r;

	r = sd_bus_message_new_method_call(bus, &m, d->name, d->path, d->interface, method);
	if (r >= 0)
		r = sd_bus_message_set_allow_interactive_authorization(m, administrator);
	if (r >= 0)
		r = sd_bus_message_appendv(m, types, ap);
	if (r >= 0)
		r = sd_bus_call(bus, m, administrator ? ADMINISTRATOR_TIMEOUT_US : CALL_TIMEOUT_US,
				&e, ret);
	r = r < 0 ? failed(d, method, r, &e) : 0;
	sd_bus_error_free(&e);
	return r;
}

int call(sd_bus *bus, const struct daemon *d, const char *method, sd_bus_message **ret,
	 const char *types, ...)
{
	va_list ap;
	int r;

	va_start(ap, types);
	r = call_and_wait(bus, d, method, false, ret, types, ap);
	va_end(ap);
	return r;
}

int call_as_administrator(sd_bus *bus, const struct daemon *d, const char *method,
			  sd_bus_message **ret, const char *types, ...)
{
	va_list ap;
	int r;

	va_start(ap, types);
	r = call_and_wait(bus, d, method, true, ret, types, ap);
	va_end(ap);
	return r;
}

int call_property(sd_bus *bus, const struct daemon *d, const char *property, const char *type,
		  sd_bus_message **ret)
{
	sd_bus_error e = SD_BUS_ERROR_NULL;
	int r;

	r = sd_bus_get_property(bus, d->name, d->path, d->interface, property, &e, ret, type);
	r = r < 0 ? failed(d, property, r, &e) : 0;
	sd_bus_error_free(&e);
	return r;
}

int call_bad_reply(const struct daemon *d, const char *method, int r)
{
	fprintf(stderr,
		"sivshmctl: %s of %s answers what this version does not read: %s; install matching "
		"versions\n",
		method, d->unit, strerror(-r));
	return EXIT_FAILURE;
}
