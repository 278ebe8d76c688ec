/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel-internal.h"
#include "control.h"
#include "log.h"
#include "manager-bus.h"
#include "manager.h"
#include "vm.h"

uint32_t channel_end_state(const struct channel_end *e)
{
	return e->present ? table_state(&e->member->vm->table, e->slot) : SIVSHM_GRANT_FREE;
}

static void end_set_state(struct channel_end *e, enum sivshm_grant_state state)
{
	table_set_state(&e->member->vm->table, e->slot, state);
	member_ring(e->member);
}

bool channel_is_open(const struct channel *c)
{
	return channel_end_state(&c->ends[END_FROM]) == SIVSHM_GRANT_ACTIVE &&
	       channel_end_state(&c->ends[END_TO]) == SIVSHM_GRANT_ACTIVE;
}

const char *channel_state(const struct channel *c)
{
	if (channel_is_open(c))
		return "active";
	if (channel_end_state(&c->ends[END_FROM]) == SIVSHM_GRANT_DRAINING ||
	    channel_end_state(&c->ends[END_TO]) == SIVSHM_GRANT_DRAINING)
		return "draining";
	return "revoked";
}

void channel_name(const struct channel *c, unsigned end, struct peer_name *ret)
{
	*ret = (struct peer_name){};
	snprintf(ret->vm, sizeof(ret->vm), "%s", c->ends[end].member->vm->name);
	snprintf(ret->service, sizeof(ret->service), "%s", c->ends[end].service);
}

struct channel *channel_find(const struct manager *m, const uint8_t id[CHANNEL_ID_SIZE])
{
	struct channel *c;

	TAILQ_FOREACH(c, &m->channels, entry)
		if (memcmp(c->id, id, CHANNEL_ID_SIZE) == 0)
			return c;
	return NULL;
}

struct channel *channel_find_slot(const struct vm *vm, uint32_t slot, unsigned *ret_end)
{
	struct channel *c = slot < SIVSHM_MAX_SLOTS ? vm->channels[slot] : NULL;

	if (c)
		*ret_end = c->ends[END_FROM].present && c->ends[END_FROM].member->vm == vm
				   ? END_FROM
				   : END_TO;
	return c;
}

void channel_end_set_present(struct channel *c, unsigned end, bool present)
{
	struct channel_end *e = &c->ends[end];

	e->present = present;
	e->member->vm->channels[e->slot] = present ? c : NULL;
}

static bool end_is(const struct channel_end *e, const struct peer_name *name)
{
	return strcmp(e->member->vm->name, name->vm) == 0 && strcmp(e->service, name->service) == 0;
}

unsigned channels_count(const struct manager *m, const struct peer_name *from,
			const struct peer_name *to)
{
	struct channel *c;
	unsigned n = 0;

	TAILQ_FOREACH(c, &m->channels, entry)
		n += c->published && end_is(&c->ends[END_FROM], from) &&
		     end_is(&c->ends[END_TO], to);
	return n;
}

/* life */

struct channel *channel_new(struct manager *m)
{
	struct channel *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->manager = m;
	TAILQ_INSERT_TAIL(&m->channels, c, entry);
	return c;
}

struct channel *channel_free(struct channel *c)
{
	if (!c)
		return NULL;
	for (unsigned end = 0; end < N_ENDS; end++)
		if (c->ends[end].present) /* the daemon ends, the grant does not */
			channel_end_set_present(c, end, false);
	TAILQ_REMOVE(&c->manager->channels, c, entry);
	sd_event_source_disable_unref(c->drain_timer);
	scrub_cancel(c->scrub);
	free(c);
	return NULL;
}

void channel_format(const struct channel *c, char id[CHANNEL_ID_TEXT], char from[PEER_NAME_SIZE],
		    char to[PEER_NAME_SIZE])
{
	struct peer_name name;

	hex_encode(c->id, sizeof(c->id), id);
	channel_name(c, END_FROM, &name);
	peer_name_format(&name, from);
	channel_name(c, END_TO, &name);
	peer_name_format(&name, to);
}

/* report_closed() - once, when the channel stops being ACTIVE at both ends */
static void report_closed(struct channel *c, const char *reason)
{
	char id[CHANNEL_ID_TEXT], from[PEER_NAME_SIZE], to[PEER_NAME_SIZE];

	if (c->closed)
		return;
	c->closed = true;
	channel_format(c, id, from, to);
	log_with(LOG_INFO, (.id = LOG_ID_CLOSED, .channel = id, .from = from, .to = to),
		 "channel %s from %s to %s closed: %s", id, from, to, reason);
	manager_bus_channel_closed(c->manager, id, reason);
}

