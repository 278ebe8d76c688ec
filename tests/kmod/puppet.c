// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A puppet for tests of the kernel module: does system calls as it is told and says what came back.
 *
 * The main process only moves lines between a virtio-serial port and its workers, so that a worker
 * may block or die.  A line is "WORKER COMMAND...", the answer "WORKER ANSWER...".  Numbers are C
 * numbers, answers hexadecimal.
 *
 *	0 note TEXT            writes to the kernel log: "ok"
 *	N spawn UID CGROUP     new worker in that cgroup folder (- for the present one) of that uid
 *	N kill                 kill worker
 *	N call NR ARG...       system call: "RESULT ERRNO"
 *	N fail NTH NR ARG...   the same with its NTH allocation failing: "RESULT ERRNO LEFT", where
 *	                       LEFT is not 0 when it made less than that many
 *	N peek ADDRESS LENGTH  "hex BYTES", or "signal NUMBER"
 *	N poke ADDRESS HEX     "ok", or "signal NUMBER"
 *	N send OTHER FD        passes an fd to another worker: "fd NUMBER", that worker's
 *	N count ADDRESS MS     reads the word there for so long: "reads LAST NUMBER-OF-CHANGES"
 *	N stress MS TX RX FD.. all calls at random on channels with windows of those sizes, or
 *without sizes on the owner's fd; closes them: "calls NUMBER SUCCEEDED"
 *
 * A worker that ends is told as "N gone STATUS".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../src/kmod/uapi/sivshm.h"

#define MAX_WORKERS 32
#define MAX_LINE 16384

static struct {
	pid_t pid;
	int socket;
} workers[MAX_WORKERS];

static int port;

/* Worker */

static sigjmp_buf after_signal;

static void on_signal(int signal)
{
	siglongjmp(after_signal, signal);
}

static void do_call(char *args, char *answer)
{
	long a[7] = {0};
	long r;

	for (int i = 0; i < 7 && *args; i++)
		a[i] = (long)strtoull(args, &args, 0);
	errno = 0;
	r = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
	sprintf(answer, "%lx %x", r, r == -1 ? errno : 0);
}

/* Kernels that can inject faults count down from what is written here; other calls must not be hit.
 */
static void do_fail(char *args, char *answer)
{
	unsigned long nth = strtoul(args, &args, 0);
	char number[32] = "";
	int fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);

	dprintf(fd, "%lu", nth);
	do_call(args, answer);
	if (pread(fd, number, sizeof(number) - 1, 0) < 0)
		strcpy(number, "1"); /* nothing but this very copy was left to fail */
	dprintf(fd, "0");
	close(fd);
	sprintf(answer + strlen(answer), " %lx", strtoul(number, NULL, 0));
}

static void do_peek(char *args, char *answer)
{
	const volatile uint8_t *p = (void *)(uintptr_t)strtoull(args, &args, 0);
	size_t n = strtoull(args, &args, 0);
	int s;

	strcpy(answer, "hex ");
	s = sigsetjmp(after_signal, 1);

	if (s > 0) {
		sprintf(answer, "signal %x", (unsigned)s);
		return;
	}
	for (size_t i = 0; i < n && i < MAX_LINE / 2 - 32; i++)
		sprintf(answer + 4 + 2 * i, "%02x", p[i]);
}

static void do_poke(char *args, char *answer)
{
	volatile uint8_t *p = (void *)(uintptr_t)strtoull(args, &args, 0);
	int s = sigsetjmp(after_signal, 1);
	unsigned byte;
	int n;

	if (s > 0) {
		sprintf(answer, "signal %x", (unsigned)s);
		return;
	}
	for (; sscanf(args, " %2x%n", &byte, &n) == 1; args += n)
		*p++ = (uint8_t)byte;
	sprintf(answer, "ok");
}

static uint64_t count_change(uint64_t word, uint64_t last, volatile uint64_t *changes)
{
	if (word != last)
		(*changes)++;
	return word;
}

