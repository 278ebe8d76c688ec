/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a grant to a channel fd.  The host may still be writing the entry, so a few tries are made.
 * Which slot it is came by messages, whose grant it is says the table: that has to be the session's. */
#ifndef SIVSHMD_OPENER_H
#define SIVSHMD_OPENER_H

#include <stdint.h>
#include <systemd/sd-event.h>

#include "device.h"
#include "message.h"

/** opener_fn - @fd is the callee's, or -1 with @error; called once, from the loop */
typedef void (*opener_fn)(int fd, const struct failure *error, void *userdata);

/** struct opener - one attempt; zero is an idle one */
struct opener {
	struct device *device;
	struct slot_ref ref;
	uint8_t session[SESSION_ID_SIZE];
	uid_t uid;
	uint64_t cgroup;
	unsigned tries;
	opener_fn fn;
	void *userdata;
	sd_event_source *timer;
};

/** opener_start() - @fn is called soon; never from here */
int opener_start(struct opener *o, sd_event *event, struct device *device,
		 const struct slot_ref *ref, const uint8_t session[SESSION_ID_SIZE], uid_t uid,
		 uint64_t cgroup, opener_fn fn, void *userdata);
/** opener_stop() - @fn is not called */
void opener_stop(struct opener *o);

#endif
