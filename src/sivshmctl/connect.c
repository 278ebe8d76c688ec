/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* connect and listen */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel-util.h"

static void say_connected(const struct sivshm_channel *c)
{
	fprintf(stderr, "connected: %s to %s%s%s\n", sivshm_local(c), sivshm_peer(c),
		*sivshm_peer_spiffe(c) ? ", " : "", sivshm_peer_spiffe(c));
}

int verb_connect(const struct settings *s)
{
	struct sivshm_options o = channel_options(s);
	struct sivshm_channel *c;
	int r;

	r = sivshm_connect(s->as, s->args[0], &o, &c);
	if (r < 0)
		return channel_failed(r);
	say_connected(c);
	r = netcat_run(c, true, s->quit);
	sivshm_close(c);
	return r;
}

static void *echo_thread(void *arg)
{
	echo_run(arg);
	sivshm_close(arg);
	return NULL;
}

/* Each peer has a thread: it spins before it sleeps, and peers do not wait for each other. */
static int serve_in_thread(struct sivshm_channel *c)
{
	pthread_t t;
	int r = pthread_create(&t, NULL, echo_thread, c);

	if (r) {
		fprintf(stderr, "sivshmctl: thread: %s\n", strerror(r));
		sivshm_close(c);
		return EXIT_FAILURE;
	}
	pthread_detach(t);
	return EXIT_SUCCESS;
}

static int serve(const struct settings *s, struct sivshm_channel *c)
{
	int r;

	say_connected(c);
	if (s->echo && s->keep)
		return serve_in_thread(c);
	r = s->echo ? echo_run(c) : netcat_run(c, !s->keep, s->quit);
	sivshm_close(c);
	return r;
}

int verb_listen(const struct settings *s)
{
	struct sivshm_options o = channel_options(s);
	struct sivshm_listener *l;
	struct sivshm_channel *c;
	int r;

	r = sivshm_listen(s->args[0], &o, &l);
	if (r < 0)
		return channel_failed(r);
	fprintf(stderr, "listening: %s\n", s->args[0]);
	do {
		r = sivshm_accept(l, SIVSHM_FOREVER, &c);
		/* A peer that was revoked while it waited ends its channel, not this program. */
		if (r == -ENOLINK && s->keep) {
			channel_failed(r);
			r = 0;
			continue;
		}
		if (r < 0) {
			r = channel_failed(r);
			break;
		}
		r = serve(s, c);
	} while (s->keep);
	sivshm_listener_close(l);
	return r;
}
