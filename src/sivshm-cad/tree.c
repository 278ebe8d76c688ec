/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <acl/libacl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/acl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>

#include "cleanup.h"
#include "tree.h"

int tree_open(const char *path, bool any_fs, struct tree *ret)
{
	_cleanup_free_ char *copy = strdup(path);
	_cleanup_close_ int fd = -1;
	struct statfs fs;

	if (!copy)
		return -ENOMEM;
	while (strlen(copy) > 1 && copy[strlen(copy) - 1] == '/')
		copy[strlen(copy) - 1] = '\0';
	if (mkdir(copy, 0711) < 0 && errno != EEXIST)
		return -errno;
	fd = open(copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0711) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_type != TMPFS_MAGIC && !any_fs)
		return -EXDEV;
	*ret = (struct tree){.path = TAKE_PTR(copy), .fd = TAKE_FD(fd)};
	return 0;
}

void tree_close(struct tree *tree)
{
	if (tree->path)
		close(tree->fd);
	free(tree->path);
	*tree = (struct tree){.fd = -1};
}

int tree_make_dir(const struct tree *tree, const char *name, unsigned mode, uint32_t gid)
{
	_cleanup_close_ int fd = -1;

	if (mkdirat(tree->fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(tree->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fchown(fd, 0, gid) < 0 || fchmod(fd, mode) < 0)
		return -errno;
	return 0;
}

static DIR *open_dir(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* remove_entry() - a file, or a folder with files in it */
static void remove_entry(int parent, const char *name)
{
	struct dirent *entry;
	DIR *dir;

	if (unlinkat(parent, name, 0) == 0)
		return;
	dir = open_dir(parent, name);
	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	unlinkat(parent, name, AT_REMOVEDIR);
}

void tree_remove_dir(const struct tree *tree, const char *name)
{
	remove_entry(tree->fd, name);
}

void tree_sweep(const struct tree *tree, const char *name,
		bool (*keep)(const char *entry, void *userdata), void *userdata)
{
	DIR *dir = open_dir(tree->fd, name);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && !keep(entry->d_name, userdata))
			remove_entry(dirfd(dir), entry->d_name);
	if (dir)
		closedir(dir);
}

static int socket_address(const struct tree *tree, const char *name, struct sockaddr_un *ret)
{
	int n;

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/%s", tree->path, name);
	return n >= (int)sizeof(ret->sun_path) ? -ENAMETOOLONG : 0;
}

int tree_listen(const struct tree *tree, const char *name, uint32_t gid, int *ret_fd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;
	int r = socket_address(tree, name, &address);

	if (fd < 0)
		return -errno;
	if (r < 0)
		return r;
	unlinkat(tree->fd, name, 0);
	/* rights before listen(): nobody connects with others than these */
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    fchownat(tree->fd, name, 0, gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(tree->fd, name, 0660, 0) < 0 || listen(fd, 16) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

bool tree_keep_socket(const struct tree *tree, const char *name, uint32_t gid)
{
	struct stat st;

	return fstatat(tree->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode) &&
	       fchownat(tree->fd, name, 0, gid, AT_SYMLINK_NOFOLLOW) == 0;
}

int tree_peer_uid(int fd, uint32_t *ret_uid)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return -errno;
	*ret_uid = cred.uid;
	return 0;
}

/* acl_of() - the group bits are the first reader's; each further one is an entry, the mask keeps it
 * read-only */
static acl_t acl_of(const uint32_t *readers, size_t n)
{
	char text[64 + 24 * 40];
	size_t used;

	used = (size_t)snprintf(text, sizeof(text), "u::rw-,g::r--,o::---%s",
				n > 1 ? ",m::r--" : "");
	for (size_t i = 1; i < n && used < sizeof(text); i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, ",g:%u:r--", readers[i]);
	if (used >= sizeof(text)) {
		errno = E2BIG;
		return NULL;
	}
	return acl_from_text(text);
}

int tree_set_readers(int fd, const uint32_t *readers, size_t n)
{
	acl_t acl;
	int r = 0;

	if (fchown(fd, 0, n > 0 ? readers[0] : 0) < 0)
		return -errno;
	/* also for one reader: an entry for somebody who is none any more must go */
	acl = acl_of(readers, n);
	if (!acl || acl_set_fd(fd, acl) < 0)
		r = -errno;
	if (acl)
		acl_free(acl);
	return r;
}

int tree_open_existing(const struct tree *tree, const char *name, int *ret_fd, uint64_t *ret_size)
{
	_cleanup_close_ int fd = openat(tree->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENOENT;
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int tree_open_file(const struct tree *tree, const char *name, uint64_t size,
		   const uint32_t *readers, size_t n_readers, int *ret_fd, bool *ret_fresh)
{
	_cleanup_close_ int fd = -1;
	uint64_t old_size = 0;
	int r = tree_open_existing(tree, name, &fd, &old_size);

	*ret_fresh = r < 0 || old_size != size;
	if (*ret_fresh) {
		closep(&fd);
		unlinkat(tree->fd, name, 0);
		fd = openat(tree->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			    0600);
		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			return -errno;
	}
	r = tree_set_readers(fd, readers, n_readers);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}
