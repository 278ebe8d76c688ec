/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sensor: streams numbered, checksummed messages to a peer.
 *
 *	demo-sensor --to VM/SERVICE [--as SERVICE] [--size BYTES] [--rate PER_SECOND] [--count N]
 *
 * Tries to connect until somebody listens.  Prints a JSON object per line: {"event": "connected" |
 * "progress" | "refused" | "closed" | "revoked" | "failed", ...}.  Exit 0: --count messages sent;
 * 1: anything else ended it.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "client/sivshm.h"
#include "json-out.h"
#include "measurement.h"

#define RETRY_NS 200000000ull
#define REPORT_NS 1000000000ull

struct sensor {
	const char *as;
	const char *to;
	const char *bus;
	size_t size;
	uint64_t rate;
	uint64_t count;
	uint64_t sent;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
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
	default:
		return "failed";
	}
}

static void print_end(const struct sensor *s, int r)
{
	print_json(json_pack("{ss ss ss sI}", "event", event_for(r), "error", errno_name(r), "text",
			     sivshm_last_error(), "messages", (json_int_t)s->sent));
}

static int connect_patiently(const struct sensor *s, struct sivshm_channel **ret)
{
	struct sivshm_options o = {.size = sizeof(o), .bus = s->bus};
	uint64_t began = now_ns();
	int r;

	while ((r = sivshm_connect(s->as, s->to, &o, ret)) == -ECONNREFUSED || r == -EHOSTDOWN ||
	       r == -ENOENT)
		sleep_until(now_ns() + RETRY_NS);
	if (r == 0)
		print_json(json_pack("{ss ss ss ss sf}", "event", "connected", "local",
				     sivshm_local(*ret), "peer", sivshm_peer(*ret), "peer_spiffe",
				     sivshm_peer_spiffe(*ret), "ms",
				     (double)(now_ns() - began) / 1e6));
	return r;
}

/* In place: the message is made where the peer reads it. */
static int send_one(struct sivshm_channel *c, uint64_t sequence, size_t size)
{
	size_t payload = size - sizeof(struct measurement);
	struct measurement *m;
	void *room;
	int r;

	r = sivshm_reserve(c, size, &room, SIVSHM_FOREVER);
	if (r < 0)
		return r;
	m = room;
	m->sequence = sequence;
	for (size_t i = 0; i < payload; i++)
		m->payload[i] = (uint8_t)(sequence + i);
	m->sum = measurement_sum(sequence, m->payload, payload);
	return sivshm_commit(c, size);
}

static int stream(struct sensor *s, struct sivshm_channel *c)
{
	uint64_t began = now_ns(), next_report = began + REPORT_NS;
	int r = 0;

	while (!s->count || s->sent < s->count) {
		r = send_one(c, s->sent, s->size);
		if (r < 0)
			break;
		s->sent++;
		if (s->rate)
			sleep_until(began + s->sent * 1000000000ull / s->rate);
		if (s->sent % 64 && !s->rate)
			continue;
		if (now_ns() >= next_report) {
			next_report += REPORT_NS;
			print_json(json_pack("{ss sI}", "event", "progress", "messages",
					     (json_int_t)s->sent));
		}
	}
	return r;
}

static int parse(int argc, char **argv, struct sensor *s)
{
	static const struct option options[] = {
		{"as", required_argument, NULL, 'a'},
		{"to", required_argument, NULL, 't'},
		{"bus", required_argument, NULL, 'b'},
		{"size", required_argument, NULL, 's'},
		{"rate", required_argument, NULL, 'r'},
		{"count", required_argument, NULL, 'c'},
		{},
	};
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (o) {
		case 'a':
			s->as = optarg;
			break;
		case 't':
			s->to = optarg;
			break;
		case 'b':
			s->bus = optarg;
			break;
		case 's':
			s->size = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			s->rate = strtoull(optarg, NULL, 10);
			break;
		case 'c':
			s->count = strtoull(optarg, NULL, 10);
			break;
		default:
			return -EINVAL;
		}
	return s->to && s->size >= sizeof(struct measurement) && s->size <= MEASUREMENT_MAX
		       ? 0
		       : -EINVAL;
}

int main(int argc, char **argv)
{
	struct sensor s = {.size = 256, .rate = 2000};
	struct sivshm_channel *c = NULL;
	int r;

	if (parse(argc, argv, &s) < 0)
		errx(2, "usage: demo-sensor --to VM/SERVICE [--as SERVICE] [--size BYTES] [--rate "
			"N] [--count N]");
	r = connect_patiently(&s, &c);
	if (r == 0)
		r = stream(&s, c);
	if (r < 0)
		print_end(&s, r);
	else
		print_json(json_pack("{ss sI}", "event", "done", "messages", (json_int_t)s.sent));
	sivshm_close(c);
	return r < 0;
}
