/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What org.sivshm1.Manager lists: root sees all, others their own. */
#include "listener.h"
#include "manager-bus.h"

static int append_channel(sd_bus_message *reply, const struct channel *c)
{
	char peer[PEER_NAME_SIZE];

	peer_name_format(&c->peer, peer);
	return sd_bus_message_append(reply, "(ouusssust)", c->path, c->ref.slot, c->ref.generation,
				     c->local, peer, channel_state_name(c), (uint32_t)c->uid,
				     c->unit, c->ring_size);
}

static int list_channels_identified(sd_bus_message *message, const struct bus_sender *sender,
				    void *userdata, sd_bus_error *error)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
	struct manager *m = userdata;
	int r;

	(void)error;
	r = sd_bus_message_new_method_return(message, &reply);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "(ouusssust)");
	for (size_t i = 0; i < ELEMENTSOF(m->channels) && r >= 0; i++)
		if (m->channels[i] && (sender->uid == 0 || sender->uid == m->channels[i]->uid))
			r = append_channel(reply, m->channels[i]);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

int manager_list_channels(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;

	(void)error;
	return bus_access_identify(m->access, message, list_channels_identified, m);
}

static int append_listener(sd_bus_message *reply, const struct listener *l)
{
	return sd_bus_message_append(reply, "(osusuu)", l->path, l->service,
				     (uint32_t)l->caller.uid, l->caller.unit, l->n_ready,
				     l->backlog);
}

static int list_listeners_identified(sd_bus_message *message, const struct bus_sender *sender,
				     void *userdata, sd_bus_error *error)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
	struct manager *m = userdata;
	struct listener *l;
	int r;

	(void)error;
	r = sd_bus_message_new_method_return(message, &reply);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "(osusuu)");
	TAILQ_FOREACH(l, &m->listeners, next)
		if (r >= 0 && (sender->uid == 0 || sender->uid == l->caller.uid))
			r = append_listener(reply, l);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

int manager_list_listeners(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;

	(void)error;
	return bus_access_identify(m->access, message, list_listeners_identified, m);
}
