/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What channel.c (life and end), channel-grant.c (beginning) and channel-rebuild.c (restart) share. */
#ifndef CAD_CHANNEL_INTERNAL_H
#define CAD_CHANNEL_INTERNAL_H

#include "channel.h"

/** channel_new() - empty, on the manager's list; NULL: out of memory */
struct channel *channel_new(struct manager *m);
/** channel_free() - memory alone; NULL is fine, returns NULL */
struct channel *channel_free(struct channel *c);
/** channel_end_set_present() - it has an entry in its VM's table, or no longer */
void channel_end_set_present(struct channel *c, unsigned end, bool present);
/** channel_end_state() - what the table says; FREE when this end has no entry */
uint32_t channel_end_state(const struct channel_end *e);
/**
 * channel_settle() - quarantine when nobody may use the windows; back to the allocator when nobody can
 * Frees the channel then.
 */
void channel_settle(struct channel *c);
int channel_start_drain_timer(struct channel *c);
/** channel_format() - id and both ends for people */
void channel_format(const struct channel *c, char id[CHANNEL_ID_TEXT], char from[PEER_NAME_SIZE],
		    char to[PEER_NAME_SIZE]);

#endif
