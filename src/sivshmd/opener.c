/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "opener.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "clock.h"

#define TRIES 64
#define RETRY_USEC (2 * USEC_PER_MSEC)

/* EAGAIN: the host is writing; EBUSY: the former channel of the slot is just going. */
static bool is_passing(int r)
{
	return r == -EAGAIN || r == -EBUSY;
}

/* What has this generation does not change any more, but for its state: no race with the open. */
static int check_session(const struct opener *o)
{
	struct sivshm_slot s;
	int r = device_slot(o->device, o->ref.slot, &s);

	if (r < 0 || s.generation != o->ref.generation)
		return r; /* the open says what is wrong */
	return memcmp(s.channel_id, o->session, SESSION_ID_SIZE) == 0 ? 0 : -EKEYREJECTED;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct opener *o = userdata;
	struct failure error;
	int fd = -1, r;

	(void)usec;
	r = check_session(o);
	if (r >= 0)
		r = device_open_channel(o->device, &o->ref, o->uid, o->cgroup, &fd);
	if (is_passing(r) && ++o->tries < TRIES &&
	    sd_event_source_set_time_relative(s, RETRY_USEC) >= 0 &&
	    sd_event_source_set_enabled(s, SD_EVENT_ONESHOT) >= 0)
		return 0;
	o->timer = sd_event_source_disable_unref(o->timer);
	if (r < 0)
		device_failure(r, &error);
	o->fn(fd, r < 0 ? &error : NULL, o->userdata);
	return 0;
}

int opener_start(struct opener *o, sd_event *event, struct device *device,
		 const struct slot_ref *ref, const uint8_t session[SESSION_ID_SIZE], uid_t uid,
		 uint64_t cgroup, opener_fn fn, void *userdata)
{
	*o = (struct opener){
		.device = device,
		.ref = *ref,
		.uid = uid,
		.cgroup = cgroup,
		.fn = fn,
		.userdata = userdata,
	};
	memcpy(o->session, session, sizeof(o->session));
	return sd_event_add_time_relative(event, &o->timer, CLOCK_MONOTONIC, 0, 1, on_timer, o);
}

void opener_stop(struct opener *o)
{
	o->timer = sd_event_source_disable_unref(o->timer);
}
