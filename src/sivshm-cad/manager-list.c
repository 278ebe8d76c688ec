/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "channel.h"
#include "control.h"
#include "manager-list.h"
#include "manager.h"
#include "vm.h"

typedef int (*append_fn)(sd_bus_message *reply, struct manager *m);

/* reply_list() - an array whose elements @append adds */
static int reply_list(sd_bus_message *msg, struct manager *m, const char *type, append_fn append)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
	int r = sd_bus_message_new_method_return(msg, &reply);

	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', type);
	if (r >= 0)
		r = append(reply, m);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static void count_devices(struct vm *vm, unsigned *ret_connected, unsigned *ret_expected)
{
	struct member *member;

	*ret_connected = *ret_expected = 0;
	for (size_t i = 0; (member = vm_member(vm, i)); i++) {
		*ret_connected += member_is_connected(member);
		(*ret_expected)++;
	}
}

static unsigned slots_in_use(const struct vm *vm)
{
	unsigned n = 0;

	for (uint32_t slot = 0; slot < vm->table.n_slots; slot++)
		n += table_state(&vm->table, slot) != SIVSHM_GRANT_FREE;
	return n;
}

static int append_vm(sd_bus_message *reply, struct vm *vm)
{
	unsigned connected, expected;
	int r;

	count_devices(vm, &connected, &expected);
	r = sd_bus_message_open_container(reply, 'r', "subbuuuuasb");
	if (r >= 0)
		r = sd_bus_message_append(reply, "subbuuuu", vm->name, vm->config->uid,
					  control_is_connected(vm), control_is_ready(vm), connected,
					  expected, slots_in_use(vm), vm->table.n_slots);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "s");
	for (size_t i = 0; r >= 0 && i < vm->control->n_listeners; i++)
		r = sd_bus_message_append(reply, "s", vm->control->listeners[i]);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	if (r >= 0)
		r = sd_bus_message_append(
			reply, "b", revocations_find(&vm->manager->revoked, vm->name) != NULL);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int append_vms(sd_bus_message *reply, struct manager *m)
{
	int r = 0;

	for (size_t i = 0; i < m->n_vms && r >= 0; i++)
		r = append_vm(reply, m->vms[i]);
	return r;
}

int list_vms(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	(void)error;
	return reply_list(msg, userdata, "(subbuuuuasb)", append_vms);
}

static int append_member(sd_bus_message *reply, const struct member *member)
{
	uint64_t granted, quarantined;

	alloc_totals(&member->alloc, &granted, &quarantined);
	return sd_bus_message_append(reply, "(subtt)", member->vm->name, member->id,
				     member_is_connected(member), granted, quarantined);
}

static int append_region(sd_bus_message *reply, const struct region *region)
{
	int r = sd_bus_message_open_container(reply, 'r', "stua(subtt)");

	if (r >= 0)
		r = sd_bus_message_append(reply, "stu", region->name, region->section_size,
					  region->vectors);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "(subtt)");
	for (size_t i = 0; i < region->n_members && r >= 0; i++)
		r = append_member(reply, &region->members[i]);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int append_regions(sd_bus_message *reply, struct manager *m)
{
	int r = 0;

	for (size_t i = 0; i < m->n_regions && r >= 0; i++)
		r = append_region(reply, m->regions[i]);
	return r;
}

int list_regions(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	(void)error;
	return reply_list(msg, userdata, "(stua(subtt))", append_regions);
}

static int append_channels(sd_bus_message *reply, struct manager *m)
{
	struct channel *c;
	int r = 0;

	TAILQ_FOREACH(c, &m->channels, entry) {
		char id[CHANNEL_ID_TEXT], from[PEER_NAME_SIZE], to[PEER_NAME_SIZE];
		struct peer_name name;

		if (!c->published)
			continue;
		hex_encode(c->id, sizeof(c->id), id);
		channel_name(c, END_FROM, &name);
		peer_name_format(&name, from);
		channel_name(c, END_TO, &name);
		peer_name_format(&name, to);
		r = sd_bus_message_append(reply, "(ssssusutt)", id, channel_state(c),
					  c->ends[END_FROM].member->region->name, from,
					  c->ends[END_FROM].slot, to, c->ends[END_TO].slot,
					  c->ring_size, c->opened_usec);
		if (r < 0)
			break;
	}
	return r;
}

int list_channels(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	(void)error;
	return reply_list(msg, userdata, "(ssssusutt)", append_channels);
}

static int append_certificates(sd_bus_message *reply, struct manager *m)
{
	int64_t now = (int64_t)(manager_realtime_usec() / 1000000);
	int r = 0;

	for (size_t i = 0; i < m->certificates.n && r >= 0; i++) {
		const struct certificate *c = &m->certificates.list[i];
		char id[SPIFFE_ID_SIZE];

		if (c->not_after < now)
			continue;
		spiffe_id_format(m->config->ca.trust_domain, &c->service, id);
		r = sd_bus_message_append(reply, "(ssttb)", c->serial, id, (uint64_t)c->not_before,
					  (uint64_t)c->not_after, c->revoked);
	}
	return r;
}

int list_certificates(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	(void)error;
	return reply_list(msg, userdata, "(ssttb)", append_certificates);
}
