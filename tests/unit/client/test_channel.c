/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Channel over fake channel fds: errors first, then waiting, then traffic. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"
#include "fake-kernel.h"

#define RING 4096u
#define LONG 20000000u /* a wait that is never to end by itself: 20 s */

static char dir[] = "/tmp/sivshm-test-XXXXXX";

struct ends {
	struct sivshm_channel *c[2];
	char id[16];
};

static const struct sivshm_options no_spin = {.size = sizeof(no_spin), .spin_us = 1};

static int setup(void **state)
{
	static unsigned int next;
	struct ends *e = calloc(1, sizeof(*e));
	int fd[2];

	assert_non_null(e);
	snprintf(e->id, sizeof(e->id), "%u", next++);
	assert_int_equal(fake_channel_new(dir, e->id, RING, fd), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(sivshm_channel_from_fd(fd[i], &no_spin, &e->c[i]), 0);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct ends *e = *state;

	sivshm_close(e->c[0]);
	sivshm_close(e->c[1]);
	free(e);
	return 0;
}

static int count_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_from_fd_refuses(void **state)
{
	struct sivshm_channel *c = NULL;
	int fd[2], before = count_fds();

	(void)state;
	assert_int_equal(sivshm_channel_from_fd(-1, NULL, &c), -EINVAL);
	fd[0] = open("/dev/null", O_RDWR);
	assert_int_equal(sivshm_channel_from_fd(fd[0], NULL, &c), -ENOTTY);
	assert_string_equal(sivshm_last_error(), "this fd is no sivshm channel");
	close(fd[0]);
	assert_int_equal(fake_channel_new(dir, "refuse", RING, fd), 0);
	assert_int_equal(fake_channel_set_state(dir, "refuse", FAKE_STATE_FOREIGN), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], NULL, &c), -EPERM);
	assert_non_null(strstr(sivshm_last_error(), "not the holder"));
	assert_int_equal(fake_channel_set_state(dir, "refuse", SIVSHM_STATE_REVOKED), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], NULL, &c), -ENOLINK);
	assert_null(c);
	/* The fd stayed ours. */
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(count_fds(), before);
}

static void test_from_fd_checks_options(void **state)
{
	struct sivshm_options o = {.size = sizeof(o), .flags = 1ull << 40};
	struct sivshm_channel *c = NULL;
	int fd[2];

	(void)state;
	assert_int_equal(fake_channel_new(dir, "options", RING, fd), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], &o, &c), -EINVAL);
	assert_non_null(strstr(sivshm_last_error(), "flags"));
	o = (struct sivshm_options){};
	assert_int_equal(sivshm_channel_from_fd(fd[0], &o, &c), -EINVAL);
	assert_non_null(strstr(sivshm_last_error(), "size"));
	assert_null(c);
	/* The fd stayed ours, and nobody has attached. */
	assert_int_equal(sivshm_channel_from_fd(fd[0], NULL, &c), 0);
	sivshm_close(c);
	close(fd[1]);
}

/* Pages of a mapping that this process can use without a fault. */
static size_t present(const void *map, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	for (size_t at = (size_t)map / page; at < ((size_t)map + size) / page; at++) {
		uint64_t entry = 0;

		assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)(at * sizeof(entry))),
				 sizeof(entry));
		n += entry >> 63;
	}
	close(fd);
	return n;
}

static void test_prefault(void **state)
{
	struct sivshm_options o = {.size = sizeof(o)};
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct sivshm_channel *c[2];
	char b[64];
	int fd[2];

	(void)state;
	/* So large that one fault does not bring in all of it. */
	assert_int_equal(fake_channel_new(dir, "prefault", 1 << 20, fd), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], &o, &c[0]), 0);
	o.flags = SIVSHM_PREFAULT;
	assert_int_equal(sivshm_channel_from_fd(fd[1], &o, &c[1]), 0);
	assert_true(present(c[0]->tx_map, c[0]->tx_map_size) < c[0]->tx_map_size / page);
	assert_true(present(c[0]->rx_map, c[0]->rx_map_size) < c[0]->rx_map_size / page);
	assert_int_equal(present(c[1]->tx_map, c[1]->tx_map_size), c[1]->tx_map_size / page);
	assert_int_equal(present(c[1]->rx_map, c[1]->rx_map_size), c[1]->rx_map_size / page);
	/* Looked at, not written: the peer finds no message. */
	assert_int_equal(sivshm_recv(c[0], b, sizeof(b), NULL, 0), -EAGAIN);
	assert_int_equal(sivshm_send(c[1], "first", 5, 0), 0);
	assert_int_equal(sivshm_recv(c[0], b, sizeof(b), NULL, 0), 5);
	sivshm_close(c[0]);
	sivshm_close(c[1]);
}

