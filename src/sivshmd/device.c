/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "clock.h"
#include "log.h"
#include "module.h"

#define RETRY_FIRST_USEC (50 * USEC_PER_MSEC) /* udev is about to give us the node */
#define RETRY_MAX_USEC (5 * USEC_PER_SEC)
#define EVENTS_AT_ONCE 64

struct device {
	sd_event *event;
	const char *path;
	const struct device_handler *handler;
	void *userdata;
	int fd;
	int last_error; /* why it is not open; logged when it changes */
	uint32_t abi;
	uint64_t retry_usec;
	sd_event_source *io;
	sd_event_source *retry;
};

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata);

int device_new(sd_event *event, const char *path, const struct device_handler *handler,
	       void *userdata, struct device **ret)
{
	_cleanup_(device_freep) struct device *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	*d = (struct device){
		.event = sd_event_ref(event),
		.path = path,
		.handler = handler,
		.userdata = userdata,
		.fd = -1,
		.retry_usec = RETRY_FIRST_USEC,
	};
	r = sd_event_add_time_relative(event, &d->retry, CLOCK_MONOTONIC, 0, 0, on_retry, d);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(d->retry, SD_EVENT_OFF);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(d);
	return 0;
}

struct device *device_free(struct device *d)
{
	if (!d)
		return NULL;
	sd_event_source_disable_unref(d->io);
	sd_event_source_disable_unref(d->retry);
	closep(&d->fd);
	sd_event_unref(d->event);
	free(d);
	return NULL;
}

bool device_is_open(const struct device *d)
{
	return d->fd >= 0;
}

/* Every ioctl of the owner comes through here; none sleeps for long. */
static int device_ioctl(struct device *d, unsigned long request, void *argument)
{
	int r;

	if (d->fd < 0)
		return -ENODEV;
	do
		r = ioctl(d->fd, request, argument);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void retry_later(struct device *d)
{
	sd_event_source_set_time_relative(d->retry, d->retry_usec);
	sd_event_source_set_enabled(d->retry, SD_EVENT_ONESHOT);
	d->retry_usec *= 2;
	if (d->retry_usec > RETRY_MAX_USEC)
		d->retry_usec = RETRY_MAX_USEC;
}

static void lost(struct device *d, int error)
{
	log_event(LOG_ERR, LOG_ID_DEVICE, NULL, "Lost %s: %s", d->path, strerror(-error));
	d->io = sd_event_source_disable_unref(d->io);
	close(TAKE_FD(d->fd));
	d->last_error = error;
	retry_later(d);
	d->handler->lost(d->userdata);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct sivshm_event events[EVENTS_AT_ONCE];
	struct device *d = userdata;
	ssize_t n;

	(void)s;
	n = read(fd, events, sizeof(events));
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (!(revents & (EPOLLERR | EPOLLHUP)))
			return 0;
		errno = EIO;
	}
	if (n <= 0 || (size_t)n % sizeof(events[0]) != 0) {
		lost(d, n < 0 ? -errno : -EIO);
		return 0;
	}
	for (size_t i = 0; i < (size_t)n / sizeof(events[0]) && device_is_open(d); i++)
		d->handler->event(&events[i], d->userdata);
	return 0;
}

static int check_abi(struct device *d)
{
	struct sivshm_info info;
	int r;

	r = device_info(d, &info);
	if (r < 0)
		return r;
	d->abi = info.abi;
	return info.abi == SIVSHM_ABI ? 0 : -EPROTONOSUPPORT;
}

static int try_open(struct device *d)
{
	int r;

	d->fd = open(d->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (d->fd < 0)
		return -errno;
	r = check_abi(d);
	if (r >= 0)
		r = sd_event_add_io(d->event, &d->io, d->fd, EPOLLIN, on_io, d);
	if (r < 0)
		close(TAKE_FD(d->fd));
	return r;
}

static void report(const struct device *d, int error)
{
	char abi[MODULE_TEXT_SIZE];
	const char *why = strerror(-error);

	if (error == -EPROTONOSUPPORT) {
		module_abi_text(d->abi, abi);
		why = abi;
	} else if (error == -ENOENT) {
		why = "it is not there; is the module sivshm loaded?";
	} else if (error == -EBUSY) {
		why = "another process owns it; does another sivshmd run?";
	}
	log_event(LOG_WARNING, LOG_ID_DEVICE, NULL, "%s cannot be used yet: %s", d->path, why);
}

int device_start(struct device *d)
{
	int r;

	r = try_open(d);
	if (r < 0) {
		if (r != d->last_error)
			report(d, r);
		d->last_error = r;
		retry_later(d);
		return r;
	}
	d->last_error = 0;
	d->retry_usec = RETRY_FIRST_USEC;
	d->handler->opened(d->userdata);
	return 0;
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	device_start(userdata);
	return 0;
}

int device_info(struct device *d, struct sivshm_info *ret)
{
	*ret = (struct sivshm_info){};
	return device_ioctl(d, SIVSHM_GET_INFO, ret);
}

int device_section(struct device *d, unsigned index, struct sivshm_section *ret)
{
	*ret = (struct sivshm_section){.index = index};
	return device_ioctl(d, SIVSHM_GET_SECTION, ret);
}

int device_slot(struct device *d, unsigned slot, struct sivshm_slot *ret)
{
	*ret = (struct sivshm_slot){.slot = slot};
	return device_ioctl(d, SIVSHM_GET_SLOT, ret);
}

int device_open_channel(struct device *d, const struct slot_ref *ref, uid_t uid, uint64_t cgroup,
			int *ret_fd)
{
	struct sivshm_open o = {
		.slot = ref->slot,
		.generation = ref->generation,
		.uid = uid,
		.cgroup = cgroup,
	};
	int fd;

	fd = device_ioctl(d, SIVSHM_OPEN, &o);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int ref_ioctl(struct device *d, unsigned long request, const struct slot_ref *ref)
{
	struct sivshm_ref r = {.slot = ref->slot, .generation = ref->generation};

	return device_ioctl(d, request, &r);
}

int device_adopt(struct device *d, const struct slot_ref *ref)
{
	return ref_ioctl(d, SIVSHM_ADOPT, ref);
}

int device_close_channel(struct device *d, const struct slot_ref *ref)
{
	return ref_ioctl(d, SIVSHM_CLOSE, ref);
}

int device_failure(int r, struct failure *error)
{
	switch (r) {
	case -ENODEV:
	case -ENXIO:
		return failure_set(error, ERR_NOT_READY, "no grant table or section device");
	case -ESTALE:
	case -ENOLINK:
		return failure_set(error, ERR_REVOKED, "the host took the grant back");
	case -EKEYREJECTED:
		return failure_set(error, ERR_HANDSHAKE_FAILED,
				   "the grant in that slot is another session's");
	case -EBUSY:
		return failure_set(error, ERR_FAILED, "the slot's former channel still exists");
	case -EBADMSG:
		return failure_set(error, ERR_FAILED, "the grant does not fit the sections");
	default:
		return failure_set(error, ERR_FAILED, "kernel: %s", strerror(-r));
	}
}
