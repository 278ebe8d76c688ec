/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/channel.h"
#include "client/error.h"

#define KNOWN_FLAGS SIVSHM_PREFAULT
/* Of the struct of the first version: no program has a smaller one. */
#define OPTIONS_MIN_SIZE (offsetof(struct sivshm_options, bus) + sizeof(const char *))

/**
 * channel_check_options() - what the caller's struct, perhaps older or newer than @ret, has
 */
int channel_check_options(const struct sivshm_options *opts, struct sivshm_options *ret)
{
	*ret = (struct sivshm_options){.size = sizeof(*ret)};
	if (!opts)
		return 0;
	if (opts->size < OPTIONS_MIN_SIZE)
		return error_set(-EINVAL,
				 "sivshm_options.size is not set to sizeof(struct sivshm_options)");
	memcpy(ret, opts, opts->size < sizeof(*ret) ? opts->size : sizeof(*ret));
	ret->size = sizeof(*ret);
	if (ret->flags & ~KNOWN_FLAGS)
		return error_set(-EINVAL,
				 "sivshm_options.flags has some that this library lacks: %#llx",
				 (unsigned long long)(ret->flags & ~KNOWN_FLAGS));
	return 0;
}

static bool windows_fit(uint64_t ring_size, uint64_t map_size)
{
	return ring_size <= SIVSHM_MAX_RING_SIZE && map_size == SIVSHM_CONTROL_SIZE + 2 * ring_size;
}

static int check_info(const struct sivshm_channel_info *info)
{
	if (info->abi != SIVSHM_ABI)
		return error_set(
			-EPROTO,
			"kernel module speaks ABI %u, this library %u: install matching versions",
			info->abi, SIVSHM_ABI);
	if (info->state == SIVSHM_STATE_REVOKED)
		return error_channel(-ENOLINK);
	if (!windows_fit(info->tx_ring_size, info->tx_map_size) ||
	    !windows_fit(info->rx_ring_size, info->rx_map_size))
		return error_set(-EPROTO, "kernel module gave windows of impossible size");
	return 0;
}

/*
 * One look at every page: what is shared and writable is entered writable by a look too.  Bytes
 * that the peer may have written are thrown away; nothing is written, since the own page belongs to
 * whoever has attached.
 */
static void touch(const void *map, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t at = 0; at < size; at += page)
		(void)*((const volatile uint8_t *)map + at);
}

static int map_windows(struct sivshm_channel *c, const struct sivshm_channel_info *info,
		       bool prefault)
{
	int r;

	r = c->backend->map(c->userdata, SIVSHM_TX_OFFSET, info->tx_map_size,
			    PROT_READ | PROT_WRITE, &c->tx_map);
	if (r < 0)
		return error_channel(r);
	c->tx_map_size = info->tx_map_size;
	r = c->backend->map(c->userdata, SIVSHM_RX_OFFSET, info->rx_map_size, PROT_READ,
			    &c->rx_map);
	if (r < 0)
		return error_channel(r);
	c->rx_map_size = info->rx_map_size;
	if (prefault) {
		touch(c->tx_map, c->tx_map_size);
		touch(c->rx_map, c->rx_map_size);
	}
	r = ring_init(&c->ring, c->tx_map, info->tx_ring_size, c->rx_map, info->rx_ring_size);
	if (r == 0)
		r = ring_attach(&c->ring);
	return r < 0 ? error_channel(r) : 0;
}

static void take_names(struct sivshm_channel *c, const struct sivshm_channel_info *info)
{
	snprintf(c->local, sizeof(c->local), "%.*s", (int)sizeof(info->local_service) - 1,
		 (const char *)info->local_service);
	snprintf(c->peer, sizeof(c->peer), "%.*s/%.*s", (int)sizeof(info->peer_vm) - 1,
		 (const char *)info->peer_vm, (int)sizeof(info->peer_service) - 1,
		 (const char *)info->peer_service);
}

static void channel_free(struct sivshm_channel *c)
{
	if (c->tx_map)
		munmap(c->tx_map, c->tx_map_size);
	if (c->rx_map)
		munmap(c->rx_map, c->rx_map_size);
	free(c->peer_spiffe);
	free(c);
}

/**
 * channel_new() - a channel over @backend
 * @opts: this library's own struct, checked; or NULL
 * Takes over @userdata on success only.
 */
int channel_new(const struct backend *backend, void *userdata, const struct sivshm_options *opts,
		struct sivshm_channel **ret)
{
	struct sivshm_channel_info info = {};
	struct sivshm_channel *c;
	int r;