static void test_second_attach_is_refused(void **state)
{
	struct ends *e = *state;
	struct sivshm_channel *c;
	int fd = dup(sivshm_get_fd(e->c[0]));

	assert_int_equal(sivshm_channel_from_fd(fd, NULL, &c), -EBUSY);
	close(fd);
}

static void test_names(void **state)
{
	struct ends *e = *state;

	assert_string_equal(sivshm_peer(e->c[0]), "vm/right");
	assert_string_equal(sivshm_local(e->c[0]), "left");
	assert_string_equal(sivshm_peer_spiffe(e->c[0]), "");
	assert_int_equal(sivshm_max_message(e->c[0]), RING - 8);
}

static void test_timeouts(void **state)
{
	struct ends *e = *state;
	char b[RING] = {};

	assert_int_equal(sivshm_recv(e->c[0], b, sizeof(b), NULL, 0), -EAGAIN);
	assert_int_equal(sivshm_recv(e->c[0], b, sizeof(b), NULL, 20000), -ETIMEDOUT);
	assert_int_equal(sivshm_send(e->c[0], b, RING - 7, 0), -EMSGSIZE);
	assert_int_equal(sivshm_send(e->c[0], b, RING - 8, 0), 0);
	assert_int_equal(sivshm_send(e->c[0], b, 1, 0), -EAGAIN);
	assert_int_equal(sivshm_send(e->c[0], b, 1, 20000), -ETIMEDOUT);
	assert_int_equal(sivshm_wait(e->c[0], SIVSHM_READ | SIVSHM_WRITE, 20000), -ETIMEDOUT);
	assert_int_equal(sivshm_wait(e->c[0], 4, 0), -EINVAL);
}

static void test_small_buffer_keeps_the_message(void **state)
{
	struct ends *e = *state;
	size_t size = 0;
	char b[64];

	assert_int_equal(sivshm_send(e->c[0], "longer", 6, 0), 0);
	assert_int_equal(sivshm_recv(e->c[1], b, 3, &size, 0), -EMSGSIZE);
	assert_int_equal(size, 6);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), &size, 0), 6);
	assert_int_equal(sivshm_release(e->c[1]), -EINVAL);
}

static void test_peer_closes(void **state)
{
	struct ends *e = *state;
	char b[64];

	assert_int_equal(sivshm_send(e->c[0], "last", 4, 0), 0);
	e->c[0] = sivshm_close(e->c[0]);
	assert_int_equal(sivshm_wait(e->c[1], SIVSHM_READ, LONG), SIVSHM_READ);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), 4);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), -EPIPE);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, 0), -EPIPE);
	assert_int_equal(sivshm_send(e->c[1], "x", 1, LONG), -EPIPE);
	assert_int_equal(sivshm_wait(e->c[1], SIVSHM_READ, 0), SIVSHM_READ);
}

static void test_half_close(void **state)
{
	struct ends *e = *state;
	char b[64];

	assert_int_equal(sivshm_send(e->c[0], "question", 8, 0), 0);
	assert_int_equal(sivshm_shutdown(e->c[0]), 0);
	assert_int_equal(sivshm_shutdown(e->c[0]), 0);
	assert_int_equal(sivshm_send(e->c[0], "x", 1, 0), -EPIPE);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), 8);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), -EPIPE);
	assert_int_equal(sivshm_send(e->c[1], "answer", 6, 0), 0);
	assert_int_equal(sivshm_recv(e->c[0], b, sizeof(b), NULL, LONG), 6);
}

