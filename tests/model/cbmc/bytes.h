/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Laid before the real src/kmod/grant.c by -include.  Names and padding are moved by checked calls
 * that leave the bytes as they are, which is anything; what is proved does not depend on them.
 */
#ifndef MODEL_BYTES_H
#define MODEL_BYTES_H

#include <string.h>

void model_write(const void *to, size_t size);
void model_copy(const void *to, const void *from, size_t size);
void *model_find_nul(const void *s, size_t size);

#define memset(to, byte, size) model_write((to), (size))
#define memcpy(to, from, size) model_copy((to), (from), (size))
#define memchr(s, byte, size) model_find_nul((s), (size))

#endif
