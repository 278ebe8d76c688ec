/* SPDX-License-Identifier: GPL-2.0-only */
/* /dev/sivshm: the one process that opens channels and reads events. */
#ifndef _SIVSHM_OWNER_H
#define _SIVSHM_OWNER_H

int sivshm_owner_register(void);
void sivshm_owner_unregister(void);

#endif /* _SIVSHM_OWNER_H */