/* The peer's VM died: no word in shared memory, only the kernel knows. */
static void test_peer_dies_silently(void **state)
{
	struct ends *e = *state;
	char b[64];

	assert_int_equal(sivshm_send(e->c[0], "last", 4, 0), 0);
	assert_int_equal(fake_channel_set_state(dir, e->id, SIVSHM_STATE_DRAINING), 0);
	close(sivshm_get_fd(e->c[0]));
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), 4);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), -EPIPE);
	assert_int_equal(sivshm_send(e->c[1], "x", 1, LONG), -EPIPE);
}

/* Who only ever polls learns of it too. */
static void test_silent_death_while_polling(void **state)
{
	struct ends *e = *state;
	int r = -EAGAIN;
	char b[64];

	assert_int_equal(fake_channel_set_state(dir, e->id, SIVSHM_STATE_DRAINING), 0);
	for (int i = 0; i < 10000 && r == -EAGAIN; i++)
		r = (int)sivshm_recv(e->c[1], b, sizeof(b), NULL, 0);
	assert_int_equal(r, -EPIPE);
}

static void test_revoked(void **state)
{
	struct ends *e = *state;
	char b[64];

	assert_int_equal(sivshm_send(e->c[0], "a", 1, 0), 0);
	assert_int_equal(sivshm_send(e->c[0], "b", 1, 0), 0);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), 1);
	assert_int_equal(fake_channel_set_state(dir, e->id, SIVSHM_STATE_REVOKED), 0);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), -ENOLINK);
	assert_int_equal(sivshm_send(e->c[1], "x", 1, LONG), -ENOLINK);
	assert_int_equal(sivshm_wait(e->c[1], SIVSHM_WRITE, LONG), -ENOLINK);
	assert_int_equal(sivshm_arm(e->c[1], SIVSHM_READ), -ENOLINK);
	assert_non_null(strstr(sivshm_last_error(), "revoked"));
}

/* Zero-copy: the bytes were shown, then taken away; release says so. */
static void test_revoked_under_peek(void **state)
{
	struct ends *e = *state;
	const void *m;

	assert_int_equal(sivshm_send(e->c[0], "abc", 3, 0), 0);
	assert_int_equal(sivshm_peek(e->c[1], &m, LONG), 3);
	assert_int_equal(fake_channel_set_state(dir, e->id, SIVSHM_STATE_REVOKED), 0);
	assert_int_equal(sivshm_release(e->c[1]), -ENOLINK);
}

/* Revoked before the peer ever came: zeros all along, the kernel is asked when nothing comes. */
static void test_revoked_before_the_peer_came(void **state)
{
	struct sivshm_channel *c;
	char b[8];
	int fd[2];

	(void)state;
	assert_int_equal(fake_channel_new(dir, "lone", RING, fd), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], NULL, &c), 0);
	assert_int_equal(fake_channel_set_state(dir, "lone", SIVSHM_STATE_REVOKED), 0);
	assert_int_equal(send(fd[1], "", 1, 0), 1);
	assert_int_equal(sivshm_recv(c, b, sizeof(b), NULL, LONG), -ENOLINK);
	sivshm_close(c);
	close(fd[1]);
}

static void test_lying_peer(void **state)
{
	struct ends *e = *state;
	struct sivshm_control *lies = e->c[0]->tx_map;
	char b[8];

	lies->producer = 3;
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, LONG), -EPROTO);
	/* Too late for the truth. */
	lies->producer = 0;
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, 0), -EPROTO);
	assert_int_equal(sivshm_send(e->c[1], b, sizeof(b), 0), -EPROTO);
}

/* The peer receives nothing, and then lies: who waits for room is told, whoever sleeps in the
 * kernel. */
static void *send_two(void *arg)
{
	static const char b[RING - 8];
	int r = sivshm_send(arg, b, sizeof(b), SIVSHM_FOREVER);

	if (r == 0)
		r = sivshm_send(arg, b, sizeof(b), SIVSHM_FOREVER);
	return (void *)(intptr_t)r;
}

static void *receive(void *arg)
{
	char b[8];

	return (void *)sivshm_recv(arg, b, sizeof(b), NULL, SIVSHM_FOREVER);
}

