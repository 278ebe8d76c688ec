/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <libkmod.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "sivshm.h"

#define MODULE_NAME "sivshm"

DEFINE_CLEANUP(struct kmod_ctx *, kmod_unref)

static int insert(struct kmod_list *list)
{
	struct kmod_list *item;
	int r = -ENOENT;

	kmod_list_foreach(item, list) {
		struct kmod_module *module = kmod_module_get_module(item);

		r = kmod_module_probe_insert_module(module, KMOD_PROBE_APPLY_BLACKLIST, NULL, NULL,
						    NULL, NULL);
		kmod_module_unref(module);
		if (r != 0)
			break;
	}
	/* positive: the administrator's blacklist */
	return r > 0 ? -EPERM : r;
}

int module_load(void)
{
	_cleanup_(kmod_unrefp) struct kmod_ctx *ctx = kmod_new(NULL, NULL);
	struct kmod_list *list = NULL;
	int r;

	if (!ctx)
		return -ENOMEM;
	r = kmod_module_new_from_lookup(ctx, MODULE_NAME, &list);
	if (r >= 0)
		r = insert(list);
	kmod_module_unref_list(list);
	return r;
}

const char *module_load_advice(int error)
{
	switch (error) {
	case -ENOENT:
		return "it is not installed for this kernel: build it with the kernel's headers "
		       "and run depmod -a";
	case -ENOKEY:
	case -EKEYREJECTED:
		return "it is not signed with a key that this kernel accepts (Secure Boot)";
	case -EPERM:
		return "modprobe.d forbids it, or this process may not load modules";
	case -EINVAL:
	case -ENOEXEC:
		return "it was built for another kernel; the kernel's log says more";
	default:
		return "the kernel's log may say more";
	}
}

void module_abi_text(uint32_t abi, char *ret)
{
	snprintf(ret, MODULE_TEXT_SIZE,
		 "the module's ABI is %u, this sivshmd needs %u: install both of one version and "
		 "load the module anew",
		 abi, SIVSHM_ABI);
}

int module_get_abi(const char *device, uint32_t *ret)
{
	_cleanup_close_ int fd = open(device, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct sivshm_info info = {};

	if (fd < 0 || ioctl(fd, SIVSHM_GET_INFO, &info) < 0)
		return -errno;
	*ret = info.abi;
	return 0;
}

static int bounding_set_drop(void)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		/* EPERM: this process cannot change the set; then it has no capability to lose. */
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return -errno;
	}
	return 0;
}

/* The unit's system call filter has no capset(): whoever has nothing need not drop it. */
static int sets_drop(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
	struct __user_cap_data_struct now[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, now) < 0)
		return -errno;
	if (memcmp(now, none, sizeof(none)) == 0)
		return 0;
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

int capabilities_drop(void)
{
	int r;

	r = bounding_set_drop();
	if (r < 0)
		return r;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	r = sets_drop();
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}
