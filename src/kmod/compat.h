/* SPDX-License-Identifier: GPL-2.0-only */
/* Names that newer kernels have, for older ones, and the other way round.  Nothing else. */
#ifndef _SIVSHM_COMPAT_H
#define _SIVSHM_COMPAT_H

#include <linux/mm.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_mod(struct vm_area_struct *vma, unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

#ifdef CONFIG_X86
#include <asm/msr.h>
#ifndef rdmsrq
#define rdmsrq(msr, value) rdmsrl(msr, value)
#endif
#endif

#endif /* _SIVSHM_COMPAT_H */
