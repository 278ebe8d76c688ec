/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a QEMU can do to its ivshmem server: come, go, write, read slowly or never, in any order,
 * and what it can do with what it was given.
 *
 * Input: operations, one byte each with arguments.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host.h"
#include "region.h"
#include "table.h"
#include "vm.h"

#define OPERATIONS_MAX 24
#define MESSAGES_MAX (3 + 2 * 4)
#define FDS_MAX (1 + 2 * 4)

struct qemu {
	int fd;		    /* -1: not there */
	int given[FDS_MAX]; /* fds that the server sent */
	unsigned n_given;
	size_t n_read;
	int64_t messages[MESSAGES_MAX];
};

static struct qemu qemus[N_VMS] = {{.fd = -1}, {.fd = -1}};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	host_init(NULL);
	return 0;
}

/* An eventfd is the same for the next input: it shall not meet what this one did to it. */
static void give_back(int fd)
{
	uint64_t value;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (lseek(fd, 0, SEEK_CUR) < 0)
		(void)!read(fd, &value, sizeof(value));
	close(fd);
}

static void hang_up(struct qemu *q)
{
	if (q->fd >= 0)
		close(q->fd);
	for (unsigned i = 0; i < q->n_given; i++)
		give_back(q->given[i]);
	*q = (struct qemu){.fd = -1};
}

static void come(unsigned vm, uint8_t how)
{
	struct qemu *q = &qemus[vm];
	int small = 1, second;

	if (q->fd >= 0) { /* one connection for each device: a second one is shut */
		second = host_connect(vm, "demo.sock");
		host_run();
		if (second >= 0)
			close(second);
		return;
	}
	q->fd = host_connect(vm, "demo.sock");
	must(q->fd >= 0);
	if (how & 1) /* so small that the welcome does not fit at once */
		must(setsockopt(q->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
}

static void take_fds(struct qemu *q, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		must(c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)));
		must(q->n_given < FDS_MAX);
		memcpy(&q->given[q->n_given++], CMSG_DATA(c), sizeof(int));
	}
}

/* What the server says is said in the order of the specification, each eventfd with its message. */
static void check_message(const struct qemu *q, unsigned vm, size_t i)
{
	int64_t value = (int64_t)le64toh((uint64_t)q->messages[i]);

	if (i == 0)
		must(value == 0);
	else if (i == 1)
		must(value == (int64_t)vm);
	else if (i == 2)
		must(value == -1 && q->n_given >= 1);
	else /* the peer's vectors, then the own ones */
		must(value == (int64_t)(i < 3 + 4 ? !vm : vm) && q->n_given >= i - 1);
}

static void receive(unsigned vm, size_t size)
{
	struct qemu *q = &qemus[vm];

	while (q->fd >= 0 && size > 0 && q->n_read < sizeof(q->messages)) {
		union {
			char buffer[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		size_t here = 8 - q->n_read % 8;
		struct iovec iov = {(char *)q->messages + q->n_read, here < size ? here : size};
		struct msghdr m = {.msg_iov = &iov,
				   .msg_iovlen = 1,
				   .msg_control = control.buffer,
				   .msg_controllen = sizeof(control.buffer)};
		ssize_t n = recvmsg(q->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n <= 0)
			return;
		take_fds(q, &m);
		q->n_read += (size_t)n;
		size -= (size_t)n;
		if (q->n_read % 8 == 0)
			check_message(q, vm, q->n_read / 8 - 1);
	}
}

/* It was given its own section and doorbells, and may do to those what it likes; the host goes on.
 * Only this thread must not wait meanwhile. */
static void misuse(struct qemu *q, struct input *in)
{
	uint8_t what = input_u8(in), which = input_u8(in);
	uint64_t value = input_u64(in);
	int fd = q->n_given ? q->given[which % q->n_given] : -1, flags;

	if (fd < 0)
		return;
	flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	switch (what % 5) {
	case 0:
		(void)!ftruncate(fd, (off_t)(value % (4 << 20)));
		break;
	case 1:
		(void)!write(fd, &value, sizeof(value));
		break;
	case 2:
		(void)!pwrite(fd, &value, sizeof(value), (off_t)(value % (1 << 20)));
		break;
	case 3:
		flags = (int)(value & (O_APPEND | O_NONBLOCK));
		break;
	default:
		(void)!read(fd, &value, sizeof(value));
	}
	fcntl(fd, F_SETFL, flags);
}

static void operate(struct input *in)
{
	uint8_t operation = input_u8(in);
	unsigned vm = operation >> 7;
	struct qemu *q = &qemus[vm];
	uint8_t argument = input_u8(in);

	switch (operation % 8) {
	case 0:
		come(vm, argument);
		break;
	case 1:
		hang_up(q);
		break;
	case 2:
		if (q->fd >= 0)
			(void)!send(q->fd, "abcdefgh", argument % 9, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 3:
	case 4:
		receive(vm, argument == 255 ? SIZE_MAX : argument);
		break;
	case 5:
		if (q->fd >= 0)
			shutdown(q->fd, argument % 3);
		break;
	case 6:
		misuse(q, in);
		break;
	default:
		for (size_t i = 0; i < host->regions[0]->n_members; i++)
			member_ring(&host->regions[0]->members[i]);
	}
	if (!(operation & 0x40))
		host_run();
}

/* Undisturbed, a QEMU gets its whole welcome, whatever the one before it did. */
static void check_whole_welcome(unsigned vm)
{
	struct sivshm_section_header header;
	struct qemu *q = &qemus[vm];

	come(vm, 0);
	host_run();
	receive(vm, SIZE_MAX);
	must(q->n_read == sizeof(q->messages) && q->n_given == FDS_MAX);
	must(lseek(q->given[0], 0, SEEK_END) == 1 << 20);
	must(pread(q->given[0], &header, sizeof(header), 0) == sizeof(header));
	must(header.magic == htole64(SIVSHM_SECTION_MAGIC));
	hang_up(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	for (unsigned n = 0; in.size > 0 && n < OPERATIONS_MAX; n++)
		operate(&in);
	host_run();
	host_check();
	hang_up(&qemus[VM_A]);
	hang_up(&qemus[VM_B]);
	host_run();
	check_whole_welcome(VM_A);
	check_whole_welcome(VM_B);
	host_run();
	host_check_empty();
	return 0;
}
