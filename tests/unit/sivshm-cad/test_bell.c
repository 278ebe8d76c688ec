/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "bell.h"

static uint64_t count(int fd)
{
	uint64_t n = 0;

	assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
	return n;
}

static void test_each_ring_counts(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	(void)state;
	for (unsigned i = 0; i < 100; i++) /* more than are ever queued */
		assert_int_equal(bell_ring(fd), 0);
	assert_int_equal(count(fd), 100);
	assert_int_equal(bell_ring(fd), 0);
	assert_int_equal(count(fd), 1);
	close(fd);
}

/* What a hostile QEMU does to the file that it shares with the daemon.  With a write() in
 * bell_ring() this test is killed by its alarm. */
static void test_never_waits(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	(void)state;
	assert_int_equal(write(fd, &full, sizeof(full)), sizeof(full));
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	alarm(10);
	bell_ring(fd);
	bell_ring(fd);
	alarm(0);
	close(fd);
}

static void test_not_an_eventfd(void **state)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_true(bell_ring(fd) < 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_ring_counts),
		cmocka_unit_test(test_never_waits),
		cmocka_unit_test(test_not_an_eventfd),
	};

	if (bell_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
