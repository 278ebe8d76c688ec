/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a VM's QEMU has to be started with: command line words, libvirt XML.  Pure. */
#ifndef CAD_QEMU_ARGS_H
#define CAD_QEMU_ARGS_H

#include "layout.h"

/** qemu_args() - NULL-terminated words; the caller frees with qemu_args_free() */
int qemu_args(const char *runtime_dir, const struct vm_config *vm, const struct layout *layout,
	      char ***ret);
char **qemu_args_free(char **args);
/** libvirt_xml() - elements for a domain; the caller frees */
int libvirt_xml(const char *runtime_dir, const struct vm_config *vm, const struct layout *layout,
		char **ret);

#endif
