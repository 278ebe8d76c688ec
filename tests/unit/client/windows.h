/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Windows of two ends as the kernel maps them: control page, ring, the same ring again. */
#ifndef SIVSHM_TEST_WINDOWS_H
#define SIVSHM_TEST_WINDOWS_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/ring.h"

/* Map one window; -1 fails as mmap() does. */
static inline void *window_map(int memfd, uint64_t size, int prot)
{
	uint8_t *p = mmap(NULL, SIVSHM_CONTROL_SIZE + 2 * size, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (mmap(p, SIVSHM_CONTROL_SIZE + size, prot, MAP_SHARED | MAP_FIXED, memfd, 0) ==
		    MAP_FAILED ||
	    mmap(p + SIVSHM_CONTROL_SIZE + size, size, prot, MAP_SHARED | MAP_FIXED, memfd,
		 SIVSHM_CONTROL_SIZE) == MAP_FAILED)
		return NULL;
	return p;
}

static inline int window_new(uint64_t size)
{
	int fd = memfd_create("window", MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, (off_t)(SIVSHM_CONTROL_SIZE + size)) < 0)
		return -1;
	return fd;
}

static inline void window_unmap(void *p, uint64_t size)
{
	munmap(p, SIVSHM_CONTROL_SIZE + 2 * size);
}

#endif
