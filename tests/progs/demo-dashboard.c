/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dashboard: receives what demo-sensor sends, and checks every message.
 *
 *	demo-dashboard --as SERVICE [--once]
 *
 * Prints a JSON object per line: {"event": "listening" | "connected" | "progress" | "closed" |
 * "revoked" | "corrupt" | "failed", ...}.  Goes on with the next connection unless --once.  Exit 0:
 * --once and the sensor closed; 1: anything else.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "client/sivshm.h"
#include "json-out.h"
#include "measurement.h"

#define REPORT_NS 1000000000ull

struct dashboard {
	uint64_t messages;
	uint64_t bytes;
	uint64_t corrupt;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void print_state(const struct dashboard *d, const char *event, int r)
{
	print_json(json_pack("{ss ss ss sI sI sI}", "event", event, "error", errno_name(r), "text",
			     r ? sivshm_last_error() : "", "messages", (json_int_t)d->messages,
			     "bytes", (json_int_t)d->bytes, "corrupt", (json_int_t)d->corrupt));
}

static const char *event_for(int r)
{
	switch (r) {
	case -EACCES:
		return "refused";
	case -EPIPE:
		return "closed";
	case -ENOLINK:
		return "revoked";
	case -EBADMSG:
		return "corrupt";
	default:
		return "failed";
	}
}

static bool is_next(const struct dashboard *d, const struct measurement *m, size_t size)
{
	if (size < sizeof(*m) || m->sequence != d->messages)
		return false;
	return m->sum == measurement_sum(m->sequence, m->payload, size - sizeof(*m));
}

static int receive_all(struct dashboard *d, struct sivshm_channel *c, void *buffer)
{
	uint64_t next_report = now_ns() + REPORT_NS;

	for (;;) {
		ssize_t n = sivshm_recv(c, buffer, MEASUREMENT_MAX, NULL, REPORT_NS / 1000);

		if (n < 0 && n != -ETIMEDOUT)
			return (int)n;
		if (n >= 0 && !is_next(d, buffer, (size_t)n)) {
			d->corrupt++;
			return -EBADMSG;
		}
		if (n >= 0) {
			d->messages++;
			d->bytes += (uint64_t)n;
		}
		if (d->messages % 64 == 0 || n < 0)
			if (now_ns() >= next_report) {
				next_report = now_ns() + REPORT_NS;
				print_state(d, "progress", 0);
			}
	}
}

static int serve(struct sivshm_channel *c)
{
	struct dashboard d = {};
	void *buffer = malloc(MEASUREMENT_MAX);
	int r;

	if (!buffer)
		return -ENOMEM;
	print_json(json_pack("{ss ss ss ss}", "event", "connected", "local", sivshm_local(c),
			     "peer", sivshm_peer(c), "peer_spiffe", sivshm_peer_spiffe(c)));
	r = receive_all(&d, c, buffer);
	print_state(&d, event_for(r), r);
	free(buffer);
	return r;
}

static int run(const char *as, const char *bus, bool once)
{
	struct sivshm_options o = {.size = sizeof(o), .bus = bus};
	struct dashboard none = {};
	struct sivshm_listener *l;
	struct sivshm_channel *c;
	int r;

	r = sivshm_listen(as, &o, &l);
	if (r < 0) {
		print_state(&none, event_for(r), r);
		return r;
	}
	print_json(json_pack("{ss ss}", "event", "listening", "local", as));
	do {
		r = sivshm_accept(l, SIVSHM_FOREVER, &c);
		if (r < 0 && r != -ENOLINK) {
			print_state(&none, event_for(r), r);
			break;
		}
		if (r == 0) {
			r = serve(c);
			sivshm_close(c);
		}
	} while (!once);
	sivshm_listener_close(l);
	return r == -EPIPE && once ? 0 : r;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"as", required_argument, NULL, 'a'},
		{"bus", required_argument, NULL, 'b'},
		{"once", no_argument, NULL, 'o'},
		{},
	};
	const char *as = NULL, *bus = NULL;
	bool once = false;
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (o) {
		case 'a':
			as = optarg;
			break;
		case 'b':
			bus = optarg;
			break;
		case 'o':
			once = true;
			break;
		default:
			return 2;
		}
	if (!as)
		errx(2, "usage: demo-dashboard --as SERVICE [--once]");
	return run(as, bus, once) < 0;
}