static void test_lie_wakes_both_directions(void **state)
{
	struct ends *e = *state;
	struct sivshm_control *lies = e->c[0]->tx_map;
	pthread_t sender, receiver;
	void *sent, *received;

	assert_int_equal(pthread_create(&sender, NULL, send_two, e->c[1]), 0);
	usleep(100000);
	assert_int_equal(pthread_create(&receiver, NULL, receive, e->c[1]), 0);
	usleep(100000);
	lies->producer = 3;
	assert_int_equal(e->c[0]->backend->notify(e->c[0]->userdata), 0);
	pthread_join(receiver, &received);
	pthread_join(sender, &sent);
	assert_int_equal((intptr_t)received, -EPROTO);
	assert_int_equal((intptr_t)sent, -EPROTO);
}

/* The receiver finds out without having slept; the sender leads, and nobody rings. */
static void test_lie_wakes_the_leader(void **state)
{
	struct ends *e = *state;
	struct sivshm_control *lies = e->c[0]->tx_map;
	pthread_t sender;
	char b[8];
	void *sent;

	assert_int_equal(pthread_create(&sender, NULL, send_two, e->c[1]), 0);
	usleep(100000);
	lies->producer = 3;
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, 0), -EPROTO);
	pthread_join(sender, &sent);
	assert_int_equal((intptr_t)sent, -EPROTO);
}

static void test_release_of_nothing(void **state)
{
	struct sivshm_channel *c[2];
	char b[8];
	int fd[2];

	(void)state;
	assert_int_equal(fake_channel_new(dir, "early", RING, fd), 0);
	assert_int_equal(sivshm_channel_from_fd(fd[0], &no_spin, &c[0]), 0);
	/* Before the peer has come, and harmless. */
	assert_int_equal(sivshm_release(c[0]), -EINVAL);
	assert_int_equal(sivshm_channel_from_fd(fd[1], &no_spin, &c[1]), 0);
	assert_int_equal(sivshm_send(c[1], NULL, 0, 0), 0);
	assert_int_equal(sivshm_recv(c[0], NULL, 0, NULL, LONG), 0);
	assert_int_equal(sivshm_release(c[0]), -EINVAL);
	assert_int_equal(sivshm_send(c[0], "x", 1, 0), 0);
	assert_int_equal(sivshm_recv(c[1], b, sizeof(b), NULL, LONG), 1);
	sivshm_close(c[0]);
	sivshm_close(c[1]);
}

/* Nothing is published behind "closed". */
static void test_commit_after_the_end(void **state)
{
	struct ends *e = *state;
	struct sivshm_control *own = e->c[0]->tx_map;
	void *room;

	assert_int_equal(sivshm_reserve(e->c[0], 1, &room, 0), 0);
	assert_int_equal(sivshm_shutdown(e->c[0]), 0);
	assert_int_equal(sivshm_commit(e->c[0], 1), -EPIPE);
	assert_int_equal(own->producer, 0);
}