static void do_count(char *args, char *answer)
{
	const volatile uint64_t *p = (void *)(uintptr_t)strtoull(args, &args, 0);
	uint64_t ms = strtoull(args, &args, 0);
	volatile uint64_t last = 0, changes = 0; /* a signal may end the loop */
	struct timespec now, start;
	int s = sigsetjmp(after_signal, 1);

	if (s > 0) {
		sprintf(answer, "signal %x", (unsigned)s);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		for (int i = 0; i < 1000; i++) {
			last = count_change(*p, last, &changes);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 <
		 (long)ms);
	sprintf(answer, "reads %lx %lx", last, changes);
}

/* Stress: whatever a holder can do to its channels, as fast as it goes, beside others that do it
 * too */

#define MAX_STRESS_FDS 16
#define MAX_STRESS_MAPS 8

static struct {
	uint32_t random;
	int fds[MAX_STRESS_FDS];
	unsigned n_fds;
	size_t tx, rx;
	struct {
		char *address;
		size_t size;
		int writable;
	} maps[MAX_STRESS_MAPS];
} stress;

static uint32_t stress_random(uint32_t below)
{
	stress.random = stress.random * 1664525 + 1013904223;
	return (stress.random >> 8) % below;
}

static void stress_unmap(unsigned i)
{
	if (stress.maps[i].address)
		munmap(stress.maps[i].address, stress.maps[i].size);
	stress.maps[i].address = NULL;
}

static int stress_map(int fd)
{
	unsigned i = stress_random(MAX_STRESS_MAPS);
	int writable = stress_random(2);
	size_t size = writable ? stress.tx : stress.rx;
	void *p;

	stress_unmap(i);
	p = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd,
		 writable ? SIVSHM_TX_OFFSET : SIVSHM_RX_OFFSET);
	if (p == MAP_FAILED)
		return -1;
	stress.maps[i].address = p;
	stress.maps[i].size = size;
	stress.maps[i].writable = writable;
	return 0;
}

static int stress_touch(void)
{
	unsigned i = stress_random(MAX_STRESS_MAPS);
	volatile char *p = stress.maps[i].address;

	if (!p)
		return -1;
	p += stress_random(stress.maps[i].size);
	if (stress.maps[i].writable)
		*p = 1;
	else
		(void)*p;
	return 0;
}

/* Splits a mapping and moves its rest. */
static int stress_split(void)
{
	unsigned i = stress_random(MAX_STRESS_MAPS);
	size_t size = stress.maps[i].size;
	char *p = stress.maps[i].address;

	if (!p || size <= 4096)
		return -1;
	mprotect(p, 4096, PROT_NONE);
	munmap(p, 4096);
	stress.maps[i].address = mremap(p + 4096, size - 4096, size - 4096, MREMAP_MAYMOVE);
	stress.maps[i].size = size - 4096;
	return stress.maps[i].address == MAP_FAILED ? (stress.maps[i].address = NULL, -1) : 0;
}

static int stress_fork(int fd)
{
	struct sivshm_channel_info info;
	int status = 1;
	pid_t pid = fork();

	if (pid == 0) {
		memset(stress.maps, 0, sizeof(stress.maps)); /* not inherited */
		ioctl(fd, SIVSHM_CHANNEL_GET_INFO, &info);
		stress_map(fd);
		_exit(stress_touch());
	}
	waitpid(pid, &status, 0);
	return status;
}

static int stress_channel(int fd)
{
	struct sivshm_channel_info info;
	struct sivshm_wait wait = {.timeout_ns = stress_random(2) * 1000000};
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	uint64_t count;

	switch (stress_random(16)) {
	case 0 ... 2:
		return stress_map(fd);
	case 3 ... 6:
		return stress_touch();
	case 7:
		return stress_unmap(stress_random(MAX_STRESS_MAPS)), 0;
	case 8:
		return stress_split();
	case 9:
		return stress_random(4) ? close(dup(fd)) : stress_fork(fd);
	case 10:
		return ioctl(fd, SIVSHM_CHANNEL_GET_INFO, &info);
	case 11:
		return ioctl(fd, SIVSHM_CHANNEL_NOTIFY);
	case 12:
		return ioctl(fd, SIVSHM_CHANNEL_WAIT, &wait);
	case 13:
		return poll(&poll_fd, 1, stress_random(2));
	case 14:
		return read(fd, &count, sizeof(count));
	default:
		return ioctl(fd, SIVSHM_OPEN, &info);
	}
}

