/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/ring-abi.h"
#include "plain.h"

static uint64_t window_size(const struct plain *p)
{
	return SIVSHM_CONTROL_SIZE + p->ring_size;
}

static void enable_device(const char *path)
{
	char folder[256], name[300];
	int fd;

	snprintf(folder, sizeof(folder), "%s", path);
	snprintf(name, sizeof(name), "%s/enable", dirname(folder));
	fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* a plain file */
	(void)!write(fd, "1", 1);
	close(fd);
}

int plain_open(const char *path, int side, uint64_t ring_size, struct plain *ret)
{
	enable_device(path);
	*ret = (struct plain){
		.fd = open(path, O_RDWR | O_CLOEXEC), .side = side, .ring_size = ring_size};
	return ret->fd < 0 ? -errno : 0;
}

int plain_reset(const struct plain *p)
{
	off_t offset = (off_t)((uint64_t)p->side * window_size(p));
	void *w = mmap(NULL, window_size(p), PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, offset);

	if (w == MAP_FAILED)
		return -errno;
	memset(w, 0, window_size(p));
	munmap(w, window_size(p));
	return 0;
}

int plain_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	struct plain *p = userdata;

	*ret = (struct sivshm_channel_info){
		.abi = SIVSHM_ABI,
		.state = SIVSHM_STATE_ACTIVE,
		.tx_ring_size = p->ring_size,
		.rx_ring_size = p->ring_size,
		.tx_map_size = SIVSHM_CONTROL_SIZE + 2 * p->ring_size,
		.rx_map_size = SIVSHM_CONTROL_SIZE + 2 * p->ring_size,
		.peer_vm = "plain",
		.peer_service = "ivshmem",
	};
	return 0;
}

int plain_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	struct plain *p = userdata;
	int side = offset == SIVSHM_TX_OFFSET ? p->side : !p->side;
	off_t start = (off_t)((uint64_t)side * window_size(p));
	uint8_t *at;

	at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	if (mmap(at, window_size(p), prot, MAP_SHARED | MAP_FIXED, p->fd, start) == MAP_FAILED ||
	    mmap(at + window_size(p), p->ring_size, prot, MAP_SHARED | MAP_FIXED, p->fd,
		 start + SIVSHM_CONTROL_SIZE) == MAP_FAILED) {
		int r = -errno;

		munmap(at, size);
		return r;
	}
	*ret = at;
	return 0;
}

static int plain_notify(void *userdata)
{
	(void)userdata;
	return 0;
}

static int plain_wait(void *userdata, uint64_t timeout_ns)
{
	(void)userdata;
	(void)timeout_ns;
	return -EOPNOTSUPP;
}

void plain_close(void *userdata)
{
	(void)userdata; /* the file stays open for the next round */
}

static int plain_fd(void *userdata)
{
	return ((struct plain *)userdata)->fd;
}

const struct backend backend_plain = {
	.get_info = plain_get_info,
	.map = plain_map,
	.notify = plain_notify,
	.wait = plain_wait,
	.close = plain_close,
	.fd = plain_fd,
};