/* poll() as in an event loop: silence until armed, truth afterwards. */
static void test_arm_and_poll(void **state)
{
	struct ends *e = *state;
	struct pollfd p = {.fd = sivshm_get_fd(e->c[1]), .events = POLLIN};
	char b[8];

	assert_int_equal(sivshm_arm(e->c[1], SIVSHM_READ), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(sivshm_send(e->c[0], "x", 1, 0), 0);
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(sivshm_arm(e->c[1], SIVSHM_READ), SIVSHM_READ);
	assert_int_equal(sivshm_recv(e->c[1], b, sizeof(b), NULL, 0), 1);
	assert_int_equal(sivshm_arm(e->c[1], SIVSHM_READ), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	/* Room: the other side's turn. */
	assert_int_equal(sivshm_arm(e->c[0], SIVSHM_WRITE), SIVSHM_WRITE);
}

static void *echo(void *arg)
{
	struct sivshm_channel *c = arg;
	char b[RING];
	ssize_t n;

	while ((n = sivshm_recv(c, b, sizeof(b), NULL, LONG)) >= 0)
		if (sivshm_send(c, b, (size_t)n, LONG) < 0)
			break;
	return (void *)(intptr_t)n;
}

static void test_ping_pong_sleeping(void **state)
{
	struct ends *e = *state;
	pthread_t t;
	void *r;

	assert_int_equal(pthread_create(&t, NULL, echo, e->c[1]), 0);
	for (unsigned int i = 0; i < 5000; i++) {
		unsigned int got = 0;

		assert_int_equal(sivshm_send(e->c[0], &i, sizeof(i), LONG), 0);
		assert_int_equal(sivshm_recv(e->c[0], &got, sizeof(got), NULL, LONG), sizeof(got));
		assert_int_equal(got, i);
	}
	e->c[0] = sivshm_close(e->c[0]);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EPIPE);
}

/* Sender and receiver of one channel in two threads, both often asleep; the peer echoes. */
static void *flood(void *arg)
{
	struct sivshm_channel *c = arg;
	char b[1000];

	memset(b, 'f', sizeof(b));
	for (int i = 0; i < 20000; i++)
		if (sivshm_send(c, b, (size_t)(i * 37 % 1000), LONG) < 0)
			return c;
	return NULL;
}

static void test_two_threads_share_the_bell(void **state)
{
	struct ends *e = *state;
	pthread_t sender, peer;
	char b[1000];
	void *r;

	assert_int_equal(pthread_create(&peer, NULL, echo, e->c[1]), 0);
	assert_int_equal(pthread_create(&sender, NULL, flood, e->c[0]), 0);
	for (int i = 0; i < 20000; i++)
		assert_int_equal(sivshm_recv(e->c[0], b, sizeof(b), NULL, LONG), i * 37 % 1000);
	pthread_join(sender, &r);
	assert_null(r);
	e->c[0] = sivshm_close(e->c[0]);
	pthread_join(peer, NULL);
}

static void test_spin_learns(void **state)
{
	struct spin s = spin_init(0);

	(void)state;
	assert_int_equal(s.limit_ns, SPIN_DEFAULT_MAX_NS);
	for (int i = 0; i < 20; i++)
		spin_learn(&s, SPIN_DEFAULT_MAX_NS + 1);
	assert_int_equal(s.limit_ns, SPIN_MIN_NS);
	for (int i = 0; i < 20; i++)
		spin_learn(&s, SPIN_DEFAULT_MAX_NS);
	assert_int_equal(s.limit_ns, SPIN_DEFAULT_MAX_NS);
	s = spin_init(UINT32_MAX);
	spin_learn(&s, 1);
	assert_true(s.limit_ns == SPIN_FOREVER);
}

/* Who answers looks at once, who only receives less and less often; a wait that was in vain counts
 * from the beginning. */
static void test_pace(void **state)
{
	struct pace p = {};

	(void)state;
	for (unsigned int pauses = 1; pauses <= PACE_MAX; pauses *= 2)
		assert_int_equal(spin_pace(&p, 100), pauses);
	assert_int_equal(spin_pace(&p, 100), PACE_MAX);
	assert_int_equal(spin_pace(&p, 108), 1);
	assert_int_equal(spin_pace(&p, 108), 2);
	p.pauses = 0;
	assert_int_equal(spin_pace(&p, 108), 1);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_from_fd_refuses),
		cmocka_unit_test(test_from_fd_checks_options),
		cmocka_unit_test(test_prefault),
		TEST(test_second_attach_is_refused),
		TEST(test_names),
		TEST(test_timeouts),
		TEST(test_small_buffer_keeps_the_message),
		TEST(test_peer_closes),
		TEST(test_half_close),
		TEST(test_peer_dies_silently),
		TEST(test_silent_death_while_polling),
		TEST(test_revoked),
		TEST(test_revoked_under_peek),
		cmocka_unit_test(test_revoked_before_the_peer_came),
		TEST(test_lying_peer),
		TEST(test_lie_wakes_both_directions),
		TEST(test_lie_wakes_the_leader),
		cmocka_unit_test(test_release_of_nothing),
		TEST(test_commit_after_the_end),
		TEST(test_arm_and_poll),
		TEST(test_ping_pong_sleeping),
		TEST(test_two_threads_share_the_bell),
		cmocka_unit_test(test_spin_learns),
		cmocka_unit_test(test_pace),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