static int stress_owner(int fd)
{
	union {
		struct sivshm_info info;
		struct sivshm_section section;
		struct sivshm_slot slot;
	} arg = {};
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	arg.slot.slot = stress_random(4);
	switch (stress_random(4)) {
	case 0:
		return ioctl(fd, SIVSHM_GET_INFO, &arg);
	case 1:
		return ioctl(fd, SIVSHM_GET_SECTION, &arg);
	case 2:
		return ioctl(fd, SIVSHM_GET_SLOT, &arg);
	default:
		return poll(&poll_fd, 1, stress_random(2));
	}
}

static unsigned long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void do_stress(char *args, char *answer)
{
	unsigned long end = now_ms() + strtoul(args, &args, 0);
	volatile unsigned long calls = 0, good = 0;
	int s;

	memset(&stress, 0, sizeof(stress));
	stress.random = getpid() * 2654435761u ^ (uint32_t)now_ms();
	stress.tx = strtoul(args, &args, 0);
	stress.rx = strtoul(args, &args, 0);
	while (*args && stress.n_fds < MAX_STRESS_FDS)
		stress.fds[stress.n_fds++] = strtol(args, &args, 0);
	for (unsigned i = 0; i < stress.n_fds && stress.tx; i++)
		fcntl(stress.fds[i], F_SETFL, O_NONBLOCK);

	s = sigsetjmp(after_signal, 1);
	if (s > 0) {
		sprintf(answer, "signal %x", (unsigned)s);
		return;
	}
	for (; now_ms() < end; calls++) {
		int fd = stress.fds[stress_random(stress.n_fds)];

		if ((stress.tx ? stress_channel(fd) : stress_owner(fd)) >= 0)
			good++;
	}
	for (unsigned i = 0; i < MAX_STRESS_MAPS; i++)
		stress_unmap(i);
	for (unsigned i = 0; i < stress.n_fds; i++)
		close(stress.fds[i]);
	sprintf(answer, "calls %lx %lx", calls, good);
}

static void send_message(int socket, const char *text, int fd)
{
	struct iovec iov = {(void *)text, strlen(text)};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	sendmsg(socket, &message, 0);
}

/* Return: length, 0 at the end; *ret_fd is -1 when none came. */
static ssize_t receive_message(int socket, char *text, int *ret_fd)
{
	struct iovec iov = {text, MAX_LINE - 1};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);

	*ret_fd = -1;
	if (n > 0 && CMSG_FIRSTHDR(&message))
		memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	text[n > 0 ? n : 0] = 0;
	return n;
}

static void do_send(int socket, char *args)
{
	char text[64];
	unsigned other = strtoul(args, &args, 0);
	int fd = strtoul(args, &args, 0);

	snprintf(text, sizeof(text), "!%u", other);
	send_message(socket, text, fd);
}

static void obey(int socket, char *line)
{
	static char answer[MAX_LINE];

	answer[0] = 0;
	if (strncmp(line, "call ", 5) == 0)
		do_call(line + 5, answer);
	else if (strncmp(line, "fail ", 5) == 0)
		do_fail(line + 5, answer);
	else if (strncmp(line, "peek ", 5) == 0)
		do_peek(line + 5, answer);
	else if (strncmp(line, "poke ", 5) == 0)
		do_poke(line + 5, answer);
	else if (strncmp(line, "count ", 6) == 0)
		do_count(line + 6, answer);
	else if (strncmp(line, "stress ", 7) == 0)
		do_stress(line + 7, answer);
	else if (strncmp(line, "send ", 5) == 0)
		do_send(socket, line + 5);
	else
		sprintf(answer, "what?");
	if (answer[0])
		send_message(socket, answer, -1);
}

static void work(int socket)
{
	static char line[MAX_LINE];
	struct sigaction action = {.sa_handler = on_signal};
	char answer[32];
	int fd;

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (receive_message(socket, line, &fd) > 0) {
		if (fd >= 0) {
			snprintf(answer, sizeof(answer), "fd %x", (unsigned)fd);
			send_message(socket, answer, -1);
		} else {
			obey(socket, line);
		}
	}
	_exit(0);
}

/* Main process */

