/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Configuration files below a root of their own, on memory, from the text of an input. */
#ifndef SIVSHM_FUZZ_FILES_H
#define SIVSHM_FUZZ_FILES_H

#include "fuzz.h"

extern char files_root[128];

/** files_init() - @folders and @names (ended by NULL) below etc/; @base is that of the names */
void files_init(const char *const *folders, const char *const *names, const char *base);
/** files_write() - all files anew; "= NAME" begins one, what comes first is the first one's */
void files_write(struct input *in);

#endif
