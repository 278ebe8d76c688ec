/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Layout of a channel's windows: what two programs must agree on to exchange messages.
 *
 * A window is one control page and one ring of @ring bytes, a power of two.  Each side writes its
 * own window (TX) and can only read the peer's (RX):
 *
 *	TX: struct sivshm_control (4096 bytes) | data that this side produces
 *	RX: the peer's control page            | data that the peer produces
 *
 * So for the data in RX, the producer index is in the peer's control page and the consumer index in
 * the own one.  Indices are 64-bit, count bytes, start at 0, never wrap; position in the ring is
 * index & (ring - 1).  Sizes come from the kernel (SIVSHM_CHANNEL_GET_INFO), never from memory.
 *
 * A message is an 8-byte header { __le32 length; __le32 flags (0) } and @length bytes, padded to a
 * multiple of 8.  The whole record must fit the ring.  A reader that finds an index that went back
 * or is more than @ring ahead, or a record longer than what was produced, has met a broken or
 * hostile peer: the channel is dead to it (EPROTO), after asking the kernel whether it was revoked,
 * since a revoked window reads as zeros.
 *
 * A window that was revoked under the reader shows zeros in the data too.  So @magic is looked at
 * once more after the data was read: what was read before a @magic that is still there is the
 * peer's.
 *
 * All integers are little-endian.  The host zeroes both windows before the grant.
 */
#ifndef SIVSHM_RING_ABI_H
#define SIVSHM_RING_ABI_H

#include <stdint.h>

#define SIVSHM_RING_MAGIC 0x31525653u /* "SVR1" */
#define SIVSHM_CONTROL_SIZE 4096
#define SIVSHM_RECORD_HEADER_SIZE 8
#define SIVSHM_RECORD_ALIGN 8

#define SIVSHM_CLOSED_SEND (1u << 0) /* the owner will send nothing more */
#define SIVSHM_CLOSED_RECV (1u << 1) /* the owner will receive nothing more */

/**
 * struct sivshm_control - control page; only its owner writes it
 * @magic:    SIVSHM_RING_MAGIC once the owner has attached; 0 before, and when revoked
 * @closed:   SIVSHM_CLOSED_*; bits are only ever added, other bits are ignored.  Stored with
 *            release after the last @producer; loaded with acquire before @producer is looked at
 *            for the last time.
 * @producer: bytes the owner has produced into its own ring.  Stored with release after the data;
 *            loaded with acquire before the data is read.
 * @consumer: bytes the owner has consumed from the peer's ring.  Stored with release after the last
 *            read of the data; loaded with acquire before the space is written again.
 * @want_data:  the owner sleeps until the peer's @producer reaches this index
 * @want_space: the owner sleeps until the peer's @consumer reaches this index
 * @rung:     the owner's kernel counts the doorbells here that it rings; programs leave it alone
 *
 * Waiting, as virtio's event index: before it sleeps the owner stores the peer's index it has seen
 * last, plus one, here, issues a full barrier, looks at the peer's index once more and only then
 * sleeps.  After it has moved its index from OLD to NEW the other side issues a full barrier, loads
 * the want_* word and rings if OLD < want <= NEW.  0 asks for nothing.  One sleep, at most one
 * doorbell; a stale word costs one doorbell at most.
 *
 * Each word that the peer polls has a cache line pair of its own.
 */
struct sivshm_control {
	uint32_t magic;
	uint32_t closed;
	uint8_t pad0[120];
	uint64_t producer;
	uint8_t pad1[120];
	uint64_t consumer;
	uint8_t pad2[120];
	uint64_t want_data;
	uint64_t want_space;
	uint8_t pad3[112];
	uint32_t rung;
	uint8_t reserved[3580];
};

struct sivshm_record {
	uint32_t length;
	uint32_t flags;
};

_Static_assert(sizeof(struct sivshm_control) == SIVSHM_CONTROL_SIZE, "one page");
_Static_assert(__builtin_offsetof(struct sivshm_control, rung) == 512, "SIVSHM_RUNG_OFFSET");
_Static_assert(sizeof(struct sivshm_record) == SIVSHM_RECORD_HEADER_SIZE, "record header");

#endif
