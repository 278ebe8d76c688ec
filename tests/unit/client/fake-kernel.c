/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Interposes ioctl() and mmap(): linked into a test, or LD_PRELOADed. */
#undef _FILE_OFFSET_BITS /* or the names mmap and mmap64 are one */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/ring-abi.h"
#include "fake-kernel.h"
#include "quiet-backend.h"

#define EXPORT __attribute__((visibility("default")))

/* "DIR/sivshm-fake-ID.SIDE" of a fake channel fd. */
static bool fake_path(int fd, struct sockaddr_un *ret)
{
	socklen_t length = sizeof(*ret) - 1;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	memset(ret, 0, sizeof(*ret));
	if (getsockname(fd, (struct sockaddr *)ret, &length) < 0 || ret->sun_family != AF_UNIX)
		return false;
	return strstr(ret->sun_path, "sivshm-fake-") != NULL;
}

static int open_part(const char *path, char side, const char *part)
{
	char name[200];

	snprintf(name, sizeof(name), "%.*s%c.%s", (int)strlen(path) - 1, path, side, part);
	return open(name, O_RDWR | O_CLOEXEC);
}

static char own_side(const char *path)
{
	return path[strlen(path) - 1];
}

static char peer_side(const char *path)
{
	return own_side(path) == '0' ? '1' : '0';
}

static int read_info(const char *path, struct sivshm_channel_info *ret)
{
	int fd = open_part(path, own_side(path), "info");
	ssize_t n = fd < 0 ? -1 : pread(fd, ret, sizeof(*ret), 0);

	if (fd >= 0)
		close(fd);
	return n == sizeof(*ret) ? 0 : -EIO;
}

static int fake_notify(int fd, const struct sivshm_channel_info *info)
{
	if (info->state == SIVSHM_STATE_REVOKED)
		return -ENOLINK;
	if (info->state == SIVSHM_STATE_DRAINING)
		return -EPIPE;
	if (send(fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
		return -EPIPE;
	return 0;
}

/* How many bytes lay there; 0: the peer has closed; -EAGAIN */
static ssize_t take_rings(int fd)
{
	ssize_t n, sum = 0;
	char b[256];

	while ((n = recv(fd, b, sizeof(b), MSG_DONTWAIT)) > 0)
		sum += n;
	if (sum > 0)
		return sum;
	return n == 0 || errno != EAGAIN ? 0 : -EAGAIN;
}

static int fake_wait(int fd, const char *path, struct sivshm_wait *w)
{
	struct timespec t = {(time_t)(w->timeout_ns / 1000000000u),
			     (long)(w->timeout_ns % 1000000000u)};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct sivshm_channel_info info;
	ssize_t n;

	if (ppoll(&p, 1, w->timeout_ns == UINT64_MAX ? NULL : &t, NULL) < 0)
		return -errno;
	if (read_info(path, &info) < 0 || info.state == SIVSHM_STATE_REVOKED)
		return -ENOLINK;
	n = take_rings(fd);
	if (n > 0) {
		w->count = (uint64_t)n;
		return 0;
	}
	if (n == 0 || info.state == SIVSHM_STATE_DRAINING)
		return -EPIPE;
	return -ETIME;
}

static int fake_ioctl(int fd, const char *path, unsigned long request, void *arg)
{
	struct sivshm_channel_info info;

	if (read_info(path, &info) < 0)
		return -ENODEV;
	if (info.state == FAKE_STATE_FOREIGN)
		return -EPERM;
	switch (request) {
	case SIVSHM_CHANNEL_GET_INFO:
		memcpy(arg, &info, sizeof(info));
		return 0;
	case SIVSHM_CHANNEL_NOTIFY:
		return fake_notify(fd, &info);
	case SIVSHM_CHANNEL_WAIT:
		return fake_wait(fd, path, arg);
	default:
		return -ENOTTY;
	}
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct sockaddr_un a;
	va_list ap;
	void *arg;
	int r;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != SIVSHM_IOC_MAGIC || !fake_path(fd, &a))
		return (int)syscall(SYS_ioctl, fd, request, arg);
	r = fake_ioctl(fd, a.sun_path, request, arg);
	if (r < 0) {
		errno = -r;
		return -1;
	}
	return r;
}

static void *real_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, p, size, prot, flags, fd, offset);
}

