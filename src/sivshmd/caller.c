/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "caller.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cgroup.h"
#include "cleanup.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP_PATH_SIZE 3072
#define CGROUP_DEPTH_MAX 64

/* Where the unified hierarchy is mounted: alone, or beside the old controllers. */
static const char *cgroup_mount(void)
{
	struct statfs fs;

	if (statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
		return CGROUP_ROOT;
	return CGROUP_ROOT "/unified";
}

static bool process_is_alive(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* One read: the kernel makes the text of a small /proc file whole at the first. */
static int read_file_at(int dir, const char *name, char *ret, size_t size)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, ret, size - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return 0;
}

/* All four uids have to be the one the bus saw: a process that changes users is nobody's service.
 */
static int check_uid(int proc, uid_t uid)
{
	char text[4096], *line;
	unsigned ids[4];
	int r;

	r = read_file_at(proc, "status", text, sizeof(text));
	if (r < 0)
		return r;
	line = strstr(text, "\nUid:");
	if (!line || sscanf(line + 5, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) != 4)
		return -ENODATA;
	for (size_t i = 0; i < ELEMENTSOF(ids); i++)
		if (ids[i] != uid)
			return -EPERM;
	return 0;
}

static int read_cgroup(int proc, struct caller *c)
{
	char text[4096], path[CGROUP_PATH_SIZE], full[CGROUP_PATH_SIZE + 64];
	struct stat st;
	int r;

	r = read_file_at(proc, "cgroup", text, sizeof(text));
	if (r < 0)
		return r;
	r = cgroup_parse(text, path, sizeof(path));
	if (r < 0)
		return r;
	snprintf(full, sizeof(full), "%s%s", cgroup_mount(), path);
	if (stat(full, &st) < 0)
		return -errno;
	c->cgroup = st.st_ino;
	cgroup_unit(path, c->unit, sizeof(c->unit));
	return 0;
}

static int read_process(pid_t pid, struct caller *c)
{
	_cleanup_close_ int proc = -1;
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return -errno;
	r = check_uid(proc, c->uid);
	if (r < 0)
		return r;
	return read_cgroup(proc, c);
}

int caller_identify(const char *name, uid_t uid, pid_t pid, int pidfd, struct caller *ret,
		    struct failure *error)
{
	_cleanup_close_ int own = -1;
	struct caller c = {.uid = uid, .pid = pid};
	int r;

	if (pid <= 0 || strlen(name) >= sizeof(c.name))
		return failure_set(error, ERR_NOT_AUTHORIZED, "the bus does not know the caller");
	strcpy(c.name, name);
	if (pidfd < 0)
		pidfd = own = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return failure_set(error, ERR_NOT_AUTHORIZED, "the caller, process %d, is gone",
				   pid);
	r = read_process(pid, &c);
	/* Only a process that lives on was the one behind /proc/PID all the time. */
	if (!process_is_alive(pidfd))
		return failure_set(error, ERR_NOT_AUTHORIZED, "the caller, process %d, is gone",
				   pid);
	if (r < 0)
		return failure_set(error, ERR_NOT_AUTHORIZED,
				   "uid or control group of process %d cannot be told: %s", pid,
				   strerror(-r));
	*ret = c;
	return 0;
}

struct walk {
	char path[CGROUP_PATH_SIZE]; /* below the mount */
	unsigned depth;
	caller_cgroup_fn fn;
	void *userdata;
};

/* The groups in @fd, which is closed, and below.  False: @fn has seen enough. */
static bool walk(struct walk *w, int fd, size_t length)
{
	DIR *dir = fdopendir(fd);
	struct dirent *e;
	bool go_on = true;

	if (!dir) {
		close(fd);
		return true;
	}
	w->depth++;
	while (go_on && (e = readdir(dir))) {
		size_t room = sizeof(w->path) - length;
		int n;

		if (e->d_type != DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		n = snprintf(w->path + length, room, "/%s", e->d_name);
		if (n < 0 || (size_t)n >= room || w->depth > CGROUP_DEPTH_MAX)
			continue;
		go_on = w->fn(e->d_ino, w->path, w->userdata);
		fd = go_on ? openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (fd >= 0)
			go_on = walk(w, fd, length + (size_t)n);
	}
	w->depth--;
	closedir(dir);
	return go_on;
}

void caller_walk_cgroups(caller_cgroup_fn fn, void *userdata)
{
	struct walk w = {.fn = fn, .userdata = userdata};
	int fd = open(cgroup_mount(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		walk(&w, fd, 0);
}
