/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel module: load it, then give up the right to load any. */
#ifndef SIVSHMD_MODULE_H
#define SIVSHMD_MODULE_H

#include <stdint.h>

/** module_load() - libkmod; 0 also when it is there already; waits for the module's init */
int module_load(void);
/** module_load_advice() - what an administrator can do about module_load()'s @error; static */
const char *module_load_advice(int error);
#define MODULE_TEXT_SIZE 128
/** module_abi_text() - that the module's @abi is not ours, and what to do */
void module_abi_text(uint32_t abi, char *ret);
/** module_get_abi() - -ENOENT no device, -EBUSY somebody else has it open */
int module_get_abi(const char *device, uint32_t *ret);
/** capabilities_drop() - no capability is left in any set, the bounding set included, and none can
 * come back */
int capabilities_drop(void);

#endif
