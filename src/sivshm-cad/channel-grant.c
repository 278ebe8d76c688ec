/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From an agreed handshake to two grants: windows, slots, entries. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel-internal.h"
#include "log.h"
#include "manager-bus.h"
#include "manager.h"
#include "vm.h"

/* next_region() - from number *@i on: where both VMs' devices are connected; regions are in order
 * of names */
static struct region *next_region(struct manager *m, const struct channel_request *q, size_t *i)
{
	for (; *i < m->n_regions; (*i)++) {
		struct member *from = region_member(m->regions[*i], q->from_vm);
		struct member *to = region_member(m->regions[*i], q->to_vm);

		/* ready, not merely connected: until then the section is being zeroed */
		if (from && to && from != to && member_is_ready(from) && member_is_ready(to))
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
	channel_end_set_present(c, end, true);
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

	channel_format(c, id, from, to);
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
		channel_settle(c);
	else
		channel_free(c);
	return NULL;
}

_Static_assert(CHANNEL_ID_SIZE == SESSION_ID_SIZE, "a channel is called as its session");

/* The id in the grant is the session's, so that each daemon can tell its own session's grant from
 * all others, whatever slot it is told. */
static void fill_request(struct channel *c, const struct channel_request *q, channel_ready_fn ready,
			 void *userdata)
{
	c->ring_size = q->ring_size;
	c->ready = ready;
	c->userdata = userdata;
	snprintf(c->ends[END_FROM].service, SIVSHM_SERVICE_NAME_SIZE, "%s", q->from->service);
	snprintf(c->ends[END_TO].service, SIVSHM_SERVICE_NAME_SIZE, "%s", q->to->service);
	memcpy(c->id, q->session, sizeof(c->id));
}

int channel_prepare(struct manager *m, const struct channel_request *q, channel_ready_fn ready,
		    void *userdata, struct channel **ret, struct failure *error)
{
	struct channel *c = channel_new(m);
	int r;

	if (!c)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	fill_request(c, q, ready, userdata);
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
