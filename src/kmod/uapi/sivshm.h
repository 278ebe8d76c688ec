/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * sivshm - user interface of the kernel module.
 *
 * The owner (one privileged process at a time, normally sivshmd) turns grants into channel fds:
 *
 *	int dev = open("/dev/sivshm", O_RDWR | O_CLOEXEC | O_NONBLOCK);
 *	struct sivshm_info info = {};
 *	ioctl(dev, SIVSHM_GET_INFO, &info);		// info.abi == SIVSHM_ABI
 *	struct sivshm_open open = { .slot = 3, .generation = 7, .uid = 1000, .cgroup = cgroup_id };
 *	int channel = ioctl(dev, SIVSHM_OPEN, &open);	// hand it to the service
 *	struct sivshm_event ev;
 *	read(dev, &ev, sizeof(ev));			// released, revoked, denied, ...
 *
 * The holder (a process of that uid, in that cgroup or below it) uses the channel fd:
 *
 *	struct sivshm_channel_info ci = {};
 *	ioctl(channel, SIVSHM_CHANNEL_GET_INFO, &ci);
 *	void *tx = mmap(NULL, ci.tx_map_size, PROT_READ | PROT_WRITE, MAP_SHARED, channel,
 *			SIVSHM_TX_OFFSET);
 *	void *rx = mmap(NULL, ci.rx_map_size, PROT_READ, MAP_SHARED, channel, SIVSHM_RX_OFFSET);
 *	ioctl(channel, SIVSHM_CHANNEL_NOTIFY);		// ring the peer
 *	poll() for POLLIN, then read() 8 bytes, or SIVSHM_CHANNEL_WAIT for both in one call
 *
 * A window maps as: control page, ring, the same ring again, so that a message that wraps is
 * contiguous.  Exactly that length at exactly that offset can be mapped (else EINVAL), shared, RX
 * not for writing and none for executing (else EACCES).  Mappings are not inherited by a fork.  A
 * channel has SIVSHM_MAX_MAPS of them at a time, parts of split ones counted each (else ENOMEM).
 *
 * Errors, all calls: EPERM the caller is not the holder (channel fd); ENODEV no grant table;
 * ENOLINK the channel was revoked or its device is gone; EFAULT, EINVAL as usual (EINVAL also for
 * a reserved field that is not zero); ENOTTY no such call.
 */
#ifndef _UAPI_SIVSHM_H
#define _UAPI_SIVSHM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#include "sivshm_table.h"

#define SIVSHM_ABI 1
#define SIVSHM_DEVICE "/dev/sivshm"

#define SIVSHM_MAX_MAPS 16

/* mmap offsets on a channel fd */
#define SIVSHM_TX_OFFSET 0x000000000ULL
#define SIVSHM_RX_OFFSET 0x100000000ULL

/**
 * struct sivshm_info - SIVSHM_GET_INFO
 * @abi:        SIVSHM_ABI of the module
 * @n_slots:    slots of the grant table
 * @n_sections: sections the table lists
 * @n_channels: channels that exist now, orphans and unread releases included
 * @epoch:      of the table
 * @vm:         name of this VM as the host knows it
 *
 * Works without a table too: then n_slots is 0.
 */
struct sivshm_info {
	__u32 abi;
	__u32 n_slots;
	__u32 n_sections;
	__u32 n_channels;
	__u64 epoch;
	__u8 vm[SIVSHM_VM_NAME_SIZE];
	__u8 reserved[56];
};

/* sivshm_section.state */
#define SIVSHM_SECTION_ABSENT 0 /* listed by the host, no device bound */
#define SIVSHM_SECTION_READY 1

/* sivshm_section.mapping: memory type that the kernel gave */
#define SIVSHM_MAPPING_UNKNOWN 0
#define SIVSHM_MAPPING_WB 1
#define SIVSHM_MAPPING_WC 2
#define SIVSHM_MAPPING_UC_MINUS 3
#define SIVSHM_MAPPING_UC 4

/**
 * struct sivshm_section - SIVSHM_GET_SECTION
 * @index:   in: 0 to n_sections-1
 * @state:   SIVSHM_SECTION_ABSENT or _READY
 * @mapping: SIVSHM_MAPPING_*
 * Other fields as in struct sivshm_section_desc, host byte order.  ENOENT: no such index.
 */