static void say(unsigned worker, const char *text)
{
	static char line[MAX_LINE + 16];
	int n = snprintf(line, sizeof(line), "%u %s\n", worker, text);

	for (int done = 0; done < n;) {
		ssize_t r = write(port, line + done, n - done);

		if (r < 0)
			exit(1);
		done += r;
	}
}

static int enter_cgroup(const char *folder)
{
	char path[512];
	int fd, r;

	if (strcmp(folder, "-") == 0)
		return 0;
	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	r = write(fd, "0", 1) == 1 ? 0 : -1;
	close(fd);
	return r;
}

static void spawn(unsigned worker, char *args)
{
	char folder[256], answer[32];
	unsigned uid;
	int pair[2];

	if (sscanf(args, "%u %255s", &uid, folder) != 2 || workers[worker].pid ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		say(worker, "cannot");
		return;
	}
	workers[worker].pid = fork();
	if (workers[worker].pid == 0) {
		for (int i = 0; i < MAX_WORKERS; i++)
			if (workers[i].socket > 0)
				close(workers[i].socket);
		close(port);
		close(pair[0]);
		if (enter_cgroup(folder) < 0 || setresgid(uid, uid, uid) < 0 ||
		    setresuid(uid, uid, uid) < 0)
			_exit(1);
		prctl(PR_SET_DUMPABLE, 1);
		work(pair[1]);
	}
	close(pair[1]);
	workers[worker].socket = pair[0];
	snprintf(answer, sizeof(answer), "pid %x", (unsigned)workers[worker].pid);
	say(worker, answer);
}

static void note(const char *text)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "%s\n",
			 text); /* without its end it stays in the kernel */
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	say(0, write(fd, line, n) == n ? "ok" : "cannot");
	close(fd);
}

static void from_host(char *line)
{
	char *command;
	unsigned worker = strtoul(line, &command, 0) % MAX_WORKERS;

	command += strspn(command, " ");
	if (strncmp(command, "note ", 5) == 0)
		note(command + 5);
	else if (strncmp(command, "spawn ", 6) == 0)
		spawn(worker, command + 6);
	else if (!workers[worker].pid)
		say(worker, "gone");
	else if (strcmp(command, "kill") == 0)
		kill(workers[worker].pid, SIGKILL);
	else
		send_message(workers[worker].socket, command, -1);
}

static void from_worker(unsigned worker)
{
	static char line[MAX_LINE];
	int fd, status;

	if (receive_message(workers[worker].socket, line, &fd) <= 0) {
		waitpid(workers[worker].pid, &status, 0);
		close(workers[worker].socket);
		workers[worker].socket = 0;
		workers[worker].pid = 0;
		snprintf(line, sizeof(line), "gone %x", (unsigned)status);
		say(worker, line);
	} else if (fd >= 0) {
		unsigned other = strtoul(line + 1, NULL, 10) % MAX_WORKERS;

		send_message(workers[other].socket, line, fd);
		close(fd);
	} else {
		say(worker, line);
	}
}

static void read_port(void)
{
	static char buffer[MAX_LINE];
	static size_t used;
	ssize_t n = read(port, buffer + used, sizeof(buffer) - used);
	char *end;

	if (n <= 0) {
		usleep(20000); /* nobody holds the other end */
		return;
	}
	used += n;
	while ((end = memchr(buffer, '\n', used))) {
		size_t length = end + 1 - buffer;

		*end = 0;
		from_host(buffer);
		memmove(buffer, end + 1, used - length);
		used -= length;
	}
}

int main(int argc, char *argv[])
{
	if (argc != 2)
		return 2;
	port = open(argv[1], O_RDWR | O_CLOEXEC);
	if (port < 0) {
		perror(argv[1]);
		return 1;
	}
	say(0, "ready");
	for (;;) {
		struct pollfd fds[MAX_WORKERS + 1] = {{.fd = port, .events = POLLIN}};

		for (int i = 0; i < MAX_WORKERS; i++)
			fds[i + 1] = (struct pollfd){
				.fd = workers[i].socket > 0 ? workers[i].socket : -1,
				.events = POLLIN,
			};
		poll(fds, MAX_WORKERS + 1, -1);
		for (int i = 0; i < MAX_WORKERS; i++)
			if (fds[i + 1].revents)
				from_worker(i);
		if (fds[0].revents)
			read_port();
	}
}
