/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Netcat: stdin to the channel, the channel to stdout, until both directions have ended. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "channel-util.h"

#define CHUNK 65536u
#define MESSAGES_PER_TURN 64 /* so that neither direction starves the other */

/**
 * struct netcat
 * @chunk:   longest message made of one read()
 * @held:    bytes read from stdin that the ring had no room for, SIZE_MAX none
 * @input:   stdin has not ended
 * @sending, @receiving: that direction of the channel has not ended
 * @lost:    not all of stdin has been sent: then the whole has failed
 */
struct netcat {
	struct sivshm_channel *c;
	char *buffer;
	char *incoming;
	size_t incoming_size;
	size_t chunk;
	size_t held;
	bool input;
	bool sending;
	bool receiving;
	bool lost;
	bool quit;
};

static int write_all(const char *data, size_t size)
{
	while (size) {
		ssize_t n = write(STDOUT_FILENO, data, size);

		if (n < 0 && errno == EAGAIN) {
			/* another process has made the same terminal or pipe non-blocking */
			poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

static int grow(struct netcat *n, size_t size)
{
	char *p;

	if (size <= n->incoming_size)
		return 0;
	p = realloc(n->incoming, size);
	if (!p)
		return -ENOMEM;
	n->incoming = p;
	n->incoming_size = size;
	return 0;
}

/*
 * One message; -EAGAIN when there is none.  A copy: stdout may be slow, and what is printed must be
 * the peer's bytes, not the zeros of a window that was revoked meanwhile.
 */
static int receive_one(struct netcat *n)
{
	const void *m;
	ssize_t size = sivshm_peek(n->c, &m, 0);
	int r;

	if (size < 0)
		return (int)size;
	r = grow(n, (size_t)size);
	if (r < 0)
		return r;
	size = sivshm_recv(n->c, n->incoming, n->incoming_size, NULL, 0);
	if (size < 0)
		return (int)size;
	r = write_all(n->incoming, (size_t)size);
	if (r < 0) {
		fprintf(stderr, "sivshmctl: stdout: %s\n", strerror(-r));
		return -ECANCELED;
	}
	return 0;
}

static int receive(struct netcat *n)
{
	int r = 0;

	for (int i = 0; i < MESSAGES_PER_TURN && r >= 0 && n->receiving; i++)
		r = receive_one(n);
	if (r == -EPIPE) {
		n->receiving = false;
		return 0;
	}
	return r == -EAGAIN ? 0 : r;
}

static int end_input(struct netcat *n)
{
	int r = 0;

	n->input = false;
	if (n->sending && n->held == SIZE_MAX) {
		n->sending = false;
		r = sivshm_shutdown(n->c);
	}
	return r;
}

static void not_all_sent(struct netcat *n)
{
	fprintf(stderr, "sivshmctl: the peer has closed before all of stdin was sent\n");
	n->sending = false;
	n->lost = true;
}

static int send_held(struct netcat *n)
{
	int r;

	if (n->held == SIZE_MAX)
		return 0;
	r = sivshm_send(n->c, n->buffer, n->held, 0);
	if (r == -EAGAIN)
		return 0;
	n->held = SIZE_MAX;
	if (r == -EPIPE) {
		not_all_sent(n);
		return 0;
	}
	return r < 0 || n->input ? r : end_input(n);
}

static int read_input(struct netcat *n)
{
	ssize_t size = read(STDIN_FILENO, n->buffer, n->chunk);

	if (size < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (size < 0) {
		fprintf(stderr, "sivshmctl: stdin: %s\n", strerror(errno));
		n->lost = true;
	}
	if (size <= 0)
		return end_input(n);
	n->held = (size_t)size;
	return send_held(n);
}

static bool input_has_more(const struct netcat *n)
{
	int bytes = 0;

	return n->input && ioctl(STDIN_FILENO, FIONREAD, &bytes) == 0 && bytes > 0;
}

/* Nobody receives any more: then what stdin has is of no use. */
static void check_peer(struct netcat *n)
{
	void *room;

	if (!n->sending || n->held != SIZE_MAX || sivshm_reserve(n->c, 0, &room, 0) != -EPIPE)
		return;
	n->sending = false;
	if (input_has_more(n))
		not_all_sent(n);
}

/* Sleeps until the channel or stdin has something. */
static int turn(struct netcat *n)
{
	struct pollfd p[2] = {
		{.fd = sivshm_get_fd(n->c), .events = POLLIN},
		{.fd = n->input && n->held == SIZE_MAX && n->sending ? STDIN_FILENO : -1,
		 .events = POLLIN}};
	int events = (n->receiving ? SIVSHM_READ : 0) | (n->held == SIZE_MAX ? 0 : SIVSHM_WRITE);
	int r = sivshm_arm(n->c, events ?: SIVSHM_READ);

	if (r < 0)
		return r;
	/* Only the other direction goes on: its end shows as SIVSHM_READ for ever. */
	if (!events)
		r = 0;
	if (poll(p, 2, r ? 0 : -1) < 0 && errno != EINTR)
		return -errno;
	return p[1].revents ? read_input(n) : 0;
}

static bool goes_on(const struct netcat *n)
{
	if (n->quit && !n->sending)
		return false;
	return n->receiving || n->sending;
}

int netcat_run(struct sivshm_channel *c, bool input, bool quit)
{
	size_t chunk = sivshm_max_message(c) < CHUNK ? sivshm_max_message(c) : CHUNK;
	struct netcat n = {.c = c,
			   .buffer = malloc(chunk),
			   .chunk = chunk,
			   .held = SIZE_MAX,
			   .input = input,
			   .sending = true,
			   .receiving = true,
			   .quit = quit};
	int r = n.buffer ? 0 : -ENOMEM;

	if (r == 0 && !input)
		r = end_input(&n);
	while (r >= 0 && goes_on(&n)) {
		r = receive(&n);
		if (r >= 0)
			r = send_held(&n);
		check_peer(&n);
		if (r >= 0 && goes_on(&n))
			r = turn(&n);
	}
	free(n.buffer);
	free(n.incoming);
	if (r == -ECANCELED)
		return EXIT_FAILURE;
	if (r < 0)
		return channel_failed(r);
	return n.lost ? EXIT_FAILURE : EXIT_SUCCESS;
}
