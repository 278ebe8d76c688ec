/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Included before everything else by the ring target and the ring: each atomic load of the ring is a
 * moment at which a hostile peer may have changed the memory, so hostile_moment() is called before
 * it.  That shows what is loaded twice, without a second thread and the same at every run.
 */
#ifndef SIVSHM_HOSTILE_LOAD_H
#define SIVSHM_HOSTILE_LOAD_H

void hostile_moment(void);

#define __atomic_load_n(p, order) (hostile_moment(), __atomic_load_n((p), (order)))

#endif
