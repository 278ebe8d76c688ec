/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Laid before the real source by -include, which is otherwise compiled as it stands.
 *
 * What the atomic loads return is anything, anew each time: the strongest peer there is, for every
 * word may differ between any two loads.  Each load and store is checked against the windows, but
 * for the words that are atomic for threads of this process alone: those are stored.
 */
#ifndef MODEL_SHARED_H
#define MODEL_SHARED_H

#include <stdint.h>
#include <string.h>

uint64_t model_load(const void *from, size_t size);
_Bool model_is_private(const void *word);
void model_store(const void *to, size_t size);
void model_copy(const void *to, const void *from, size_t size);

#define __atomic_load_n(p, order) ((__typeof__(*(p)))model_load((p), sizeof(*(p))))
#define __atomic_store_n(p, v, order) \
	(model_is_private(p) ? (void)(*(p) = (v)) : ((void)(v), model_store((p), sizeof(*(p)))))
#define __atomic_thread_fence(order) ((void)0)
#define memcpy(to, from, size) model_copy((to), (from), (size))

#endif
