// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mistakes on purpose, one a load: each has to be found by the kernel that looks for it.
 *
 *	insmod planted.ko bug=use-after-free
 *
 * Stays loaded only after a leak, so that it can be asked whose the lost memory is.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static char *bug = "";
module_param(bug, charp, 0);
static unsigned int number = 40; /* what the compiler cannot know */
module_param(number, uint, 0);

static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_SPINLOCK(spin);
static struct {
	int array[4];
	int behind[60];
} table;
static unsigned long word;

static int out_of_bounds(void)
{
	char *p = kmalloc(50, GFP_KERNEL);
	int r;

	if (!p)
		return -ENOMEM;
	r = READ_ONCE(p[50 + number % 2]);
	kfree(p);
	return r;
}

static int use_after_free(void)
{
	char *p = kmalloc(50, GFP_KERNEL);

	kfree(p);
	return p ? READ_ONCE(p[number % 8]) : -ENOMEM;
}

static int lock_order(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_b);
	mutex_unlock(&lock_b);
	mutex_unlock(&lock_a);

	mutex_lock(&lock_b);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_b);
	return 0;
}

static int sleep_in_atomic(void)
{
	spin_lock(&spin);
	msleep(1);
	spin_unlock(&spin);
	return 0;
}

static int leak(void)
{
	for (int i = 0; i < 50; i++) {
		char *p = kmalloc(100, GFP_KERNEL);

		if (p)
			WRITE_ONCE(p[0], i);
	}
	return 0;
}

static int shift(void)
{
	return 1 << number;
}

static int array_index(void)
{
	return table.array[number % 10 + 9];
}

static int race_thread(void *unused)
{
	while (!kthread_should_stop()) {
		for (int i = 0; i < 1000; i++)
			word++;
		cond_resched();
	}
	return 0;
}

static int race(void)
{
	struct task_struct *threads[2];

	for (int i = 0; i < 2; i++) {
		threads[i] = kthread_create(race_thread, NULL, "race-%d", i);
		if (IS_ERR(threads[i])) {
			if (i == 1)
				kthread_stop(threads[0]);
			return PTR_ERR(threads[i]);
		}
		kthread_bind(threads[i], i % num_online_cpus());
	}
	for (int i = 0; i < 2; i++)
		wake_up_process(threads[i]);
	msleep(5000);
	for (int i = 0; i < 2; i++)
		kthread_stop(threads[i]);
	return 0;
}

static const struct {
	const char *name;
	int (*act)(void);
} bugs[] = {
	{"out-of-bounds", out_of_bounds},
	{"use-after-free", use_after_free},
	{"lock-order", lock_order},
	{"sleep-in-atomic", sleep_in_atomic},
	{"leak", leak},
	{"shift", shift},
	{"array-index", array_index},
	{"race", race},
};

static int __init planted_init(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(bugs); i++)
		if (strcmp(bugs[i].name, bug) == 0) {
			pr_info("planted: %s ends with %d\n", bug, bugs[i].act());
			return bugs[i].act == leak ? 0 : -ECANCELED;
		}
	return -EINVAL;
}
module_init(planted_init);

static void __exit planted_exit(void)
{
}
module_exit(planted_exit);

MODULE_DESCRIPTION("Test of sivshm's tests: mistakes that have to be found");
MODULE_LICENSE("GPL");
