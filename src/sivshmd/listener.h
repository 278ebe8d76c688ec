/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listeners: a service of this VM that can be connected to, for as long as the client that asked
 * for it stays on the bus.  A listener holds the connections that nobody has accepted yet, and the
 * Accept calls that no connection has come for.
 */
#ifndef SIVSHMD_LISTENER_H
#define SIVSHMD_LISTENER_H

#include <sys/queue.h>
#include <systemd/sd-bus.h>

#include "manager.h"
#include "steps.h"

#define LISTENER_PATH_PREFIX "/org/sivshm1/listener"
#define LISTENER_PATH_SIZE 64
#define BACKLOG_DEFAULT 8
#define BACKLOG_MAX 64

struct accept_call;

/** struct ready - a connection that waits for Accept; owned by its listener */
struct ready {
	TAILQ_ENTRY(ready) next;
	struct listener *listener;
	struct channel *channel;
	int fd;		   /* owned */
	char *certificate; /* owned, PEM of the peer */
	struct steps steps;
	uint64_t handshake_usec;
};

/**
 * struct listener
 * @caller:     who made it: holder of its channels, and who alone may accept
 * @message:    the Listen call, until the host has agreed
 * @announce:   Listen to the host, under way
 * @n_sessions: handshakes under way
 * @probe:      the bus is asked whether the creator is still there
 * @retry:      connections and Accept calls wait for the uid to read its answers; NULL until then
 */
struct listener {
	TAILQ_ENTRY(listener) next;
	struct manager *manager;
	char path[LISTENER_PATH_SIZE];
	struct caller caller;
	char service[SIVSHM_SERVICE_NAME_SIZE];
	unsigned backlog;
	uint64_t max_ring; /* 0: what the policy allows */
	sd_bus_message *message;
	struct rpc_call *announce;
	unsigned n_sessions;
	unsigned n_ready;
	TAILQ_HEAD(, ready) ready;
	unsigned n_accepts;
	TAILQ_HEAD(, accept_call) accepts;
	sd_event_source *retry;
	sd_bus_slot *probe;
};

/** struct listen_request - strings are borrowed */
struct listen_request {
	const char *service; /* "": the caller's only one */
	unsigned backlog;
	uint64_t max_ring;
};

/**
 * listener_start() - begin; @message is answered when the host has agreed
 * On failure nothing was begun, the caller of this answers @error and tells manager_refused().
 */
int listener_start(struct manager *m, const struct caller *caller, sd_bus_message *message,
		   const struct listen_request *request, struct failure *error);
/** listener_close() - everything that waits is ended with @why; frees it */
void listener_close(struct listener *l, const struct failure *why);
/** listener_accept() - @message is answered with the next connection; on failure with @error by the
 * caller of this */
int listener_accept(struct listener *l, sd_bus_message *message, uint64_t timeout_usec,
		    struct failure *error);
/** listener_has_room() - for one more handshake? */
bool listener_has_room(const struct listener *l);
/**
 * listener_check_owner() - close it if its creator has left the bus, once the bus has said so
 * Where somebody meets a listener that is in the way: a bus whose queue for this daemon is full
 * drops what it has to tell, the end of a client too.
 */
void listener_check_owner(struct listener *l);
/** listener_deliver() - takes over fd and certificate in @r (by value) on success */
int listener_deliver(struct listener *l, const struct ready *r);
/** ready_drop() - a waiting connection is of no more use: closes its fd */
void ready_drop(struct ready *r);

struct listener *listener_find(struct manager *m, const char *service);
struct listener *listener_find_path(struct manager *m, const char *path);
void listeners_client_gone(struct manager *m, const char *name);
void listeners_apply_policy(struct manager *m);
/** listeners_announce() - tell a host that said Welcome */
void listeners_announce(struct manager *m);
/** listeners_host_lost() - calls to the host are over */
void listeners_host_lost(struct manager *m, const struct failure *why);
void listeners_close_all(struct manager *m, const struct failure *why);

#endif
