/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "cgroup.h"

static void parse_refuses(void **state)
{
	char path[64];

	(void)state;
	assert_int_equal(cgroup_parse("", path, sizeof(path)), -ENODATA);
	assert_int_equal(cgroup_parse("0::", path, sizeof(path)), -ENODATA);
	assert_int_equal(cgroup_parse("10::/a\n1:name=systemd:/b\n", path, sizeof(path)), -ENODATA);
	assert_int_equal(cgroup_parse("1:x0::/a:/\n", path, sizeof(path)), -ENODATA);
	assert_int_equal(cgroup_parse("0::/a.service (deleted)\n", path, sizeof(path)), -ESTALE);
	assert_int_equal(cgroup_parse("0::/..\n", path, sizeof(path)), -EXDEV);
	assert_int_equal(cgroup_parse("0::/../a.service\n", path, sizeof(path)), -EXDEV);
	assert_int_equal(cgroup_parse("0::/0123456789\n", path, 11), -ENAMETOOLONG);
}

static void parse_takes(void **state)
{
	char path[64];

	(void)state;
	assert_int_equal(cgroup_parse("0::/\n", path, sizeof(path)), 0);
	assert_string_equal(path, "/");
	assert_int_equal(cgroup_parse("0::/..a/b\n", path, sizeof(path)), 0);
	assert_int_equal(cgroup_parse("0::/0123456789\n", path, 12), 0);
	/* hybrid hierarchies: the unified one is the last line */
	assert_int_equal(cgroup_parse("9:name=systemd:/x\n8:cpu:/\n0::/system.slice/a.service\n",
				      path, sizeof(path)),
			 0);
	assert_string_equal(path, "/system.slice/a.service");
	assert_int_equal(cgroup_parse("0::/a", path, sizeof(path)), 0);
	assert_string_equal(path, "/a");
}

static void unit(void **state)
{
	static const struct {
		const char *path, *unit;
	} table[] = {
		{"/", ""},
		{"", ""},
		{"/init.scope", "init.scope"},
		{"/system.slice/sensor.service", "sensor.service"},
		{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"},
		{"/system.slice/a.service/b.service", "a.service"},
		{"/system.slice/a.service/x.slice/b.service", "a.service"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/b.service",
		 "user@1000.service"},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope"},
		{"/system.slice/_cpu.service", "cpu.service"},
		{"/system.slice/plain", ""},
		{"/system.slice/plain/a.service", ""},
		{"/plain", ""},
		{"/system.slice", ""},
		{"/.service", ""},
		{"//system.slice//a.service", "a.service"},
		{"/system.slice/a.mount", "a.mount"},
		{"/system.slice/a.socket", "a.socket"},
		{"/system.slice/a.target", ""},
	};
	char name[256];

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(table); i++) {
		cgroup_unit(table[i].path, name, sizeof(name));
		assert_string_equal(name, table[i].unit);
	}
	cgroup_unit("/a.service", name, 9);
	assert_string_equal(name, "");
	cgroup_unit("/a.service", name, 10);
	assert_string_equal(name, "a.service");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_refuses),
		cmocka_unit_test(parse_takes),
		cmocka_unit_test(unit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
