/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members that several messages have, on top of field.h.  For message*.c alone.  Pure. */
#ifndef SIVSHM_MESSAGE_PART_H
#define SIVSHM_MESSAGE_PART_H

#include "field.h"
#include "message.h"

void read_service(struct field_reader *f, const char *name, char *ret);
void read_peer(struct field_reader *f, const char *name, struct peer_name *ret);
void write_peer(struct field_writer *w, const char *name, const struct peer_name *peer);
void read_spiffe_id(struct field_reader *f, const char *name, char *ret);
void read_ring_size(struct field_reader *f, uint64_t *ret);
void read_session(struct field_reader *f, uint8_t *ret);
void write_session(struct field_writer *w, const uint8_t *session);
void read_flight(struct field_reader *f, struct flight *ret);
void write_flight(struct field_writer *w, const struct flight *flight);
void read_version(struct field_reader *f, uint32_t *ret);
void read_time(struct field_reader *f, const char *name, uint64_t *ret);
/** write_integer() - JSON here has signed 64 bits: anything above fails */
void write_integer(struct field_writer *w, const char *name, uint64_t value);
void read_slot_ref(struct field_reader *f, struct slot_ref *ret);
void write_slot_ref(struct field_writer *w, const struct slot_ref *ref);

#endif
