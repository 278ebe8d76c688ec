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

struct seen {
	uint64_t wanted;
	unsigned found;
};

static bool on_cgroup(uint64_t cgroup, const char *path, void *userdata)
{
	struct seen *s = userdata;

	assert_int_equal(path[0], '/');
	s->found += cgroup == s->wanted;
	return true;
}

static void every_cgroup_once(void **state)
{
	struct failure error;
	struct seen s = {};
	struct caller c;

	(void)state;
	assert_int_equal(caller_identify(":1.7", getuid(), getpid(), -1, &c, &error), 0);
	s.wanted = c.cgroup;
	caller_walk_cgroups(on_cgroup, &s);
	/* the root, where a test may be run, is in no group */
	assert_true(s.found == 1 || (s.found == 0 && c.cgroup == 1));
	s = (struct seen){.wanted = ~0ULL};
	caller_walk_cgroups(on_cgroup, &s);
	assert_int_equal(s.found, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(myself),
		cmocka_unit_test(refusals),
		cmocka_unit_test(every_cgroup_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
