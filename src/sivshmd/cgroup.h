/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control group paths: from /proc/PID/cgroup to a unit's name.  Pure. */
#ifndef SIVSHMD_CGROUP_H
#define SIVSHMD_CGROUP_H

#include <stddef.h>

/**
 * cgroup_parse() - path in the unified hierarchy from the text of /proc/PID/cgroup
 * Returns -ENODATA without a "0::" line, -EXDEV for a path outside of the own cgroup namespace,
 * -ESTALE for a removed group, -ENAMETOOLONG.
 */
int cgroup_parse(const char *text, char *ret, size_t size);

/**
 * cgroup_unit() - unit that systemd made for @path: first component below the slices
 * What lies deeper is under control of the unit itself and says nothing.
 * "" when there is none.
 */
void cgroup_unit(const char *path, char *ret, size_t size);

#endif
