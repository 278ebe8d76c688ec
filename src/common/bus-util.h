/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both daemons do on the bus: connect, errors, and who a caller is and may do.  No function
 * but bus_open() waits; sd_bus_query_sender_creds() and _privilege() do (they ask the bus and sit
 * for the answer), so methods are declared SD_BUS_VTABLE_UNPRIVILEGED and ask here.
 */
#ifndef SIVSHM_BUS_UTIL_H
#define SIVSHM_BUS_UTIL_H

#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "cleanup.h"
#include "errors.h"

/**
 * bus_open() - connect and attach to @event
 * @address: NULL or "": the system bus (or $DBUS_SYSTEM_BUS_ADDRESS)
 * @ret: unref with sd_bus_flush_close_unref()
 */
int bus_open(sd_event *event, const char *address, sd_bus **ret);

/** bus_error_set_failure() - name by error_dbus_name(), text; returns the negative errno, for a
 * method handler */
int bus_error_set_failure(sd_bus_error *error, const struct failure *f);
/** bus_reply_failure() - answer @m later, outside its handler */
int bus_reply_failure(sd_bus_message *m, const struct failure *f);

/**
 * struct bus_sender - who sent a message, as the bus knows it
 * @pid: of the process that opened the connection, not necessarily alive; 0: unknown
 * @pidfd: the same process, from a bus that tells (ProcessFD), else -1; borrowed
 * @arrived_usec: when the message came, CLOCK_MONOTONIC
 */
struct bus_sender {
	uid_t uid;
	pid_t pid;
	int pidfd;
	uint64_t arrived_usec;
};

/**
 * struct bus_access - questions to the bus and polkit about callers, under way
 * Bounded in number, and for each caller (unique name), so that nobody can pile them up.  The
 * userdata of a question has to live as long as the struct bus_access: give the manager, and look
 * the object up by the message's path when the answer is there.
 */
struct bus_access;

#define BUS_ACCESS_MAX 4096 /* what the 256 connections of one user can have */
#define BUS_ACCESS_MAX_PER_SENDER 16
#define BUS_ACCESS_MAX_POLKIT 32 /* polkit may wait for people: these leave room for the others */

int bus_access_new(sd_bus *bus, struct bus_access **ret);
/** bus_access_free() - questions under way are dropped: their callbacks are not called */
struct bus_access *bus_access_free(struct bus_access *a);
DEFINE_CLEANUP(struct bus_access *, bus_access_free)

/**
 * bus_access_fn - the caller is known (and allowed); called once, from the event loop
 * Like a method handler: acts and replies to @m (ref it to keep it), or returns a negative errno
 * with @error set or not, which is then sent as the reply.
 */
typedef int (*bus_access_fn)(sd_bus_message *m, const struct bus_sender *sender, void *userdata,
			     sd_bus_error *error);

/**
 * bus_access_identify() - ask the bus for the sender's uid and pid, then call @fn
 * For use as `return bus_access_identify(...)` in a method handler: 1 (the reply comes later), or a
 * negative errno.  When the bus cannot tell, the caller gets AccessDenied and @fn is not called.
 */
int bus_access_identify(struct bus_access *a, sd_bus_message *m, bus_access_fn fn, void *userdata);
/**
 * bus_access_authorize() - as bus_access_identify(), but @fn is called only for root, or when
 * polkit grants @action; everybody else gets AccessDenied.  Without polkit on the bus: root alone.
 */
int bus_access_authorize(struct bus_access *a, sd_bus_message *m, const char *action,
			 bus_access_fn fn, void *userdata);

#endif
