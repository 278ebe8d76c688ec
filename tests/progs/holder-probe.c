/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holder probe: what can a process do with a channel fd that is not its own?
 *
 *	holder-probe --fd N		an fd that was inherited
 *	holder-probe --socket PATH	an fd that fdpass hands over there
 *
 * Prints {"refused": bool, "uid": N, "attempts": [{"name", "refused", "error"}]}.  Exit 0: every
 * attempt was refused; 1: one was not; 2: no fd came.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "json-out.h"
#include "kmod/uapi/sivshm.h"

#define RING 65536u /* the default; the kernel looks at the holder first */

static bool all_refused = true;

static json_t *attempt(const char *name, bool refused, int error)
{
	if (!refused)
		all_refused = false;
	return json_pack("{ss sb ss}", "name", name, "refused", refused, "error",
			 errno_name(refused ? error : 0));
}

static json_t *try_mmap(int fd, const char *name, int prot, uint64_t offset)
{
	void *p = mmap(NULL, 4096 + 2 * RING, prot, MAP_SHARED, fd, (off_t)offset);

	return attempt(name, p == MAP_FAILED && errno == EPERM, p == MAP_FAILED ? errno : 0);
}

static json_t *try_ioctl(int fd, const char *name, unsigned long request, void *arg)
{
	int r = ioctl(fd, request, arg);

	return attempt(name, r < 0 && errno == EPERM, r < 0 ? errno : 0);
}

static void on_alarm(int signal_number)
{
	(void)signal_number;
}

/* A read() that is let in would sleep. */
static json_t *try_read(int fd)
{
	uint64_t count;
	ssize_t n;

	sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
	alarm(2);
	n = read(fd, &count, sizeof(count));
	alarm(0);
	return attempt("read", n < 0 && errno == EPERM, n < 0 ? errno : 0);
}

/* No errno: POLLERR alone says "not yours". */
static json_t *try_poll(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
	int r = poll(&p, 1, 100);

	return attempt("poll", r == 1 && p.revents == POLLERR, EPERM);
}

static json_t *try_all(int fd)
{
	struct sivshm_channel_info info = {};
	struct sivshm_wait w = {};
	json_t *list = json_array();

	json_array_append_new(list,
			      try_mmap(fd, "mmap tx", PROT_READ | PROT_WRITE, SIVSHM_TX_OFFSET));
	json_array_append_new(list, try_mmap(fd, "mmap rx", PROT_READ, SIVSHM_RX_OFFSET));
	json_array_append_new(list, try_ioctl(fd, "get info", SIVSHM_CHANNEL_GET_INFO, &info));
	json_array_append_new(list, try_ioctl(fd, "notify", SIVSHM_CHANNEL_NOTIFY, NULL));
	json_array_append_new(list, try_ioctl(fd, "wait", SIVSHM_CHANNEL_WAIT, &w));
	json_array_append_new(list, try_poll(fd));
	json_array_append_new(list, try_read(fd));
	return list;
}

static int receive_fd(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *h;
	int s, fd = -1;

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof(a)) < 0)
		err(2, "%s", path);
	if (recvmsg(s, &m, MSG_CMSG_CLOEXEC) != 1)
		err(2, "%s: nothing came", path);
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(h), sizeof(fd));
	return fd;
}

int main(int argc, char **argv)
{
	json_t *list;
	int fd;

	if (argc != 3)
		errx(2, "usage: holder-probe --fd N | --socket PATH");
	fd = strcmp(argv[1], "--fd") ? receive_fd(argv[2]) : atoi(argv[2]);
	if (fd < 0)
		errx(2, "no file descriptor came");
	list = try_all(fd);
	print_json(json_pack("{sb sI so}", "refused", all_refused, "uid", (json_int_t)getuid(),
			     "attempts", list));
	return !all_refused;
}
