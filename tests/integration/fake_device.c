// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * LD_PRELOAD: a /dev/sivshm whose kernel is a test.
 *
 * Opening $SIVSHM_FAKE_DEVICE connects twice to the socket $SIVSHM_FAKE_KERNEL.  The first
 * connection is the device's fd: what the test sends there is what read() gives.  The second
 * carries ioctls: request number and argument there, result, argument and perhaps an fd back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ARGUMENT_MAX 1024

static int device = -1;
static int control = -1;

static int connect_kernel(int flags)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, getenv("SIVSHM_FAKE_KERNEL"), sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		errno = ENOENT;
		return -1;
	}
	if (flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static int open_device(int flags)
{
	int32_t result;

	if (control >= 0)
		close(control);
	device = connect_kernel(flags);
	if (device < 0)
		return -1;
	control = connect_kernel(0);
	/* the kernel's word on the open itself, as EBUSY */
	if (control < 0 || recv(control, &result, sizeof(result), 0) != sizeof(result))
		result = -ENODEV;
	if (result < 0) {
		close(device);
		device = -1;
		errno = -result;
	}
	return device;
}

static int is_device(const char *path)
{
	const char *fake = getenv("SIVSHM_FAKE_DEVICE");

	return fake && strcmp(path, fake) == 0;
}

#define OPEN(name)                                                                        \
	__attribute__((visibility("default"))) int name(const char *path, int flags, ...) \
	{                                                                                 \
		int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);            \
		mode_t mode = 0;                                                          \
		va_list ap;                                                               \
                                                                                          \
		if (is_device(path))                                                      \
			return open_device(flags);                                        \
		va_start(ap, flags);                                                      \
		if (flags & (O_CREAT | __O_TMPFILE))                                      \
			mode = va_arg(ap, mode_t);                                        \
		va_end(ap);                                                               \
		return next(path, flags, mode);                                           \
	}

OPEN(open)
OPEN(open64)
OPEN(__open_2)
OPEN(__open64_2)

static int receive(void *argument, size_t size)
{
	char control_buffer[CMSG_SPACE(sizeof(int))];
	int32_t result = -EIO;
	struct iovec iov[] = {{&result, sizeof(result)}, {argument, size}};
	struct msghdr message = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = control_buffer,
		.msg_controllen = sizeof(control_buffer),
	};
	struct cmsghdr *c;

	if (recvmsg(control, &message, MSG_CMSG_CLOEXEC) < (ssize_t)sizeof(result))
		result = -ENODEV;
	c = CMSG_FIRSTHDR(&message);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&result, CMSG_DATA(c), sizeof(result));
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
	int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
	uint32_t number = (uint32_t)request;
	void *argument;
	va_list ap;

	va_start(ap, request);
	argument = va_arg(ap, void *);
	va_end(ap);
	if (fd < 0 || fd != device)
		return next(fd, request, argument);
	if (sendmsg(control,
		    &(struct msghdr){
			    .msg_iov = (struct iovec[]){{&number, sizeof(number)},
							{argument, _IOC_SIZE(number)}},
			    .msg_iovlen = 2,
		    },
		    MSG_NOSIGNAL) < 0) {
		errno = ENODEV;
		return -1;
	}
	return receive(argument, _IOC_SIZE(number));
}
