/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include "rpc-link-internal.h"

/* Reads of one dispatch: a peer that never stops talking must not keep the loop from the others. */
#define READS_MAX 4
#define READ_SIZE 16384
#define RETRY_MIN_USEC UINT64_C(20000)
#define RETRY_MAX_USEC UINT64_C(1000000)

static struct rpc_link *link_ref(struct rpc_link *link)
{
	link->n_refs++;
	return link;
}

static void link_unref(struct rpc_link *link)
{
	if (--link->n_refs > 0)
		return;
	frame_reader_done(&link->reader);
	frame_queue_done(&link->queue);
	sd_event_unref(link->event);
	free(link);
}

bool rpc_link_is_up(const struct rpc_link *link)
{
	return link->is_up && !link->is_failing;
}

size_t rpc_link_unsent(const struct rpc_link *link)
{
	const void *bytes;

	return frame_queue_peek(&link->queue, &bytes);
}

int rpc_link_fd(const struct rpc_link *link)
{
	return link->fd;
}

void link_fail(struct rpc_link *link, int code, const char *text)
{
	if (!rpc_link_is_up(link))
		return;
	link->is_failing = true;
	failure_set(&link->why, code, "%s", text);
	sd_event_source_set_enabled(link->io, SD_EVENT_OFF);
	sd_event_source_set_enabled(link->defer, SD_EVENT_ONESHOT);
}

/* A device is asked again and again: neither QEMU nor the kernel tells when the host's end is back
 * in a way that epoll could wait for. */
static void arm_retry(struct rpc_link *link, uint64_t usec)
{
	sd_event_source_set_time_relative(link->retry, usec);
	sd_event_source_set_enabled(link->retry, SD_EVENT_ONESHOT);
}

/* From the loop only.  Forgets everything, tells everybody, in that order. */
static void go_down(struct rpc_link *link, const struct failure *why)
{
	struct failure reason = *why, closed;

	link->is_up = link->is_failing = false;
	sd_event_source_set_enabled(link->io, SD_EVENT_OFF);
	sd_event_source_set_enabled(link->defer, SD_EVENT_OFF);
	frame_reader_reset(&link->reader);
	frame_queue_done(&link->queue);
	link->n_malformed = 0;
	link_orphan_requests(link);
	if (link->kind == RPC_LINK_DEVICE)
		arm_retry(link, link->retry_usec = RETRY_MIN_USEC);

	failure_set(&closed, ERR_CLOSED, "control connection is down: %s", reason.text);
	link_fail_calls(link, &closed);
	if (link->handler)
		link->handler->down(link, &reason, link->userdata);
}

static void hang_up(struct rpc_link *link, int error)
{
	struct failure why;

	failure_set(&why, ERR_CLOSED, "%s", error ? strerror(error) : "hung up");
	go_down(link, &why);
}

static int on_defer(sd_event_source *source, void *userdata)
{
	struct rpc_link *link = link_ref(userdata);

	(void)source;
	go_down(link, &link->why);
	link_unref(link);
	return 0;
}

