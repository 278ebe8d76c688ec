/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making a part of a section file zero, in steps between other events: a gigabyte takes the kernel a
 * third of a second, and no VM waits that long for another one's memory.
 */
#ifndef CAD_SCRUB_H
#define CAD_SCRUB_H

#include <stdint.h>
#include <systemd/sd-event.h>

#include "cleanup.h"

#define SCRUB_STEP (16ULL * 1024 * 1024)

struct scrub;

enum scrub_kind {
	SCRUB_EMPTY, /* reads as zero, and its memory is the system's again */
	SCRUB_FILL, /* zero, and memory is there: whoever touches it does not die of SIGBUS */
};

/** scrub_fn - from the event loop, once; @r: 0 or negative errno.  The object is gone already. */
typedef void (*scrub_fn)(int r, void *userdata);

/**
 * scrub_start() - @fd is borrowed until the end
 * Returns 1: all done, @fn is not called; 0: under way, @ret is set; negative errno: nothing to wait for
 */
int scrub_start(sd_event *event, int fd, uint64_t offset, uint64_t size, enum scrub_kind kind,
		scrub_fn fn, void *userdata, struct scrub **ret);
/** scrub_cancel() - @fn is not called; NULL is fine; returns NULL */
struct scrub *scrub_cancel(struct scrub *s);

#endif
