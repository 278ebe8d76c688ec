/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holder probe: what can a process do with a channel fd that is not its own?
 *
 *	holder-probe --fd N		an fd that was inherited
 *	holder-probe --socket PATH	an fd that fdpass hands over there
 *	holder-probe --epoll PATH	the same, an epoll fd of the holder that watches the channel
 *	holder-probe --pidfd PID FD	the holder's FD, taken with pidfd_getfd()
 *	holder-probe --proc PID FD	the holder's FD, opened by way of /proc
 *	holder-probe --memory PID ADDR	no fd: the holder's memory at that address, as debuggers
 *read it
 *
 * Prints {"refused": bool, "uid": N, "attempts": [{"name", "refused", "error"}]}.  Exit 0: every
 * attempt was refused; 1: one was not; 2: no fd came.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
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
	setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 300000}, NULL);
	n = read(fd, &count, sizeof(count));
	setitimer(ITIMER_REAL, &(struct itimerval){}, NULL);
	return attempt("read", n < 0 && errno == EPERM, n < 0 ? errno : 0);
}

/* No errno: POLLERR alone says "not yours". */
static json_t *try_poll(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
	int r = poll(&p, 1, 100);

	return attempt("poll", r == 1 && p.revents == POLLERR, EPERM);
}

static json_t *look_epoll(int epoll, const char *name)
{
	struct epoll_event event = {};
	int r = epoll_wait(epoll, &event, 1, 100);

	return attempt(name, r == 1 && event.events == EPOLLERR, EPERM);
}

static json_t *try_epoll(int fd)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	json_t *answer;

	if (epoll < 0)
		err(2, "epoll");
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN}) < 0)
		answer = attempt("epoll", true, errno);
	else
		answer = look_epoll(epoll, "epoll");
	close(epoll);
	return answer;
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
	json_array_append_new(list, try_ioctl(fd, "another ioctl", SIVSHM_GET_INFO, &info));
	json_array_append_new(list, try_poll(fd));
	json_array_append_new(list, try_epoll(fd));
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

static int take_fd(pid_t pid, int theirs)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);

	if (fd < 0)
		err(2, "pidfd_getfd");
	return fd;
}

static json_t *try_proc(const char *pid, const char *fd)
{
	const int modes[] = {O_RDWR, O_RDONLY, O_WRONLY};
	const char *names[] = {"open rw", "open ro", "open wo"};
	json_t *list = json_array();
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, fd);
	for (size_t i = 0; i < 3; i++) {
		int got = open(path, modes[i] | O_CLOEXEC | O_NONBLOCK);

		json_array_append_new(list, attempt(names[i], got < 0, errno));
		if (got >= 0)
			close(got);
	}
	return list;
}

static json_t *try_ptrace(pid_t pid, const char *name, void *address)
{
	int error;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 ||
	    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0 || waitpid(pid, NULL, __WALL) < 0)
		err(2, "ptrace");
	errno = 0;
	ptrace(PTRACE_PEEKDATA, pid, address, NULL);
	error = errno;
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return attempt(name, error, error);
}

static json_t *try_memory(pid_t pid, void *address)
{
	char word[8], path[64];
	struct iovec mine = {word, sizeof(word)}, theirs = {address, sizeof(word)};
	json_t *list = json_array();
	ssize_t n;
	int fd;

	n = process_vm_readv(pid, &mine, 1, &theirs, 1, 0);
	json_array_append_new(list, attempt("process_vm_readv", n < 0, errno));
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(2, "%s", path);
	n = pread(fd, word, sizeof(word), (off_t)(uintptr_t)address);
	json_array_append_new(list, attempt("/proc/PID/mem", n < 0, errno));
	close(fd);
	json_array_append_new(list, try_ptrace(pid, "ptrace", address));
	return list;
}

static json_t *try_as_told(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	int fd = -1;

	if (argc == 3 && strcmp(how, "--fd") == 0)
		fd = atoi(argv[2]);
	else if (argc == 3)
		fd = receive_fd(argv[2]);
	else if (argc == 4 && strcmp(how, "--pidfd") == 0)
		fd = take_fd(atoi(argv[2]), atoi(argv[3]));
	else if (argc == 4 && strcmp(how, "--proc") == 0)
		return try_proc(argv[2], argv[3]);
	else if (argc == 4 && strcmp(how, "--memory") == 0)
		return try_memory(atoi(argv[2]), (void *)strtoul(argv[3], NULL, 0));
	else
		errx(2, "usage: see the head of holder-probe.c");
	if (fd < 0)
		errx(2, "no file descriptor came");
	return strcmp(how, "--epoll") ? try_all(fd) : json_pack("[o]", look_epoll(fd, "epoll"));
}

int main(int argc, char **argv)
{
	json_t *list = try_as_told(argc, argv);

	print_json(json_pack("{sb sI so}", "refused", all_refused, "uid", (json_int_t)getuid(),
			     "attempts", list));
	return !all_refused;
}
