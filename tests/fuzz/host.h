/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sivshm-cad within the fuzzer: everything but main.c, with real sockets, sections and grant tables
 * on a tmpfs.  Two machines, "a" and "b", have a region; the fuzzer is their QEMUs and daemons.
 */
#ifndef SIVSHM_FUZZ_HOST_H
#define SIVSHM_FUZZ_HOST_H

#include "fuzz.h"
#include "manager.h"

enum { VM_A, VM_B, N_VMS };

extern struct manager *host;

/** host_init() - starts it; @bus: address, NULL: without a bus */
void host_init(const char *bus);
/** host_run() - its event loop, until there is nothing to do */
void host_run(void);
/** host_check() - what holds at any time about tables, windows and channels */
void host_check(void);
/** host_check_empty() - nothing is left of what all those clients had, who are gone */
void host_check_empty(void);

/** host_undo_revocations() - whatever was revoked is not any more */
void host_undo_revocations(void);

/** host_connect() - as VM's user to its "control.sock" or "demo.sock"; -1: refused */
int host_connect(unsigned vm, const char *name);

#endif
