/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * sivshm - memory formats that the hypervisor side writes and a guest kernel reads.
 *
 * A guest that belongs to sivshm sees three kinds of ivshmem device (PCI 1af4:1110):
 *
 *   grant table    ivshmem-plain, read-only    written by the host, one per VM
 *   own section    ivshmem-doorbell            written by this VM, one per region
 *   peer section   ivshmem-plain, read-only    written by the peer VM, one per region and peer
 *
 * Trust. The owner of a section may write any byte of it, its header included, so a section header
 * says only "this looks like ours". What a section *is* comes from the grant table alone, which
 * names every section by the PCI slot and function (devfn) the hypervisor put it at.  The table
 * itself is told from a section by something no other VM controls: its BAR2 is smaller than
 * SIVSHM_MIN_SECTION_SIZE and ignores stores (@write_test).
 *
 * All integers are little-endian.  Strings are NUL-terminated and NUL-padded.  Reserved bytes are
 * zero when written and ignored when read.
 */
#ifndef _UAPI_SIVSHM_TABLE_H
#define _UAPI_SIVSHM_TABLE_H

#include <linux/types.h>

#define SIVSHM_TABLE_MAGIC 0x31544d4853564953ULL /* "SIVSHMT1" as stored in memory */
#define SIVSHM_SECTION_MAGIC 0x31534d4853564953ULL /* "SIVSHMS1" */
#define SIVSHM_TABLE_ABI 1

#define SIVSHM_PAGE_SIZE 4096 /* granularity of every window, whatever the guest's page size */

/* Sizes of the string fields, NUL included. */
#define SIVSHM_VM_NAME_SIZE 48
#define SIVSHM_REGION_NAME_SIZE 32
#define SIVSHM_SERVICE_NAME_SIZE 56

#define SIVSHM_MAX_SECTIONS 32
#define SIVSHM_TABLE_HEADER_SIZE 4096
#define SIVSHM_GRANT_SIZE 256
#define SIVSHM_MAX_SLOTS 2032 /* header + slots fit 512 KiB */
#define SIVSHM_MAX_TABLE_SIZE (512 * 1024)
#define SIVSHM_MIN_SECTION_SIZE (1024 * 1024)
#define SIVSHM_MAX_SECTION_SIZE (1ULL << 36)
#define SIVSHM_MIN_RING_SIZE SIVSHM_PAGE_SIZE
#define SIVSHM_MAX_RING_SIZE (1ULL << 30)
#define SIVSHM_MAX_VECTORS 64
#define SIVSHM_RUNG_OFFSET 512 /* in a window, see struct sivshm_grant */
#define SIVSHM_MAX_PEER_ID 0xffff

/* sivshm_section_desc.flags */
#define SIVSHM_SECTION_OWN (1U << 0) /* this VM writes it: the ivshmem-doorbell device */

/**
 * struct sivshm_section_desc - one section this VM can see (112 bytes)
 * @region:  number of the region, the same in every member's table
 * @member:  ivshmem peer id of the VM that owns the section
 * @devfn:   PCI devfn of the device, on the same bus as the grant table
 * @flags:   SIVSHM_SECTION_*
 * @size:    bytes of BAR2, a power of two
 * @vectors: MSI-X vectors of the owner's ivshmem-doorbell device
 * @region_name: name of the region
 * @vm:      name of the VM that owns the section
 */
struct sivshm_section_desc {
	__le32 region;
	__le32 member;
	__le32 devfn;
	__le32 flags;
	__le64 size;
	__le32 vectors;
	__le32 reserved;
	__u8 region_name[SIVSHM_REGION_NAME_SIZE];
	__u8 vm[SIVSHM_VM_NAME_SIZE];
};

/**
 * struct sivshm_table_header - first page of the grant table
 * @magic:      SIVSHM_TABLE_MAGIC
 * @abi:        SIVSHM_TABLE_ABI; a reader refuses any other value
 * @grant_size: SIVSHM_GRANT_SIZE
 * @n_slots:    number of struct sivshm_grant that follow the first page
 * @n_sections: number of valid entries of @sections
 * @epoch:      changes whenever the layout (@sections, @n_slots) was written anew
 * @write_test: a reader stores here and reads back; a value that sticks means that the memory is
 *              not the hypervisor's and the device is refused
 * @vm:         name of the VM that this table is for
 */
