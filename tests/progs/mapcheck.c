/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mapcheck: a holder tries every mapping that is not exactly its window.
 *
 *	mapcheck [--bus ADDRESS] SERVICE VM/SERVICE
 *
 * Prints {"ok": bool, "attempts": [{"name", "refused", "error"}], "exact": bool, "ordinary":
 *[...]}. Exit 0: all were refused and the exact windows could be mapped.  "ordinary" is what the
 *kernel, and not the module, refuses for a window, done to ordinary memory: it is allowed there.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/sivshm.h"
#include "json-out.h"
#include "kmod/uapi/sivshm.h"

#define PAGE 4096u
#define RW (PROT_READ | PROT_WRITE)

static json_t *attempts, *ordinary;
static bool ok = true;

static void note_in(json_t *list, const char *name, bool refused, int error)
{
	json_array_append_new(list, json_pack("{ss sb ss}", "name", name, "refused", refused,
					      "error", errno_name(refused ? error : 0)));
}

static void note(const char *name, bool refused, int error)
{
	ok = ok && refused;
	note_in(attempts, name, refused, error);
}

struct map {
	const char *name;
	uint64_t offset;
	int64_t extra; /* bytes more than the window of that offset */
	int prot;
	int flags;
};

static const struct map wrong[] = {
	{"tx one page more", SIVSHM_TX_OFFSET, PAGE, RW, MAP_SHARED},
	{"tx one page less", SIVSHM_TX_OFFSET, -(int64_t)PAGE, RW, MAP_SHARED},
	{"tx second page on", SIVSHM_TX_OFFSET + PAGE, -(int64_t)PAGE, RW, MAP_SHARED},
	{"tx beside the window", SIVSHM_TX_OFFSET + PAGE, 0, RW, MAP_SHARED},
	{"tx executable", SIVSHM_TX_OFFSET, 0, RW | PROT_EXEC, MAP_SHARED},
	{"tx private", SIVSHM_TX_OFFSET, 0, RW, MAP_PRIVATE},
	{"rx one page more", SIVSHM_RX_OFFSET, PAGE, PROT_READ, MAP_SHARED},
	{"rx one page less", SIVSHM_RX_OFFSET, -(int64_t)PAGE, PROT_READ, MAP_SHARED},
	{"rx beside the window", SIVSHM_RX_OFFSET + PAGE, 0, PROT_READ, MAP_SHARED},
	{"rx before the window", SIVSHM_RX_OFFSET - PAGE, 0, PROT_READ, MAP_SHARED},
	{"rx writable", SIVSHM_RX_OFFSET, 0, RW, MAP_SHARED},
	{"rx write only", SIVSHM_RX_OFFSET, 0, PROT_WRITE, MAP_SHARED},
	{"rx executable", SIVSHM_RX_OFFSET, 0, PROT_READ | PROT_EXEC, MAP_SHARED},
	{"rx private writable", SIVSHM_RX_OFFSET, 0, RW, MAP_PRIVATE},
	{"no such window", 2 * SIVSHM_RX_OFFSET, 0, PROT_READ, MAP_SHARED},
	{"far away", 1ull << 40, 0, PROT_READ, MAP_SHARED},
};

static void try_maps(int fd, const struct sivshm_channel_info *info)
{
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		const struct map *m = &wrong[i];
		uint64_t size =
			m->offset < SIVSHM_RX_OFFSET - PAGE ? info->tx_map_size : info->rx_map_size;
		void *p;

		size += (uint64_t)m->extra;
		p = mmap(NULL, size, m->prot, m->flags, fd, (off_t)m->offset);
		note(m->name, p == MAP_FAILED, p == MAP_FAILED ? errno : 0);
		if (p != MAP_FAILED)
			munmap(p, size);
	}
}

/* Numbers that wrap around somewhere; mmap() itself would not let all of them through. */
static void try_odd_maps(int fd, const struct sivshm_channel_info *info)
{
	const struct {
		const char *name;
		uint64_t offset, size;
	} odd[] = {
		{"tx at an odd offset", 1, info->tx_map_size},
		{"rx at an odd offset", SIVSHM_RX_OFFSET + PAGE - 1, info->rx_map_size},
		{"nothing of tx", 0, 0},
		{"2^63 bytes", 0, 1ull << 63},
		{"all bytes there are", 0, UINT64_MAX},
		{"at 2^63", 1ull << 63, info->tx_map_size},
		{"end beyond 2^63", (1ull << 63) - PAGE, info->tx_map_size},
		{"end beyond 2^64", -(uint64_t)PAGE, info->tx_map_size},
		{"offset and size wrap", -info->tx_map_size, 2 * info->tx_map_size},
	};

	for (size_t i = 0; i < sizeof(odd) / sizeof(*odd); i++) {
		long r = syscall(SYS_mmap, NULL, odd[i].size, PROT_READ, MAP_SHARED, fd,
				 odd[i].offset);

		note(odd[i].name, r < 0, errno);
		if (r >= 0)
			munmap((void *)r, odd[i].size);
	}
}

static void try_fixed(int fd, const struct sivshm_channel_info *info, void *tx)
{
	void *p = mmap(tx, info->rx_map_size + PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd,
		       (off_t)SIVSHM_RX_OFFSET);

	note("rx one page more over tx", p == MAP_FAILED, errno);
}

static void try_protect(const char *name, void *p, size_t size, int prot)
{
	int r = mprotect(p, size, prot);

	note(name, r < 0, errno);
}

static void try_remap(const char *name, void *p, size_t old_size, size_t new_size)
{
	void *q = mremap(p, old_size, new_size, MREMAP_MAYMOVE);

	note(name, q == MAP_FAILED, errno);
}

