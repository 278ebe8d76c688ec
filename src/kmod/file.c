// SPDX-License-Identifier: GPL-2.0-only
/*
 * The channel fd.  Each has an inode of its own, in a file system that nobody can mount, because an
 * inode is what unmap_mapping_range() finds mappings by.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/pseudo_fs.h>
#include <linux/uaccess.h>

#include "channel.h"
#include "core.h"
#include "holder.h"
#include "section.h"

#define FS_MAGIC 0x5356484d

static struct vfsmount *fs_mount;
static int fs_pins;

static int fs_init(struct fs_context *context)
{
	return init_pseudo(context, FS_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type fs_type = {
	.name = KBUILD_MODNAME,
	.owner = THIS_MODULE,
	.init_fs_context = fs_init,
	.kill_sb = kill_anon_super,
};

static int file_release(struct inode *inode, struct file *file)
{
	sivshm_channel_released(file->private_data);
	simple_release_fs(&fs_mount, &fs_pins);
	return 0;
}

static __poll_t file_poll(struct file *file, struct poll_table_struct *wait)
{
	struct sivshm_channel *channel = file->private_data;
	__poll_t events = 0;

	if (!sivshm_holder_check(channel, SIVSHM_OP_POLL))
		return EPOLLERR;

	poll_wait(file, &channel->wait, wait);
	switch (sivshm_channel_state(channel)) {
	case SIVSHM_GRANT_ACTIVE:
		break;
	case SIVSHM_GRANT_DRAINING:
		events = EPOLLHUP | EPOLLRDHUP;
		break;
	default:
		return EPOLLHUP | EPOLLERR;
	}
	if (atomic64_read(&channel->rings) > 0)
		events |= EPOLLIN | EPOLLRDNORM;
	return events;
}

/*
 * What a sleeper wakes up for.  Return: doorbells since the last call; 0 none yet; -EPIPE none and
 * the peer has closed; -ENOLINK revoked.
 */
static s64 take_rings(struct sivshm_channel *channel)
{
	enum sivshm_grant_state state = sivshm_channel_state(channel);
	s64 rings;

	if (state == SIVSHM_GRANT_REVOKED)
		return -ENOLINK;
	rings = atomic64_xchg(&channel->rings, 0);
	if (rings == 0 && state == SIVSHM_GRANT_DRAINING)
		return -EPIPE;
	return rings;
}

static ssize_t file_read(struct file *file, char __user *buf, size_t size, loff_t *offset)
{
	struct sivshm_channel *channel = file->private_data;
	u64 count;
	s64 rings;
	int r;

	if (!sivshm_holder_check(channel, SIVSHM_OP_READ))
		return -EPERM;
	if (size < sizeof(count))
		return -EINVAL;

	rings = take_rings(channel);
	if (rings == 0) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		r = wait_event_interruptible(channel->wait, (rings = take_rings(channel)) != 0);
		if (r < 0)
			return r;
	}
	if (rings == -EPIPE)
		return 0;
	if (rings < 0)
		return rings;

	count = rings;
	if (copy_to_user(buf, &count, sizeof(count))) {
		atomic64_add(rings, &channel->rings);
		return -EFAULT;
	}
	return sizeof(count);
}

