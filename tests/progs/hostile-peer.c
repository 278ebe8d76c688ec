/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A service whose peer's kernel is hostile, and the service of that kernel.
 *
 *	hostile-peer read SERVICE SECONDS
 *	hostile-peer write SERVICE PEER USER SECONDS SCRIBBLE
 *	hostile-peer work SECONDS
 *
 * write connects, sends a few messages by the rules, and has tests/kmod/hostile rewrite its section
 * through SCRIBBLE, a parameter of that module, again and again while it holds the channel; then
 * it connects anew.  It becomes USER once SCRIBBLE is open.
 *
 * read accepts, and uses the channel as any service would, with every call that reads the peer's
 * memory.  The first protocol error of a channel counts; then the private state is made anew over
 * the same windows, so that very many errors are met and not one for each handshake.  It ends with
 * the channel, and takes the next one.  Prints one line of JSON: outcomes, and the longest call.
 *
 * work counts rounds of the same small work: how much CPU a service gets.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"

#define RING_SIZE 4096u
#define WAIT_US 2000u
#define SPAN "65536" /* the windows of a few channels lie there */
#define SEC 1000000000ull

static struct {
	uint64_t channels, refused, first_proto, lives, messages, bytes, sent, empty, full, proto,
		closed, waits;
} counts;
static uint64_t longest;
static volatile uint8_t sink;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec;
}

static uint64_t timed(uint64_t began)
{
	uint64_t now = now_ns();

	if (now - began > longest)
		longest = now - began;
	return now;
}

/* Private state over the same windows, from where the peer claims to be. */
static void renew(struct sivshm_channel *c)
{
	uint64_t producer = ring_load64(&c->ring.rx.peer->producer) & ~7ull;
	uint64_t consumer = ring_load64(&c->ring.tx.peer->consumer) & ~7ull;

	c->tx_error = c->rx_error = 0;
	ring_init(&c->ring, c->tx_map, c->ring.tx.size, c->rx_map, c->ring.rx.size);
	c->ring.rx.producer = c->ring.rx.consumer = producer;
	c->ring.tx.producer = c->ring.tx.consumer = consumer;
	counts.lives++;
}

/* What a call came to; false when this life of the channel is over. */
static bool take(ssize_t r, uint64_t *if_again)
{
	if (r >= 0)
		return true;
	if (r == -EAGAIN || r == -ETIMEDOUT)
		++*if_again;
	else if (r == -EPROTO)
		counts.proto++;
	else if (r == -EPIPE)
		counts.closed++;
	else if (r != -ENOLINK)
		errx(1, "undocumented error %zd: %s", r, sivshm_last_error());
	return r == -EAGAIN || r == -ETIMEDOUT;
}

static bool receive(struct sivshm_channel *c)
{
	const void *message;
	ssize_t n = sivshm_peek(c, &message, 0);

	if (n >= 0) {
		for (ssize_t i = 0; i < n; i += 64)
			sink += ((const uint8_t *)message)[i];
		if (n > 0)
			sink += ((const uint8_t *)message)[n - 1];
		counts.messages++;
		counts.bytes += (uint64_t)n;
		n = sivshm_release(c);
	}
	return take(n, &counts.empty);
}

static bool answer(struct sivshm_channel *c)
{
	static uint8_t data[512];
	int r = sivshm_send(c, data, sizeof(data), 0);

	counts.sent += r == 0;
	return take(r, &counts.full);
}

static bool rest(struct sivshm_channel *c)
{
	counts.waits++;
	return take(sivshm_wait(c, SIVSHM_READ | SIVSHM_WRITE, WAIT_US), &counts.empty);
}

static bool is_over(struct sivshm_channel *c)
{
	return channel_ask(c) < 0 || channel_gone(c);
}

/* From new to the first error. Returns that it was a protocol error. */
static bool live(struct sivshm_channel *c, uint64_t until)
{
	uint64_t now = now_ns(), proto = counts.proto;
	bool ok = true;

	for (uint64_t n = 0; ok && now < until; n++) {
		ok = n % 4 == 3 ? answer(c) : n % 256 == 250 ? rest(c) : receive(c);
		now = timed(now);
	}
	return counts.proto > proto;
}

static void use(struct sivshm_channel *c, uint64_t until)
{
	counts.channels++;
	counts.first_proto += live(c, until);
	while (!is_over(c) && now_ns() < until) {
		renew(c);
		live(c, until);
	}
}

