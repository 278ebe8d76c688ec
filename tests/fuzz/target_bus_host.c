/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * org.sivshm.ca1: methods of the host daemon, with right and wrong arguments, from callers with and
 * without rights, and every answer that polkit can give.
 *
 * Input: calls; method, caller and polkit, then arguments (bus.c).
 */
#include "bus.h"
#include "host.h"

#define PATH "/org/sivshm/ca1"
#define MANAGER "org.sivshm.ca1.Manager"
#define PROPERTIES "org.freedesktop.DBus.Properties"

static const struct bus_method methods[] = {
	{PATH, MANAGER, "ListVMs", ""},
	{PATH, MANAGER, "ListRegions", ""},
	{PATH, MANAGER, "ListChannels", ""},
	{PATH, MANAGER, "ListCertificates", ""},
	{PATH, MANAGER, "ExplainPolicy", "ss"},
	{PATH, MANAGER, "GetQemuArguments", "s"},
	{PATH, MANAGER, "GetLibvirtXML", "s"},
	{PATH, MANAGER, "RevokeChannel", "ss"},
	{PATH, MANAGER, "RevokeService", "ss"},
	{PATH, MANAGER, "RevokeVM", "ss"},
	{PATH, MANAGER, "Restore", "s"},
	{PATH, MANAGER, "Reload", ""},
	{PATH, PROPERTIES, "Get", "ss"},
	{PATH, PROPERTIES, "GetAll", "s"},
	{PATH, PROPERTIES, "Set", "ssv"},
	{PATH, "org.freedesktop.DBus.Introspectable", "Introspect", ""},
	{PATH, MANAGER, "NoSuchMethod", "s"},
	{"/org", "org.freedesktop.DBus.Introspectable", "Introspect", ""},
	{},
};

static const char *const words[] = {"a",
				    "b",
				    "a/sensor",
				    "b/dashboard",
				    "a/camera",
				    "00112233445566778899aabbccddeeff",
				    "a/other",
				    "c",
				    "c/sensor",
				    MANAGER,
				    "Version",
				    "TrustDomain",
				    "",
				    "a/",
				    "TrustBundle",
				    "reason",
				    NULL};

static const struct bus_daemon daemon_under_test = {"org.sivshm.ca1", methods, words, host_run};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	host_init(bus_address());
	bus_take_over(&daemon_under_test);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bus_calls(&(struct input){data, size});
	host_check();
	host_undo_revocations();
	return 0;
}
