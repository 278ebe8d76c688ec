/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bell.h"

#define QUEUE 8

/* One for the process, for its life: there is one thread. */
static aio_context_t queue;
static bool no_aio; /* in this kernel */
static int null_fd = -1;

int bell_init(void)
{
	if (null_fd < 0)
		null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd < 0)
		return -errno;
	if (queue || syscall(SYS_io_setup, QUEUE, &queue) >= 0)
		return 0;
	no_aio = errno == ENOSYS;
	return -errno;
}

/* signal_fd() - read nothing from nowhere; that it is done is what the eventfd is told */
static int signal_fd(int eventfd)
{
	struct iocb read = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)null_fd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)eventfd,
	};
	struct iocb *list[] = {&read};
	struct timespec now = {};
	struct io_event done[QUEUE];

	if (syscall(SYS_io_submit, queue, 1L, list) != 1)
		return -errno;
	syscall(SYS_io_getevents, queue, 0L, (long)QUEUE, done, &now); /* makes room */
	return 0;
}

/* A kernel without asynchronous I/O: the VM is trusted not to undo the flag in this very moment. */
static int write_fd(int eventfd)
{
	static const uint64_t one = 1;

	if (fcntl(eventfd, F_SETFL, O_NONBLOCK) < 0 || write(eventfd, &one, sizeof(one)) < 0)
		return errno == EAGAIN ? 0 : -errno; /* EAGAIN: it is ringing already */
	return 0;
}

int bell_ring(int eventfd)
{
	int r;

	if (no_aio)
		return write_fd(eventfd);
	/* Somebody else may have all that the kernel allows (fs.aio-max-nr), for a while. */
	r = bell_init();
	return r < 0 ? r : signal_fd(eventfd);
}
