/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting on a peer that takes back what it announced, at the one moment where it matters. */
#include "windows.h"

#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>

#include "client/channel.h"
#include "quiet-backend.h"

#define SIZE 4096u
#define LONG_US 1000000u

static int fd[2];
static struct sivshm_control *peer;
static bool rang;
static unsigned int naps;

/* The library looks at the clock between the end of a sleep and its next look at the ring. */
int clock_gettime(clockid_t clock, struct timespec *ret)
{
	if (rang)
		__atomic_store_n(&peer->closed, 0, __ATOMIC_RELEASE);
	rang = false;
	return (int)syscall(SYS_clock_gettime, clock, ret);
}

static int fake_get_info(void *userdata, struct sivshm_channel_info *ret)
{
	(void)userdata;
	*ret = quiet_info(SIZE);
	return 0;
}

static int fake_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	(void)userdata, (void)size;
	*ret = window_map(fd[offset != SIVSHM_TX_OFFSET], SIZE, prot);
	return *ret ? 0 : -ENOMEM;
}

/* The peer closes and rings. */
static int fake_wait(void *userdata, uint64_t timeout_ns)
{
	(void)userdata, (void)timeout_ns;
	peer->closed = SIVSHM_CLOSED_SEND | SIVSHM_CLOSED_RECV;
	rang = true;
	/* Without the mend this goes on until somebody has enough. */
	if (++naps > 5)
		return -ENOLINK;
	return 0;
}

static const struct backend fake = {
	.get_info = fake_get_info,
	.map = fake_map,
	.notify = quiet_notify,
	.wait = fake_wait,
	.close = quiet_close,
	.fd = quiet_fd,
};

static int setup(void **state)
{
	struct sivshm_channel *c;
	void *window;

	naps = 0;
	rang = false;
	for (int i = 0; i < 2; i++) {
		fd[i] = window_new(SIZE);
		assert_true(fd[i] >= 0);
	}
	window = window_map(fd[1], SIZE, PROT_READ | PROT_WRITE);
	if (!window)
		return -1;
	peer = window;
	peer->magic = SIVSHM_RING_MAGIC;
	assert_int_equal(channel_new(&fake, NULL, NULL, &c), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	sivshm_close(*state);
	window_unmap(peer, SIZE);
	close(fd[0]);
	close(fd[1]);
	return 0;
}

static void test_peek(void **state)
{
	const void *message;

	assert_int_equal(sivshm_peek(*state, &message, LONG_US), -EPROTO);
	assert_int_equal(naps, 1);
	assert_int_equal(sivshm_peek(*state, &message, 0), -EPROTO);
}

static void test_reserve(void **state)
{
	void *room;

	assert_int_equal(sivshm_reserve(*state, SIZE / 2, &room, 0), 0);
	assert_int_equal(sivshm_commit(*state, SIZE / 2), 0);
	assert_int_equal(sivshm_reserve(*state, SIZE / 2, &room, LONG_US), -EPROTO);
	assert_int_equal(naps, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_peek, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reserve, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
