/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/channel.h"
#include "client/error.h"

#define DBUS_ERROR "org.freedesktop.DBus.Error."
#define SIVSHM_ERROR "org.sivshm1.Error."

/* Error names, what they are to a C caller, and what a person can do about it. */
static const struct {
	const char *name;
	int r;
	const char *advice;
} errors[] = {
	{SIVSHM_ERROR "NotAuthorized", -EACCES,
	 "see `sivshmctl explain SERVICE PEER` and /etc/sivshm/policy.d"},
	{SIVSHM_ERROR "RefusedByHost", -EACCES,
	 "check the name; the host's policy decides: `sivshmctl policy explain FROM TO` there"},
	{SIVSHM_ERROR "RefusedByPeer", -EACCES,
	 "the policy of the peer's guest decides: Accept= in its /etc/sivshm/policy.d"},
	{SIVSHM_ERROR "NoSuchPeer", -ENOENT, "a region of the host has to join both VMs"},
	{SIVSHM_ERROR "PeerNotListening", -ECONNREFUSED, "start the peer's service and try again"},
	{SIVSHM_ERROR "HandshakeFailed", -EPROTO, "see the journal of sivshmd at both ends"},
	{SIVSHM_ERROR "Revoked", -ENOLINK, "the host's administrator can `sivshmctl restore` it"},
	{SIVSHM_ERROR "QuotaExceeded", -EDQUOT, "close what is not needed or raise the limit"},
	{SIVSHM_ERROR "NoMemory", -ENOMEM,
	 "ask for smaller rings, or for larger sections on the host"},
	{SIVSHM_ERROR "HostUnavailable", -EHOSTDOWN, "is sivshm-cad running on the host?"},
	{SIVSHM_ERROR "NotReady", -EHOSTDOWN, "see `sivshmctl status` and `journalctl -u sivshmd`"},
	{SIVSHM_ERROR "TimedOut", -ETIMEDOUT, "try again, or allow more time"},
	{SIVSHM_ERROR "Closed", -EPIPE, "it was closed"},
	{SIVSHM_ERROR "NoSuchObject", -ENOENT, "it is gone"},
	{SIVSHM_ERROR "Failed", -EIO, "see `journalctl -u sivshmd`"},
	{DBUS_ERROR "InvalidArgs", -EINVAL, "check names and options"},
	{DBUS_ERROR "AccessDenied", -EACCES, "the bus policy or sivshmd lets only others do this"},
	{DBUS_ERROR "ServiceUnknown", -EHOSTDOWN,
	 "sivshmd is not running on this guest: systemctl start sivshmd"},
	{DBUS_ERROR "NameHasNoOwner", -EHOSTDOWN,
	 "sivshmd is not running on this guest: systemctl start sivshmd"},
	{DBUS_ERROR "NoReply", -EHOSTDOWN,
	 "sivshmd went away during the call: journalctl -u sivshmd"},
	{DBUS_ERROR "Disconnected", -EHOSTDOWN, "the bus went away: systemctl status dbus"},
	{DBUS_ERROR "Timeout", -ETIMEDOUT, "sivshmd does not answer: journalctl -u sivshmd"},
	{DBUS_ERROR "LimitsExceeded", -EDQUOT, "a limit of the bus is used up"},
	/* whoever was asked to start the daemon on demand: names that end in a point are families
	 */
	{DBUS_ERROR "TimedOut", -EHOSTDOWN, "sivshmd does not come up: systemctl status sivshmd"},
	{DBUS_ERROR "Spawn.", -EHOSTDOWN, "sivshmd cannot be started: systemctl start sivshmd"},
	{"org.freedesktop.systemd1.", -EHOSTDOWN,
	 "sivshmd cannot be started: systemctl start sivshmd"},
};

static bool is_error(const char *name, const char *pattern)
{
	size_t n = strlen(pattern);

	return pattern[n - 1] == '.' ? strncmp(name, pattern, n) == 0 : strcmp(name, pattern) == 0;
}

static const char *advice_for(const char *name)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (name && is_error(name, errors[i].name))
			return errors[i].advice;
	return "see `journalctl -u sivshmd`";
}

int bus_error_to_errno(const char *name)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (name && is_error(name, errors[i].name))
			return errors[i].r;
	return -EIO;
}

/**
 * bus_failed() - text and errno of a call that failed
 * @r: what sd-bus returned; @e: the error message, if there was one; @what: was tried
 */
int bus_failed(int r, const sd_bus_error *e, const char *what)
{
	if (e && e->name)
		return error_set(bus_error_to_errno(e->name), "%s: %s (%s); %s", what,
				 e->message ?: "no text", e->name, advice_for(e->name));
	if (r == -ECONNRESET || r == -ENOTCONN)
		return error_set(-EHOSTDOWN, "%s: the bus went away: systemctl status dbus", what);
	return error_set(r, "%s: %s", what, strerrordesc_np(-r) ?: "unknown error");
}

static int open_address(const char *address, sd_bus **ret)
{
	sd_bus *bus;
	int r;

	r = sd_bus_new(&bus);
	if (r < 0)
		return r;
	r = sd_bus_set_address(bus, address);
	if (r >= 0)
		r = sd_bus_set_bus_client(bus, true);
	if (r >= 0)
		r = sd_bus_negotiate_fds(bus, true);
	if (r >= 0)
		r = sd_bus_start(bus);
	if (r < 0) {
		sd_bus_unref(bus);
		return r;
	}
	*ret = bus;
	return 0;
}

/**
 * bus_open() - a connection of its own, so that threads and the caller's own bus are left alone
 * @address: NULL for the system bus
 */
int bus_open(const char *address, sd_bus **ret)
{
	int r = address ? open_address(address, ret) : sd_bus_open_system(ret);

	if (r < 0)
		return error_set(-EHOSTDOWN, "no connection to the %s%s: %s; is dbus running?",
				 address ? "bus at " : "system bus", address ?: "",
				 strerrordesc_np(-r));
	return 0;
}

/* The peer's SPIFFE id out of "identity"; the rest of it is for people and other languages. */
static int read_identity(sd_bus_message *m, char **ret_spiffe)
{
	int r = sd_bus_message_enter_container(m, 'a', "{sv}");

	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		const char *key, *value;

		r = sd_bus_message_read(m, "s", &key);
		if (r < 0)
			return r;
		if (!strcmp(key, "PeerSPIFFE") && !*ret_spiffe) {
			r = sd_bus_message_read(m, "v", "s", &value);
			if (r >= 0 && !(*ret_spiffe = strdup(value)))
				return -ENOMEM;
		} else {
			r = sd_bus_message_skip(m, "v");
		}
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

/**
 * bus_take_channel() - a channel out of the reply of Connect or Accept
 * The fd in the message stays the message's; the channel gets a copy.
 */
int bus_take_channel(sd_bus_message *reply, const struct sivshm_options *opts,
		     struct sivshm_channel **ret)
{
	char *spiffe = NULL;
	int fd, copy, r;

	r = sd_bus_message_read(reply, "ho", &fd, NULL);
	if (r >= 0)
		r = read_identity(reply, &spiffe);
	if (r < 0) {
		free(spiffe);
		return error_set(-EPROTO, "sivshmd's answer does not read: %s",
				 strerrordesc_np(-r));
	}
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	r = copy < 0 ? error_set(-errno, "no file descriptor is left: %s", strerrordesc_np(errno))
		     : sivshm_channel_from_fd(copy, opts, ret);
	if (r < 0) {
		if (copy >= 0)
			close(copy);
		free(spiffe);
		return r;
	}
	(*ret)->peer_spiffe = spiffe;
	return 0;
}
