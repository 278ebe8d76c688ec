/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ping: round trips to a peer that echoes */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "channel-util.h"
#include "output.h"

#define REPLY_TIMEOUT_US 5000000ull
#define MAX_ROUNDS 10000000ull

static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int exchange(struct sivshm_channel *c, char *message, char *answer, size_t size)
{
	ssize_t n;
	int r;

	r = sivshm_send(c, message, size, REPLY_TIMEOUT_US);
	if (r < 0)
		return r;
	n = sivshm_recv(c, answer, size, NULL, REPLY_TIMEOUT_US);
	if (n < 0)
		return (int)n;
	return (size_t)n == size && !memcmp(message, answer, size) ? 0 : -EBADMSG;
}

static void mark(char *message, size_t size, uint64_t round)
{
	memcpy(message, &round, size < sizeof(round) ? size : sizeof(round));
}

static int rounds(struct sivshm_channel *c, const struct settings *s, char *buffer, uint64_t *times,
		  uint64_t *ret_done)
{
	int r = 0;

	for (*ret_done = 0; *ret_done < s->count && !interrupted; ++*ret_done) {
		uint64_t start;

		mark(buffer, s->size, *ret_done);
		start = now_ns();
		r = exchange(c, buffer, buffer + s->size, s->size);
		if (r < 0)
			break;
		times[*ret_done] = now_ns() - start;
	}
	if (r == -EBADMSG)
		fprintf(stderr,
			"sivshmctl: %s answers something else; does it run `sivshmctl listen "
			"--echo`?\n",
			sivshm_peer(c));
	else if (r < 0 && !(r == -EINTR && interrupted))
		channel_failed(r);
	return r == -EINTR && interrupted ? 0 : r;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void report(const struct settings *s, const struct sivshm_channel *c, uint64_t *times,
		   uint64_t n)
{
	uint64_t min, p50, p99, max;

	if (!n)
		return;
	qsort(times, n, sizeof(*times), compare);
	min = times[0];
	p50 = times[n / 2];
	p99 = times[n * 99 / 100];
	max = times[n - 1];
	if (s->json) {
		_cleanup_json_ json_t *o =
			json_pack("{ss ss sI sI s{sI sI sI sI}}", "local", sivshm_local(c), "peer",
				  sivshm_peer(c), "rounds", (json_int_t)n, "size",
				  (json_int_t)s->size, "rtt_ns", "min", (json_int_t)min, "p50",
				  (json_int_t)p50, "p99", (json_int_t)p99, "max", (json_int_t)max);
		output_json(o);
		return;
	}
	printf("%s to %s: %" PRIu64 " rounds of %" PRIu64 " bytes\n", sivshm_local(c),
	       sivshm_peer(c), n, s->size);
	printf("min %.1f us, p50 %.1f us, p99 %.1f us, max %.1f us\n", (double)min / 1e3,
	       (double)p50 / 1e3, (double)p99 / 1e3, (double)max / 1e3);
}

static int ping(const struct settings *s, struct sivshm_channel *c)
{
	uint64_t *times = calloc(s->count, sizeof(*times)), done = 0;
	char *buffer = calloc(2, s->size);
	int r = -ENOMEM;

	if (s->size > sivshm_max_message(c)) {
		fprintf(stderr,
			"sivshmctl: --size %" PRIu64
			": the longest message is %zu; see --ring-size\n",
			s->size, sivshm_max_message(c));
		r = -EMSGSIZE;
	} else if (times && buffer) {
		r = rounds(c, s, buffer, times, &done);
		report(s, c, times, done);
	} else {
		fprintf(stderr, "sivshmctl: out of memory\n");
	}
	free(buffer);
	free(times);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int verb_ping(const struct settings *s)
{
	struct sivshm_options o = channel_options(s);
	struct sivshm_channel *c;
	int r;

	if (s->count > MAX_ROUNDS) {
		fprintf(stderr, "sivshmctl: --count: at most %llu\n", MAX_ROUNDS);
		return EXIT_USAGE;
	}
	r = sivshm_connect(s->as, s->args[0], &o, &c);
	if (r < 0)
		return channel_failed(r);
	sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, NULL);
	r = ping(s, c);
	sivshm_close(c);
	return r;
}
