/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "control.h"
#include "log.h"
#include "manager-bus.h"
#include "manager.h"
#include "vm.h"

static uint32_t end_state(const struct channel_end *e)
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
	return end_state(&c->ends[END_FROM]) == SIVSHM_GRANT_ACTIVE &&
	       end_state(&c->ends[END_TO]) == SIVSHM_GRANT_ACTIVE;
}

const char *channel_state(const struct channel *c)
{
	if (channel_is_open(c))
		return "active";
	if (end_state(&c->ends[END_FROM]) == SIVSHM_GRANT_DRAINING ||
	    end_state(&c->ends[END_TO]) == SIVSHM_GRANT_DRAINING)
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

struct channel *channel_find_slot(const struct manager *m, const struct vm *vm, uint32_t slot,
				  unsigned *ret_end)
{
	struct channel *c;

	TAILQ_FOREACH(c, &m->channels, entry)
	for (unsigned end = 0; end < N_ENDS; end++)
		if (c->ends[end].present && c->ends[end].member->vm == vm &&
		    c->ends[end].slot == slot) {
			*ret_end = end;
			return c;
		}
	return NULL;
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
	n += c->published && end_is(&c->ends[END_FROM], from) && end_is(&c->ends[END_TO], to);
	return n;
}

/* closing */

static struct channel *channel_free(struct channel *c)
{
	if (!c)
		return NULL;
	TAILQ_REMOVE(&c->manager->channels, c, entry);
	sd_event_source_disable_unref(c->drain_timer);
	scrub_cancel(c->scrub);
	free(c);
	return NULL;
}

static void format_ends(const struct channel *c, char id[CHANNEL_ID_TEXT],
			char from[PEER_NAME_SIZE], char to[PEER_NAME_SIZE])
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
	format_ends(c, id, from, to);
	log_with(LOG_INFO, (.id = LOG_ID_CLOSED, .channel = id, .from = from, .to = to),
		 "channel %s from %s to %s closed: %s", id, from, to, reason);
	manager_bus_channel_closed(c->manager, id, reason);
}

/* settle() - quarantine when nobody may use the windows; back to the allocator when nobody can */
static void settle(struct channel *c)
{
	bool usable = false, present = false;

	for (unsigned end = 0; end < N_ENDS; end++) {
		uint32_t state = end_state(&c->ends[end]);

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

	if (end_state(e) != SIVSHM_GRANT_ACTIVE && end_state(e) != SIVSHM_GRANT_DRAINING)
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
	settle(c);
}

static int on_drained(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source, (void)usec;
	channel_withdraw(userdata, "closed");
	return 0;
}

static int start_drain_timer(struct channel *c)
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
	if (end_state(e) != SIVSHM_GRANT_ACTIVE)
		return;
	end_set_state(e, SIVSHM_GRANT_DRAINING);
	if (start_drain_timer(c) < 0)
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
		e->present = false;
	}
	drain_end(c, &c->ends[!end]);
	settle(c);
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

/* granting */

static struct channel *channel_new(struct manager *m)
{
	struct channel *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->manager = m;
	TAILQ_INSERT_TAIL(&m->channels, c, entry);
	return c;
}

/* next_region() - from number *@i on: where both VMs' devices are connected; regions are in order
 * of names */
static struct region *next_region(struct manager *m, const struct channel_request *q, size_t *i)
{
	for (; *i < m->n_regions; (*i)++) {
		struct member *from = region_member(m->regions[*i], q->from_vm);
		struct member *to = region_member(m->regions[*i], q->to_vm);

		if (from && to && from != to && member_is_connected(from) &&
		    member_is_connected(to))
			return m->regions[(*i)++];
	}
	return NULL;
}

bool channel_is_possible(struct manager *m, struct vm *from, struct vm *to)
{
	const struct channel_request q = {.from_vm = from, .to_vm = to};
	size_t i = 0;

	return next_region(m, &q, &i);
}

static int take_windows(struct channel *c, struct region *region, const struct channel_request *q)
{
	uint64_t size = SIVSHM_PAGE_SIZE + q->ring_size;
	struct channel_end *a = &c->ends[END_FROM], *b = &c->ends[END_TO];
	int r;

	a->member = region_member(region, q->from_vm);
	b->member = region_member(region, q->to_vm);
	r = alloc_take(&a->member->alloc, size, &a->offset);
	if (r < 0)
		return r;
	r = alloc_take(&b->member->alloc, size, &b->offset);
	if (r < 0) {
		alloc_give(&a->member->alloc, a->offset);
		return r;
	}
	a->size = b->size = size;
	return 0;
}

