/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.sivshm1.Listener. */
#include <errno.h>
#include <string.h>

#include "bus-args.h"
#include "listener.h"

#define INTERFACE "org.sivshm1.Listener"

/* The unique name is proof enough: the bus gives it to one connection and never again. */
static bool is_creator(const struct listener *l, sd_bus_message *message)
{
	const char *sender = sd_bus_message_get_sender(message);

	return sender && strcmp(sender, l->caller.name) == 0;
}

static int method_accept(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	uint64_t timeout = UINT64_MAX;
	const struct bus_option options[] = {
		{"TimeoutUSec", 't', 0, UINT64_MAX, &timeout},
	};
	struct listener *l = userdata;
	struct failure failure;
	int r;

	r = bus_args_options(message, options, ELEMENTSOF(options), error);
	if (r < 0)
		return r;
	if (!is_creator(l, message))
		r = failure_set(&failure, ERR_NOT_AUTHORIZED,
				"only the connection that called Listen may accept");
	else
		r = listener_accept(l, message, timeout, &failure);
	return r < 0 ? bus_error_set_failure(error, &failure) : 1;
}

static int close_listener(struct listener *l, sd_bus_message *message)
{
	struct failure why;

	failure_set(&why, ERR_CLOSED, "the listener was closed");
	listener_close(l, &why);
	return sd_bus_reply_method_return(message, NULL);
}

static int close_identified(sd_bus_message *message, const struct bus_sender *sender,
			    void *userdata, sd_bus_error *error)
{
	struct listener *l = listener_find_path(userdata, sd_bus_message_get_path(message));
	struct failure failure;

	if (sender->uid != 0) {
		failure_set(&failure, ERR_NOT_AUTHORIZED,
			    "only the listener's creator or root may close it");
		return bus_error_set_failure(error, &failure);
	}
	if (!l) { /* it ended while the bus was asked */
		failure_set(&failure, ERR_NO_SUCH_OBJECT, "no such listener");
		return bus_error_set_failure(error, &failure);
	}
	return close_listener(l, message);
}

static int method_close(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct listener *l = userdata;

	(void)error;
	if (is_creator(l, message))
		return close_listener(l, message);
	return bus_access_identify(l->manager->access, message, close_identified, l->manager);
}

static int get_service(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	struct listener *l = userdata;

	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "s", l->service);
}

static int get_number(sd_bus *bus, const char *path, const char *interface, const char *property,
		      sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	struct listener *l = userdata;
	uint32_t value = l->caller.uid;

	(void)bus, (void)path, (void)interface, (void)error;
	if (strcmp(property, "Backlog") == 0)
		value = l->backlog;
	else if (strcmp(property, "Waiting") == 0)
		value = l->n_ready;
	return sd_bus_message_append(reply, "u", value);
}

void listener_bus_incoming(struct listener *l, const struct peer_name *peer)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *signal = NULL;
	char name[PEER_NAME_SIZE];

	if (manager_bus_is_full(l->manager))
		return;
	peer_name_format(peer, name);
	if (sd_bus_message_new_signal(l->manager->bus, &signal, l->path, INTERFACE, "Incoming") >=
		    0 &&
	    sd_bus_message_append(signal, "s", name) >= 0)
		sd_bus_send_to(l->manager->bus, signal, l->caller.name, NULL);
}

void listener_bus_waiting_changed(struct listener *l)
{
	if (!manager_bus_is_full(l->manager))
		sd_bus_emit_properties_changed(l->manager->bus, l->path, INTERFACE, "Waiting",
					       NULL);
}

static const sd_bus_vtable vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("Accept", SD_BUS_ARGS("a{sv}", options),
				SD_BUS_RESULT("h", fd, "o", channel, "a{sv}", identity),
				method_accept, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Close", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_close,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("Service", "s", get_service, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("Backlog", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("Waiting", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_PROPERTY("UID", "u", get_number, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_SIGNAL_WITH_ARGS("Incoming", SD_BUS_ARGS("s", peer), 0),
	SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
		sd_bus_error *error)
{
	struct listener *l = listener_find_path(userdata, path);

	(void)bus, (void)interface, (void)error;
	*ret = l;
	return l && !l->message ? 1 : 0; /* not before the host has agreed */
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret_nodes,
		     sd_bus_error *error)
{
	struct manager *m = userdata;
	struct listener *l;
	char **nodes;
	size_t n = 0;

	(void)bus, (void)prefix, (void)error;
	TAILQ_FOREACH(l, &m->listeners, next)
		n++;
	nodes = calloc(n + 1, sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	n = 0;
	TAILQ_FOREACH(l, &m->listeners, next)
		if (!l->message && (nodes[n] = strdup(l->path)))
			n++;
	*ret_nodes = nodes;
	return 0;
}

int listener_bus_add(struct manager *m)
{
	int r;

	r = sd_bus_add_fallback_vtable(m->bus, NULL, LISTENER_PATH_PREFIX, INTERFACE, vtable, find,
				       m);
	if (r < 0)
		return r;
	return sd_bus_add_node_enumerator(m->bus, NULL, LISTENER_PATH_PREFIX, enumerate, m);
}