struct sivshm_section {
	__u32 index;
	__u32 state;
	__u32 mapping;
	__u32 region;
	__u32 member;
	__u32 devfn;
	__u32 flags;
	__u32 vectors;
	__u64 size;
	__u8 region_name[SIVSHM_REGION_NAME_SIZE];
	__u8 vm[SIVSHM_VM_NAME_SIZE];
	__u8 reserved[8];
};

/* sivshm_slot.channel: what the kernel holds for the slot */
#define SIVSHM_CHANNEL_NONE 0
#define SIVSHM_CHANNEL_OPEN 1 /* an fd or a mapping of it exists */
#define SIVSHM_CHANNEL_REVOKED 2 /* fd exists, mappings are gone */
#define SIVSHM_CHANNEL_RELEASED 3 /* nothing exists, the event was not read yet */

/* sivshm_slot.flags */
#define SIVSHM_SLOT_ORPHAN (1U << 0) /* opened by an owner that is gone; see SIVSHM_ADOPT */
#define SIVSHM_SLOT_USED (1U << 1) /* the holder has used the fd, so it has come to it */

/**
 * struct sivshm_slot - SIVSHM_GET_SLOT: grant and channel of one slot
 * @slot:       in: 0 to n_slots-1.  ENOENT: no such slot
 * @state:      enum sivshm_grant_state as the table says now
 * @generation: of the grant
 * @channel:    SIVSHM_CHANNEL_*
 * @channel_generation: generation the channel was opened with
 * @flags:      SIVSHM_SLOT_*
 * @uid, @cgroup: holder of the channel
 * @region, @peer, @tx_size, @rx_size, names: from the grant
 */
struct sivshm_slot {
	__u32 slot;
	__u32 state;
	__u32 generation;
	__u32 channel;
	__u32 channel_generation;
	__u32 flags;
	__u32 uid;
	__u32 region;
	__u64 cgroup;
	__u32 peer;
	__u32 reserved0;
	__u64 tx_size;
	__u64 rx_size;
	__u8 channel_id[16];
	__u8 local_service[SIVSHM_SERVICE_NAME_SIZE];
	__u8 peer_vm[SIVSHM_VM_NAME_SIZE];
	__u8 peer_service[SIVSHM_SERVICE_NAME_SIZE];
	__u8 reserved1[16];
};

/**
 * struct sivshm_open - SIVSHM_OPEN: returns a channel fd (O_CLOEXEC, O_RDWR)
 * @slot, @generation: the grant; both must match the table
 * @uid:    effective uid of the holder (initial user namespace)
 * @cgroup: id (inode number) of the holder's cgroup in the unified hierarchy, never 0
 * @flags:  must be 0
 *
 * ENOENT no such slot; ESTALE neither ACTIVE nor DRAINING, or another generation; EBUSY the slot's
 * channel exists already; EBADMSG the grant does not fit the sections (logged once); ENXIO a
 * section's device is not there; EAGAIN the host is writing the entry, try again.
 */
struct sivshm_open {
	__u32 slot;
	__u32 generation;
	__u32 uid;
	__u32 flags;
	__u64 cgroup;
	__u64 reserved;
};

/**
 * struct sivshm_ref - SIVSHM_ADOPT, SIVSHM_CLOSE: names one channel
 *
 * ADOPT: the new owner takes over a channel of the last one; events of an orphan are kept until
 * then.  CLOSE: the owner takes the channel away from its holder, as the host's revocation does.
 * Neither needs a table, and both may be done twice.
 * ESTALE: no channel of that slot and generation.
 */
struct sivshm_ref {
	__u32 slot;
	__u32 generation;
	__u64 reserved;
};

/**
 * enum sivshm_event_type
 * @SIVSHM_EVENT_RELEASED: last fd and mapping of a channel are gone; the slot is free for the
 *                         kernel
 * @SIVSHM_EVENT_REVOKED:  mappings were taken away (host, owner, or device gone); nobody maps the
 *                         windows any more, RELEASED follows when the holder closes
 * @SIVSHM_EVENT_DRAINING: the peer has closed
 * @SIVSHM_EVENT_DENIED:   someone who is not the holder used the fd (rate-limited, see @count)
 * @SIVSHM_EVENT_TABLE:    a grant table came or went, or the section devices changed
 * @SIVSHM_EVENT_STORM:    a peer's doorbell was masked for a while
 */
enum sivshm_event_type {
	SIVSHM_EVENT_RELEASED = 1,
	SIVSHM_EVENT_REVOKED = 2,
	SIVSHM_EVENT_DRAINING = 3,
	SIVSHM_EVENT_DENIED = 4,
	SIVSHM_EVENT_TABLE = 5,
	SIVSHM_EVENT_STORM = 6,
};