static int find_windows(struct channel *c, const struct channel_request *q, struct failure *error)
{
	struct region *region;
	size_t i = 0;
	int r = -ENODEV;

	while (r < 0 && (region = next_region(c->manager, q, &i)))
		r = take_windows(c, region, q);
	if (r == -ENODEV)
		return failure_set(error, ERR_NOT_READY,
				   "no region has the devices of both VMs connected");
	if (r < 0)
		return failure_set(
			error, ERR_NO_MEMORY,
			"no room for the windows in any region (%s); SectionSize= in region.d",
			strerror(-r));
	return 0;
}

static uint32_t vector_of(const struct channel_end *e)
{
	return 1 + e->slot % (e->member->region->vectors - 1);
}

static void write_grant(struct channel *c, unsigned end)
{
	struct channel_end *own = &c->ends[end], *peer = &c->ends[!end];
	struct grant g = {
		.region = own->member->region->number,
		.peer = peer->member->id,
		.local_vector = vector_of(own),
		.peer_vector = vector_of(peer),
		.tx_offset = own->offset,
		.tx_size = own->size,
		.rx_offset = peer->offset,
		.rx_size = peer->size,
		.opened_usec = c->opened_usec,
		.connecting = end == END_FROM,
	};

	memcpy(g.channel, c->id, sizeof(g.channel));
	snprintf(g.local_service, sizeof(g.local_service), "%s", own->service);
	snprintf(g.peer_vm, sizeof(g.peer_vm), "%s", peer->member->vm->name);
	snprintf(g.peer_service, sizeof(g.peer_service), "%s", peer->service);
	own->generation = table_activate(&own->member->vm->table, own->slot, &g);
	own->present = true;
}

static int find_slots(struct channel *c, struct failure *error)
{
	for (unsigned end = 0; end < N_ENDS; end++) {
		struct vm *vm = c->ends[end].member->vm;

		if (table_find_free(&vm->table, &c->ends[end].slot) < 0)
			return failure_set(error, ERR_QUOTA_EXCEEDED,
					   "%s: all Channels=%u of VM %s are in use",
					   vm->config->place.file, vm->table.n_slots, vm->name);
	}
	return 0;
}

static void report_opened(struct channel *c)
{
	char id[CHANNEL_ID_TEXT], from[PEER_NAME_SIZE], to[PEER_NAME_SIZE];

	format_ends(c, id, from, to);
	log_with(LOG_INFO, (.id = LOG_ID_OPENED, .channel = id, .from = from, .to = to),
		 "channel %s from %s to %s opened in region %s, 2 x %llu bytes", id, from, to,
		 c->ends[END_FROM].member->region->name, (unsigned long long)c->ring_size);
	manager_bus_channel_opened(c->manager, id, from, to);
}

static void on_window_clean(int r, void *userdata);

/* clean_next() - 1: both windows are zero; 0: under way */
static int clean_next(struct channel *c)
{
	int r = 1;

	while (c->n_clean < N_ENDS && r > 0) {
		struct channel_end *e = &c->ends[c->n_clean];

		r = scrub_start(c->manager->event, e->member->section_fd, e->offset, e->size,
				SCRUB_FILL, on_window_clean, c, &c->scrub);
		c->n_clean += r > 0;
	}
	return r;
}

static void on_window_clean(int r, void *userdata)
{
	struct channel *c = userdata;

	c->scrub = NULL;
	if (r >= 0) {
		c->n_clean++;
		r = clean_next(c);
	}
	if (r != 0)
		c->ready(c, r < 0 ? r : 0, c->userdata);
}

struct channel *channel_abandon(struct channel *c)
{
	if (!c)
		return NULL;
	if (c->ends[END_FROM].size > 0)
		settle(c);
	else
		channel_free(c);
	return NULL;
}

static int fill_request(struct channel *c, const struct channel_request *q, channel_ready_fn ready,
			void *userdata)
{
	c->ring_size = q->ring_size;
	c->ready = ready;
	c->userdata = userdata;
	snprintf(c->ends[END_FROM].service, SIVSHM_SERVICE_NAME_SIZE, "%s", q->from->service);
	snprintf(c->ends[END_TO].service, SIVSHM_SERVICE_NAME_SIZE, "%s", q->to->service);
	return RAND_bytes(c->id, sizeof(c->id)) == 1 ? 0 : -EIO;
}

