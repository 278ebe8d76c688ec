// SPDX-License-Identifier: GPL-2.0-only
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "channel.h"
#include "core.h"
#include "event.h"
#include "owner.h"
#include "section.h"
#include "table.h"

static struct file *owner; /* sivshm_lock */

static int owner_open(struct inode *inode, struct file *file)
{
	int r = 0;

	mutex_lock(&sivshm_lock);
	if (owner) {
		r = -EBUSY;
	} else {
		owner = file;
		sivshm_event_reset();
		sivshm_table_refresh();
		sivshm_channel_follow_all();
	}
	mutex_unlock(&sivshm_lock);
	return r < 0 ? r : nonseekable_open(inode, file);
}

static int owner_release(struct inode *inode, struct file *file)
{
	mutex_lock(&sivshm_lock);
	owner = NULL;
	sivshm_channel_orphan_all();
	mutex_unlock(&sivshm_lock);
	return 0;
}

static ssize_t owner_read(struct file *file, char __user *buf, size_t size, loff_t *offset)
{
	return sivshm_event_read(file, buf, size);
}

static __poll_t owner_poll(struct file *file, struct poll_table_struct *wait)
{
	return sivshm_event_poll(file, wait);
}

/* The calls work on a private copy and run under sivshm_lock; owner_ioctl() copies in and out. */
union argument {
	struct sivshm_info info;
	struct sivshm_section section;
	struct sivshm_slot slot;
	struct sivshm_open open;
	struct sivshm_ref ref;
};

static int get_info(union argument *arg)
{
	const struct sivshm_layout *layout = sivshm_table_layout();
	struct sivshm_info *info = &arg->info;

	memset(info, 0, sizeof(*info));
	info->abi = SIVSHM_ABI;
	info->n_channels = sivshm_channel_count();
	if (layout) {
		info->n_slots = layout->n_slots;
		info->n_sections = layout->n_places;
		info->epoch = layout->epoch;
		memcpy(info->vm, layout->vm, sizeof(info->vm));
	}
	return 0;
}

static int get_section(union argument *arg)
{
	const struct sivshm_layout *layout = sivshm_table_layout();
	struct sivshm_section *info = &arg->section;
	const struct sivshm_place *place;
	struct sivshm_section_device *section;

	if (memchr_inv(info->reserved, 0, sizeof(info->reserved)))
		return -EINVAL;
	if (!layout)
		return -ENODEV;
	if (info->index >= layout->n_places)
		return -ENOENT;

	place = &layout->places[info->index];
	section = sivshm_section_find(place);
	info->state = section ? SIVSHM_SECTION_READY : SIVSHM_SECTION_ABSENT;
	info->mapping = section ? section->device.bar.mapping : SIVSHM_MAPPING_UNKNOWN;
	info->region = place->region;
	info->member = place->member;
	info->devfn = place->devfn;
	info->flags = place->flags;
	info->vectors = place->vectors;
	info->size = place->size;
	memcpy(info->region_name, place->region_name, sizeof(info->region_name));
	memcpy(info->vm, place->vm, sizeof(info->vm));
	return 0;
}

/* Nothing but the state means anything in a FREE entry. */
static void slot_grant(struct sivshm_slot *slot, const struct sivshm_grant *grant)
{
	slot->state = le32_to_cpu(grant->state);
	if (slot->state == SIVSHM_GRANT_FREE)
		return;
	slot->generation = le32_to_cpu(grant->generation);
	slot->region = le32_to_cpu(grant->region);
	slot->peer = le32_to_cpu(grant->peer);
	slot->tx_size = le64_to_cpu(grant->tx_size);
	slot->rx_size = le64_to_cpu(grant->rx_size);
	memcpy(slot->channel_id, grant->channel, sizeof(slot->channel_id));
	strscpy_pad(slot->local_service, grant->local_service, sizeof(slot->local_service));
	strscpy_pad(slot->peer_vm, grant->peer_vm, sizeof(slot->peer_vm));
	strscpy_pad(slot->peer_service, grant->peer_service, sizeof(slot->peer_service));
}

