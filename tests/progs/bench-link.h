/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Link: one way to carry messages between the two ends of the benchmark, all used by the same
 * loops. */
#ifndef SIVSHM_TEST_BENCH_LINK_H
#define SIVSHM_TEST_BENCH_LINK_H

#include "client/channel.h"
#include "uio.h"

/**
 * enum kind - ways
 * @SIVSHM:  a channel of sivshm's
 * @PLAIN:   the same library on memory of plain ivshmem; polling alone
 * @UIO:     what users have: the same ring, each message rings, an empty ring sleeps at once
 * @UIO_LIB: the same memory and driver, with the library's way of waiting
 * @TCP:     a socket
 */
enum kind { SIVSHM, PLAIN, UIO, UIO_LIB, TCP, N_KINDS };
/* @SLEEP: never spin; @DEFAULT: as a user of the library who chooses nothing */
enum mode { POLL, SLEEP, DEFAULT, N_MODES };

/**
 * struct link
 * @c:      channel behind it; none for TCP
 * @send, @recv: one message of exactly @size bytes; end the program when that fails
 * @inner:  what @c had as its backend before doorbells and sleeps were counted
 * @rings, @sleeps: this end's, ever
 */
struct link {
	struct sivshm_channel *c;
	void (*send)(struct link *l, const void *data, size_t size);
	void (*recv)(struct link *l, void *data, size_t size);
	const struct backend *inner;
	void *inner_userdata;
	uint64_t rings;
	uint64_t sleeps;
	int fd;
};

extern const char *const kind_names[N_KINDS];
extern const char *const mode_names[N_MODES];

/* Each puts one link in order; @c goes over to it. UIO and UIO_LIB share one channel. */
void link_channel(struct link *l, struct sivshm_channel *c);
void link_uio(struct link *l, struct link *lib, struct uio *u);
void link_tcp(struct link *l, int fd);
void link_mode(struct link *l, enum mode mode);
/* Ends the program with the library's text. */
_Noreturn void fail(ssize_t r, const char *what);

static inline void check(ssize_t r, const char *what)
{
	if (r < 0)
		fail(r, what);
}

#define STEP_TIMEOUT_US 30000000ull

#endif
