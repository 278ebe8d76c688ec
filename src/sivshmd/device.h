/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /dev/sivshm: ioctls and events.  The device may come late; a device that cannot be opened is
 * tried again, seldom, for as long as the daemon lives.
 */
#ifndef SIVSHMD_DEVICE_H
#define SIVSHMD_DEVICE_H

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "cleanup.h"
#include "errors.h"
#include "message.h"
#include "sivshm.h"

struct device;

/**
 * struct device_handler - what the owner of a device is told; static
 * @opened: the device is there and has the right ABI
 * @event:  one event of the kernel
 * @lost:   the device broke; it is tried again
 */
struct device_handler {
	void (*opened)(void *userdata);
	void (*event)(const struct sivshm_event *event, void *userdata);
	void (*lost)(void *userdata);
};

/** device_new() - @path, @handler, @userdata are borrowed */
int device_new(sd_event *event, const char *path, const struct device_handler *handler,
	       void *userdata, struct device **ret);
struct device *device_free(struct device *d);
DEFINE_CLEANUP(struct device *, device_free)

/** device_start() - try to open, now and later; opened() may be called from here */
int device_start(struct device *d);
bool device_is_open(const struct device *d);
/** device_info() - -ENODEV when the device is not open; see struct sivshm_info for the others */
int device_info(struct device *d, struct sivshm_info *ret);
/** device_section() - by index; -ENOENT behind the last */
int device_section(struct device *d, unsigned index, struct sivshm_section *ret);
/** device_slot() - by number; -ENOENT behind the last */
int device_slot(struct device *d, unsigned slot, struct sivshm_slot *ret);
/** device_open_channel() - the new fd is the caller's; errors of SIVSHM_OPEN */
int device_open_channel(struct device *d, const struct slot_ref *ref, uid_t uid, uint64_t cgroup,
			int *ret_fd);
int device_adopt(struct device *d, const struct slot_ref *ref);
/** device_close_channel() - take the channel from its holder; REVOKED and RELEASED events follow */
int device_close_channel(struct device *d, const struct slot_ref *ref);
/** device_failure() - @r of a call above as a named error */
int device_failure(int r, struct failure *error);

#endif
