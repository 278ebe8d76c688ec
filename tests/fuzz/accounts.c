/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Users and groups instead of those of the machine, which would be asked through sockets and files.
 */
#include <grp.h>
#include <pwd.h>

#include "fuzz.h"

static const struct {
	const char *name;
	uint32_t id;
} accounts[] = {{"root", 0}, {"rtos", 61001}, {"ivi", 61002}, {"nobody", 65534}};

static int user(const char *name, uid_t uid, struct passwd *entry, struct passwd **ret)
{
	*ret = NULL;
	for (size_t i = 0; i < sizeof(accounts) / sizeof(accounts[0]); i++) {
		if (name ? strcmp(accounts[i].name, name) != 0 : accounts[i].id != uid)
			continue;
		*entry = (struct passwd){.pw_uid = accounts[i].id, .pw_gid = accounts[i].id};
		*ret = entry;
	}
	return 0;
}

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size,
	       struct passwd **ret)
{
	(void)buffer, (void)size;
	return user(name, 0, entry, ret);
}

int getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t size, struct passwd **ret)
{
	(void)buffer, (void)size;
	return user(NULL, uid, entry, ret);
}

int getgrnam_r(const char *name, struct group *entry, char *buffer, size_t size, struct group **ret)
{
	struct passwd found, *p;

	(void)buffer, (void)size;
	user(name, 0, &found, &p);
	*ret = p ? entry : NULL;
	if (p)
		*entry = (struct group){.gr_gid = found.pw_gid};
	return 0;
}