/* channel_settle() - quarantine when nobody may use the windows; back to the allocator when nobody
 * can */
void channel_settle(struct channel *c)
{
	bool usable = false, present = false;

	for (unsigned end = 0; end < N_ENDS; end++) {
		uint32_t state = channel_end_state(&c->ends[end]);

		usable |= state == SIVSHM_GRANT_ACTIVE || state == SIVSHM_GRANT_DRAINING;
		present |= c->ends[end].present;
	}
	for (unsigned end = 0; end < N_ENDS; end++) {
		struct channel_end *e = &c->ends[end];

		if (e->size > 0 && !present)
			member_give_window(e->member, e->offset, e->size);
		else if (e->size > 0 && !usable)
			alloc_quarantine(&e->member->alloc, e->offset);
	}
	if (!present)
		channel_free(c);
}

static void revoke_end(struct channel_end *e, const char *reason)
{
	struct msg_revoked revoked = {.ref = {e->slot, e->generation}};

	if (channel_end_state(e) != SIVSHM_GRANT_ACTIVE &&
	    channel_end_state(e) != SIVSHM_GRANT_DRAINING)
		return;
	end_set_state(e, SIVSHM_GRANT_REVOKED);
	snprintf(revoked.reason, sizeof(revoked.reason), "%s", reason);
	control_notify(e->member->vm, "Revoked", msg_revoked_encode(&revoked));
}

void channel_withdraw(struct channel *c, const char *reason)
{
	report_closed(c, reason);
	c->drain_timer = sd_event_source_disable_unref(c->drain_timer);
	for (unsigned end = 0; end < N_ENDS; end++)
		revoke_end(&c->ends[end], reason);
	channel_settle(c);
}

static int on_drained(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source, (void)usec;
	channel_withdraw(userdata, "closed");
	return 0;
}

int channel_start_drain_timer(struct channel *c)
{
	if (c->drain_timer)
		return 0;
	return sd_event_add_time_relative(c->manager->event, &c->drain_timer, CLOCK_MONOTONIC,
					  c->manager->config->limits.drain_timeout_usec, 0,
					  on_drained, c);
}

/* drain_end() - the reader may take what was sent before the other side closed */
static void drain_end(struct channel *c, struct channel_end *e)
{
	if (channel_end_state(e) != SIVSHM_GRANT_ACTIVE)
		return;
	end_set_state(e, SIVSHM_GRANT_DRAINING);
	if (channel_start_drain_timer(c) < 0)
		revoke_end(e, "closed");
}

void channel_end_gone(struct channel *c, unsigned end, const char *reason)
{
	struct channel_end *e = &c->ends[end];

	report_closed(c, reason);
	if (e->present) {
		/* through REVOKED, always: a reader must never see ACTIVE turn FREE */
		table_set_state(&e->member->vm->table, e->slot, SIVSHM_GRANT_REVOKED);
		table_set_state(&e->member->vm->table, e->slot, SIVSHM_GRANT_FREE);
		channel_end_set_present(c, end, false);
	}
	drain_end(c, &c->ends[!end]);
	channel_settle(c);
}

/* member_end() - which end @member is; N_ENDS: none */
static unsigned member_end(const struct channel *c, const struct member *member)
{
	unsigned end = 0;

	while (end < N_ENDS && c->ends[end].member != member)
		end++;
	return end;
}

void channels_member_gone(struct member *member)
{
	struct channel *c, *next;

	for (c = TAILQ_FIRST(&member->region->manager->channels); c; c = next) {
		unsigned end = member_end(c, member);

		next = TAILQ_NEXT(c, entry);
		if (end == N_ENDS)
			continue;
		if (!c->published) {
			c->ready(c, -ENODEV, c->userdata);
			continue;
		}
		report_closed(c, "vm-gone");
		revoke_end(&c->ends[!end], "vm-gone");
		channel_end_gone(c, end, "vm-gone");
	}
}

void channels_free(struct manager *m)
{
	struct channel *c;

	while ((c = TAILQ_FIRST(&m->channels)))
		channel_free(c);
}
