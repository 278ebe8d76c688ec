/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "cleanup.h"
#include "conf.h"
#include "conf-lines.h"
#include "errors.h"

#define FILE_SIZE_MAX (1024 * 1024)
#define SUFFIX ".conf"

/* Highest precedence first. */
static const char *const folders[] = {"/etc", "/run", "/usr/lib"};

/* struct conf_file - a file that counts: nothing of the same name hides it */
struct conf_file {
	char *path;	  /* owned */
	const char *name; /* its last part */
};

struct conf_files {
	struct conf_file *items; /* owned */
	size_t n;
};

static void conf_files_done(struct conf_files *files)
{
	for (size_t i = 0; i < files->n; i++)
		free(files->items[i].path);
	free(files->items);
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

int conf_fail(struct conf_error *error, const struct conf_place *place, const char *format, ...)
{
	va_list ap;
	int n;

	if (place->line > 0)
		n = snprintf(error->text, sizeof(error->text), "%s:%u: ", place->file, place->line);
	else
		n = snprintf(error->text, sizeof(error->text), "%s: ", place->file);
	if (n >= 0 && (size_t)n < sizeof(error->text)) {
		va_start(ap, format);
		vsnprintf(error->text + n, sizeof(error->text) - (size_t)n, format, ap);
		va_end(ap);
	}
	error_text_clean(error->text);
	return -EINVAL;
}

/* What is wrong with a file or folder as a whole; keeps the errno. */
static int fail_file(struct conf_error *error, const char *path, const char *what, int r)
{
	conf_fail(error, &(struct conf_place){.file = path}, "%s: %s", what, strerror(-r));
	return r;
}

/* The content and a NUL behind it. */
static int read_content(int fd, const char *path, char **ret, size_t *ret_length,
			struct conf_error *error)
{
	_cleanup_free_ char *text = malloc(FILE_SIZE_MAX + 1);
	size_t length = 0;

	if (!text)
		return fail_file(error, path, "cannot read", -ENOMEM);
	while (length <= FILE_SIZE_MAX) {
		ssize_t n = read(fd, text + length, FILE_SIZE_MAX + 1 - length);

		if (n < 0)
			return fail_file(error, path, "cannot read", -errno);
		if (n == 0)
			break;
		length += (size_t)n;
	}
	if (length > FILE_SIZE_MAX)
		return fail_file(error, path, "cannot read", -EFBIG);
	text[length] = '\0';
	*ret = TAKE_PTR(text);
	*ret_length = length;
	return 0;
}

static int load_path(struct conf_parser *p, const char *path)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t length = 0;
	int r;

	/* O_NONBLOCK: a FIFO here is a mistake to report, not to wait for */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fail_file(p->error, path, "cannot open", -errno);
	if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		return 0; /* /dev/null: masked */
	if (!S_ISREG(st.st_mode))
		return conf_fail(p->error, &(struct conf_place){.file = path},
				 "not a regular file");
	r = read_content(fd, path, &text, &length, p->error);
	if (r < 0)
		return r;
	return conf_parse_text(p, path, text, length);
}

static int add_file(struct conf_files *files, const char *folder, const char *name)
{
	struct conf_file *items;
	char *path;

	for (size_t i = 0; i < files->n; i++)
		if (strcmp(files->items[i].name, name) == 0)
			return 0;
	items = reallocarray(files->items, files->n + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	files->items = items;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return -ENOMEM;
	files->items[files->n++] = (struct conf_file){.path = path, .name = strrchr(path, '/') + 1};
	return 0;
}

static bool is_conf_name(const char *name)
{
	size_t length = strlen(name), suffix = strlen(SUFFIX);

	return name[0] != '.' && length > suffix && strcmp(name + length - suffix, SUFFIX) == 0;
}

/* Adds what no folder before had. */
static int list_folder(struct conf_files *files, const char *folder, struct conf_error *error)
{
	_cleanup_(closedirp) DIR *d = opendir(folder);
	int r;

	if (!d)
		return errno == ENOENT ? 0 : fail_file(error, folder, "cannot open", -errno);
	for (;;) {
		const struct dirent *entry;

		errno = 0;
		entry = readdir(d);
		if (!entry)
			return errno == 0 ? 0 : fail_file(error, folder, "cannot read", -errno);
		if (!is_conf_name(entry->d_name))
			continue;
		r = add_file(files, folder, entry->d_name);
		if (r < 0)
			return fail_file(error, folder, "cannot read", r);
	}
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct conf_file *)a)->name, ((const struct conf_file *)b)->name);
}

static int load_files(struct conf_files *files, const struct conf_handler *handler, void *userdata,
		      struct conf_error *error)
{
	_cleanup_(conf_parser_done) struct conf_parser p = {
		.handler = handler, .userdata = userdata, .error = error};
	int r = 0;

	if (files->n > 0)
		qsort(files->items, files->n, sizeof(*files->items), compare_names);
	for (size_t i = 0; i < files->n && r >= 0; i++)
		r = load_path(&p, files->items[i].path);
	return r;
}

int conf_load_dir(const char *root, const char *name, const struct conf_handler *handler,
		  void *userdata, struct conf_error *error)
{
	_cleanup_(conf_files_done) struct conf_files files = {};
	int r;

	for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
		_cleanup_free_ char *folder = NULL;

		if (asprintf(&folder, "%s%s/%s", root, folders[i], name) < 0)
			return fail_file(error, name, "cannot read", -ENOMEM);
		r = list_folder(&files, folder, error);
		if (r < 0)
			return r;
	}
	return load_files(&files, handler, userdata, error);
}

int conf_load_file(const char *root, const char *name, const struct conf_handler *handler,
		   void *userdata, struct conf_error *error)
{
	for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
		_cleanup_(conf_parser_done) struct conf_parser p = {
			.handler = handler, .userdata = userdata, .error = error};
		_cleanup_free_ char *path = NULL;
		struct stat st;

		if (asprintf(&path, "%s%s/%s", root, folders[i], name) < 0)
			return fail_file(error, name, "cannot read", -ENOMEM);
		/* a dangling link is there, and an error */
		if (lstat(path, &st) >= 0 || (errno != ENOENT && errno != ENOTDIR))
			return load_path(&p, path);
	}
	return 0;
}
