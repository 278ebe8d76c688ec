/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/backend.h"

static int to_fd(void *userdata)
{
	return (int)(intptr_t)userdata;
}

static int kernel_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	return ioctl(to_fd(userdata), SIVSHM_CHANNEL_GET_INFO, ret) < 0 ? -errno : 0;
}

static int kernel_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	void *p = mmap(NULL, size, prot, MAP_SHARED, to_fd(userdata), (off_t)offset);

	if (p == MAP_FAILED)
		return -errno;
	*ret = p;
	return 0;
}

static int kernel_notify(void *userdata)
{
	return ioctl(to_fd(userdata), SIVSHM_CHANNEL_NOTIFY) < 0 ? -errno : 0;
}

static int kernel_wait(void *userdata, uint64_t timeout_ns)
{
	struct sivshm_wait w = {.timeout_ns = timeout_ns};

	if (ioctl(to_fd(userdata), SIVSHM_CHANNEL_WAIT, &w) >= 0)
		return 0;
	return errno == ETIME ? -ETIMEDOUT : -errno;
}

static void kernel_close(void *userdata)
{
	close(to_fd(userdata));
}

const struct backend backend_kernel = {
	.get_info = kernel_get_info,
	.map = kernel_map,
	.notify = kernel_notify,
	.wait = kernel_wait,
	.close = kernel_close,
	.fd = to_fd,
};
