/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>

#include "fixture.h"

char root[] = "/tmp/sivshm-cad-XXXXXX";
struct conf_error error;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

int set_up(void **state)
{
	static const char *const folders[] = {"/etc", "/etc/sivshm-ca", "/etc/sivshm-ca/vm.d",
					      "/etc/sivshm-ca/region.d", "/etc/sivshm-ca/policy.d"};
	char path[200];

	(void)state;
	memcpy(root + strlen(root) - 6, "XXXXXX", 6);
	assert_non_null(mkdtemp(root));
	for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	error = (struct conf_error){};
	return 0;
}

int tear_down(void **state)
{
	(void)state;
	return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

void put(const char *name, const char *text)
{
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/etc/sivshm-ca/%s", root, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

void put_example(void)
{
	put("vm.d/a.conf", "[VM a]\nUser=61001\nServices=sensor camera\n");
	put("vm.d/b.conf",
	    "[VM b]\nUser=61002\nGroup=7\nServices=dashboard\nChannels=8\nPciSlot=4\n");
	put("vm.d/c.conf", "[VM c]\nUser=61003\nServices=logger\n");
	put("region.d/demo.conf", "[Region demo]\nMembers=b a\nSectionSize=4M\nVectors=4\n");
	put("region.d/all.conf", "[Region all]\nMembers=a b c\n");
	put("policy.d/demo.conf", "[Allow a/sensor b/dashboard]\nChannels=3\nMaxRingSize=64K\n");
}

struct config *load(void)
{
	struct config *config = NULL;

	if (config_load(root, &config, &error) < 0)
		fail_msg("%s", error.text);
	return config;
}

void refuse(const char *word, const char *place)
{
	struct config *config = NULL;

	assert_int_equal(config_load(root, &config, &error), -EINVAL);
	assert_null(config);
	if (!strstr(error.text, word) || !strstr(error.text, place))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", error.text, word, place);
}
