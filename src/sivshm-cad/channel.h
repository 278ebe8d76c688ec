/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel: a window in each member's section and a grant in each member's table.  The tables are
 * the truth about states; this object ties the two ends together and can be rebuilt from them.
 *
 *	prepared (windows zero) -> both ends ACTIVE -> one end gone, other DRAINING -> REVOKED -> both ends gone: windows are
 *free
 *
 * An end is gone when its VM's kernel said so (Released, or Hello without it) or the VM ended.
 */
#ifndef CAD_CHANNEL_H
#define CAD_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "errors.h"
#include "message.h"
#include "region.h"
#include "table.h"

#define CHANNEL_ID_TEXT (2 * CHANNEL_ID_SIZE + 1)

enum { END_FROM, END_TO, N_ENDS };

/** struct channel_end - @present: its table entry is not FREE and its windows may be mapped there */
struct channel_end {
	struct member *member;
	char service[SIVSHM_SERVICE_NAME_SIZE];
	bool present;
	uint32_t slot, generation;
	uint64_t offset; /* window in the member's own section */
	uint64_t size; /* 0: there is none to give back */
};

struct channel;

/** channel_ready_fn - the windows are zero, or @r says why not; from the event loop */
typedef void (*channel_ready_fn)(struct channel *c, int r, void *userdata);

struct channel {
	struct manager *manager;
	TAILQ_ENTRY(channel) entry;
	uint8_t id[CHANNEL_ID_SIZE];
	struct channel_end ends[N_ENDS];
	uint64_t ring_size;
	uint64_t opened_usec; /* since the epoch */
	bool published; /* has, or had, grants */
	bool closed; /* reported as closed */
	sd_event_source *drain_timer;

	/* before it is published */
	struct scrub *scrub;
	unsigned n_clean; /* ends whose window is zero */
	channel_ready_fn ready;
	void *userdata;
};

/** struct channel_request - who with whom; names as authenticated.  @session becomes the channel's id */
struct channel_request {
	const uint8_t *session;
	const struct peer_name *from, *to;
	struct vm *from_vm, *to_vm;
	uint64_t ring_size;
};

/**
 * channel_prepare() - take windows in the first region that has room, and zero them
 * Returns 1: to be published now; 0: @ready is called when they are; negative errno with @error.
 * The caller publishes or abandons it.
 */
int channel_prepare(struct manager *m, const struct channel_request *request, channel_ready_fn ready,
		    void *userdata, struct channel **ret, struct failure *error);
/** channel_publish() - slots, both grants ACTIVE, both kernels rung; on error it is still to be abandoned */
int channel_publish(struct channel *c, struct failure *error);
/** channel_abandon() - one that was not published: everything is given back; NULL is fine, returns NULL */
struct channel *channel_abandon(struct channel *c);
/** channel_is_possible() - has some region the devices of both connected? */
bool channel_is_possible(struct manager *m, struct vm *from, struct vm *to);
/**
 * channel_withdraw() - REVOKED at both ends; @reason as in ChannelClosed
 * May free the channel.
 */
void channel_withdraw(struct channel *c, const char *reason);
/** channel_end_gone() - nobody in that VM maps the windows any more; may free the channel */
void channel_end_gone(struct channel *c, unsigned end, const char *reason);
/** channels_member_gone() - a QEMU ended: its ends are gone, the other ones revoked, what is prepared fails */
void channels_member_gone(struct member *member);
/** channels_rebuild() - from the grant tables; what is half-made is withdrawn */
int channels_rebuild(struct manager *m);
/** channels_free() - memory only; tables stay as they are */
void channels_free(struct manager *m);

struct channel *channel_find(const struct manager *m, const uint8_t id[CHANNEL_ID_SIZE]);
/** channel_find_slot() - the channel that has this slot of @vm, any generation; @ret_end: which end
 * it is */
struct channel *channel_find_slot(const struct vm *vm, uint32_t slot, unsigned *ret_end);
/** channel_is_open() - ACTIVE at both ends */
bool channel_is_open(const struct channel *c);
/** channel_state() - "active", "draining", "revoked" */
const char *channel_state(const struct channel *c);
void channel_name(const struct channel *c, unsigned end, struct peer_name *ret);
/** channels_count() - published channels of that pair whose windows are not free yet */
unsigned channels_count(const struct manager *m, const struct peer_name *from,
			const struct peer_name *to);

#endif
