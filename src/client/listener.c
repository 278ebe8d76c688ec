/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listener: a bus connection with one Accept call under way, always.
 *
 * The fd for the event loop is the bus socket.  It tells the truth because nothing is ever left in
 * sd-bus's own queue: every path that reads from the socket (listen, accept) ends with
 * sd_bus_process() having said "nothing more", and the next Accept is sent after that.  What the
 * socket then has is new: the answer, or the end of the bus.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/bus.h"
#include "client/channel.h"
#include "client/error.h"

/**
 * struct sivshm_listener
 * @answer:  of the Accept call, not yet looked at
 * @pending: the call under way
 * @opts:    for the channels; without the bus address, which is the caller's memory
 */
struct sivshm_listener {
	sd_bus *bus;
	sd_bus_slot *pending;
	sd_bus_message *answer;
	char *path;
	char what[96];
	struct sivshm_options opts;
};

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
	struct sivshm_listener *l = userdata;

	(void)ret_error;
	l->answer = sd_bus_message_ref(m);
	return 0;
}

static int start_accept(struct sivshm_listener *l)
{
	_cleanup_message_ sd_bus_message *m = NULL;
	int r;

	r = sd_bus_message_new_method_call(l->bus, &m, BUS_NAME, l->path, BUS_LISTENER, "Accept");
	if (r >= 0)
		r = sd_bus_message_append(m, "a{sv}", 0);
	if (r >= 0)
		r = sd_bus_call_async(l->bus, &l->pending, m, on_answer, l, UINT64_MAX);
	if (r >= 0)
		r = sd_bus_flush(l->bus);
	return r < 0 ? bus_failed(r, NULL, l->what) : 0;
}

static int call_listen(struct sivshm_listener *l, const char *service)
{
	_cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
	_cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;
	const char *path;
	int r;

	r = sd_bus_message_new_method_call(l->bus, &m, BUS_NAME, BUS_PATH, BUS_MANAGER, "Listen");
	if (r >= 0)
		r = sd_bus_message_append(m, "s", service);
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'a', "{sv}");
	if (r >= 0 && l->opts.backlog)
		r = sd_bus_message_append(m, "{sv}", "Backlog", "u", l->opts.backlog);
	if (r >= 0 && l->opts.ring_size)
		r = sd_bus_message_append(m, "{sv}", "MaxRingSize", "t", l->opts.ring_size);
	if (r >= 0)
		r = sd_bus_message_close_container(m);
	if (r >= 0)
		r = sd_bus_call(l->bus, m, 0, &e, &reply);
	if (r >= 0)
		r = sd_bus_message_read(reply, "o", &path);
	if (r < 0)
		return bus_failed(r, &e, l->what);
	l->path = strdup(path);
	return l->path ? 0 : error_channel(-ENOMEM);
}

/* Until sd-bus holds nothing that it has read and not handed on. */
static int drain(struct sivshm_listener *l)
{
	int r;

	do
		r = sd_bus_process(l->bus, NULL);
	while (r > 0);
	return r < 0 ? bus_failed(r, NULL, l->what) : 0;
}

static int listener_start(struct sivshm_listener *l, const char *service)
{
	int r;

	r = bus_open(l->opts.bus, &l->bus);
	if (r < 0)
		return r;
	l->opts.bus = NULL;
	r = call_listen(l, service);
	if (r < 0)
		return r;
	r = drain(l);
	return r < 0 ? r : start_accept(l);
}

int sivshm_listen(const char *service, const struct sivshm_options *opts,
		  struct sivshm_listener **ret)
{
	struct sivshm_listener *l;
	int r;

	if (!service || !ret)
		return error_channel(-EINVAL);
	l = calloc(1, sizeof(*l));
	if (!l)
		return error_channel(-ENOMEM);
	snprintf(l->what, sizeof(l->what), "listen as %s", service);
	r = channel_check_options(opts, &l->opts);
	if (r >= 0)
		r = listener_start(l, service);
	if (r < 0) {
		sivshm_listener_close(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* The answer becomes a channel; the next Accept goes out only when the socket was read empty. */
static int take_answer(struct sivshm_listener *l, struct sivshm_channel **ret)
{
	_cleanup_message_ sd_bus_message *answer = l->answer;
	int r, q;

	l->answer = NULL;
	l->pending = sd_bus_slot_unref(l->pending);
	if (sd_bus_message_is_method_error(answer, NULL))
		return bus_failed(-EIO, sd_bus_message_get_error(answer), l->what);
	r = bus_take_channel(answer, &l->opts, ret);
	q = start_accept(l);
	if (r == 0 && q < 0)
		*ret = sivshm_close(*ret);
	return r < 0 ? r : q;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000ull + (uint64_t)t.tv_nsec / 1000;
}

static int wait_bus(struct sivshm_listener *l, uint64_t deadline)
{
	struct pollfd p = {.fd = sd_bus_get_fd(l->bus), .events = POLLIN};
	uint64_t t = now_us();
	struct timespec ts;
	int r;

	if (t >= deadline)
		return error_channel(-ETIMEDOUT);
	ts.tv_sec = (time_t)((deadline - t) / 1000000ull);
	ts.tv_nsec = (long)((deadline - t) % 1000000ull) * 1000;
	r = ppoll(&p, 1, deadline == UINT64_MAX ? NULL : &ts, NULL);
	return r < 0 ? error_channel(-errno) : 0;
}

int sivshm_accept(struct sivshm_listener *l, uint64_t timeout_us, struct sivshm_channel **ret)
{
	uint64_t t, deadline = UINT64_MAX;
	int r;

	if (!l || !ret)
		return error_channel(-EINVAL);
	if (!l->pending)
		return error_set(-EPIPE, "%s: the listener has ended; close it and listen again",
				 l->what);
	t = now_us();
	if (timeout_us < UINT64_MAX - t)
		deadline = t + timeout_us;
	for (;;) {
		r = drain(l);
		if (r < 0)
			return r;
		if (l->answer)
			return take_answer(l, ret);
		if (!timeout_us)
			return error_literal(-EAGAIN, "no connection waits");
		r = wait_bus(l, deadline);
		if (r < 0)
			return r;
	}
}

int sivshm_listener_get_fd(struct sivshm_listener *l)
{
	return l ? sd_bus_get_fd(l->bus) : error_channel(-EINVAL);
}

struct sivshm_listener *sivshm_listener_close(struct sivshm_listener *l)
{
	if (!l)
		return NULL;
	sd_bus_slot_unref(l->pending);
	sd_bus_message_unref(l->answer);
	/* Leaving the bus ends the listener at sivshmd's end. */
	sd_bus_flush_close_unref(l->bus);
	free(l->path);
	free(l);
	return NULL;
}