static void read_all(const char *service, uint64_t until)
{
	struct sivshm_options options = {.size = sizeof(options), .ring_size = RING_SIZE};
	struct sivshm_listener *listener;

	if (sivshm_listen(service, &options, &listener) < 0)
		errx(1, "listen: %s", sivshm_last_error());
	while (now_ns() < until) {
		struct sivshm_channel *c;
		int r = sivshm_accept(listener, 200000, &c);

		if (r == -ETIMEDOUT || r == -EAGAIN)
			continue;
		if (r < 0) {
			counts.refused++;
			continue;
		}
		use(c, until);
		sivshm_close(c);
	}
	sivshm_listener_close(listener);
}

static void work(uint64_t seconds)
{
	uint64_t began = now_ns(), until = began + seconds * SEC, now = began, rounds = 0, gap = 0;
	uint32_t x = 1;

	while (now < until) {
		uint64_t last = now;

		for (int i = 0; i < 10000; i++)
			x = x * 1664525u + 1013904223u;
		sink = (uint8_t)x;
		rounds++;
		now = now_ns();
		gap = now - last > gap ? now - last : gap;
	}
	printf("{\"rounds\":%" PRIu64 ",\"seconds\":%.3f,\"longest_gap_ms\":%.1f}\n", rounds,
	       (double)(now - began) / 1e9, (double)gap / 1e6);
}

static void become(const char *name)
{
	const struct passwd *user = getpwnam(name);

	if (!user)
		errx(1, "no user %s", name);
	if (setgroups(0, NULL) < 0 || setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0)
		err(1, "%s", name);
}

static void attack(struct sivshm_channel *c, int scribble, uint64_t until)
{
	uint8_t message[64] = {};

	for (int i = 0; i < 8; i++)
		sivshm_send(c, message, sizeof(message), 0);
	for (int i = 0; i < 20 && now_ns() < until; i++) {
		char order[80];
		unsigned int kinds = 1 + (unsigned int)rand() % 31;
		unsigned long long seed = (unsigned long long)rand();

		printf("seed %llu kinds %u\n", seed, kinds);
		snprintf(order, sizeof(order), "%u %u " SPAN " %llu", 400000u, kinds, seed);
		if (write(scribble, order, strlen(order)) < 0)
			err(1, "scribble");
		lseek(scribble, 0, SEEK_SET);
		counts.waits++;
	}
}

static void write_all(const char *service, const char *peer, int scribble, uint64_t until)
{
	struct sivshm_options options = {.size = sizeof(options), .ring_size = RING_SIZE};

	while (now_ns() < until) {
		struct sivshm_channel *c;

		if (sivshm_connect(service, peer, &options, &c) < 0) {
			counts.refused++;
			usleep(50000);
			continue;
		}
		counts.channels++;
		attack(c, scribble, until);
		sivshm_close(c);
	}
}

static void print_counts(void)
{
	printf("{\"channels\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"first_proto\":%" PRIu64
	       ",\"lives\":%" PRIu64 ",\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"sent\":%" PRIu64 ",\"empty\":%" PRIu64 ",\"full\":%" PRIu64 ",\"proto\":%" PRIu64
	       ",\"closed\":%" PRIu64 ",\"waits\":%" PRIu64 ",\"longest_ms\":%.1f}\n",
	       counts.channels, counts.refused, counts.first_proto, counts.lives, counts.messages,
	       counts.bytes, counts.sent, counts.empty, counts.full, counts.proto, counts.closed,
	       counts.waits, (double)longest / 1e6);
}

int main(int argc, char *argv[])
{
	uint64_t began = now_ns();

	if (argc == 3 && !strcmp(argv[1], "work")) {
		work(strtoull(argv[2], NULL, 10));
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "read")) {
		read_all(argv[2], began + strtoull(argv[3], NULL, 10) * SEC);
	} else if (argc == 7 && !strcmp(argv[1], "write")) {
		int scribble = open(argv[6], O_WRONLY | O_CLOEXEC);

		if (scribble < 0)
			err(1, "%s", argv[6]);
		become(argv[4]);
		srand((unsigned int)began);
		write_all(argv[2], argv[3], scribble, began + strtoull(argv[5], NULL, 10) * SEC);
	} else {
		errx(2, "see the comment in hostile-peer.c");
	}
	print_counts();
	return 0;
}
