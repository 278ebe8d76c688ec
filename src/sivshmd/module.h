/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel module: load it, then give up the right to load any. */
#ifndef SIVSHMD_MODULE_H
#define SIVSHMD_MODULE_H

/** module_load() - libkmod; 0 also when it is there already; waits for the module's init */
int module_load(void);
/** module_check_abi() - -EPROTONOSUPPORT, -ENOENT no device, -EBUSY somebody else has it open */
int module_check_abi(const char *device);
/** capabilities_drop() - no capability is left in any set, the bounding set included, and none can
 * come back */
int capabilities_drop(void);

#endif
