/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy.h"

static char root[] = "/tmp/sivshm-policy-XXXXXX";

static void put(const char *where, const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s%s/sivshm/policy.d/%s", root, where, name);
	if (!text) {
		unlink(path);
		return;
	}
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int set_up(void **state)
{
	static const char *const folders[] = {"/etc",
					      "/etc/sivshm",
					      "/etc/sivshm/policy.d",
					      "/run",
					      "/run/sivshm",
					      "/run/sivshm/policy.d",
					      "/usr",
					      "/usr/lib",
					      "/usr/lib/sivshm",
					      "/usr/lib/sivshm/policy.d"};
	char path[256];

	(void)state;
	if (!mkdtemp(root))
		return -1;
	for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		if (mkdir(path, 0755) < 0)
			return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", root);
	return system(command);
}

static void refuse(const char *text, unsigned line, const char *what)
{
	struct policy *p = NULL;
	struct conf_error error;
	char place[32];

	put("/etc", "a.conf", text);
	snprintf(place, sizeof(place), "a.conf:%u: ", line);
	assert_true(policy_load(root, &p, &error) < 0);
	assert_null(p);
	if (!strstr(error.text, place) || !strstr(error.text, what))
		fail_msg("'%s' does not say '%s' and '%s'", error.text, place, what);
	put("/etc", "a.conf", NULL);
}

static void refusals(void **state)
{
	(void)state;
	refuse("[Service a]\n", 1, "User=");
	refuse("[Service a]\nConnect=b/c\n[Service b]\nUser=0\n", 1, "User=");
	refuse("[Service]\nUser=0\n", 1, "[Service]");
	refuse("[Service A]\nUser=0\n", 1, "'A' is no valid service name");
	refuse("[Service a b]\nUser=0\n", 1, "service name");
	refuse("[Peer a]\nUser=0\n", 1, "unknown section [Peer a]");
	refuse("[Service a]\nUser=0\nColour=red\n", 3, "unknown key Colour=");
	refuse("[Service a]\nUser=-1\n", 2, "no such user");
	refuse("[Service a]\nUser=4294967295\n", 2, "no such user");
	refuse("[Service a]\nUser=0\nUnit=\n", 3, "");
	refuse("[Service a]\nUser=0\nUnit=.service\n", 3, "Unit=");
	refuse("[Service a]\nUser=0\nUnit=a.target\n", 3, "Unit=");
	refuse("[Service a]\nUser=0\nUnit=a/b.service\n", 3, "Unit=");
	refuse("[Service a]\nUser=0\nConnect=ivi/x IVI/y\n", 3, "'IVI/y'");
	refuse("[Service a]\nUser=0\nAccept=a/b\nAccept=a/c\n", 4, "Accept");
	refuse("[Service a]\nUser=0\nChannels=-1\n", 3, "Channels=-1");
	refuse("[Service a]\nUser=0\nMaxRingSize=2K\n", 3, "MaxRingSize=2K");
	refuse("[Service a]\nUser=0\nMaxRingSize=2G\n", 3, "MaxRingSize=2G");
}

static void defaults(void **state)
{
	_cleanup_(policy_freep) struct policy *p = NULL;
	struct conf_error error;

	(void)state;
	assert_int_equal(policy_load(root, &p, &error), 0);
	assert_int_equal(p->n_services, 0);
	p = policy_free(p);
	put("/etc", "a.conf", "# comment\n[Service a]\nUser=12345\n");
	assert_int_equal(policy_load(root, &p, &error), 0);
	assert_int_equal(p->n_services, 1);
	assert_int_equal(p->services[0].uid, 12345);
	assert_int_equal(p->services[0].channels, 16);
	assert_int_equal(p->services[0].max_ring, 1 << 20);
	assert_string_equal(p->services[0].unit, "");
	assert_int_equal(p->services[0].line.line, 2);
	put("/etc", "a.conf", NULL);
}

static void all_keys(void **state)
{
	_cleanup_(policy_freep) struct policy *p = NULL;
	const struct policy_service *s;
	struct conf_error error;

	(void)state;
	put("/etc", "a.conf",
	    "[Service a]\nUser=root\nUnit=a@1.service\nConnect=v/x "
	    "w/y\nAccept=v/x\nChannels=3\nMaxRingSize=64K\n");
	put("/etc", "b.conf", "[Service b]\nUser=1\n");
	assert_int_equal(policy_load(root, &p, &error), 0);
	s = policy_find(p, "a");
	assert_non_null(s);
	assert_int_equal(s->uid, 0);
	assert_string_equal(s->unit, "a@1.service");
	assert_int_equal(s->connect.n, 2);
	assert_string_equal(s->connect.items[1].name.vm, "w");
	assert_int_equal(s->connect.items[1].line.line, 4);
	assert_int_equal(s->accept.n, 1);
	assert_int_equal(s->channels, 3);
	assert_int_equal(s->max_ring, 65536);
	assert_non_null(strstr(policy_find(p, "b")->line.file, "b.conf"));
	assert_null(policy_find(p, "c"));
	put("/etc", "a.conf", NULL);
	put("/etc", "b.conf", NULL);
}

static void drop_ins(void **state)
{
	_cleanup_(policy_freep) struct policy *p = NULL;
	struct conf_error error;

	(void)state;
	put("/usr/lib", "a.conf", "[Service a]\nUser=1\n");
	put("/run", "a.conf", "[Service a]\nUser=2\n");
	assert_int_equal(policy_load(root, &p, &error), 0);
	assert_int_equal(policy_find(p, "a")->uid, 2);
	p = policy_free(p);
	put("/etc", "a.conf", "[Service a]\nUser=3\n");
	assert_int_equal(policy_load(root, &p, &error), 0);
	assert_int_equal(policy_find(p, "a")->uid, 3);
	p = policy_free(p);
	/* the same section in two files */
	put("/etc", "b.conf", "[Service a]\nUser=3\n");
	assert_true(policy_load(root, &p, &error) < 0);
	assert_non_null(strstr(error.text, "b.conf:1: "));
	put("/etc", "b.conf", NULL);
	put("/etc", "a.conf", NULL);
	put("/run", "a.conf", NULL);
	put("/usr/lib", "a.conf", NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals),
		cmocka_unit_test(defaults),
		cmocka_unit_test(all_keys),
		cmocka_unit_test(drop_ins),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
