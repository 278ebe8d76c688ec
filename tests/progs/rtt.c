/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Round-trip times by polling: a sivshm channel against the same ring on plain ivshmem memory.
 *
 *	rtt listen SERVICE [OPTIONS]
 *	rtt connect SERVICE VM/SERVICE [OPTIONS]
 *		--plain PATH	resource2 of an ivshmem device; else only sivshm
 *		--user NAME	become this user after PATH is open
 *		--rounds N	per block, default 2000
 *		--blocks N	of each kind, taken in turns, default 10
 *		--size BYTES	of each message, default 64
 *		--bus ADDRESS
 *
 * Both sides run the same library code on both kinds of memory; neither ever sleeps.  The channel
 * carries the orders: which memory, how many rounds.  connect prints one JSON object.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"
#include "json-out.h"
#include "plain.h"

#define RING_SIZE 65536u
#define MAX_SIZE 32768u
#define ORDER_SIVSHM 1u
#define ORDER_PLAIN 2u
#define ORDER_END 3u
#define STEP_TIMEOUT_US 30000000ull

struct order {
	uint32_t what;
	uint32_t rounds;
	uint32_t size;
};

struct settings {
	const char *plain_path;
	const char *user;
	const char *bus;
	uint32_t rounds;
	uint32_t blocks;
	uint32_t size;
	struct plain plain;
};

/* Times of one kind of memory, all blocks together. */
struct series {
	uint64_t *ns;
	size_t n;
};

static uint8_t buffer[MAX_SIZE];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void check(ssize_t r, const char *what)
{
	if (r < 0)
		errx(1, "%s: %s (%s)", what, sivshm_last_error(), errno_name((int)r));
}

static struct sivshm_options never_sleep(const struct settings *s)
{
	return (struct sivshm_options){.size = sizeof(struct sivshm_options),
				       .ring_size = RING_SIZE,
				       .spin_us = UINT32_MAX,
				       .bus = s->bus};
}

static void become(const char *user)
{
	struct passwd *p = getpwnam(user);

	if (!p || initgroups(user, p->pw_gid) < 0 || setgid(p->pw_gid) < 0 || setuid(p->pw_uid) < 0)
		err(1, "become %s", user);
}

static void open_plain(struct settings *s, int side)
{
	int r = s->plain_path ? plain_open(s->plain_path, side, RING_SIZE, &s->plain) : 0;

	if (r < 0)
		errx(1, "%s: %s", s->plain_path, strerror(-r));
	if (s->user)
		become(s->user);
}

static void run_rounds(struct sivshm_channel *c, const struct order *o, struct series *times)
{
	for (uint32_t i = 0; i < o->rounds; i++) {
		uint64_t start = now_ns();

		memcpy(buffer, &i, sizeof(i));
		check(sivshm_send(c, buffer, o->size, STEP_TIMEOUT_US), "send");
		check(sivshm_recv(c, buffer, sizeof(buffer), NULL, STEP_TIMEOUT_US), "receive");
		times->ns[times->n++] = now_ns() - start;
		if (memcmp(buffer, &i, sizeof(i)))
			errx(1, "round %u came back wrong", i);
	}
}

static void echo_rounds(struct sivshm_channel *c, const struct order *o)
{
	for (uint32_t i = 0; i < o->rounds; i++) {
		ssize_t n = sivshm_recv(c, buffer, sizeof(buffer), NULL, STEP_TIMEOUT_US);

		check(n, "receive");
		check(sivshm_send(c, buffer, (size_t)n, STEP_TIMEOUT_US), "send");
	}
}

/* Both sides zero their window before either attaches: the exchange on the channel orders that. */
static struct sivshm_channel *plain_channel(struct settings *s, struct sivshm_channel *control)
{
	struct sivshm_options o = never_sleep(s);
	struct sivshm_channel *c;
	int r = plain_reset(&s->plain);

	if (r < 0)
		errx(1, "%s: %s", s->plain_path, strerror(-r));
	check(sivshm_send(control, "reset", 5, STEP_TIMEOUT_US), "send");
	check(sivshm_recv(control, buffer, sizeof(buffer), NULL, STEP_TIMEOUT_US), "receive");
	check(channel_new(&backend_plain, &s->plain, &o, &c), "plain");
	return c;
}

static void block(struct settings *s, struct sivshm_channel *control, struct order o,
		  struct series *times)
{
	struct sivshm_channel *c = control;

