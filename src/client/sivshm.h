/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libsivshm - authenticated shared-memory channels between services of virtual machines.
 *
 *	struct sivshm_channel *c;
 *	int r = sivshm_connect("sensor", "ivi/dashboard", NULL, &c);
 *	if (r < 0)
 *		errx(1, "%s", sivshm_last_error());
 *	sivshm_send(c, "hello", 5, SIVSHM_FOREVER);
 *	sivshm_close(c);
 *
 * Calls return 0 or a positive value on success and a negative errno on failure; a text for people
 * (what, where, what to do) is in sivshm_last_error() of the same thread.  What the errors mean:
 *
 *	-EACCES		refused by the policy of this guest, the host or the peer's guest
 *	-ENOENT		no such peer (no such VM or service)
 *	-ECONNREFUSED	the peer exists, but nobody listens there
 *	-EPIPE		the peer has closed, or its VM is gone; everything it sent was received
 *	-ENOLINK	the channel was revoked
 *	-EMSGSIZE	the message can never fit the ring (send), or the buffer is too small (recv)
 *	-EPROTO		the peer broke the ring's rules, the channel is of no more use; when a channel
 *			is made: the handshake failed, or the other end is not who it has to be
 *	-EPERM		this process is not the holder of the channel
 *	-ETIMEDOUT	the timeout passed
 *	-EAGAIN		would have to wait, and the timeout was 0
 *	-EINTR		a signal handler ran while the call slept
 *	-EDQUOT		a quota is used up
 *	-ENOMEM		no room for the rings in the VM's section, or no memory
 *	-EBUSY		the channel is attached already, by this process or another one
 *	-EHOSTDOWN	sivshmd is not running, or has no connection to the host
 *	-EINVAL		a wrong argument
 *	-EIO		anything else that sivshmd reports
 *
 * Timeouts are in microseconds, relative; 0 does not wait, SIVSHM_FOREVER has no end.
 *
 * Threads: one thread may send while another receives on the same channel.  Two threads must not
 * send at once, nor receive at once.  Different channels are independent.  A listener belongs to
 * one thread at a time.
 *
 * Processes: a channel is bound to the user and cgroup that asked for it.  Its memory is not there
 * in a child after fork(); the child must not use the channel.
 */
#ifndef SIVSHM_H
#define SIVSHM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define SIVSHM_FOREVER UINT64_MAX

/* Flags of struct sivshm_options */
#define SIVSHM_PREFAULT (1ull << 0) /* no page fault once there is a channel, not for the first message */

struct sivshm_channel;
struct sivshm_listener;

/**
 * struct sivshm_options - what may be chosen when a channel is made; zero means the default
 * @size:       sizeof(struct sivshm_options), so that the struct can grow
 * @ring_size:  bytes each way, a power of two from 4096; default 65536
 * @timeout_us: for the whole connect; default 10 s
 * @backlog:    listen: how many connections may wait for sivshm_accept(); default 8
 * @spin_us:    longest spin before a wait sleeps; default adaptive up to 200; UINT32_MAX never sleeps
 * @bus:        address of the bus sivshmd is on; NULL: the system bus
 * @flags:      SIVSHM_*; one that this library does not know is -EINVAL
 */
struct sivshm_options {
	size_t size;
	uint64_t ring_size;
	uint64_t timeout_us;
	uint32_t backlog;
	uint32_t spin_us;
	const char *bus;
	uint64_t flags;
};

/**
 * sivshm_connect() - join a service of another VM
 * @as:   name of the own service, as the guest's policy gives it to the caller; NULL or "" if the
 *        policy gives the caller exactly one
 * @to:   the peer, "vm/service"
 * @opts: NULL for defaults
 * @ret:  the channel; the caller closes it with sivshm_close()
 *
 * When it returns 0 both ends have proved who they are: see sivshm_peer().
 */
int sivshm_connect(const char *as, const char *to, const struct sivshm_options *opts,
		   struct sivshm_channel **ret);

/**
 * sivshm_listen() - be found as a service of this VM
 * The caller ends it with sivshm_listener_close().
 */
int sivshm_listen(const char *service, const struct sivshm_options *opts,
		  struct sivshm_listener **ret);

/** sivshm_accept() - next connection of a listener; -EAGAIN or -ETIMEDOUT when there is none */
int sivshm_accept(struct sivshm_listener *l, uint64_t timeout_us, struct sivshm_channel **ret);