static void try_advice(const char *name, void *p, size_t size, int advice)
{
	int r = madvise(p, size, advice);

	note(name, r < 0, errno);
}

/* The second page where the first is: the kernel maps anew, so the module is asked. */
static void try_rearrange(const char *name, void *p)
{
	long r = syscall(SYS_remap_file_pages, p, PAGE, 0, SIVSHM_RX_OFFSET / PAGE + 1, 0);

	note(name, r < 0, errno);
}

/* As a debugger writes: past the protection of the mapping. */
static void try_debugger(const char *name, const void *p)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pwrite(fd, "", 1, (off_t)(uintptr_t)p);

	note(name, n < 0, errno);
	if (fd >= 0)
		close(fd);
}

/* The child must not have the window: the kernel reads it for us, so that nobody dies. */
static void try_child(const char *name, const void *p)
{
	int fd[2], status;
	pid_t child;

	if (pipe(fd) < 0 || (child = fork()) < 0)
		err(2, "fork");
	if (child == 0)
		_exit(write(fd[1], p, 1) < 0 ? errno : 0);
	waitpid(child, &status, 0);
	note(name, WIFEXITED(status) && WEXITSTATUS(status), WEXITSTATUS(status));
	close(fd[0]);
	close(fd[1]);
}

/* What a revocation has to walk, as much of it as can be had. */
static void try_many(const char *name, int fd, size_t size)
{
	static void *maps[1000];
	size_t n = 0;
	int error;

	while (n < sizeof(maps) / sizeof(*maps)) {
		maps[n] = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)SIVSHM_RX_OFFSET);
		if (maps[n] == MAP_FAILED)
			break;
		n++;
	}
	error = errno;
	note(name, n < sizeof(maps) / sizeof(*maps), error);
	while (n > 0)
		munmap(maps[--n], size);
}

static void try_split(const char *name, int fd, size_t size)
{
	char *p = mmap(NULL, size, RW, MAP_SHARED, fd, (off_t)SIVSHM_TX_OFFSET);
	int r = 0;

	for (size_t at = PAGE; at < size && r == 0; at += 2 * PAGE)
		r = mprotect(p + at, PAGE, PROT_READ);
	note(name, r < 0, errno);
	munmap(p, size);
}

static bool try_exact(int fd, const struct sivshm_channel_info *info)
{
	void *tx = mmap(NULL, info->tx_map_size, RW, MAP_SHARED, fd, (off_t)SIVSHM_TX_OFFSET);
	void *rx =
		mmap(NULL, info->rx_map_size, PROT_READ, MAP_SHARED, fd, (off_t)SIVSHM_RX_OFFSET);

	if (tx == MAP_FAILED || rx == MAP_FAILED)
		return false;
	try_child("tx in a child", tx);
	try_child("rx in a child", rx);
	try_protect("rx made writable", rx, info->rx_map_size, RW);
	try_protect("rx made executable", rx, info->rx_map_size, PROT_READ | PROT_EXEC);
	try_protect("tx made executable", tx, info->tx_map_size, RW | PROT_EXEC);
	try_debugger("rx by /proc/self/mem", rx);
	try_advice("rx to children by madvise", rx, info->rx_map_size, MADV_DOFORK);
	try_advice("rx to dumps by madvise", rx, info->rx_map_size, MADV_DODUMP);
	try_rearrange("rx rearranged", rx);
	try_remap("tx twice", tx, 0, info->tx_map_size);
	try_remap("tx grown", tx, info->tx_map_size, info->tx_map_size + PAGE);
	try_remap("rx grown", rx, info->rx_map_size, info->rx_map_size + PAGE);
	try_fixed(fd, info, tx);
	return true;
}

static void do_ordinary(void)
{
	char *p = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *private = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	note_in(ordinary, "written by /proc/self/mem",
		pwrite(mem, "", 1, (off_t)(uintptr_t) private) < 0, errno);
	note_in(ordinary, "to children by madvise", madvise(p, PAGE, MADV_DOFORK) < 0, errno);
	note_in(ordinary, "to dumps by madvise", madvise(p, PAGE, MADV_DODUMP) < 0, errno);
	note_in(ordinary, "twice", mremap(p, 0, PAGE, MREMAP_MAYMOVE) == MAP_FAILED, errno);
	note_in(ordinary, "grown", mremap(p, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED,
		errno);
	close(mem);
}

int main(int argc, char **argv)
{
	struct sivshm_options o = {.size = sizeof(o)};
	struct sivshm_channel_info info = {};
	struct sivshm_channel *c;
	bool exact;

	if (argc == 5 && !strcmp(argv[1], "--bus")) {
		o.bus = argv[2];
		argc -= 2;
		argv += 2;
	}
	if (argc != 3)
		errx(2, "usage: mapcheck [--bus ADDRESS] SERVICE VM/SERVICE");
	if (sivshm_connect(argv[1], argv[2], &o, &c) < 0)
		errx(2, "%s", sivshm_last_error());
	if (ioctl(sivshm_get_fd(c), SIVSHM_CHANNEL_GET_INFO, &info) < 0)
		err(2, "get info");
	attempts = json_array();
	ordinary = json_array();
	do_ordinary();
	try_maps(sivshm_get_fd(c), &info);
	try_odd_maps(sivshm_get_fd(c), &info);
	try_many("rx a thousand times", sivshm_get_fd(c), info.rx_map_size);
	try_split("tx split at each page", sivshm_get_fd(c), info.tx_map_size);
	exact = try_exact(sivshm_get_fd(c), &info);
	ok = ok && exact;
	print_json(json_pack("{sb sb so so}", "ok", ok, "exact", exact, "attempts", attempts,
			     "ordinary", ordinary));
	sivshm_close(c);
	return !ok;
}
