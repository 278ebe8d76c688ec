/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "uio.h"

#define REGISTERS_SIZE 4096u
#define DOORBELL 3 /* word of the registers: peer << 16 | vector */

int uio_open(const char *name, int side, uint32_t peer, uint64_t ring_size, struct uio *ret)
{
	char path[128];
	int r;

	*ret = (struct uio){.peer = peer};
	snprintf(path, sizeof(path), "/sys/class/uio/%s/device/resource2", name);
	r = plain_open(path, side, ring_size, &ret->plain);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/dev/%s", name);
	ret->fd = open(path, O_RDWR | O_CLOEXEC);
	if (ret->fd < 0)
		return -errno;
	ret->registers = mmap(NULL, REGISTERS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ret->fd, 0);
	return ret->registers == MAP_FAILED ? -errno : 0;
}

void uio_ring(const struct uio *u)
{
	u->registers[DOORBELL] = u->peer << 16;
}

int uio_sleep(const struct uio *u)
{
	uint32_t count;

	return read(u->fd, &count, sizeof(count)) == sizeof(count) ? 0 : -errno;
}

static int uio_notify(void *userdata)
{
	uio_ring(userdata);
	return 0;
}

static int uio_wait(void *userdata, uint64_t timeout_ns)
{
	struct uio *u = userdata;
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000),
			     .tv_nsec = (long)(timeout_ns % 1000000000)};
	struct pollfd p = {.fd = u->fd, .events = POLLIN};
	int r = ppoll(&p, 1, timeout_ns == UINT64_MAX ? NULL : &t, NULL);

	if (r < 0)
		return -errno;
	return r == 0 ? -ETIMEDOUT : uio_sleep(u);
}

static int uio_fd(void *userdata)
{
	return ((struct uio *)userdata)->fd;
}

const struct backend backend_uio = {
	.get_info = plain_get_info,
	.map = plain_map,
	.notify = uio_notify,
	.wait = uio_wait,
	.close = plain_close,
	.fd = uio_fd,
};
