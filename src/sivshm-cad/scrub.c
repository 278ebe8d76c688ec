/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "scrub.h"

struct scrub {
	sd_event_source *source;
	int fd;
	uint64_t at, end;
	enum scrub_kind kind;
	scrub_fn fn;
	void *userdata;
};

struct scrub *scrub_cancel(struct scrub *s)
{
	if (!s)
		return NULL;
	sd_event_source_disable_unref(s->source);
	free(s);
	return NULL;
}

static int clear(int fd, uint64_t offset, uint64_t size, enum scrub_kind kind)
{
	/* a hole reads as zeroes, whatever the owner wrote here before */
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) <
	    0)
		return -errno;
	if (kind == SCRUB_FILL && fallocate(fd, 0, (off_t)offset, (off_t)size) < 0)
		return -errno;
	return 0;
}

/* step() - 1: all done; 0: more to do */
static int step(struct scrub *s)
{
	uint64_t size = s->end - s->at < SCRUB_STEP ? s->end - s->at : SCRUB_STEP;
	int r = clear(s->fd, s->at, size, s->kind);

	if (r < 0)
		return r;
	s->at += size;
	return s->at == s->end;
}

static int next_turn(sd_event_source *source)
{
	int r = sd_event_source_set_time(source, 0);

	return r < 0 ? r : sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int on_turn(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct scrub *s = userdata;
	scrub_fn fn = s->fn;
	int r = step(s);

	(void)usec;
	if (r == 0) {
		r = next_turn(source);
		if (r >= 0)
			return 0;
	}
	userdata = s->userdata;
	scrub_cancel(s);
	fn(r < 0 ? r : 0, userdata);
	return 0;
}

int scrub_start(sd_event *event, int fd, uint64_t offset, uint64_t size, enum scrub_kind kind,
		scrub_fn fn, void *userdata, struct scrub **ret)
{
	struct scrub *s = malloc(sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	*s = (struct scrub){NULL, fd, offset, offset + size, kind, fn, userdata};
	r = step(s);
	if (r != 0) {
		free(s);
		return r;
	}
	/* In turn with all else.  With less priority a VM that always has something to say would
	 * keep others waiting for memory; a deferred source would keep everybody waiting for it. */
	r = sd_event_add_time(event, &s->source, CLOCK_MONOTONIC, 0, 1, on_turn, s);
	if (r < 0) {
		scrub_cancel(s);
		return r;
	}
	*ret = s;
	return 0;
}
