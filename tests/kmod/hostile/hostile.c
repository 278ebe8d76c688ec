// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest kernel that has turned against its peers: it writes what it likes into its own section,
 * and rings the peer's doorbells as fast as it can.  Beside sivshm.ko, which owns the device.
 *
 *	insmod hostile.ko device=17 peer=1 vectors=8
 *	cd /sys/module/hostile/parameters
 *	echo COUNT KINDS SPAN SEED > scribble	COUNT stores, now; KINDS is a mask of enum kind, the
 *						windows looked for lie in the first SPAN bytes
 *	echo ring > thread; echo spin > thread; echo none > thread
 *						a thread that rings all vectors, or does the same
 *						without the store; it yields to whoever else can run
 *	cat rung				stores to the doorbell register so far
 */
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched.h>

#define DOORBELL 12
#define PAGE 4096U

enum kind {
	KIND_INDEX = 1,
	KIND_RECORD = 2,
	KIND_STATE = 4, /* magic, closed */
	KIND_SPAN = 8,
	KIND_SECTION = 16, /* its header included */
};

static unsigned int device, peer, vectors = 8;
module_param(device, uint, 0444);
module_param(peer, uint, 0444);
module_param(vectors, uint, 0444);
static unsigned long rung;
module_param(rung, ulong, 0444);

static DEFINE_MUTEX(lock);
static u8 *section;
static u64 section_size;
static u8 header[PAGE]; /* as it was, for whoever comes after this module */
static u8 __iomem *registers;
static struct task_struct *thread;
static bool thread_rings;
static u64 state;

static u64 next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dULL;
}

static u32 below(u32 n)
{
	return (u32)(next_random() >> 33) % n;
}

static u64 odd_index(u64 now)
{
	switch (below(6)) {
	case 0:
	case 1:
		return now + 8 * below(16);
	case 2:
		return now - 8 * below(16);
	case 3:
		return now + below(64);
	case 4:
		return now + (8ULL << below(40));
	default:
		return next_random();
	}
}

static void store_index(u8 *page)
{
	static const unsigned int offsets[] = {128, 128, 128, 256, 256, 384, 392};
	u64 *word = (u64 *)(page + offsets[below(ARRAY_SIZE(offsets))]);

	WRITE_ONCE(*word, odd_index(READ_ONCE(*word)));
}

/* Where a record may begin: a length that fits, one that nearly does, one that never can. */
static void store_record(u8 *page)
{
	u64 *word = (u64 *)(page + 8 * below(PAGE / 8));

	switch (below(4)) {
	case 0:
	case 1:
		WRITE_ONCE(*word, below(64));
		break;
	case 2:
		WRITE_ONCE(*word, below(2 * PAGE));
		break;
	default:
		WRITE_ONCE(*word, 0xffffffffULL - below(64) + ((u64)below(2) << 32));
	}
}

static void store_state(u8 *page)
{
	u32 *word = (u32 *)page;

	if (below(2))
		WRITE_ONCE(word[0], below(4) ? 0x31525653 : below(3));
	else
		WRITE_ONCE(word[1], below(4) ? 0 : below(4));
}

static void store_once(unsigned int kinds, u32 span)
{
	unsigned int kind = kinds & BIT(below(5));
	u8 *page = section + PAGE * (1 + below(span / PAGE));

	if (kind == KIND_INDEX)
		store_index(page);
	else if (kind == KIND_RECORD)
		store_record(page);
	else if (kind == KIND_STATE)
		store_state(page);
	else if (kind == KIND_SPAN)
		WRITE_ONCE(*(u64 *)(page + 8 * below(PAGE / 8)), next_random());
	else if (kind == KIND_SECTION)
		WRITE_ONCE(*(u64 *)(section + 8 * below(section_size / 8)), next_random());
}

/* Each burst begins with windows that look alive, or nobody would read any further. */
static void revive(u32 span)
{
	for (u32 offset = PAGE; offset <= span; offset += PAGE) {
		WRITE_ONCE(*(u32 *)(section + offset), 0x31525653);
		WRITE_ONCE(*(u32 *)(section + offset + 4), 0);
	}
}

static int scribble_set(const char *value, const struct kernel_param *param)
{
	unsigned int count, kinds, span;
	u64 seed;

	if (sscanf(value, "%u %u %u %llu", &count, &kinds, &span, &seed) != 4)
		return -EINVAL;
	if (span < PAGE || span > section_size - PAGE)
		return -ERANGE;
	mutex_lock(&lock);
	state = seed * 0x9e3779b97f4a7c15ULL | 1;
	revive(span);
	for (unsigned int i = 0; i < count; i++) {
		store_once(kinds, span);
		if (i % 4096 == 0)
			cond_resched();
	}
	mutex_unlock(&lock);
	return 0;
}

static const struct kernel_param_ops scribble_ops = {.set = scribble_set};
module_param_cb(scribble, &scribble_ops, NULL, 0200);

static int thread_run(void *unused)
{
	unsigned int vector = 0;

	while (!kthread_should_stop()) {
		for (int i = 0; i < 256; i++) {
			vector = vector + 1 < vectors ? vector + 1 : 0;
			if (!thread_rings) {
				cpu_relax();
				continue;
			}
			iowrite32(peer << 16 | vector, registers + DOORBELL);
			rung++;
		}
		cond_resched();
	}
	return 0;
}

static int thread_set(const char *value, const struct kernel_param *param)
{
	bool ring = sysfs_streq(value, "ring"), spin = sysfs_streq(value, "spin");
	int r = 0;

	if (!ring && !spin && !sysfs_streq(value, "none"))
		return -EINVAL;
	mutex_lock(&lock);
	if (thread)
		kthread_stop(thread);
	thread = NULL;
	thread_rings = ring;
	if (ring || spin)
		thread = kthread_run(thread_run, NULL, "hostile");
	if (IS_ERR(thread)) {
		r = PTR_ERR(thread);
		thread = NULL;
	}
	mutex_unlock(&lock);
	return r;
}

static const struct kernel_param_ops thread_ops = {.set = thread_set};
module_param_cb(thread, &thread_ops, NULL, 0200);

static int __init hostile_init(void)
{
	struct pci_dev *pdev = pci_get_domain_bus_and_slot(0, 0, PCI_DEVFN(device, 0));
	int r = -ENOMEM;

	if (!pdev)
		return -ENODEV;
	section_size = pci_resource_len(pdev, 2);
	section = memremap(pci_resource_start(pdev, 2), section_size, MEMREMAP_WB);
	registers = ioremap(pci_resource_start(pdev, 0), PAGE);
	if (section && registers) {
		memcpy(header, section, sizeof(header));
		r = 0;
	} else if (section) {
		memunmap(section);
	} else if (registers) {
		iounmap(registers);
	}
	pci_dev_put(pdev);
	return r;
}
module_init(hostile_init);

static void __exit hostile_exit(void)
{
	if (thread)
		kthread_stop(thread);
	memcpy(section, header, sizeof(header));
	iounmap(registers);
	memunmap(section);
}
module_exit(hostile_exit);

MODULE_DESCRIPTION("Test of sivshm: a hostile guest kernel");
MODULE_LICENSE("GPL");