/* sivshm_event.op for SIVSHM_EVENT_DENIED */
#define SIVSHM_OP_MMAP 1
#define SIVSHM_OP_IOCTL 2
#define SIVSHM_OP_POLL 3
#define SIVSHM_OP_READ 4

/**
 * struct sivshm_event - what read() on the device returns, one or more whole ones
 * @type, @slot, @generation: which channel (slot and generation 0 for TABLE, STORM)
 * @op, @pid, @uid, @cgroup: DENIED: what was tried by whom (pid in the initial namespace)
 * @count: how many times this happened since the last one was read
 */
struct sivshm_event {
	__u32 type;
	__u32 slot;
	__u32 generation;
	__u32 op;
	__u32 pid;
	__u32 uid;
	__u64 cgroup;
	__u64 count;
	__u8 reserved[24];
};

/* sivshm_channel_info.state */
#define SIVSHM_STATE_ACTIVE SIVSHM_GRANT_ACTIVE
#define SIVSHM_STATE_DRAINING SIVSHM_GRANT_DRAINING
#define SIVSHM_STATE_REVOKED SIVSHM_GRANT_REVOKED

/**
 * struct sivshm_channel_info - SIVSHM_CHANNEL_GET_INFO
 * @abi:     SIVSHM_ABI
 * @state:   SIVSHM_STATE_*; this call works on a revoked channel too
 * @tx_ring_size, @rx_ring_size: bytes of the ring, a power of two
 * @tx_map_size, @rx_map_size:   the length to mmap: control page + 2 * ring
 */
struct sivshm_channel_info {
	__u32 abi;
	__u32 state;
	__u64 tx_ring_size;
	__u64 rx_ring_size;
	__u64 tx_map_size;
	__u64 rx_map_size;
	__u32 slot;
	__u32 generation;
	__u8 channel_id[16];
	__u8 local_service[SIVSHM_SERVICE_NAME_SIZE];
	__u8 peer_vm[SIVSHM_VM_NAME_SIZE];
	__u8 peer_service[SIVSHM_SERVICE_NAME_SIZE];
	__u8 reserved[32];
};

/**
 * struct sivshm_wait - SIVSHM_CHANNEL_WAIT: sleep until the doorbell rang, then clear it
 * @timeout_ns: relative; 0 returns at once, U64_MAX waits for ever; may be late by an eighth from a
 *              second on
 * @count:      out: doorbells since the last call or read()
 *
 * ETIME nothing rang in time; EINTR a signal handler ran, and @timeout_ns is what was left; EPIPE
 * the peer has closed and nothing rang; ENOLINK.
 * read(): 8 bytes, the count, EAGAIN when nothing rang and O_NONBLOCK is set, 0 when the peer has
 * closed and nothing rang, ENOLINK when revoked.  poll(): POLLIN rang; POLLHUP with POLLRDHUP the
 * peer has closed; POLLHUP with POLLERR revoked; POLLERR alone: not the holder.
 */
struct sivshm_wait {
	__u64 timeout_ns;
	__u64 count;
};

#define SIVSHM_IOC_MAGIC 0xC5

/* on /dev/sivshm */
#define SIVSHM_GET_INFO _IOR(SIVSHM_IOC_MAGIC, 0x00, struct sivshm_info)
#define SIVSHM_GET_SECTION _IOWR(SIVSHM_IOC_MAGIC, 0x01, struct sivshm_section)
#define SIVSHM_GET_SLOT _IOWR(SIVSHM_IOC_MAGIC, 0x02, struct sivshm_slot)
#define SIVSHM_OPEN _IOW(SIVSHM_IOC_MAGIC, 0x03, struct sivshm_open)
#define SIVSHM_ADOPT _IOW(SIVSHM_IOC_MAGIC, 0x04, struct sivshm_ref)
#define SIVSHM_CLOSE _IOW(SIVSHM_IOC_MAGIC, 0x05, struct sivshm_ref)

/* on a channel fd */
#define SIVSHM_CHANNEL_GET_INFO _IOR(SIVSHM_IOC_MAGIC, 0x10, struct sivshm_channel_info)
#define SIVSHM_CHANNEL_NOTIFY _IO(SIVSHM_IOC_MAGIC, 0x11) /* EPIPE when DRAINING */
#define SIVSHM_CHANNEL_WAIT _IOWR(SIVSHM_IOC_MAGIC, 0x12, struct sivshm_wait)

#endif /* _UAPI_SIVSHM_H */
