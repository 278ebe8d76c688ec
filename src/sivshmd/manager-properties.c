/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Properties of org.sivshm1.Manager. */
#include <errno.h>
#include <string.h>

#include "manager-bus.h"

MANAGER_GETTER(version)
{
	(void)bus, (void)path, (void)interface, (void)property, (void)userdata, (void)error;
	return sd_bus_message_append(reply, "s", SIVSHM_VERSION);
}

MANAGER_GETTER(vm)
{
	struct manager *m = userdata;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "s", control_vm(m->control));
}

MANAGER_GETTER(trust_domain)
{
	struct manager *m = userdata;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "s", control_trust_domain(m->control));
}

MANAGER_GETTER(host_connected)
{
	struct manager *m = userdata;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "b", control_is_ready(m->control));
}

MANAGER_GETTER(kernel_abi)
{
	struct manager *m = userdata;
	struct sivshm_info info;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	if (device_info(m->device, &info) < 0)
		info.abi = 0;
	return sd_bus_message_append(reply, "u", info.abi);
}

static const char *mapping_name(uint32_t mapping)
{
	switch (mapping) {
	case SIVSHM_MAPPING_WB:
		return "write-back";
	case SIVSHM_MAPPING_WC:
		return "write-combining";
	case SIVSHM_MAPPING_UC_MINUS:
		return "uncached-minus";
	case SIVSHM_MAPPING_UC:
		return "uncached";
	default:
		return "unknown";
	}
}

MANAGER_GETTER(sections)
{
	struct manager *m = userdata;
	struct sivshm_section s;
	int r;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	r = sd_bus_message_open_container(reply, 'a', "(ssbtsb)");
	for (unsigned i = 0; r >= 0 && device_section(m->device, i, &s) >= 0; i++)
		r = sd_bus_message_append(reply, "(ssbtsb)", (const char *)s.region_name,
					  (const char *)s.vm, (s.flags & SIVSHM_SECTION_OWN) != 0,
					  s.size, mapping_name(s.mapping),
					  s.state == SIVSHM_SECTION_READY);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int append_certificate(struct manager *m, sd_bus_message *reply, const char *service,
			      const X509 *certificate)
{
	_cleanup_free_ char *serial = certificate_serial(certificate);
	struct peer_name name;
	char id[SPIFFE_ID_SIZE];

	if (!serial)
		return -ENOMEM;
	strcpy(name.vm, control_vm(m->control));
	strcpy(name.service, service);
	spiffe_id_format(control_trust_domain(m->control), &name, id);
	return sd_bus_message_append(reply, "(ssst)", service, id, serial,
				     (uint64_t)certificate_not_after(certificate));
}

MANAGER_GETTER(certificates)
{
	struct manager *m = userdata;
	const X509 *certificate;
	const char *service;
	unsigned i = 0;
	int r;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	r = sd_bus_message_open_container(reply, 'a', "(ssst)");
	while (r >= 0 && identities_next(m->identities, &i, &service, &certificate))
		r = append_certificate(m, reply, service, certificate);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}
