/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "answer.h"

#include <string.h>

#include "cleanup.h"
#include "manager.h"

static int append_string(sd_bus_message *m, const char *key, const char *value)
{
	return sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_names(sd_bus_message *m, const struct channel *c)
{
	const char *domain = control_trust_domain(c->manager->control);
	struct peer_name own;
	char text[SPIFFE_ID_SIZE];
	int r;

	strcpy(own.vm, control_vm(c->manager->control));
	strcpy(own.service, c->local);
	peer_name_format(&c->peer, text);
	r = append_string(m, "Peer", text);
	if (r < 0)
		return r;
	spiffe_id_format(domain, &c->peer, text);
	r = append_string(m, "PeerSPIFFE", text);
	if (r < 0)
		return r;
	r = append_string(m, "Local", c->local);
	if (r < 0)
		return r;
	spiffe_id_format(domain, &own, text);
	return append_string(m, "LocalSPIFFE", text);
}

static int append_steps(sd_bus_message *m, const struct steps *s)
{
	int r;

	r = sd_bus_message_open_container(m, 'e', "sv");
	if (r >= 0)
		r = sd_bus_message_append(m, "s", "Steps");
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'v', "a(st)");
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'a', "(st)");
	for (unsigned i = 0; i < s->n && r >= 0; i++)
		r = sd_bus_message_append(m, "(st)", s->items[i].name, s->items[i].usec);
	for (int i = 0; i < 3 && r >= 0; i++)
		r = sd_bus_message_close_container(m);
	return r;
}

static int append_identity(sd_bus_message *m, const struct answer *a)
{
	int r;

	r = sd_bus_message_open_container(m, 'a', "{sv}");
	if (r >= 0)
		r = append_names(m, a->channel);
	if (r >= 0)
		r = append_string(m, "Certificate", a->certificate);
	if (r >= 0)
		r = sd_bus_message_append(m, "{sv}{sv}", "RingSize", "t", a->channel->ring_size,
					  "HandshakeUSec", "t", a->handshake_usec);
	if (r >= 0)
		r = append_steps(m, a->steps);
	return r < 0 ? r : sd_bus_message_close_container(m);
}

int answer_send(sd_bus_message *call, const struct answer *a)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
	int r;

	r = sd_bus_message_new_method_return(call, &reply);
	if (r >= 0)
		r = sd_bus_message_append(reply, "ho", a->fd, a->channel->path);
	if (r >= 0)
		r = append_identity(reply, a);
	return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}