static ssize_t write_some(struct rpc_link *link, const void *data, size_t size)
{
	if (link->kind == RPC_LINK_SOCKET)
		return send(link->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	return write(link->fd, data, size);
}

/* Writes what the other end takes now, the loop does the rest. */
static void flush(struct rpc_link *link)
{
	const void *data;
	size_t size;

	while ((size = frame_queue_peek(&link->queue, &data)) > 0) {
		ssize_t n = write_some(link, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return link_fail(link, ERR_CLOSED, strerror(errno));
		if (n <= 0)
			break;
		frame_queue_consume(&link->queue, (size_t)n);
	}
	sd_event_source_set_io_events(link->io, size > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

int link_push(struct rpc_link *link, const char *text, size_t length)
{
	int r;

	if (!rpc_link_is_up(link))
		return -ENOTCONN;
	r = frame_queue_push(&link->queue, text, length);
	/* A guest that does not read is dropped; the host, which a guest cannot drop, is waited
	 * for. */
	if (r == -ENOBUFS && link->kind == RPC_LINK_SOCKET)
		link_fail(link, ERR_QUOTA_EXCEEDED, "output queue is full");
	if (r < 0)
		return r;
	flush(link);
	return 0;
}

int rpc_link_write_nul(struct rpc_link *link)
{
	return link_push(link, "", 0);
}

/* Hands over the frames in @data, until the link is down or freed. */
static void take_input(struct rpc_link *link, const char *data, size_t size)
{
	while (size > 0 && rpc_link_is_up(link)) {
		const char *frame = NULL;
		size_t used, length = 0;
		int r = frame_reader_feed(&link->reader, data, size, &used, &frame, &length);

		data += used;
		size -= used;
		if (r > 0)
			link_dispatch(link, frame, length);
		else if (r == -EMSGSIZE)
			link_dispatch_too_long(link);
		else if (r < 0)
			link_fail(link, ERR_CLOSED, strerror(-r));
	}
}

static void read_input(struct rpc_link *link)
{
	char data[READ_SIZE];

	for (unsigned i = 0; i < READS_MAX && rpc_link_is_up(link); i++) {
		ssize_t n = read(link->fd, data, sizeof(data));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			return hang_up(link, n < 0 ? errno : 0);
		take_input(link, data, (size_t)n);
		/* all there was; and what has come since, epoll tells */
		if ((size_t)n < sizeof(data))
			return;
	}
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct rpc_link *link = link_ref(userdata);

	(void)source;
	(void)fd;
	if (revents & EPOLLOUT)
		flush(link);
	if (revents & EPOLLIN)
		read_input(link);
	else if ((revents & (EPOLLHUP | EPOLLERR)) && rpc_link_is_up(link))
		hang_up(link, 0);
	link_unref(link);
	return 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct rpc_link *link = link_ref(userdata);
	struct pollfd p = {.fd = link->fd, .events = POLLIN | POLLOUT};

	(void)source;
	(void)usec;
	if (poll(&p, 1, 0) < 0 || (p.revents & (POLLHUP | POLLERR | POLLNVAL))) {
		if (link->retry_usec < RETRY_MAX_USEC)
			link->retry_usec *= 2;
		arm_retry(link, link->retry_usec);
	} else {
		link->is_up = true;
		sd_event_source_set_io_events(link->io, EPOLLIN);
		sd_event_source_set_enabled(link->io, SD_EVENT_ON);
		link->handler->up(link, link->userdata);
	}
	link_unref(link);
	return 0;
}

/* All sources off but, for a device, the one that looks for the host. */
static int add_sources(struct rpc_link *link)
{
	int r;

	r = sd_event_add_io(link->event, &link->io, link->fd, EPOLLIN, on_io, link);
	if (r < 0)
		return r;
	r = sd_event_add_defer(link->event, &link->defer, on_defer, link);
	if (r < 0)
		return r;
	sd_event_source_set_enabled(link->defer, SD_EVENT_OFF);
	sd_event_source_set_description(link->io, "control-link");
	if (link->kind == RPC_LINK_SOCKET)
		return 0;
	sd_event_source_set_enabled(link->io, SD_EVENT_OFF);
	return sd_event_add_time_relative(link->event, &link->retry, CLOCK_MONOTONIC, 0, 1000,
					  on_retry, link);
}

/* Far from what a predecessor used, and below what a double can hold exactly. */
static int64_t random_id(void)
{
	uint64_t n = 0;

	if (getrandom(&n, sizeof(n), 0) < 0)
		n = (uint64_t)getpid();
	return (int64_t)(n & ((UINT64_C(1) << 48) - 1));
}

int rpc_link_new(sd_event *event, int fd, enum rpc_link_kind kind,
		 const struct rpc_link_handler *handler, void *userdata, struct rpc_link **ret)
{
	_cleanup_(rpc_link_freep) struct rpc_link *link = NULL;
	int flags = fcntl(fd, F_GETFL), r;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	link = calloc(1, sizeof(*link));
	if (!link)
		return -ENOMEM;
	*link = (struct rpc_link){
		.n_refs = 1,
		.handler = handler,
		.userdata = userdata,
		.event = sd_event_ref(event),
		.kind = kind,
		.fd = fd,
		.is_up = kind == RPC_LINK_SOCKET,
		.retry_usec = RETRY_MIN_USEC,
		.next_id = random_id(),
	};
	r = add_sources(link);
	if (r < 0) {
		link->fd = -1; /* still the caller's */
		return r;
	}
	*ret = TAKE_PTR(link);
	return 0;
}

struct rpc_link *rpc_link_free(struct rpc_link *link)
{
	if (!link || !link->handler)
		return NULL;
	link->handler = NULL;
	link->is_up = false;
	link_orphan_requests(link);
	link_drop_calls(link);
	sd_event_source_disable_unref(link->io);
	sd_event_source_disable_unref(link->defer);
	sd_event_source_disable_unref(link->retry);
	link->io = link->defer = link->retry = NULL;
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
	link_unref(link);
	return NULL;
}
