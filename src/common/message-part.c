/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "message-part.h"

void read_service(struct field_reader *f, const char *name, char *ret)
{
	field_name(f, name, service_name_is_valid, ret, SIVSHM_SERVICE_NAME_SIZE);
}

void read_peer(struct field_reader *f, const char *name, struct peer_name *ret)
{
	char text[PEER_NAME_SIZE] = "";

	field_text(f, name, text, sizeof(text));
	if (f->r >= 0 && peer_name_parse(text, ret) < 0)
		field_fail(f, name, "not vm/service");
}

void write_peer(struct field_writer *w, const char *name, const struct peer_name *peer)
{
	char text[PEER_NAME_SIZE];

	peer_name_format(peer, text);
	field_put(w, name, json_string(text));
}

static bool spiffe_id_is_valid(const char *id)
{
	char trust_domain[TRUST_DOMAIN_SIZE];
	struct peer_name name;

	return spiffe_id_parse(id, trust_domain, &name) == 0;
}

void read_spiffe_id(struct field_reader *f, const char *name, char *ret)
{
	field_name(f, name, spiffe_id_is_valid, ret, SPIFFE_ID_SIZE);
}

void read_ring_size(struct field_reader *f, uint64_t *ret)
{
	int64_t size = 0;

	field_integer(f, "ringSize", SIVSHM_MIN_RING_SIZE, SIVSHM_MAX_RING_SIZE, &size);
	if (f->r >= 0 && !ring_size_is_valid((uint64_t)size))
		field_fail(f, "ringSize", "not a power of two");
	*ret = (uint64_t)size;
}

void read_session(struct field_reader *f, uint8_t *ret)
{
	field_hex(f, "session", ret, SESSION_ID_SIZE);
}

void write_session(struct field_writer *w, const uint8_t *session)
{
	field_put_hex(w, "session", session, SESSION_ID_SIZE);
}

void read_flight(struct field_reader *f, struct flight *ret)
{
	field_binary(f, "flight", FLIGHT_MAX, &ret->data, &ret->size);
}

void write_flight(struct field_writer *w, const struct flight *flight)
{
	field_put_binary(w, "flight", flight->data, flight->size);
}

void read_version(struct field_reader *f, uint32_t *ret)
{
	int64_t version = 0;

	field_integer(f, "version", 1, UINT32_MAX, &version);
	*ret = (uint32_t)version;
}

void read_time(struct field_reader *f, const char *name, uint64_t *ret)
{
	int64_t time = 0;

	field_integer(f, name, 0, INT64_MAX, &time);
	*ret = (uint64_t)time;
}

void write_integer(struct field_writer *w, const char *name, uint64_t value)
{
	field_put(w, name, value <= INT64_MAX ? json_integer((json_int_t)value) : NULL);
}

void read_slot_ref(struct field_reader *f, struct slot_ref *ret)
{
	int64_t slot = 0, generation = 0;

	field_integer(f, "slot", 0, SIVSHM_MAX_SLOTS - 1, &slot);
	field_integer(f, "generation", 1, UINT32_MAX, &generation);
	*ret = (struct slot_ref){.slot = (uint32_t)slot, .generation = (uint32_t)generation};
}

void write_slot_ref(struct field_writer *w, const struct slot_ref *ref)
{
	write_integer(w, "slot", ref->slot);
	write_integer(w, "generation", ref->generation);
}
