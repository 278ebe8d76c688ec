// SPDX-License-Identifier: GPL-2.0-only
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/sched.h>

#include "channel.h"
#include "holder.h"

/* In the unified hierarchy; the task pins its cgroup, and a cgroup pins its parents. */
static bool in_cgroup(u64 id)
{
	struct cgroup *cgroup;

	rcu_read_lock();
	for (cgroup = task_dfl_cgroup(current); cgroup; cgroup = cgroup_parent(cgroup))
		if (cgroup_id(cgroup) == id)
			break;
	rcu_read_unlock();
	return cgroup;
}

static u64 own_cgroup(void)
{
	u64 id;

	rcu_read_lock();
	id = cgroup_id(task_dfl_cgroup(current));
	rcu_read_unlock();
	return id;
}

/**
 * sivshm_holder_check() - may the caller use this channel?
 * @channel: whose fd is used
 * @op:      SIVSHM_OP_*, for the event
 *
 * Root is no exception: it is not the service.  A refusal is told to the owner, but for that of a
 * kernel thread, which acts for somebody else (AIO).
 *
 * Return: yes or no.
 */
bool sivshm_holder_check(struct sivshm_channel *channel, u32 op)
{
	struct sivshm_event denied = {.op = op};

	if (uid_eq(current_euid(), channel->uid) && in_cgroup(channel->cgroup)) {
		if (!READ_ONCE(channel->used))
			WRITE_ONCE(channel->used, true);
		return true;
	}

	if (current->flags & PF_KTHREAD)
		return false;
	denied.pid = task_tgid_nr(current);
	denied.uid = from_kuid(&init_user_ns, current_euid());
	denied.cgroup = own_cgroup();
	sivshm_mailbox_denied(&channel->mailbox, &denied);
	return false;
}
