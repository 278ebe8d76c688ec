/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES_MAX 8

char files_root[128];
static const char *const *file_names;
static int fds[NAMES_MAX];

void files_init(const char *const *folders, const char *const *names, const char *base)
{
	char path[256];

	fuzz_folder(files_root, sizeof(files_root));
	snprintf(path, sizeof(path), "%s/etc", files_root);
	must(mkdir(path, 0700) == 0);
	for (; *folders; folders++) {
		snprintf(path, sizeof(path), "%s/etc/%s", files_root, *folders);
		must(mkdir(path, 0700) == 0);
	}
	file_names = names;
	for (size_t i = 0; names[i]; i++) {
		must(i < NAMES_MAX);
		snprintf(path, sizeof(path), "%s/etc/%s/%s", files_root, base, names[i]);
		fds[i] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		must(fds[i] >= 0);
	}
}

/* The file that a line "= NAME" begins; the last one for names of no file. */
static size_t find(const char *name)
{
	size_t i = 0;

	while (file_names[i + 1] && strcmp(file_names[i], name) != 0)
		i++;
	return i;
}

static void put(size_t i, const char *from, const char *to)
{
	if (to > from)
		must(write(fds[i], from, (size_t)(to - from)) == to - from);
}

void files_write(struct input *in)
{
	const char *p = (const char *)in->data, *end = p + in->size, *from = p;
	size_t file = 0;

	for (size_t i = 0; file_names[i]; i++)
		must(ftruncate(fds[i], 0) == 0 && lseek(fds[i], 0, SEEK_SET) == 0);
	while (p < end) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		size_t length = (size_t)((stop ? stop : end) - p);

		if (length > 2 && p[0] == '=' && p[1] == ' ') {
			char name[64] = "";

			put(file, from, p);
			memcpy(name, p + 2, length - 2 < 63 ? length - 2 : 63);
			file = find(name);
			from = stop ? stop + 1 : end;
		}
		p = stop ? stop + 1 : end;
	}
	put(file, from, end);
}
