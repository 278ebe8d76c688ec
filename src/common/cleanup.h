/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cleanup attributes and ownership hand-over. */
#ifndef SIVSHM_CLEANUP_H
#define SIVSHM_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)

/* DEFINE_CLEANUP(struct x *, x_free) makes x_freep() for _cleanup_() */
#define DEFINE_CLEANUP(type, function)                                                             \
	static inline void function##p(type *p)                                                    \
	{                                                                                          \
		if (*p)                                                                            \
			function(*p);                                                              \
	}

#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) *_take = &(p);                                                       \
		__typeof__(p) _taken = *_take;                                                     \
		*_take = NULL;                                                                     \
		_taken;                                                                            \
	})

#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int *_take = &(fd);                                                                \
		int _taken = *_take;                                                               \
		*_take = -1;                                                                       \
		_taken;                                                                            \
	})

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))

#endif
