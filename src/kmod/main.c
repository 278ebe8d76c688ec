// SPDX-License-Identifier: GPL-2.0-only
#include <linux/build_bug.h>
#include <linux/module.h>

#include "channel.h"
#include "core.h"
#include "device.h"
#include "owner.h"
#include "uapi/sivshm.h"

DEFINE_MUTEX(sivshm_lock); /* core.h */
struct workqueue_struct *sivshm_queue;

static_assert(PAGE_SIZE == SIVSHM_PAGE_SIZE, "windows are made of 4096-byte pages");
static_assert(sizeof(struct sivshm_section_desc) == 112);
static_assert(sizeof(struct sivshm_table_header) == SIVSHM_TABLE_HEADER_SIZE);
static_assert(sizeof(struct sivshm_section_header) == SIVSHM_PAGE_SIZE);
static_assert(sizeof(struct sivshm_grant) == SIVSHM_GRANT_SIZE);

static int __init sivshm_init(void)
{
	int r;

	sivshm_queue = alloc_workqueue(KBUILD_MODNAME, WQ_HIGHPRI | WQ_UNBOUND, 0);
	if (!sivshm_queue)
		return -ENOMEM;
	r = sivshm_owner_register();
	if (r < 0)
		goto fail_queue;
	r = sivshm_device_register();
	if (r < 0)
		goto fail_owner;
	return 0;

fail_owner:
	sivshm_owner_unregister();
fail_queue:
	destroy_workqueue(sivshm_queue);
	return r;
}
module_init(sivshm_init);

/* Runs only when no fd is open: every one holds the module. */
static void __exit sivshm_exit(void)
{
	sivshm_device_unregister();
	sivshm_owner_unregister();
	sivshm_channel_forget_all();
	destroy_workqueue(sivshm_queue);
}
module_exit(sivshm_exit);

MODULE_DESCRIPTION("Secure IVSHMEM: channels between services of virtual machines");
MODULE_LICENSE("GPL");
MODULE_VERSION("1");