/**
 * sivshm_listener_get_fd() - fd for an event loop
 * Poll it for POLLIN; when it is ready, call sivshm_accept() with timeout 0 until -EAGAIN.
 */
int sivshm_listener_get_fd(struct sivshm_listener *l);

/** sivshm_listener_close() - stop listening; takes NULL; returns NULL */
struct sivshm_listener *sivshm_listener_close(struct sivshm_listener *l);

/**
 * sivshm_channel_from_fd() - a channel from an fd that came over D-Bus by other means
 * Takes over @fd on success only.
 */
int sivshm_channel_from_fd(int fd, const struct sivshm_options *opts, struct sivshm_channel **ret);

/**
 * sivshm_close() - no more of this channel; takes NULL; returns NULL
 * What was sent before stays readable for the peer.
 */
struct sivshm_channel *sivshm_close(struct sivshm_channel *c);

/**
 * sivshm_shutdown() - send nothing more on this channel
 * The peer gets -EPIPE once it has received everything; receiving here goes on.
 */
int sivshm_shutdown(struct sivshm_channel *c);

/** sivshm_peer() - authenticated name of the other end, "vm/service"; valid until closed */
const char *sivshm_peer(const struct sivshm_channel *c);
/**
 * sivshm_peer_spiffe() - SPIFFE id in the certificate that the other end has proved; valid until
 * closed.  "" for a channel from sivshm_channel_from_fd().
 */
const char *sivshm_peer_spiffe(const struct sivshm_channel *c);
/** sivshm_local() - name of the own service; valid until closed */
const char *sivshm_local(const struct sivshm_channel *c);
/** sivshm_max_message() - longest message that can be sent */
size_t sivshm_max_message(const struct sivshm_channel *c);

/** sivshm_send() - send one message, whole or not at all */
int sivshm_send(struct sivshm_channel *c, const void *data, size_t size, uint64_t timeout_us);

/**
 * sivshm_recv() - receive one message
 * Returns its size.  -EMSGSIZE: @size is too small; the message stays, @ret_size (may be NULL)
 * says how long it is.
 */
ssize_t sivshm_recv(struct sivshm_channel *c, void *data, size_t size, size_t *ret_size,
		    uint64_t timeout_us);

/**
 * sivshm_reserve() - room for one message, in place
 * @ret: @size writable contiguous bytes in shared memory.  Nothing is sent until sivshm_commit();
 *       a second reserve without a commit replaces the first.
 */
int sivshm_reserve(struct sivshm_channel *c, size_t size, void **ret, uint64_t timeout_us);
/** sivshm_commit() - send @size bytes (up to what was reserved) of the reserved room */
int sivshm_commit(struct sivshm_channel *c, size_t size);

/**
 * sivshm_peek() - next message, in place
 * The peer can change these bytes at any time: copy what has to be checked before it is used.
 * Returns the size; the bytes stay until sivshm_release().
 */
ssize_t sivshm_peek(struct sivshm_channel *c, const void **ret, uint64_t timeout_us);
/** sivshm_release() - give back the message that sivshm_peek() showed */
int sivshm_release(struct sivshm_channel *c);

#define SIVSHM_READ (1 << 0)  /* a message can be received */
#define SIVSHM_WRITE (1 << 1) /* see sivshm_wait() */

/**
 * sivshm_wait() - spin a little, then sleep, until one of @events
 * SIVSHM_WRITE: room for a message of the size that the last send or reserve could not place (8
 * bytes otherwise).  Returns the events that are there.  A peer that has closed counts as an event:
 * the call that follows does not wait, but returns -EPIPE.
 */
int sivshm_wait(struct sivshm_channel *c, int events, uint64_t timeout_us);

/** sivshm_get_fd() - fd of the channel, for an event loop: poll it for POLLIN */
int sivshm_get_fd(const struct sivshm_channel *c);
/**
 * sivshm_arm() - announce that this side is going to sleep in an event loop
 * Call it before poll(); a positive return value says that some of @events are there already and
 * poll() must not be called.  When poll() returns, receive until -EAGAIN, then arm again.
 *
 * poll() takes the doorbell for the whole channel: while one thread uses sivshm_arm(), no other may
 * sleep in a call on the same channel (timeout 0 is fine).
 */
int sivshm_arm(struct sivshm_channel *c, int events);

/** sivshm_last_error() - text for the last failed call of this thread; never NULL */
const char *sivshm_last_error(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
