// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest kernel can do at worst: store to BAR2 of a device, whoever owns it.
 *
 *	insmod store.ko device=18 offset=4096		one word
 *	insmod store.ko device=18 offset=4096 ways=1	in every way the processor has
 *
 * Never stays loaded.  Says "store: sticks" or "store: ignored" in the kernel log, with ways=1 for
 * each of them.
 */
#include <linux/atomic.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

static unsigned int device;
module_param(device, uint, 0);
static unsigned int offset;
module_param(offset, uint, 0);
static bool ways;
module_param(ways, bool, 0);

static void by_byte(u64 *p, u64 value)
{
	WRITE_ONCE(*(u8 *)p, value);
}

static void by_16(u64 *p, u64 value)
{
	WRITE_ONCE(*(u16 *)p, value);
}

static void by_32(u64 *p, u64 value)
{
	WRITE_ONCE(*(u32 *)p, value);
}

static void by_64(u64 *p, u64 value)
{
	WRITE_ONCE(*p, value);
}

static void by_exchange(u64 *p, u64 value)
{
	xchg(p, value);
}

static void by_compare(u64 *p, u64 value)
{
	cmpxchg(p, READ_ONCE(*p), value);
}

static void by_add(u64 *p, u64 value)
{
	atomic64_add(0x0101010101010101, (atomic64_t *)p);
}

static void by_bit(u64 *p, u64 value)
{
	change_bit(3, (unsigned long *)p);
}

#ifdef CONFIG_X86_64
static void by_rep_byte(u64 *p, u64 value)
{
	u64 *from = &value;
	long n = sizeof(value);

	asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
}

static void by_rep_64(u64 *p, u64 value)
{
	long n = 1;

	asm volatile("rep stosq" : "+D"(p), "+c"(n) : "a"(value) : "memory");
}

static void by_non_temporal(u64 *p, u64 value)
{
	asm volatile("movnti %1, %0; sfence" : "=m"(*p) : "r"(value) : "memory");
}

static void by_flushed(u64 *p, u64 value)
{
	WRITE_ONCE(*p, value);
	asm volatile("mfence; clflush %0; mfence" : "+m"(*p) : : "memory");
}
#endif

static const struct {
	const char *name;
	void (*store)(u64 *p, u64 value);
} all_ways[] = {
	{"8 bits", by_byte},	    {"16 bits", by_16},	      {"32 bits", by_32},
	{"64 bits", by_64},	    {"xchg", by_exchange},    {"cmpxchg", by_compare},
	{"locked add", by_add},	    {"locked btc", by_bit},
#ifdef CONFIG_X86_64
	{"rep movsb", by_rep_byte}, {"rep stosq", by_rep_64}, {"movnti", by_non_temporal},
	{"clflush", by_flushed},
#endif
};

static void store_all_ways(u64 *p)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(all_ways); i++) {
		u64 before = READ_ONCE(*p), after;

		all_ways[i].store(p, ~before);
		mb(); /* as below */
		after = READ_ONCE(*p);
		pr_info("store by %s: %s\n", all_ways[i].name,
			after == before ? "ignored" : "sticks");
	}
}

static void store_once(u32 *word)
{
	u32 before, after;

	before = READ_ONCE(*word);
	WRITE_ONCE(*word, ~before);
	mb(); /* the store has to reach the device before it is asked */
	after = READ_ONCE(*word);
	pr_info("store: %s (%x %x)\n", after == before ? "ignored" : "sticks", before, after);
}

static int __init store_init(void)
{
	struct pci_dev *pdev = pci_get_domain_bus_and_slot(0, 0, PCI_DEVFN(device, 0));
	void *base;

	if (!pdev)
		return -ENODEV;
	base = memremap(pci_resource_start(pdev, 2), pci_resource_len(pdev, 2), MEMREMAP_WB);
	pci_dev_put(pdev);
	if (!base)
		return -ENOMEM;

	if (ways)
		store_all_ways(base + offset);
	else
		store_once(base + offset);
	memunmap(base);
	return -ECANCELED;
}
module_init(store_init);

MODULE_DESCRIPTION("Test of sivshm: stores to a BAR");
MODULE_LICENSE("GPL");
