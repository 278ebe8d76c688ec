/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * org.sivshm1: methods of the guest daemon, with right and wrong arguments, from callers with and
 * without rights, who leave when they like.
 *
 * Input: calls; method, caller and polkit, then arguments (bus.c).
 */
#include "bus.h"
#include "guest.h"

#define MANAGER "org.sivshm1.Manager"
#define LISTENER "org.sivshm1.Listener"
#define CHANNEL "org.sivshm1.Channel"
#define PROPERTIES "org.freedesktop.DBus.Properties"
#define INTROSPECTABLE "org.freedesktop.DBus.Introspectable"

/* NULL for a path: the object that was made last */
static const struct bus_method methods[] = {
	{MANAGER_PATH, MANAGER, "Connect", "ssa{sv}"},
	{MANAGER_PATH, MANAGER, "Listen", "sa{sv}"},
	{MANAGER_PATH, MANAGER, "ListChannels", ""},
	{MANAGER_PATH, MANAGER, "ListListeners", ""},
	{MANAGER_PATH, MANAGER, "Explain", "ss"},
	{MANAGER_PATH, MANAGER, "Reload", ""},
	{MANAGER_PATH, MANAGER, "ForgetCertificates", ""},
	{NULL, LISTENER, "Accept", "a{sv}"},
	{NULL, LISTENER, "Close", ""},
	{NULL, CHANNEL, "Close", ""},
	{MANAGER_PATH, PROPERTIES, "Get", "ss"},
	{MANAGER_PATH, PROPERTIES, "GetAll", "s"},
	{MANAGER_PATH, PROPERTIES, "Set", "ssv"},
	{NULL, PROPERTIES, "GetAll", "s"},
	{NULL, PROPERTIES, "Get", "ss"},
	{MANAGER_PATH, INTROSPECTABLE, "Introspect", ""},
	{"/", INTROSPECTABLE, "Introspect", ""},
	{"/org/sivshm1/listener", INTROSPECTABLE, "Introspect", ""},
	{NULL, INTROSPECTABLE, "Introspect", ""},
	{"/org/sivshm1/channel/3_7", CHANNEL, "Close", ""},
	{MANAGER_PATH, MANAGER, "NoSuchMethod", "s"},
	{},
};

static const char *const words[] = {"sensor",	"ivi/dashboard", "camera",	 "other",
				    "RingSize", "TimeoutUSec",	 "Backlog",	 "MaxRingSize",
				    "",		"ivi/x",	 MANAGER,	 LISTENER,
				    CHANNEL,	"Version",	 "Certificates", "Sections",
				    "VM",	"KernelABI",	 "Waiting",	 NULL};

static const struct bus_daemon daemon_under_test = {"org.sivshm1", methods, words, guest_run};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	guest_init(bus_address());
	bus_take_over(&daemon_under_test);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bus_calls(&(struct input){data, size});
	guest_check_empty();
	return 0;
}
