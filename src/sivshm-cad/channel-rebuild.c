/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After a restart: the grant tables say which channels there are. */
#include <errno.h>
#include <string.h>

#include "channel-internal.h"
#include "log.h"
#include "manager.h"
#include "vm.h"

/* rebuild_end() - one table entry becomes one end; the windows of both sections stand in it */
static void rebuild_end(struct channel *c, struct member *own, uint32_t slot, const struct grant *g)
{
	unsigned end = g->connecting ? END_FROM : END_TO;
	struct channel_end *e = &c->ends[end], *peer = &c->ends[!end];
	bool told = e->member; /* the other table told the rest already */

	e->member = own;
	e->slot = slot;
	e->generation = g->generation;
	channel_end_set_present(c, end, true);
	if (told)
		return;
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
	if (strcmp(state, "draining") == 0 && channel_start_drain_timer(c) >= 0)
		channel_settle(c);
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
