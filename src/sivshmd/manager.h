/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's state, and the paths between its parts. */
#ifndef SIVSHMD_MANAGER_H
#define SIVSHMD_MANAGER_H

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "bus-util.h"
#include "caller.h"
#include "channel.h"
#include "cleanup.h"
#include "control.h"
#include "device.h"
#include "identity.h"
#include "options.h"
#include "policy.h"
#include "quota.h"
#include "ratelimit.h"

#define MANAGER_BUS_NAME "org.sivshm1"
#define MANAGER_PATH "/org/sivshm1"

#define RING_SIZE_DEFAULT 65536
#define CONNECT_TIMEOUT_DEFAULT_USEC (10 * 1000000ULL)
#define CONNECT_TIMEOUT_MAX_USEC (60 * 1000000ULL)

struct connect;
struct listener;
struct session;

struct manager {
	const struct options *options;
	sd_event *event;
	sd_bus *bus;
	struct bus_access *access;
	struct policy *policy;
	struct quota *quota;
	struct device *device;
	struct control *control;
	struct identities *identities;
	struct channel *channels[SIVSHM_MAX_SLOTS]; /* by slot, owned */
	TAILQ_HEAD(, connect) connects;		    /* connect.c */
	TAILQ_HEAD(, listener) listeners;	    /* listener.c */
	TAILQ_HEAD(, session) sessions;		    /* accept.c */
	uint64_t last_listener;
	struct slot_ref *hello; /* what the last Hello named, owned */
	size_t n_hello;
	struct ratelimit refusals, denials;
	uint64_t storm_told;	 /* when the journal was told of one */
	uint64_t n_storms;	 /* since then */
	sd_event_source *settle; /* until systemd is told READY */
	sd_event_source *stop;
	sd_event_source *warm_up_timer; /* NULL: not begun, or over */
	struct warm_up *warm_up;	/* NULL before it begins; gone when it is over */
	bool is_warm;			/* it was begun: once is enough */
};

/** manager_new() - read the policy, make the parts; nothing acts yet */
int manager_new(const struct options *options, struct manager **ret);
struct manager *manager_free(struct manager *m);
DEFINE_CLEANUP(struct manager *, manager_free)

/**
 * manager_start() - get onto the bus, begin to look for device and host
 * The last step: tells systemd READY when the host is there, or when it does not come soon.
 */
int manager_start(struct manager *m);

/**
 * manager_stop() - tell everybody who waits, and the host; the event loop ends soon after
 * Channels live on in the kernel, for the next daemon to adopt.
 */
void manager_stop(struct manager *m);

/** manager_check_ready() - can a handshake begin? ERR_NOT_READY, ERR_HOST_UNAVAILABLE */
int manager_check_ready(struct manager *m, struct failure *error);
/** manager_reload() - the policy again, and what follows from it; the old one stays on error */
int manager_reload(struct manager *m, struct conf_error *error);
/** manager_client_gone() - a bus name vanished: everything it had under way is given back */
void manager_client_gone(struct manager *m, const char *name);
/** manager_authorize() - policy, and how many channels the service may have */
int manager_authorize(struct manager *m, const struct policy_question *q,
		      const struct policy_service **ret, struct failure *error);
/** manager_refused() - tell the journal and the bus; @caller may be NULL (a peer was refused) */
void manager_refused(struct manager *m, const char *service, const char *peer,
		     const struct failure *why, const struct caller *caller);
/** manager_cancel_session() - the host forgets it, and withdraws what it granted */
void manager_cancel_session(struct manager *m, const uint8_t session[SESSION_ID_SIZE]);
/** manager_opened() - tell the host that the kernel channel exists */
void manager_opened(struct manager *m, const uint8_t session[SESSION_ID_SIZE],
		    const struct slot_ref *ref);

/** manager_settled() - the host is there: systemd may be told READY */
void manager_settled(struct manager *m);
/** manager_tell_status() - what `systemctl status` shows */
void manager_tell_status(struct manager *m);

/* manager-host.c */
extern const struct control_handler manager_control_handler;

/* manager-bus.c, channel-bus.c, listener-bus.c */

/** manager_bus_start() - connect, offer the objects, take the name */
int manager_bus_start(struct manager *m);
int channel_bus_add(struct manager *m);
int listener_bus_add(struct manager *m);
/** manager_bus_is_full() - the bus does not read what is sent to it: no signals now */
bool manager_bus_is_full(struct manager *m);
/** manager_bus_identify() - the caller of @message; fails with @error set */
int manager_bus_identify(struct manager *m, sd_bus_message *message,
			 const struct bus_sender *sender, struct caller *ret, sd_bus_error *error);
void manager_bus_refused(struct manager *m, const char *service, const char *peer,
			 const char *error, uid_t uid);
void manager_bus_host_changed(struct manager *m);
void channel_bus_added(struct channel *c);
void channel_bus_removed(struct channel *c, const char *reason);
void channel_bus_state_changed(struct channel *c);
void listener_bus_incoming(struct listener *l, const struct peer_name *peer);
void listener_bus_waiting_changed(struct listener *l);

#endif