	check(sivshm_send(control, &o, sizeof(o), STEP_TIMEOUT_US), "send");
	if (o.what == ORDER_PLAIN)
		c = plain_channel(s, control);
	run_rounds(c, &o, times);
	if (c != control)
		sivshm_close(c);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t percentile(const struct series *t, double p)
{
	return t->ns[(size_t)((double)(t->n - 1) * p)];
}

static json_t *summary(struct series *t)
{
	qsort(t->ns, t->n, sizeof(*t->ns), compare);
	return json_pack("{sI sI sI sI sI sI}", "n", (json_int_t)t->n, "min", (json_int_t)t->ns[0],
			 "p50", (json_int_t)percentile(t, .5), "p90", (json_int_t)percentile(t, .9),
			 "p99", (json_int_t)percentile(t, .99), "max", (json_int_t)t->ns[t->n - 1]);
}

static double ratio(const struct series *a, const struct series *b, double p)
{
	return (double)percentile(a, p) / (double)percentile(b, p);
}

static void report(const struct settings *s, const struct sivshm_channel *c,
		   struct series t[static 2])
{
	json_t *o = json_pack("{ss ss si so}", "local", sivshm_local(c), "peer", sivshm_peer(c),
			      "size", (int)s->size, "sivshm", summary(&t[0]));

	if (t[1].n) {
		json_object_set_new(o, "plain", summary(&t[1]));
		json_object_set_new(o, "ratio",
				    json_pack("{sf sf sf}", "p50", ratio(&t[0], &t[1], .5), "p90",
					      ratio(&t[0], &t[1], .9), "p99",
					      ratio(&t[0], &t[1], .99)));
	}
	print_json(o);
}

static int run_connect(struct settings *s, const char *as, const char *to)
{
	struct sivshm_options options = never_sleep(s);
	struct order o = {.rounds = s->rounds, .size = s->size};
	struct sivshm_channel *c;
	struct series t[2] = {};

	for (int i = 0; i < 2; i++) {
		t[i].ns = calloc((size_t)s->rounds * s->blocks, sizeof(uint64_t));
		if (!t[i].ns)
			err(1, "memory");
	}
	check(sivshm_connect(as, to, &options, &c), "connect");
	for (uint32_t i = 0; i < s->blocks; i++) {
		o.what = ORDER_SIVSHM;
		block(s, c, o, &t[0]);
		o.what = ORDER_PLAIN;
		if (s->plain_path)
			block(s, c, o, &t[1]);
	}
	o.what = ORDER_END;
	check(sivshm_send(c, &o, sizeof(o), STEP_TIMEOUT_US), "send");
	report(s, c, t);
	sivshm_close(c);
	free(t[0].ns);
	free(t[1].ns);
	return 0;
}

static void obey(struct settings *s, struct sivshm_channel *control)
{
	struct order o;
	ssize_t n;

	while ((n = sivshm_recv(control, &o, sizeof(o), NULL, SIVSHM_FOREVER)) == sizeof(o) &&
	       o.what != ORDER_END) {
		struct sivshm_channel *c = control;

		if (o.what == ORDER_PLAIN && !s->plain_path)
			errx(1, "the other side has --plain, this one has not");
		if (o.what == ORDER_PLAIN)
			c = plain_channel(s, control);
		echo_rounds(c, &o);
		if (c != control)
			sivshm_close(c);
	}
	check(n, "order");
}

static int run_listen(struct settings *s, const char *service)
{
	struct sivshm_options options = never_sleep(s);
	struct sivshm_listener *l;
	struct sivshm_channel *c;

	check(sivshm_listen(service, &options, &l), "listen");
	fprintf(stderr, "listening\n");
	check(sivshm_accept(l, SIVSHM_FOREVER, &c), "accept");
	obey(s, c);
	sivshm_close(c);
	sivshm_listener_close(l);
	return 0;
}

static void parse(int argc, char **argv, struct settings *s)
{
	static const struct option options[] = {
		{"plain", required_argument, NULL, 'p'},
		{"user", required_argument, NULL, 'u'},
		{"rounds", required_argument, NULL, 'r'},
		{"blocks", required_argument, NULL, 'b'},
		{"size", required_argument, NULL, 's'},
		{"bus", required_argument, NULL, 'B'},
		{},
	};
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (o) {
		case 'p':
			s->plain_path = optarg;
			break;
		case 'u':
			s->user = optarg;
			break;
		case 'B':
			s->bus = optarg;
			break;
		case 'r':
			s->rounds = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'b':
			s->blocks = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 's':
			s->size = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		default:
			exit(2);
		}
	if (!s->rounds || !s->blocks || s->size < sizeof(uint32_t) || s->size > MAX_SIZE)
		errx(2, "--rounds and --blocks are at least 1, --size 4 to %u", MAX_SIZE);
}

int main(int argc, char **argv)
{
	struct settings s = {.rounds = 2000, .blocks = 10, .size = 64};

	parse(argc, argv, &s);
	argv += optind;
	argc -= optind;
	if (argc == 3 && !strcmp(argv[0], "connect")) {
		open_plain(&s, 0);
		return run_connect(&s, argv[1], argv[2]);
	}
	if (argc == 2 && !strcmp(argv[0], "listen")) {
		open_plain(&s, 1);
		return run_listen(&s, argv[1]);
	}
	errx(2, "usage: rtt listen SERVICE [OPTIONS] | connect SERVICE VM/SERVICE [OPTIONS]");
}
