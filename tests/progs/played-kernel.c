/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LD_PRELOAD: a /dev/sivshm in the process of its owner, for one end of a connection between native
 * processes.
 *
 * $SIVSHM_FAKE_DEVICE is the path of the device, $SIVSHM_FAKE_KERNEL the grant table that
 * sivshm-cad writes for this VM; as the module does, this knows no grants but those.  A channel's
 * fd is one end of a pair of sockets: there are no windows, and nobody is told of what the host
 * takes back.
 */
#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kmod/uapi/sivshm.h"

#define EXPORTED __attribute__((visibility("default")))

struct channel {
	int end; /* ours of the pair; its hang-up is the last close of the other */
	uint32_t state, generation, uid;
	uint64_t cgroup;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of channels[] */
static struct channel channels[SIVSHM_MAX_SLOTS];
static const struct sivshm_table_header *table;
static int device = -1, events = -1, ends = -1;

static const struct sivshm_grant *grant_of(uint32_t slot)
{
	return (const struct sivshm_grant *)(table + 1) + slot;
}

static void tell(uint32_t type, uint32_t slot, uint32_t generation)
{
	struct sivshm_event e = {.type = type, .slot = slot, .generation = generation, .count = 1};

	send(events, &e, sizeof(e), MSG_NOSIGNAL);
}

static void *watch(void *arg)
{
	struct epoll_event e;

	(void)arg;
	while (epoll_wait(ends, &e, 1, -1) >= 0 || errno == EINTR) {
		struct channel *c = &channels[e.data.u32];

		pthread_mutex_lock(&lock);
		if (c->state != SIVSHM_CHANNEL_NONE) {
			close(c->end);
			c->state = SIVSHM_CHANNEL_NONE;
			tell(SIVSHM_EVENT_RELEASED, e.data.u32, c->generation);
		}
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

/* the device */

static int map_table(void)
{
	int fd = open(getenv("SIVSHM_FAKE_KERNEL"), O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0)
		return -1;
	p = fstat(fd, &st) < 0 ? MAP_FAILED
			       : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return -1;
	table = p;
	return 0;
}

static int open_device(int flags)
{
	pthread_t thread;
	int pair[2];

	if (device >= 0) {
		errno = EBUSY;
		return -1;
	}
	if (map_table() < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	ends = epoll_create1(EPOLL_CLOEXEC);
	if (ends < 0 || pthread_create(&thread, NULL, watch, NULL) != 0)
		return -1;
	if (flags & O_NONBLOCK)
		fcntl(pair[0], F_SETFL, O_NONBLOCK);
	events = pair[1];
	device = pair[0];
	return device;
}

static int get_info(struct sivshm_info *info)
{
	*info = (struct sivshm_info){
		.abi = SIVSHM_ABI,
		.n_slots = le32toh(table->n_slots),
		.n_sections = le32toh(table->n_sections),
		.epoch = le64toh(table->epoch),
	};
	memcpy(info->vm, table->vm, sizeof(info->vm));
	return 0;
}

static int get_section(struct sivshm_section *s)
{
	const struct sivshm_section_desc *d = &table->sections[s->index];

	if (s->index >= le32toh(table->n_sections))
		return -ENOENT;
	s->state = SIVSHM_SECTION_READY;
	s->mapping = SIVSHM_MAPPING_WB;
	s->region = le32toh(d->region);
	s->member = le32toh(d->member);
	s->devfn = le32toh(d->devfn);
	s->flags = le32toh(d->flags);
	s->vectors = le32toh(d->vectors);
	s->size = le64toh(d->size);
	memcpy(s->region_name, d->region_name, sizeof(s->region_name));
	memcpy(s->vm, d->vm, sizeof(s->vm));
	return 0;
}

static uint32_t load(const __le32 *word)
{
	return le32toh(__atomic_load_n(word, __ATOMIC_ACQUIRE));
}

static int get_slot(struct sivshm_slot *s)
{
	const struct sivshm_grant *g = grant_of(s->slot);
	const struct channel *c = &channels[s->slot];

	if (s->slot >= le32toh(table->n_slots))
		return -ENOENT;
	s->generation = load(&g->generation);
	s->state = load(&g->state);
	s->channel = c->state;
	s->channel_generation = c->state ? c->generation : 0;
	s->flags = c->state ? SIVSHM_SLOT_USED : 0;
	s->uid = c->uid;
	s->cgroup = c->cgroup;
	s->region = le32toh(g->region);
	s->peer = le32toh(g->peer);
	s->tx_size = le64toh(g->tx_size);
	s->rx_size = le64toh(g->rx_size);
	memcpy(s->channel_id, g->channel, sizeof(s->channel_id));
	memcpy(s->local_service, g->local_service, sizeof(s->local_service));
	memcpy(s->peer_vm, g->peer_vm, sizeof(s->peer_vm));
	memcpy(s->peer_service, g->peer_service, sizeof(s->peer_service));
	/* as the module: what changed meanwhile is of no use */
	return load(&g->generation) == s->generation && load(&g->state) == s->state ? 0 : -EAGAIN;
}

static int open_channel(const struct sivshm_open *o)
{
	struct channel *c = &channels[o->slot];
	struct epoll_event e = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u32 = o->slot};
	uint32_t state;
	int pair[2];

	if (o->slot >= le32toh(table->n_slots))
		return -ENOENT;
	state = load(&grant_of(o->slot)->state);
	if (load(&grant_of(o->slot)->generation) != o->generation ||
	    (state != SIVSHM_GRANT_ACTIVE && state != SIVSHM_GRANT_DRAINING))
		return -ESTALE;
	if (c->state != SIVSHM_CHANNEL_NONE)
		return -EBUSY;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*c = (struct channel){pair[1], SIVSHM_CHANNEL_OPEN, o->generation, o->uid, o->cgroup};
	if (epoll_ctl(ends, EPOLL_CTL_ADD, pair[1], &e) < 0)
		abort();
	return pair[0];
}

static int adopt_or_close(unsigned long request, const struct sivshm_ref *ref)
{
	struct channel *c = &channels[ref->slot];

	if (ref->slot >= le32toh(table->n_slots) || c->state == SIVSHM_CHANNEL_NONE ||
	    c->generation != ref->generation)
		return -ESTALE;
	if (request == SIVSHM_CLOSE && c->state == SIVSHM_CHANNEL_OPEN) {
		c->state = SIVSHM_CHANNEL_REVOKED;
		tell(SIVSHM_EVENT_REVOKED, ref->slot, ref->generation);
	}
	return 0;
}

static int serve(unsigned long request, void *argument)
{
	switch (request) {
	case SIVSHM_GET_INFO:
		return get_info(argument);
	case SIVSHM_GET_SECTION:
		return get_section(argument);
	case SIVSHM_GET_SLOT:
		return get_slot(argument);
	case SIVSHM_OPEN:
		return open_channel(argument);
	case SIVSHM_ADOPT:
	case SIVSHM_CLOSE:
		return adopt_or_close(request, argument);
	default:
		return -ENOTTY;
	}
}

/* what the process calls */

EXPORTED int ioctl(int fd, unsigned long request, ...)
{
	static int (*next)(int, unsigned long, ...);
	void *argument;
	va_list ap;
	int r;

	va_start(ap, request);
	argument = va_arg(ap, void *);
	va_end(ap);
	if (fd < 0 || fd != device) {
		if (!next)
			next = dlsym(RTLD_NEXT, "ioctl");
		return next(fd, request, argument);
	}
	pthread_mutex_lock(&lock);
	r = serve(request, argument);
	pthread_mutex_unlock(&lock);
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

static int open_any(const char *name, const char *path, int flags, mode_t mode)
{
	int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
	const char *fake = getenv("SIVSHM_FAKE_DEVICE");

	return fake && strcmp(path, fake) == 0 ? open_device(flags) : next(path, flags, mode);
}

#define OPEN(name)                                          \
	EXPORTED int name(const char *path, int flags, ...) \
	{                                                   \
		mode_t mode = 0;                            \
		va_list ap;                                 \
                                                            \
		va_start(ap, flags);                        \
		if (flags & (O_CREAT | __O_TMPFILE))        \
			mode = va_arg(ap, mode_t);          \
		va_end(ap);                                 \
		return open_any(#name, path, flags, mode);  \
	}

/* what open() is called for, depending on how the caller was compiled */
int __open_2(const char *path, int flags, ...);
int __open64_2(const char *path, int flags, ...);
#undef open
#undef open64
OPEN(open)
OPEN(open64)
OPEN(__open_2)
OPEN(__open64_2)
