/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "ivshmem-server.h"
#include "log.h"
#include "tree.h"

struct ivshmem_message {
	int64_t value; /* little-endian, as sent */
	int fd;	       /* borrowed, -1: none */
};

struct ivshmem_server {
	sd_event_source *listen_source; /* owns the fd */
	sd_event_source *source;	/* of the connection, owns the fd; NULL: none */
	sd_event_source *broken;	/* deferred end of the connection */
	uint32_t uid;
	const struct ivshmem_handler *handler;
	void *userdata;
	struct ivshmem_message *queue; /* owned; @start to @end wait */
	size_t start, end, allocated;
	size_t sent; /* bytes of the first message that are out already */
};

static void disconnect(struct ivshmem_server *s)
{
	s->source = sd_event_source_disable_unref(s->source);
	s->broken = sd_event_source_disable_unref(s->broken);
	s->start = s->end = s->sent = 0;
}

struct ivshmem_server *ivshmem_server_free(struct ivshmem_server *s)
{
	if (!s)
		return NULL;
	disconnect(s);
	sd_event_source_disable_unref(s->listen_source);
	free(s->queue);
	free(s);
	return NULL;
}

bool ivshmem_server_is_connected(const struct ivshmem_server *s)
{
	return s->source;
}

int ivshmem_server_fd(const struct ivshmem_server *s)
{
	return s->source ? sd_event_source_get_io_fd(s->source) : -1;
}

static void lose(struct ivshmem_server *s)
{
	disconnect(s);
	s->handler->gone(s->userdata);
}

static int on_broken(sd_event_source *source, void *userdata)
{
	(void)source;
	lose(userdata);
	return 0;
}

/* lose_later() - for callers that are not the loop */
static void lose_later(struct ivshmem_server *s)
{
	if (s->broken)
		return;
	if (sd_event_add_defer(sd_event_source_get_event(s->source), &s->broken, on_broken, s) < 0)
		log_warning("ivshmem: out of memory");
}

/* A message to a QEMU that is tearing its device down crashes QEMU 10: look first. */
static bool has_hung_up(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* send_one() - 1: out; 0: later; negative: the connection is of no use any more */
static int send_one(struct ivshmem_server *s, int fd)
{
	struct ivshmem_message *m = &s->queue[s->start];
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	struct iovec iov = {(char *)&m->value + s->sent, sizeof(m->value) - s->sent};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (m->fd >= 0 && s->sent == 0) {
		msg.msg_control = control.buffer;
		msg.msg_controllen = sizeof(control.buffer);
		control.align = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
						 .cmsg_level = SOL_SOCKET,
						 .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.align), &m->fd, sizeof(int));
	}
	n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	s->sent += (size_t)n;
	if (s->sent < sizeof(m->value))
		return 0;
	s->sent = 0;
	s->start++;
	return 1;
}

static int flush(struct ivshmem_server *s)
{
	int fd = ivshmem_server_fd(s), r = 1;

	if (s->start < s->end && has_hung_up(fd))
		return -EPIPE;
	while (s->start < s->end && r > 0)
		r = send_one(s, fd);
	if (r < 0)
		return r;
	if (s->end > 0 && s->start == s->end) {
		s->start = s->end = 0;
		s->handler->told(s->userdata);
	}
	return sd_event_source_set_io_events(s->source,
					     EPOLLIN | EPOLLRDHUP | (s->end > 0 ? EPOLLOUT : 0));
}

static int enqueue(struct ivshmem_server *s, int64_t value, int fd)
{
	if (s->end == s->allocated) {
		size_t allocated = s->allocated ? 2 * s->allocated : 64;
		struct ivshmem_message *queue = reallocarray(s->queue, allocated, sizeof(*queue));

		if (!queue)
			return -ENOMEM;
		s->queue = queue;
		s->allocated = allocated;
	}
	s->queue[s->end++] = (struct ivshmem_message){(int64_t)htole64((uint64_t)value), fd};
	return 0;
}

void ivshmem_server_close(struct ivshmem_server *s)
{
	if (s->source)
		lose_later(s);
}

void ivshmem_server_send(struct ivshmem_server *s, int64_t value, int fd)
{
	if (!s->source || s->broken)
		return;
	if (enqueue(s, value, fd) < 0 ||
	    sd_event_source_set_io_events(s->source, EPOLLIN | EPOLLRDHUP | EPOLLOUT) < 0)
		lose_later(s);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct ivshmem_server *s = userdata;

	(void)source, (void)fd;
	/* a client never says anything: bytes to read are as bad as its end */
	if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) || flush(s) < 0)
		lose(s);
	return 0;
}

int ivshmem_server_adopt(struct ivshmem_server *s, int fd)
{
	int r = sd_event_add_io(sd_event_source_get_event(s->listen_source), &s->source, fd,
				EPOLLIN | EPOLLRDHUP, on_io, s);

	if (r < 0)
		return r;
	return sd_event_source_set_io_fd_own(s->source, true);
}

static bool may_connect(struct ivshmem_server *s, int fd)
{
	uint32_t uid;

	if (tree_peer_uid(fd, &uid) < 0 || uid != s->uid) {
		log_warning("ivshmem: a process that is not uid %u tried to connect", s->uid);
		return false;
	}
	if (s->source) {
		log_warning("ivshmem: uid %u has a connection for this device already", s->uid);
		return false;
	}
	return true;
}

static int on_connection(sd_event_source *source, int listen_fd, uint32_t events, void *userdata)
{
	struct ivshmem_server *s = userdata;
	_cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)source, (void)events;
	if (fd < 0 || !may_connect(s, fd) || ivshmem_server_adopt(s, fd) < 0)
		return 0;
	TAKE_FD(fd);
	s->handler->connected(s->userdata);
	return 0;
}

int ivshmem_server_new(sd_event *event, int listen_fd, uint32_t uid,
		       const struct ivshmem_handler *handler, void *userdata,
		       struct ivshmem_server **ret)
{
	_cleanup_(ivshmem_server_freep) struct ivshmem_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->uid = uid;
	s->handler = handler;
	s->userdata = userdata;
	r = sd_event_add_io(event, &s->listen_source, listen_fd, EPOLLIN, on_connection, s);
	if (r >= 0) /* out of fds: no busy loop */
		r = sd_event_source_set_ratelimit(s->listen_source, 1000000, 100);
	if (r < 0)
		return r;
	sd_event_source_set_io_fd_own(s->listen_source, true);
	*ret = TAKE_PTR(s);
	return 0;
}
