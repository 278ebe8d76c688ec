/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ringing a VM.  Pure.
 *
 * The eventfd of a vector is one open file that this daemon shares with the VM's QEMU.  A QEMU that
 * was taken over can fill the counter and switch O_NONBLOCK off, and a write() would then wait for
 * ever, and all other VMs with it.  The kernel's own way to signal an eventfd never waits;
 * asynchronous I/O is how a process gets at it.
 */
#ifndef CAD_BELL_H
#define CAD_BELL_H

/** bell_init() - get ready, before there are VMs; -ENOSYS: this kernel's rings can wait; other
 * errors: bell_ring() tries again */
int bell_init(void);
/** bell_ring() - add one to the counter, without waiting; negative errno */
int bell_ring(int eventfd);

#endif