int channel_prepare(struct manager *m, const struct channel_request *q, channel_ready_fn ready,
		    void *userdata, struct channel **ret, struct failure *error)
{
	struct channel *c = channel_new(m);
	int r;

	if (!c || fill_request(c, q, ready, userdata) < 0) {
		channel_abandon(c);
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	}
	r = find_windows(c, q, error);
	if (r >= 0) {
		r = clean_next(c);
		if (r < 0)
			failure_set(error, ERR_NO_MEMORY, "no memory for the windows: %s",
				    strerror(-r));
	}
	if (r < 0)
		channel_abandon(c);
	else
		*ret = c;
	return r;
}

int channel_publish(struct channel *c, struct failure *error)
{
	int r = find_slots(c, error);

	if (r < 0)
		return r;
	c->published = true;
	c->opened_usec = manager_realtime_usec();
	write_grant(c, END_FROM);
	write_grant(c, END_TO);
	member_ring(c->ends[END_FROM].member);
	member_ring(c->ends[END_TO].member);
	report_opened(c);
	return 0;
}

/* rebuilding */

/* rebuild_end() - one table entry becomes one end; the windows of both sections stand in it */
static void rebuild_end(struct channel *c, struct member *own, uint32_t slot, const struct grant *g)
{
	unsigned end = g->connecting ? END_FROM : END_TO;
	struct channel_end *e = &c->ends[end], *peer = &c->ends[!end];

	e->present = true;
	e->slot = slot;
	e->generation = g->generation;
	if (e->member) /* the other table told the rest already */
		return;
	e->member = own;
	peer->member = &own->region->members[g->peer];
	memcpy(e->service, g->local_service, sizeof(e->service));
	memcpy(peer->service, g->peer_service, sizeof(peer->service));
	if (alloc_take_at(&own->alloc, g->tx_offset, g->tx_size) >= 0) {
		e->offset = g->tx_offset;
		e->size = g->tx_size;
	}
	if (alloc_take_at(&peer->member->alloc, g->rx_offset, g->rx_size) >= 0) {
		peer->offset = g->rx_offset;
		peer->size = g->rx_size;
	}
	c->ring_size = g->tx_size - SIVSHM_PAGE_SIZE;
	c->opened_usec = g->opened_usec;
}

/* grant_member() - whose entry it is, in the region it names; NULL: there is no such thing (any
 * more) */
static struct member *grant_member(struct manager *m, struct vm *vm, const struct grant *g)
{
	struct region *region = manager_region_by_number(m, g->region);
	struct member *own = region ? region_member(region, vm) : NULL;

	if (!own || g->peer >= region->n_members || g->peer == own->id ||
	    strcmp(region->members[g->peer].vm->name, g->peer_vm) != 0)
		return NULL;
	return own;
}

static int rebuild_slot(struct manager *m, struct vm *vm, uint32_t slot)
{
	struct member *own;
	struct channel *c;
	struct grant g;

	if (table_state(&vm->table, slot) == SIVSHM_GRANT_FREE)
		return 0;
	table_read(&vm->table, slot, &g);
	own = grant_member(m, vm, &g);
	c = channel_find(m, g.channel);
	if (!own || (c && (c->ends[g.connecting ? END_FROM : END_TO].present ||
			   c->ends[g.connecting ? END_FROM : END_TO].member != own))) {
		log_warning("VM %s: slot %u fits no region any more, withdrawn", vm->name, slot);
		table_set_state(&vm->table, slot, SIVSHM_GRANT_REVOKED);
		table_set_state(&vm->table, slot, SIVSHM_GRANT_FREE);
		return 0;
	}
	if (!c) {
		c = channel_new(m);
		if (!c)
			return -ENOMEM;
		memcpy(c->id, g.channel, sizeof(c->id));
		c->published = true;
	}
	rebuild_end(c, own, slot, &g);
	return 0;
}

/* revive() - go on where the predecessor was; @c may be freed */
static void revive(struct channel *c)
{
	const char *state = channel_state(c);
	bool whole = c->ends[END_FROM].size > 0 && c->ends[END_TO].size > 0;

	if (whole && strcmp(state, "active") == 0)
		return;
	c->closed = true; /* the predecessor has said so, or it never opened */
	if (strcmp(state, "draining") == 0 && start_drain_timer(c) >= 0)
		settle(c);
	else
		channel_withdraw(c, "closed");
}

int channels_rebuild(struct manager *m)
{
	struct channel *c, *next;
	int r = 0;

	for (size_t i = 0; i < m->n_vms; i++) {
		struct vm *vm = m->vms[i];

		for (uint32_t slot = 0; vm->table.header && slot < vm->table.n_slots && r >= 0;
		     slot++)
			r = rebuild_slot(m, vm, slot);
	}
	for (c = TAILQ_FIRST(&m->channels); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		revive(c);
	}
	return r;
}