struct sivshm_table_header {
	__le64 magic;
	__le32 abi;
	__le32 grant_size;
	__le32 n_slots;
	__le32 n_sections;
	__le64 epoch;
	__le32 write_test;
	__le32 reserved0;
	__u8 vm[SIVSHM_VM_NAME_SIZE];
	__u8 reserved1[40];
	struct sivshm_section_desc sections[SIVSHM_MAX_SECTIONS];
	__u8 reserved2[384];
};

/**
 * struct sivshm_section_header - first page of a section; windows begin behind it
 * @magic: SIVSHM_SECTION_MAGIC
 * @abi:   SIVSHM_TABLE_ABI
 * @size:  bytes of the section
 */
struct sivshm_section_header {
	__le64 magic;
	__le32 abi;
	__le32 reserved0;
	__le64 size;
	__u8 reserved1[4072];
};

/**
 * enum sivshm_grant_state - life of a grant
 * @SIVSHM_GRANT_FREE:     nothing here; every other field may change at any time
 * @SIVSHM_GRANT_ACTIVE:   the channel may be opened and used
 * @SIVSHM_GRANT_DRAINING: the peer has closed; windows stay mapped so that what was sent can be
 *                         read, and may still be opened to do so; nothing can be sent
 * @SIVSHM_GRANT_REVOKED:  every mapping must go at once
 *
 * FREE -> ACTIVE -> [DRAINING ->] REVOKED -> FREE, never another way.  The host leaves REVOKED
 * only when this VM's kernel has confirmed that nobody maps the windows, or the VM started anew.
 */
enum sivshm_grant_state {
	SIVSHM_GRANT_FREE = 0,
	SIVSHM_GRANT_ACTIVE = 1,
	SIVSHM_GRANT_DRAINING = 2,
	SIVSHM_GRANT_REVOKED = 3,
};

/* sivshm_grant.flags */
#define SIVSHM_GRANT_CONNECTING (1U << 0) /* this side connected, the other one listened */

/**
 * struct sivshm_grant - one channel of this VM (256 bytes)
 * @state:      enum sivshm_grant_state
 * @generation: counts the uses of the slot; never 0 in a slot that is not FREE
 * @channel:    random id of the channel, the same at both ends
 * @region:     number of the region
 * @peer:       ivshmem peer id to ring
 * @local_vector: vector that wakes this side, 1 to vectors-1
 * @peer_vector:  vector that wakes the peer
 * @tx_offset:  window in the own section that this side writes
 * @tx_size:    control page + ring; ring is a power of two >= SIVSHM_MIN_RING_SIZE
 * @rx_offset:  window in the peer's section that this side reads
 * @rx_size:    as @tx_size
 * @local_service: service of this VM that the channel was made for
 * @peer_vm, @peer_service: the authenticated other end
 * @flags:      SIVSHM_GRANT_*; for people and for a host daemon that starts again, no right
 *              depends on it
 * @opened:     when it was granted, microseconds since the epoch, host's clock
 *
 * A vector is shared by many channels.  So that only the one that was meant wakes up, the kernel
 * of the side that rings counts: at SIVSHM_RUNG_OFFSET of its own window, in the control page, is a
 * __le32 that is 1 when it has opened the channel and changes, never to 0, before each doorbell.
 * The other kernel wakes its channel if the word is not what it was at the last interrupt, or is 0:
 * then nobody counts.  It is a hint about one channel, which the program that maps the window can
 * spoil for its own peer as well as by never ringing, or always.
 *
 * The writer stores a new @generation, then the fields, while the entry is FREE, then @state; each
 * step with release semantics.  A reader loads @generation, then @state, each with acquire, copies,
 * and loads both again: a difference means that the copy is of no use.
 */
struct sivshm_grant {
	__le32 state;
	__le32 generation;
	__u8 channel[16];
	__le32 region;
	__le32 peer;
	__le32 local_vector;
	__le32 peer_vector;
	__le64 tx_offset;
	__le64 tx_size;
	__le64 rx_offset;
	__le64 rx_size;
	__u8 local_service[SIVSHM_SERVICE_NAME_SIZE];
	__u8 peer_vm[SIVSHM_VM_NAME_SIZE];
	__u8 peer_service[SIVSHM_SERVICE_NAME_SIZE];
	__le32 flags;
	__le32 reserved0;
	__le64 opened;
	__u8 reserved[8];
};

#endif /* _UAPI_SIVSHM_TABLE_H */