	r = backend->get_info(userdata, &info);
	if (r == -ENOTTY)
		return error_set(r, "this fd is no sivshm channel");
	if (r < 0)
		return error_channel(r);
	r = check_info(&info);
	if (r < 0)
		return r;
	c = aligned_alloc(RING_CACHE_LINE, sizeof(*c));
	if (!c)
		return error_channel(-ENOMEM);
	*c = (struct sivshm_channel){.backend = backend, .userdata = userdata, .bell = BELL_INIT};
	c->tx_spin = c->rx_spin = spin_init(opts ? opts->spin_us : 0);
	take_names(c, &info);
	r = map_windows(c, &info, opts && opts->flags & SIVSHM_PREFAULT);
	if (r < 0) {
		channel_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

int sivshm_channel_from_fd(int fd, const struct sivshm_options *opts, struct sivshm_channel **ret)
{
	struct sivshm_options o;
	int r;

	if (fd < 0 || !ret)
		return error_channel(-EINVAL);
	r = channel_check_options(opts, &o);
	return r < 0 ? r : channel_new(&backend_kernel, backend_kernel_userdata(fd), &o, ret);
}

/* Both directions end, and who sleeps in one of them is told. */
static void set_error(struct sivshm_channel *c, int r)
{
	__atomic_store_n(&c->tx_error, r, __ATOMIC_RELAXED);
	__atomic_store_n(&c->rx_error, r, __ATOMIC_RELAXED);
	bell_pass_on(&c->bell);
}

/* Nothing more is sent; an error that was there stays. */
static void end_sending(struct sivshm_channel *c)
{
	int none = 0;

	__atomic_compare_exchange_n(&c->tx_error, &none, -EPIPE, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

void channel_set_gone(struct sivshm_channel *c)
{
	/* In this order: a sender that sees "gone" finds its error, not a full ring. */
	end_sending(c);
	__atomic_store_n(&c->gone, true, __ATOMIC_RELEASE);
}

/**
 * channel_ask() - nothing comes, or the shared words are odd: what does the kernel say?
 * 0: the channel stands (though the peer may be gone); -ENOLINK, -EPERM
 */
int channel_ask(struct sivshm_channel *c)
{
	struct sivshm_channel_info info = {};
	int r;

	r = c->backend->get_info(c->userdata, &info);
	if (r == 0 && info.state == SIVSHM_STATE_REVOKED)
		r = -ENOLINK;
	if (r == 0 && info.state == SIVSHM_STATE_DRAINING)
		channel_set_gone(c);
	return r;
}

/**
 * channel_fail() - an error of the ring or the kernel becomes the caller's
 * A revoked window reads as zeros, which looks like a lying peer: the kernel knows which it is.
 */
int channel_fail(struct sivshm_channel *c, int r)
{
	if (r == -EPROTO) {
		int q = channel_ask(c);

		if (q < 0)
			r = q;
	}
	if (r == -EPROTO || r == -ENOLINK)
		set_error(c, r);
	return error_channel(r);
}

static int tell_closed(struct sivshm_channel *c, uint32_t bits)
{
	c->closed |= bits;
	ring_close(&c->ring, c->closed);
	/* Unconditional: whoever sleeps waits for an index that will never come. */
	return c->backend->notify(c->userdata);
}

int sivshm_shutdown(struct sivshm_channel *c)
{
	int r;

	if (!c)
		return error_channel(-EINVAL);
	if (c->closed & SIVSHM_CLOSED_SEND)
		return 0;
	end_sending(c);
	r = tell_closed(c, SIVSHM_CLOSED_SEND);
	return r < 0 && r != -EPIPE ? channel_fail(c, r) : 0;
}

struct sivshm_channel *sivshm_close(struct sivshm_channel *c)
{
	if (!c)
		return NULL;
	(void)tell_closed(c, SIVSHM_CLOSED_SEND | SIVSHM_CLOSED_RECV);
	c->backend->close(c->userdata);
	channel_free(c);
	return NULL;
}

const char *sivshm_peer(const struct sivshm_channel *c)
{
	return c->peer;
}

const char *sivshm_peer_spiffe(const struct sivshm_channel *c)
{
	return c->peer_spiffe ?: "";
}

const char *sivshm_local(const struct sivshm_channel *c)
{
	return c->local;
}

size_t sivshm_max_message(const struct sivshm_channel *c)
{
	return ring_max_message(c->ring.tx.size);
}

int sivshm_get_fd(const struct sivshm_channel *c)
{
	return c->backend->fd(c->userdata);
}