/* Control page, ring, ring; exactly as long as the channel says, exactly at its offset. */
static void *map_window(const char *path, size_t size, int prot, off_t offset)
{
	struct sivshm_channel_info info;
	bool tx = offset == 0;
	uint64_t ring;
	uint8_t *p;
	int fd;

	if (read_info(path, &info) < 0)
		return errno = ENODEV, MAP_FAILED;
	if (info.state == FAKE_STATE_FOREIGN)
		return errno = EPERM, MAP_FAILED;
	ring = tx ? info.tx_ring_size : info.rx_ring_size;
	if (offset != 0 && (uint64_t)offset != SIVSHM_RX_OFFSET)
		return errno = EINVAL, MAP_FAILED;
	if (size != SIVSHM_CONTROL_SIZE + 2 * ring || prot & PROT_EXEC)
		return errno = EINVAL, MAP_FAILED;
	if (!tx && prot & PROT_WRITE)
		return errno = EACCES, MAP_FAILED;
	fd = open_part(path, tx ? own_side(path) : peer_side(path), "window");
	if (fd < 0)
		return MAP_FAILED;
	p = real_mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p != MAP_FAILED) {
		real_mmap(p, SIVSHM_CONTROL_SIZE + ring, prot, MAP_SHARED | MAP_FIXED, fd, 0);
		real_mmap(p + SIVSHM_CONTROL_SIZE + ring, ring, prot, MAP_SHARED | MAP_FIXED, fd,
			  SIVSHM_CONTROL_SIZE);
	}
	close(fd);
	return p;
}

EXPORT void *mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset)
{
	struct sockaddr_un a;

	if (fd < 0 || flags & MAP_ANONYMOUS || (flags & MAP_TYPE) != MAP_SHARED ||
	    !fake_path(fd, &a))
		return real_mmap(p, size, prot, flags, fd, offset);
	return map_window(a.sun_path, size, prot, offset);
}

EXPORT void *mmap64(void *p, size_t size, int prot, int flags, int fd, off_t offset)
{
	return mmap(p, size, prot, flags, fd, offset);
}

static int write_part(const char *dir, const char *id, int side, const char *part, const void *data,
		      size_t size, uint64_t length)
{
	char name[200];
	int fd;

	snprintf(name, sizeof(name), "%s/sivshm-fake-%s.%d.%s", dir, id, side, part);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (pwrite(fd, data, size, 0) != (ssize_t)size || ftruncate(fd, (off_t)length) < 0) {
		close(fd);
		return -EIO;
	}
	close(fd);
	return 0;
}

static int bind_side(const char *dir, const char *id, int side, struct sockaddr_un *ret)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/sivshm-fake-%s.%d", dir, id, side);
	unlink(ret->sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)ret, sizeof(*ret)) < 0)
		return -1;
	return fd;
}

static int connect_sides(const char *dir, const char *id, int fd[static 2])
{
	struct sockaddr_un a, b;
	int listener = bind_side(dir, id, 0, &a);

	fd[1] = bind_side(dir, id, 1, &b);
	if (listener < 0 || fd[1] < 0 || listen(listener, 1) < 0 ||
	    connect(fd[1], (struct sockaddr *)&a, sizeof(a)) < 0)
		return -EIO;
	fd[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	return fd[0] < 0 ? -EIO : 0;
}

EXPORT int fake_channel_new(const char *dir, const char *id, uint64_t ring_size, int fd[static 2])
{
	struct sivshm_channel_info info = quiet_info(ring_size);
	int r = 0;

	memcpy(info.local_service, "left", sizeof("left"));
	memcpy(info.peer_vm, "vm", sizeof("vm"));
	memcpy(info.peer_service, "right", sizeof("right"));
	for (int side = 0; side < 2 && r == 0; side++) {
		r = write_part(dir, id, side, "info", &info, sizeof(info), sizeof(info));
		if (r == 0)
			r = write_part(dir, id, side, "window", "", 1,
				       SIVSHM_CONTROL_SIZE + ring_size);
	}
	return r < 0 ? r : connect_sides(dir, id, fd);
}

static void zero_part(const char *path, char side)
{
	int fd = open_part(path, side, "window");
	struct stat st;

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0)
		(void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, st.st_size);
	close(fd);
}

EXPORT int fake_channel_set_state(const char *dir, const char *id, uint32_t state)
{
	struct sivshm_channel_info info;
	char path[200];
	int r;

	for (int side = 0; side < 2; side++) {
		snprintf(path, sizeof(path), "%s/sivshm-fake-%s.%d", dir, id, side);
		r = read_info(path, &info);
		if (r < 0)
			return r;
		info.state = state;
		r = write_part(dir, id, side, "info", &info, sizeof(info), sizeof(info));
		if (r < 0)
			return r;
	}
	for (char side = '0'; side < '2' && state == SIVSHM_STATE_REVOKED; side++)
		zero_part(path, side);
	return 0;
}
