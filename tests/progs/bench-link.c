/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <err.h>
#include <unistd.h>

#include "bench-link.h"
#include "json-out.h"

const char *const kind_names[] = {"sivshm", "plain", "uio", "uio-lib", "tcp"};
const char *const mode_names[] = {"poll", "sleep", "default"};

void fail(ssize_t r, const char *what)
{
	errx(1, "%s: %s (%s)", what, sivshm_last_error(), errno_name((int)r));
}

/* The channel's own backend, counted */

static int counted_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	struct link *l = userdata;

	return l->inner->get_info(l->inner_userdata, ret);
}

static int counted_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	struct link *l = userdata;

	return l->inner->map(l->inner_userdata, offset, size, prot, ret);
}

static int counted_notify(void *userdata)
{
	struct link *l = userdata;

	l->rings++;
	return l->inner->notify(l->inner_userdata);
}

static int counted_wait(void *userdata, uint64_t timeout_ns)
{
	struct link *l = userdata;

	l->sleeps++;
	return l->inner->wait(l->inner_userdata, timeout_ns);
}

static void counted_close(void *userdata)
{
	struct link *l = userdata;

	l->inner->close(l->inner_userdata);
}

static int counted_fd(void *userdata)
{
	struct link *l = userdata;

	return l->inner->fd(l->inner_userdata);
}

static const struct backend backend_counted = {
	.get_info = counted_get_info,
	.map = counted_map,
	.notify = counted_notify,
	.wait = counted_wait,
	.close = counted_close,
	.fd = counted_fd,
};

static void channel_send(struct link *l, const void *data, size_t size)
{
	check(sivshm_send(l->c, data, size, STEP_TIMEOUT_US), "send");
}

static void channel_recv(struct link *l, void *data, size_t size)
{
	check(sivshm_recv(l->c, data, size, NULL, STEP_TIMEOUT_US), "receive");
}

void link_channel(struct link *l, struct sivshm_channel *c)
{
	*l = (struct link){.c = c,
			   .send = channel_send,
			   .recv = channel_recv,
			   .inner = c->backend,
			   .inner_userdata = c->userdata};
	c->backend = &backend_counted;
	c->userdata = l;
}

/* UIO: nobody knows whether the other end sleeps, so every message rings. */

static void uio_send(struct link *l, const void *data, size_t size)
{
	void *room;

	if (ring_reserve(&l->c->ring.tx, size, &room) < 0)
		errx(1, "uio: the ring is full");
	memcpy(room, data, size);
	ring_commit(&l->c->ring.tx, size);
	l->rings++;
	uio_ring(l->inner_userdata);
}

static void uio_recv(struct link *l, void *data, size_t size)
{
	const void *message;
	uint32_t length;
	int r;

	while ((r = ring_peek(&l->c->ring.rx, &message, &length)) == -EAGAIN) {
		l->sleeps++;
		if (uio_sleep(l->inner_userdata) < 0)
			err(1, "uio: read");
	}
	if (r < 0 || length != size)
		errx(1, "uio: no message of %zu bytes", size);
	memcpy(data, message, size);
	ring_release(&l->c->ring.rx);
}

void link_uio(struct link *l, struct link *lib, struct uio *u)
{
	*l = (struct link){.c = lib->c, .send = uio_send, .recv = uio_recv, .inner_userdata = u};
}

static void tcp_send(struct link *l, const void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(l->fd, (const uint8_t *)data + done, size - done);

		if (n <= 0)
			err(1, "tcp: write");
		done += (size_t)n;
	}
}

static void tcp_recv(struct link *l, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(l->fd, (uint8_t *)data + done, size - done);

		if (n <= 0)
			err(1, "tcp: read");
		done += (size_t)n;
	}
}

void link_tcp(struct link *l, int fd)
{
	*l = (struct link){.send = tcp_send, .recv = tcp_recv, .fd = fd};
}

void link_mode(struct link *l, enum mode mode)
{
	struct spin spin =
		mode == SLEEP ? (struct spin){} : spin_init(mode == POLL ? UINT32_MAX : 0);

	if (l->c)
		l->c->rx_spin = l->c->tx_spin = spin;
}
