/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cgroup.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char *find_unified(const char *text)
{
	while (text && strncmp(text, "0::/", 4) != 0) {
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return text ? text + 3 : NULL;
}

static bool ends_with(const char *text, size_t length, const char *suffix)
{
	size_t n = strlen(suffix);

	return length > n && memcmp(text + length - n, suffix, n) == 0;
}

int cgroup_parse(const char *text, char *ret, size_t size)
{
	const char *path = find_unified(text);
	size_t length;

	if (!path)
		return -ENODATA;
	length = strcspn(path, "\n");
	if (length >= size)
		return -ENAMETOOLONG;
	if (ends_with(path, length, " (deleted)"))
		return -ESTALE;
	memcpy(ret, path, length);
	ret[length] = '\0';
	if (strncmp(ret, "/..", 3) == 0 && (ret[3] == '/' || !ret[3]))
		return -EXDEV;
	return 0;
}

static bool is_unit(const char *name, size_t length)
{
	return ends_with(name, length, ".service") || ends_with(name, length, ".scope") ||
	       ends_with(name, length, ".socket") || ends_with(name, length, ".mount") ||
	       ends_with(name, length, ".swap");
}

void cgroup_unit(const char *path, char *ret, size_t size)
{
	size_t length;

	ret[0] = '\0';
	for (path += strspn(path, "/"); *path; path += length, path += strspn(path, "/")) {
		length = strcspn(path, "/");
		if (ends_with(path, length, ".slice"))
			continue;
		if (*path == '_') { /* systemd's escape for names that collide with the kernel's */
			path++;
			length--;
		}
		if (!is_unit(path, length) || length >= size)
			return;
		memcpy(ret, path, length);
		ret[length] = '\0';
		return;
	}
}
