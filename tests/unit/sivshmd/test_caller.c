/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "caller.h"

static void myself(void **state)
{
	struct failure error;
	struct caller c;

	(void)state;
	assert_int_equal(caller_identify(":1.7", getuid(), getpid(), -1, &c, &error), 0);
	assert_int_equal(c.uid, getuid());
	assert_int_equal(c.pid, getpid());
	assert_string_equal(c.name, ":1.7");
	assert_true(c.cgroup > 0);
}

static void refuse(uid_t uid, pid_t pid, int pidfd)
{
	struct caller c = {.uid = 77};
	struct failure error;

	assert_true(caller_identify(":1.7", uid, pid, pidfd, &c, &error) < 0);
	assert_int_equal(error.code, ERR_NOT_AUTHORIZED);
	assert_int_equal(c.uid, 77);
}

static void refusals(void **state)
{
	struct failure error;
	struct caller c;
	pid_t child;
	int pidfd;

	(void)state;
	refuse(getuid() + 1, getpid(), -1); /* the process is somebody else's by now */
	refuse(getuid(), 0, -1);
	refuse(getuid(), -1, -1);
	refuse(getuid(), 0x3fffffff, -1);
	assert_true(caller_identify(repeated('x', 300), getuid(), getpid(), -1, &c, &error) < 0);

	child = fork();
	if (child == 0)
		for (;;)
			pause();
	pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_int_equal(caller_identify(":1.8", getuid(), child, pidfd, &c, &error), 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	refuse(getuid(), child, -1);
	/* the pid is in use again, by this process: the pidfd tells them apart */
	refuse(getuid(), getpid(), pidfd);
	close(pidfd);
}

static void unit_of_no_cgroup(void **state)
{
	char unit[UNIT_NAME_SIZE] = "x";

	(void)state;
	caller_unit_of_cgroup(~0ULL, unit);
	assert_string_equal(unit, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(myself),
		cmocka_unit_test(refusals),
		cmocka_unit_test(unit_of_no_cgroup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