static void slot_channel(struct sivshm_slot *slot, struct sivshm_channel *channel)
{
	if (!channel->inode)
		slot->channel = SIVSHM_CHANNEL_RELEASED;
	else if (channel->state == SIVSHM_GRANT_REVOKED)
		slot->channel = SIVSHM_CHANNEL_REVOKED;
	else
		slot->channel = SIVSHM_CHANNEL_OPEN;
	if (sivshm_mailbox_is_orphan(&channel->mailbox))
		slot->flags |= SIVSHM_SLOT_ORPHAN;
	if (READ_ONCE(channel->used))
		slot->flags |= SIVSHM_SLOT_USED;
	slot->channel_generation = channel->terms.generation;
	slot->uid = from_kuid(&init_user_ns, channel->uid);
	slot->cgroup = channel->cgroup;
}

static int get_slot(union argument *arg)
{
	struct sivshm_slot *slot = &arg->slot;
	struct sivshm_channel *channel;
	struct sivshm_grant grant;
	u32 index = slot->slot;
	int r;

	if (slot->reserved0 || memchr_inv(slot->reserved1, 0, sizeof(slot->reserved1)))
		return -EINVAL;

	/* A channel outlives the table that it came from: it must still be found. */
	channel = sivshm_channel_get(index);
	r = sivshm_table_grant(index, &grant);
	if (r < 0 && (r == -EAGAIN || !channel))
		return r;

	memset(slot, 0, sizeof(*slot));
	slot->slot = index;
	if (r == 0)
		slot_grant(slot, &grant);
	if (channel)
		slot_channel(slot, channel);
	return 0;
}

static int open_channel(union argument *arg)
{
	const struct sivshm_open *open = &arg->open;

	if (open->flags || open->reserved || open->cgroup == 0 ||
	    !uid_valid(make_kuid(&init_user_ns, open->uid)))
		return -EINVAL;
	return sivshm_channel_open(open);
}

static int find_channel(const struct sivshm_ref *ref, struct sivshm_channel **ret_channel)
{
	struct sivshm_channel *channel;

	if (ref->reserved)
		return -EINVAL;
	channel = sivshm_channel_get(ref->slot);
	if (!channel || channel->terms.generation != ref->generation)
		return -ESTALE;
	*ret_channel = channel;
	return 0;
}

static int adopt_channel(union argument *arg)
{
	struct sivshm_channel *channel;
	int r;

	r = find_channel(&arg->ref, &channel);
	if (r == 0)
		sivshm_mailbox_orphan(&channel->mailbox, false);
	return r;
}

static int close_channel(union argument *arg)
{
	struct sivshm_channel *channel;
	int r;

	r = find_channel(&arg->ref, &channel);
	if (r == 0)
		sivshm_channel_revoke(channel);
	return r;
}

static const struct {
	unsigned int cmd;
	int (*call)(union argument *arg);
} calls[] = {
	{SIVSHM_GET_INFO, get_info},   {SIVSHM_GET_SECTION, get_section},
	{SIVSHM_GET_SLOT, get_slot},   {SIVSHM_OPEN, open_channel},
	{SIVSHM_ADOPT, adopt_channel}, {SIVSHM_CLOSE, close_channel},
};

static long owner_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
	union argument arg = {};
	unsigned int i;
	int r;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (calls[i].cmd == cmd)
			break;
	if (i == ARRAY_SIZE(calls))
		return -ENOTTY;

	if (_IOC_DIR(cmd) & _IOC_WRITE && copy_from_user(&arg, (void __user *)user, _IOC_SIZE(cmd)))
		return -EFAULT;

	mutex_lock(&sivshm_lock);
	r = calls[i].call(&arg);
	mutex_unlock(&sivshm_lock);

	if (r >= 0 && _IOC_DIR(cmd) & _IOC_READ &&
	    copy_to_user((void __user *)user, &arg, _IOC_SIZE(cmd)))
		return -EFAULT;
	return r;
}

static const struct file_operations owner_ops = {
	.owner = THIS_MODULE,
	.open = owner_open,
	.release = owner_release,
	.read = owner_read,
	.poll = owner_poll,
	.unlocked_ioctl = owner_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice owner_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &owner_ops,
	.mode = 0600,
};

int sivshm_owner_register(void)
{
	return misc_register(&owner_device);
}

void sivshm_owner_unregister(void)
{
	misc_deregister(&owner_device);
}
