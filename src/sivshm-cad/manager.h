/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's state.  Owns everything; lives as long as the process. */
#ifndef CAD_MANAGER_H
#define CAD_MANAGER_H

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "ca.h"
#include "certificates.h"
#include "config.h"
#include "fdstore.h"
#include "revocations.h"
#include "tree.h"

#define DEFAULT_RUNTIME_DIR "/run/sivshm-ca"
#define DEFAULT_STATE_DIR "/var/lib/sivshm-ca"

struct bus_access;
struct channel;
struct region;
struct session;
struct vm;

/** struct options - from the command line; borrowed strings */
struct options {
	const char *bus_address; /* NULL: the system bus, if it is there */
	const char *config_root;
	const char *runtime_dir;
	const char *state_dir;
	bool allow_non_tmpfs;
	bool check_config;
};

struct manager {
	const struct options *options;
	sd_event *event;
	sd_bus *bus; /* NULL: none */
	sd_event_source *bus_retry;
	struct bus_access *access;
	sd_event_source *expire_timer;

	struct config *config;
	struct ca *ca;
	struct revocations revoked;
	struct certificates certificates;
	int issued_fd; /* append-only file of what was issued */
	struct tree tree;
	struct fdstore *restored; /* while starting: what a predecessor left */

	struct vm **vms;
	size_t n_vms;
	struct region **regions;
	size_t n_regions;
	uint32_t last_region_number;
	TAILQ_HEAD(, channel) channels;
	TAILQ_HEAD(, session) sessions;
};

/* What manager_new() fails with when the CA or another file of the state cannot be used, which it
 * has told.  Unlike a wrong configuration it may come right by itself: a clock that is set late, a
 * certificate that somebody renews. */
#define STATE_UNUSABLE ESTALE

/** manager_new() - everything but the bus; nothing answers before the loop runs */
int manager_new(const struct options *options, sd_event *event, struct manager **ret);
struct manager *manager_free(struct manager *m);
DEFINE_CLEANUP(struct manager *, manager_free)

/** manager_reload() - read the configuration again; on error the old one stays and @error says why
 */
int manager_reload(struct manager *m, struct conf_error *error);

struct vm *manager_find_vm(const struct manager *m, const char *name);
struct region *manager_find_region(const struct manager *m, const char *name);
struct region *manager_region_by_number(const struct manager *m, uint32_t number);

/* Times of the loop (monotonic) and of the world (since the epoch). */
uint64_t manager_now(const struct manager *m);
uint64_t manager_realtime_usec(void);

#endif
