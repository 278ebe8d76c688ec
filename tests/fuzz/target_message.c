/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Params and results of control messages: one JSON object, through every decoder. */
#include <errno.h>

#include "fuzz.h"
#include "message.h"

static bool is_terminated(const char *text, size_t size)
{
	return memchr(text, '\0', size) != NULL;
}

static void check_failure(int r, const struct failure *error)
{
	must(r == -EBADMSG && error->code == ERR_INVALID_PARAMS && error->text[0]);
	must(is_terminated(error->text, sizeof(error->text)));
}

/* One value has one text: what was decoded is encoded as what it came from. */
static void check_same(json_t *body, json_t *again)
{
	must(again && json_equal(body, again));
	json_decref(again);
}

#define NOTHING(m) ((void)(m))

#define TRY(name, done)                                            \
	do {                                                       \
		struct msg_##name m;                               \
		struct failure error = {};                         \
		int r = msg_##name##_decode(body, &m, &error);     \
                                                                   \
		if (r < 0) {                                       \
			check_failure(r, &error);                  \
		} else {                                           \
			check_same(body, msg_##name##_encode(&m)); \
			done;                                      \
		}                                                  \
	} while (0)

/* maxFrame is not kept: it is only compared. */
static void try_welcome(json_t *body)
{
	struct failure error = {};
	struct msg_welcome m;
	int r = msg_welcome_decode(body, &m, &error);
	json_t *again;

	if (r < 0) {
		check_failure(r, &error);
		return;
	}
	again = msg_welcome_encode(&m);
	must(again && json_object_set(again, "maxFrame", json_object_get(body, "maxFrame")) == 0);
	check_same(body, again);
	must(vm_name_is_valid(m.vm) && trust_domain_is_valid(m.trust_domain));
	msg_welcome_done(&m);
}

static void try_flight(json_t *body, bool with_session)
{
	struct failure error = {};
	struct msg_flight m;
	int r = msg_flight_decode(body, with_session, &m, &error);

	if (r < 0) {
		check_failure(r, &error);
		return;
	}
	must(m.flight.size > 0 && m.flight.size <= FLIGHT_MAX);
	check_same(body, msg_flight_encode(&m, with_session));
	flight_done(&m.flight);
}

static void try_slot_ref(json_t *body)
{
	struct failure error = {};
	struct slot_ref ref;
	int r = slot_ref_decode(body, &ref, &error);

	if (r < 0) {
		check_failure(r, &error);
		return;
	}
	must(ref.slot < SIVSHM_MAX_SLOTS && ref.generation > 0);
	check_same(body, slot_ref_encode(&ref));
}

static void try_all(json_t *body)
{
	struct failure error = {};

	TRY(hello, {
		must(m.n_channels <= SIVSHM_MAX_SLOTS);
		msg_hello_done(&m);
	});
	try_welcome(body);
	TRY(issue, {
		must(service_name_is_valid(m.service));
		msg_issue_done(&m);
	});
	TRY(issued, msg_issued_done(&m));
	TRY(service, must(service_name_is_valid(m.service)));
	TRY(connect, {
		must(ring_size_is_valid(m.ring_size) && vm_name_is_valid(m.to.vm));
		flight_done(&m.flight);
	});
	TRY(incoming, {
		must(ring_size_is_valid(m.ring_size) && service_name_is_valid(m.from.service));
		flight_done(&m.flight);
	});
	TRY(confirm, {
		must(is_terminated(m.peer, sizeof(m.peer)));
		flight_done(&m.flight);
	});
	TRY(finished, must(is_terminated(m.peer, sizeof(m.peer))));
	TRY(session, NOTHING(m));
	TRY(granted, must(m.ref.slot < SIVSHM_MAX_SLOTS));
	TRY(abort, must(m.error.code < 0));
	TRY(revoked, must(is_terminated(m.reason, sizeof(m.reason))));
	try_flight(body, true);
	try_flight(body, false);
	try_slot_ref(body);
	must((msg_empty_decode(body, &error) >= 0) ==
	     (json_object_size(body) == 0 && json_is_object(body)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *body = json_loadb((const char *)data, size,
				  JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

	if (body)
		try_all(body);
	json_decref(body);
	return 0;
}
