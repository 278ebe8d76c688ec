/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What region.c (building) and member.c (living) share. */
#ifndef CAD_MEMBER_INTERNAL_H
#define CAD_MEMBER_INTERNAL_H

#include "fdstore.h"
#include "region.h"

extern const struct ivshmem_handler member_ivshmem_handler; /* userdata: the member */

/** member_stored_name() - in the fd store: 'l' socket, 'c' connection; @ret has FDSTORE_NAME_SIZE
 * bytes */
void member_stored_name(const struct member *member, char prefix, char *ret);
/** member_write_header() - the first page says what the section is */
int member_write_header(struct member *member);
/** member_restore_bells() - those that a predecessor left; true: all are there */
bool member_restore_bells(struct member *member);
int member_open_bells(struct member *member);
/** member_close_bells() - with @forget systemd does not keep them either */
void member_close_bells(struct member *member, bool forget);
/** member_restore() - the connection that a predecessor left; none is no error */
int member_restore(struct member *member);
/** member_forget_connection() - a later start does not find it */
void member_forget_connection(const struct member *member);
void member_stop_scrubbing(struct member *member);

#endif