static int ioctl_info(struct sivshm_channel *channel, void __user *arg)
{
	const struct sivshm_terms *terms = &channel->terms;
	struct sivshm_channel_info info = {
		.abi = SIVSHM_ABI,
		.state = sivshm_channel_state(channel),
		.tx_ring_size = terms->tx.ring,
		.rx_ring_size = terms->rx.ring,
		.tx_map_size = sivshm_window_map_size(&terms->tx),
		.rx_map_size = sivshm_window_map_size(&terms->rx),
		.slot = channel->slot,
		.generation = terms->generation,
	};

	memcpy(info.channel_id, terms->channel_id, sizeof(info.channel_id));
	memcpy(info.local_service, terms->local_service, sizeof(info.local_service));
	memcpy(info.peer_vm, terms->peer_vm, sizeof(info.peer_vm));
	memcpy(info.peer_service, terms->peer_service, sizeof(info.peer_service));
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static int ioctl_notify(struct sivshm_channel *channel)
{
	int r = 0;

	down_read(&channel->gate);
	if (channel->state == SIVSHM_GRANT_REVOKED)
		r = -ENOLINK;
	else if (channel->state == SIVSHM_GRANT_DRAINING)
		r = -EPIPE;
	else
		sivshm_channel_ring(channel);
	up_read(&channel->gate);
	return r;
}

/*
 * The library naps for a second at most, and rings end nearly every nap.  A timer wheel takes a
 * timer in and out at less cost than a high-resolution one, which on an idle CPU is the next to
 * expire, so that the hardware is set twice; it may be late by an eighth.
 */
#define COARSE_NS NSEC_PER_SEC

static long sleep_for(struct sivshm_channel *channel, u64 timeout_ns, s64 *ret_rings)
{
	long jiffies_left = MAX_SCHEDULE_TIMEOUT;
	long r;

	if (timeout_ns < COARSE_NS)
		return wait_event_interruptible_hrtimeout(channel->wait,
							  (*ret_rings = take_rings(channel)) != 0,
							  ns_to_ktime(timeout_ns));
	if (timeout_ns != U64_MAX)
		jiffies_left = (long)nsecs_to_jiffies(timeout_ns) + 1;
	r = wait_event_interruptible_timeout(channel->wait, (*ret_rings = take_rings(channel)) != 0,
					     jiffies_left);
	return r == 0 ? -ETIME : r;
}

static s64 wait_rings(struct sivshm_channel *channel, u64 timeout_ns)
{
	s64 rings;
	long r;

	rings = take_rings(channel);
	if (rings != 0)
		return rings;
	if (timeout_ns == 0)
		return -ETIME;
	r = sleep_for(channel, timeout_ns, &rings);
	return r < 0 ? r : rings;
}

/*
 * A signal that no handler takes, a stop and a freezer end no sleep: the call begins again by
 * itself, with what is left of its time.
 */
static int wait_again(u64 timeout_ns, ktime_t began, struct sivshm_wait __user *arg)
{
	u64 passed = ktime_to_ns(ktime_sub(ktime_get(), began));
	u64 left = timeout_ns > passed ? timeout_ns - passed : 0;

	if (timeout_ns != U64_MAX && put_user(left, &arg->timeout_ns))
		return -EFAULT;
	return -ERESTARTNOHAND;
}

static int ioctl_wait(struct sivshm_channel *channel, void __user *arg)
{
	ktime_t began = ktime_get();
	struct sivshm_wait wait;
	s64 rings;

	if (copy_from_user(&wait, arg, sizeof(wait)))
		return -EFAULT;

	rings = wait_rings(channel, wait.timeout_ns);
	if (rings == -ERESTARTSYS)
		return wait_again(wait.timeout_ns, began, arg);
	if (rings < 0)
		return rings;

	wait.count = rings;
	if (copy_to_user(arg, &wait, sizeof(wait))) {
		atomic64_add(rings, &channel->rings);
		return -EFAULT;
	}
	return 0;
}

static long file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct sivshm_channel *channel = file->private_data;

	if (!sivshm_holder_check(channel, SIVSHM_OP_IOCTL))
		return -EPERM;

	switch (cmd) {
	case SIVSHM_CHANNEL_GET_INFO:
		return ioctl_info(channel, (void __user *)arg);
	case SIVSHM_CHANNEL_NOTIFY:
		return ioctl_notify(channel);
	case SIVSHM_CHANNEL_WAIT:
		return ioctl_wait(channel, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations file_ops = {
	.owner = THIS_MODULE,
	.release = file_release,
	.poll = file_poll,
	.read = file_read,
	.mmap = sivshm_map,
	.unlocked_ioctl = file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/**
 * sivshm_file_new() - the file of a channel
 * @channel: gets its inode; told when the file is released
 *
 * Return: a file that holds the module, or an ERR_PTR and nothing happened.
 */
struct file *sivshm_file_new(struct sivshm_channel *channel)
{
	struct inode *inode;
	struct file *file;
	int r;

	r = simple_pin_fs(&fs_type, &fs_mount, &fs_pins);
	if (r < 0)
		return ERR_PTR(r);

	inode = alloc_anon_inode(fs_mount->mnt_sb);
	if (IS_ERR(inode)) {
		file = ERR_CAST(inode);
		goto fail_pin;
	}

	/* put when the file goes; that we run says there is one to copy */
	__module_get(THIS_MODULE);
	file = alloc_file_pseudo(inode, fs_mount, KBUILD_MODNAME, O_RDWR, &file_ops);
	if (IS_ERR(file))
		goto fail_inode;
	nonseekable_open(inode, file);
	file->private_data = channel;
	channel->inode = inode;
	return file;

fail_inode:
	module_put(THIS_MODULE);
	iput(inode);
fail_pin:
	simple_release_fs(&fs_mount, &fs_pins);
	return file;
}
