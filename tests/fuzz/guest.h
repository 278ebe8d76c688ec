/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sivshmd within the fuzzer: everything but main.c; its kernel and its host say yes to what is cheap. */
#ifndef SIVSHM_FUZZ_GUEST_H
#define SIVSHM_FUZZ_GUEST_H

#include "fuzz.h"
#include "manager.h"

extern struct manager *guest;

void guest_init(const char *bus);
/** guest_run() - its event loop and its host's, until there is nothing to do */
void guest_run(void);
/** guest_check_empty() - nobody is on the bus: nothing is under way */
void guest_check_empty(void);

#endif
