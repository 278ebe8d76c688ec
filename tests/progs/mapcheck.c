/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mapcheck: a holder tries every mapping that is not exactly its window.
 *
 *	mapcheck [--bus ADDRESS] SERVICE VM/SERVICE
 *
 * Prints {"ok": bool, "attempts": [{"name", "refused", "error"}], "exact": bool}.  Exit 0: all
 * were refused and the exact windows could be mapped.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/sivshm.h"
#include "json-out.h"
#include "kmod/uapi/sivshm.h"

#define PAGE 4096u
#define RW (PROT_READ | PROT_WRITE)

static json_t *attempts;
static bool ok = true;

static void note(const char *name, bool refused, int error)
{
	ok = ok && refused;
	json_array_append_new(attempts, json_pack("{ss sb ss}", "name", name, "refused", refused,
						  "error", errno_name(refused ? error : 0)));
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
	try_remap("tx twice", tx, 0, info->tx_map_size);
	try_remap("tx grown", tx, info->tx_map_size, info->tx_map_size + PAGE);
	try_remap("rx grown", rx, info->rx_map_size, info->rx_map_size + PAGE);
	return true;
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
	try_maps(sivshm_get_fd(c), &info);
	exact = try_exact(sivshm_get_fd(c), &info);
	ok = ok && exact;
	print_json(json_pack("{sb sb so}", "ok", ok, "exact", exact, "attempts", attempts));
	sivshm_close(c);
	return !ok;
}
