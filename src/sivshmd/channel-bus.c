/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.sivshm1.Channel. */
#include <errno.h>
#include <string.h>

#include "manager.h"

#define INTERFACE "org.sivshm1.Channel"
#define MANAGER_INTERFACE "org.sivshm1.Manager"

/*
 * Close
 */

static int close_identified(sd_bus_message *message, const struct bus_sender *sender,
			    void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;
	struct channel *c = channel_find_path(m, sd_bus_message_get_path(message));
	struct failure failure;
	struct caller caller;
	int r;

	if (!c) { /* it ended while the bus was asked */
		failure_set(&failure, ERR_NO_SUCH_OBJECT, "no such channel");
		return bus_error_set_failure(error, &failure);
	}
	r = manager_bus_identify(m, message, sender, &caller, error);
	if (r < 0)
		return r;
	if (caller.uid != 0 && (caller.uid != c->uid || caller.cgroup != c->cgroup)) {
		failure_set(&failure, ERR_NOT_AUTHORIZED, "the caller is not the channel's holder");
		return bus_error_set_failure(error, &failure);
	}
	channel_close(c, REASON_CLOSED);
	return sd_bus_reply_method_return(message, NULL);
}

static int method_close(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct channel *c = userdata;

	(void)error;
	return bus_access_identify(c->manager->access, message, close_identified, c->manager);
}

/*
 * Properties
 */

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
			sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	struct channel *c = userdata;
	char text[SPIFFE_ID_SIZE] = "";

	(void)bus, (void)path, (void)interface, (void)error;
	if (strcmp(property, "Local") == 0)
		return sd_bus_message_append(reply, "s", c->local);
	if (strcmp(property, "State") == 0)
		return sd_bus_message_append(reply, "s", channel_state_name(c));
	if (strcmp(property, "Unit") == 0)
		return sd_bus_message_append(reply, "s", c->unit);
	if (strcmp(property, "Peer") == 0)
		peer_name_format(&c->peer, text);
	else if (control_trust_domain(c->manager->control)[0])
		spiffe_id_format(control_trust_domain(c->manager->control), &c->peer, text);
	return sd_bus_message_append(reply, "s", text);
}

static int get_number(sd_bus *bus, const char *path, const char *interface, const char *property,
		      sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	struct channel *c = userdata;

	(void)bus, (void)path, (void)interface, (void)error;
	if (strcmp(property, "RingSize") == 0)
		return sd_bus_message_append(reply, "t", c->ring_size);
	if (strcmp(property, "UID") == 0)
		return sd_bus_message_append(reply, "u", (uint32_t)c->uid);
	return sd_bus_message_append(
		reply, "u", strcmp(property, "Slot") == 0 ? c->ref.slot : c->ref.generation);
}

/*
 * Signals
 */

void channel_bus_added(struct channel *c)
{
	char peer[PEER_NAME_SIZE];

	if (manager_bus_is_full(c->manager))
		return;
	peer_name_format(&c->peer, peer);
	sd_bus_emit_signal(c->manager->bus, MANAGER_PATH, MANAGER_INTERFACE, "ChannelAdded", "oss",
			   c->path, c->local, peer);
}

void channel_bus_removed(struct channel *c, const char *reason)
{
	if (manager_bus_is_full(c->manager))
		return;
	sd_bus_emit_signal(c->manager->bus, c->path, INTERFACE, "Closed", "s", reason);
	sd_bus_emit_signal(c->manager->bus, MANAGER_PATH, MANAGER_INTERFACE, "ChannelRemoved", "os",
			   c->path, reason);
}

void channel_bus_state_changed(struct channel *c)
{
	if (!manager_bus_is_full(c->manager))
		sd_bus_emit_properties_changed(c->manager->bus, c->path, INTERFACE, "State", NULL);
}

static const sd_bus_vtable vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("Close", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_close,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("Local", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("Peer", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("PeerSPIFFE", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_PROPERTY("Slot", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("Generation", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("RingSize", "t", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("UID", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("Unit", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_SIGNAL_WITH_ARGS("Closed", SD_BUS_ARGS("s", reason), 0),
	SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
		sd_bus_error *error)
{
	(void)bus, (void)interface, (void)error;
	*ret = channel_find_path(userdata, path);
	return *ret ? 1 : 0;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret_nodes,
		     sd_bus_error *error)
{
	struct manager *m = userdata;
	char **nodes = calloc(SIVSHM_MAX_SLOTS + 1, sizeof(*nodes));
	size_t n = 0;

	(void)bus, (void)prefix, (void)error;
	if (!nodes)
		return -ENOMEM;
	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i] && (nodes[n] = strdup(m->channels[i]->path)))
			n++;
	*ret_nodes = nodes;
	return 0;
}

int channel_bus_add(struct manager *m)
{
	int r;

	r = sd_bus_add_fallback_vtable(m->bus, NULL, CHANNEL_PATH_PREFIX, INTERFACE, vtable, find,
				       m);
	if (r < 0)
		return r;
	return sd_bus_add_node_enumerator(m->bus, NULL, CHANNEL_PATH_PREFIX, enumerate, m);
}
