/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Channels that exist in the kernel, one object on the bus for each.  A channel begins when its
 * slot was opened (or adopted) and ends with the kernel's RELEASED; this daemon holds no fd of it.
 */
#ifndef SIVSHMD_CHANNEL_H
#define SIVSHMD_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "caller.h"
#include "device.h"
#include "message.h"
#include "names.h"
#include "policy.h"

#define CHANNEL_PATH_PREFIX "/org/sivshm1/channel"
#define CHANNEL_PATH_SIZE 64

/* fds of one uid on their way to it.  The bus carries 64 of this daemon, and when these are reached
 * it reads nothing of it any more: a client that leaves its answers there would stop all others. */
#define UNDELIVERED_MAX 16

struct manager;
struct ready;
struct steps;

/* why a channel ended (ChannelRemoved) */
#define REASON_CLOSED "closed"
#define REASON_PEER_CLOSED "peer-closed"
#define REASON_REVOKED "revoked"
#define REASON_POLICY "policy"
#define REASON_DEVICE_GONE "device-gone"

/**
 * struct channel
 * @act:     POLICY_CONNECT or POLICY_ACCEPT: the rule it rests on; POLICY_BE when adopted: either
 * @unit_is_known: "" is no unit then; not of one that was adopted and whose group was not found
 * @reason:  why it will end, once that is known; literal
 * @waiting: not accepted yet; owned by its listener
 * @used:    the holder has the fd, as far as is known
 */
struct channel {
	struct manager *manager;
	char path[CHANNEL_PATH_SIZE];
	struct slot_ref ref;
	char local[SIVSHM_SERVICE_NAME_SIZE];
	struct peer_name peer;
	uint64_t ring_size;
	uid_t uid;
	uint64_t cgroup;
	char unit[UNIT_NAME_SIZE];
	bool unit_is_known;
	enum policy_act act;
	enum sivshm_grant_state state;
	const char *reason;
	struct ready *waiting;
	bool used;
};

/** struct channel_spec - what channel_new() is told; pointers are borrowed */
struct channel_spec {
	struct slot_ref ref;
	const char *local;
	const struct peer_name *peer;
	uint64_t ring_size;
	uid_t uid;
	uint64_t cgroup;
	const char *unit;
	enum policy_act act;
	enum sivshm_grant_state state;
};

/** channel_new() - owned by the manager until channel_event() sees its end */
int channel_new(struct manager *m, const struct channel_spec *spec, struct channel **ret);
/**
 * channel_announce() - journal and signal; after the caller has its answer, who waits for it
 * @steps: of the handshake; NULL for a channel that was there before
 */
void channel_announce(struct channel *c, const struct steps *steps);
/**
 * channels_check_delivered() - may one more fd be sent to @uid?
 * -EDQUOT with @error when UNDELIVERED_MAX were sent, or are promised by its Connect calls, and it
 * has not used them
 */
int channels_check_delivered(struct manager *m, uid_t uid, struct failure *error);
/** channels_free() - silent */
void channels_free(struct manager *m);
/** channels_adopt() - take over what a former owner has left in the kernel */
void channels_adopt(struct manager *m);
/** channels_lost() - the device broke: objects go; what the kernel still holds comes back by
 * adoption */
void channels_lost(struct manager *m);
/** channel_find() - NULL when there is none of that generation */
struct channel *channel_find(struct manager *m, const struct slot_ref *ref);
/** channel_find_path() - by object path */
struct channel *channel_find_path(struct manager *m, const char *path);
/** channel_close() - take it from its holder; its object goes with the kernel's RELEASED */
void channel_close(struct channel *c, const char *reason);
/** channel_event() - RELEASED, REVOKED, DRAINING, DENIED */
void channel_event(struct manager *m, const struct sivshm_event *event);
/** channel_is_released() - does the kernel say that nobody uses this grant any more? */
bool channel_is_released(struct manager *m, const struct slot_ref *ref);
/**
 * channel_never_opened() - a grant that came to nothing here
 * The host gives its windows to nobody else before it has heard that this kernel does not map them:
 * says so, unless the kernel has a channel of it after all.
 */
void channel_never_opened(struct manager *m, const struct slot_ref *ref);
/** channels_in_kernel() - for Hello; the caller frees @ret */
int channels_in_kernel(struct manager *m, struct slot_ref **ret, size_t *ret_n);
/** channels_count() - of one service */
unsigned channels_count(struct manager *m, const char *service);
/** channels_apply_policy() - close those the policy does not allow (any more) */
void channels_apply_policy(struct manager *m);
const char *channel_state_name(const struct channel *c);

#endif
