/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A good text for every message, and what is derived from it: each member missing, one too many,
 * and of every wrong type must be refused; a good one decodes, and encodes back to the same object.
 */
#include "test.h"

#include <errno.h>

#include "frame.h"
#include "message.h"
#include "rpc.h"

#define ID "\"00112233445566778899aabbccddeeff\""
#define EKM "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\""
#define RANDOM                                                                                   \
	"\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" \
	"AA==\""
#define PEER "\"spiffe://sivshm.local/vm/rtos/service/sensor\""
#define PEM "\"-----BEGIN X-----\\nAA==\\n-----END X-----\\n\""

static json_t *load(const char *text)
{
	json_error_t why;
	json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &why);

	if (!o)
		fail_msg("%s: %s", text, why.text);
	return o;
}

/* decode_x(): decodes, and on success encodes again into *ret_again */
#define CODEC(name, done)                                                                 \
	static int decode_##name(json_t *body, struct failure *error, json_t **ret_again) \
	{                                                                                 \
		struct msg_##name m;                                                      \
		int r = msg_##name##_decode(body, &m, error);                             \
                                                                                          \
		if (r >= 0) {                                                             \
			*ret_again = msg_##name##_encode(&m);                             \
			done;                                                             \
		}                                                                         \
		return r;                                                                 \
	}

CODEC(hello, msg_hello_done(&m))
CODEC(welcome, msg_welcome_done(&m))
CODEC(issue, msg_issue_done(&m))
CODEC(issued, msg_issued_done(&m))
CODEC(service, )
CODEC(connect, flight_done(&m.flight))
CODEC(incoming, flight_done(&m.flight))
CODEC(confirm, flight_done(&m.flight))
CODEC(finished, )
CODEC(session, )
CODEC(granted, )
CODEC(abort, )
CODEC(revoked, )

static int decode_flight_with(json_t *body, struct failure *error, json_t **ret_again)
{
	struct msg_flight m;
	int r = msg_flight_decode(body, true, &m, error);

	if (r >= 0) {
		*ret_again = msg_flight_encode(&m, true);
		flight_done(&m.flight);
	}
	return r;
}

static int decode_flight_without(json_t *body, struct failure *error, json_t **ret_again)
{
	struct msg_flight m;
	int r = msg_flight_decode(body, false, &m, error);

	if (r >= 0) {
		*ret_again = msg_flight_encode(&m, false);
		flight_done(&m.flight);
	}
	return r;
}

static int decode_slot_ref(json_t *body, struct failure *error, json_t **ret_again)
{
	struct slot_ref ref;
	int r = slot_ref_decode(body, &ref, error);

	if (r >= 0)
		*ret_again = slot_ref_encode(&ref);
	return r;
}

static int decode_empty(json_t *body, struct failure *error, json_t **ret_again)
{
	int r = msg_empty_decode(body, error);

	if (r >= 0)
		*ret_again = json_object();
	return r;
}

static const struct message {
	const char *name;
	int (*decode)(json_t *body, struct failure *error, json_t **ret_again);
	const char *good;
} messages[] = {
	{"hello", decode_hello,
	 "{\"version\":1,\"nonce\":" ID ",\"bootId\":\"0a1b-2c\",\"channels\":["
	 "{\"slot\":0,\"generation\":1},{\"slot\":2031,\"generation\":4294967295}]}"},
	{"welcome", decode_welcome,
	 "{\"version\":1,\"nonce\":" ID ",\"vm\":\"rtos\",\"trustDomain\":\"sivshm.local\","
	 "\"timeUSec\":1764000000000000,\"random\":" RANDOM ",\"trustBundle\":" PEM
	 ",\"maxFrame\":131072}"},
	{"issue", decode_issue, "{\"service\":\"sensor\",\"csr\":" PEM "}"},
	{"issued", decode_issued, "{\"certificate\":" PEM ",\"notAfter\":1764000000}"},
	{"service", decode_service, "{\"service\":\"sensor\"}"},
	{"connect", decode_connect,
	 "{\"from\":\"sensor\",\"to\":\"ivi/dashboard\",\"ringSize\":65536,\"flight\":\"AAEC\"}"},
	{"incoming", decode_incoming,
	 "{\"session\":" ID ",\"from\":\"rtos/sensor\",\"to\":\"dashboard\",\"ringSize\":4096,"
	 "\"flight\":\"AAEC\"}"},
	{"flight with session", decode_flight_with, "{\"session\":" ID ",\"flight\":\"AAE=\"}"},
	{"flight without session", decode_flight_without, "{\"flight\":\"AA==\"}"},
	{"confirm", decode_confirm,
	 "{\"session\":" ID ",\"flight\":\"AAEC\",\"peer\":" PEER ",\"exporter\":" EKM "}"},
	{"finished", decode_finished, "{\"peer\":" PEER ",\"exporter\":" EKM "}"},
	{"session", decode_session, "{\"session\":" ID "}"},
	{"granted", decode_granted, "{\"session\":" ID ",\"slot\":3,\"generation\":9}"},
	{"abort", decode_abort,
	 "{\"session\":" ID ",\"error\":{\"code\":-32003,\"message\":\"no\"}}"},
	{"revoked", decode_revoked, "{\"slot\":3,\"generation\":9,\"reason\":\"admin\"}"},
	{"slot", decode_slot_ref, "{\"slot\":3,\"generation\":9}"},
	{"empty", decode_empty, "{}"},
};

static const struct message *find(const char *name)
{
	for (size_t i = 0; i < ELEMENTSOF(messages); i++)
		if (strcmp(messages[i].name, name) == 0)
			return &messages[i];
	print_error("no message %s\n", name);
	abort();
}

static void assert_refused(const struct message *m, json_t *body, const char *what)
{
	struct failure error = {};
	json_t *again = NULL;

	if (m->decode(body, &error, &again) != -EBADMSG)
		fail_msg("%s: accepted although %s", m->name, what);
	assert_int_equal(error.code, ERR_INVALID_PARAMS);
	assert_true(strlen(error.text) > 0);
}

static void not_objects(void **state)
{
	json_t *const bad[] = {NULL, json_array(), json_null(), json_string("{}"), json_integer(1)};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(messages); i++)
		for (size_t j = 0; j < ELEMENTSOF(bad); j++)
			assert_refused(&messages[i], bad[j], "it is no object");
	for (size_t j = 0; j < ELEMENTSOF(bad); j++)
		json_decref(bad[j]);
}

static void members_missing_or_unknown(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(messages); i++) {
		json_t *good = load(messages[i].good), *value;
		const char *key;

		json_object_foreach(good, key, value) {
			json_t *bad = json_copy(good);

			json_object_del(bad, key);
			assert_refused(&messages[i], bad, key);
			json_object_set_new(bad, "other", json_incref(value));
			assert_refused(&messages[i], bad, key);
			json_decref(bad);
		}
		json_object_set_new(good, "extra", json_null());
		assert_refused(&messages[i], good, "it has one more");
		json_decref(good);
	}
}

/* Every member with a value of every type but its own. */
static void members_of_wrong_type(void **state)
{
	json_t *const values[] = {
		json_null(),	  json_true(),	json_integer(1), json_real(1.0),
		json_string("1"), json_array(), json_object(),	 json_string(repeated('A', 60000))};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(messages); i++) {
		json_t *good = load(messages[i].good), *value;
		const char *key;

		json_object_foreach(good, key, value) {
			for (size_t j = 0; j < ELEMENTSOF(values); j++) {
				json_t *bad;

				if (json_typeof(values[j]) == json_typeof(value) &&
				    json_string_length(values[j]) < 10000)
					continue;
				bad = json_copy(good);
				json_object_set(bad, key, values[j]);
				assert_refused(&messages[i], bad, key);
				json_decref(bad);
			}
		}
		json_decref(good);
	}
	for (size_t j = 0; j < ELEMENTSOF(values); j++)
		json_decref(values[j]);
}

/* Values of the right type that are still wrong. */
static void members_with_wrong_values(void **state)
{
	static const struct {
		const char *message, *key, *value;
	} cases[] = {
		{"hello", "version", "0"},
		{"hello", "version", "-1"},
		{"hello", "version", "4294967296"},
		{"hello", "nonce", "\"00112233445566778899aabbccddeef\""},
		{"hello", "nonce", "\"00112233445566778899aabbccddeefff\""},
		{"hello", "nonce", "\"00112233445566778899AABBCCDDEEFF\""},
		{"hello", "nonce", "\"\""},
		{"hello", "bootId", "\"\""},
		{"hello", "bootId", "\"0A\""},
		{"hello", "bootId", "\"0123456789012345678901234567890123456789\""},
		{"hello", "channels", "[1]"},
		{"hello", "channels", "[{}]"},
		{"hello", "channels", "[{\"slot\":1}]"},
		{"hello", "channels", "[{\"slot\":2032,\"generation\":1}]"},
		{"hello", "channels", "[{\"slot\":-1,\"generation\":1}]"},
		{"hello", "channels", "[{\"slot\":1,\"generation\":0}]"},
		{"hello", "channels", "[{\"slot\":1,\"generation\":1,\"x\":1}]"},
		{"hello", "channels", "[{\"slot\":1,\"generation\":1},null]"},
		{"welcome", "vm", "\"Rtos\""},
		{"welcome", "vm", "\"\""},
		{"welcome", "trustDomain", "\"a..b\""},
		{"welcome", "timeUSec", "-1"},
		{"welcome", "random", "\"AAAA\""},
		{"welcome", "random", "\"\""},
		{"welcome", "trustBundle", "\"\""},
		{"welcome", "trustBundle", "\"a\\u0001\""},
		{"welcome", "maxFrame", "131071"},
		{"issue", "service", "\"a/b\""},
		{"issue", "csr", "\"\\u00e4\""},
		{"issued", "notAfter", "-1"},
		{"service", "service", "\"\""},
		{"connect", "from", "\"a/b\""},
		{"connect", "to", "\"b\""},
		{"connect", "to", "\"a/b/c\""},
		{"connect", "ringSize", "0"},
		{"connect", "ringSize", "4097"},
		{"connect", "ringSize", "2048"},
		{"connect", "ringSize", "2147483648"},
		{"connect", "flight", "\"\""},
		{"connect", "flight", "\"AAE\""},
		{"connect", "flight", "\"AAF=\""},
		{"connect", "flight", "\" AAE=\""},
		{"incoming", "from", "\"sensor\""},
		{"incoming", "to", "\"rtos/sensor\""},
		{"incoming", "session", "\"\""},
		{"confirm", "peer", "\"spiffe://sivshm.local/vm/rtos\""},
		{"confirm", "peer", "\"\""},
		{"confirm", "exporter", "\"AAAA\""},
		{"granted", "slot", "2032"},
		{"granted", "generation", "0"},
		{"granted", "generation", "4294967296"},
		{"abort", "error", "{}"},
		{"abort", "error", "{\"code\":0,\"message\":\"\"}"},
		{"abort", "error", "{\"code\":1,\"message\":\"\"}"},
		{"abort", "error", "{\"code\":-1,\"message\":\"a\\nb\"}"},
		{"abort", "error", "{\"code\":-1,\"message\":\"\",\"x\":1}"},
		{"abort", "error", "{\"code\":-99999999999,\"message\":\"\"}"},
		{"revoked", "reason", "\"a\\nb\""},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		const struct message *m = find(cases[i].message);
		json_t *bad = load(m->good);

		assert_int_equal(
			json_object_set_new(bad, cases[i].key,
					    json_loads(cases[i].value, JSON_DECODE_ANY, NULL)),
			0);
		assert_refused(m, bad, cases[i].value);
		json_decref(bad);
	}
}

static void strings_with_nul(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(messages); i++) {
		json_t *good = load(messages[i].good), *value;
		const char *key;

		json_object_foreach(good, key, value) {
			const char *text = json_string_value(value);
			json_t *bad;

			if (!text)
				continue;
			bad = json_copy(good);
			json_object_set_new(bad, key, json_stringn(text, strlen(text) + 1));
			assert_refused(&messages[i], bad, key);
			json_decref(bad);
		}
		json_decref(good);
	}
}

/* A VM with every slot in use, each for the four thousand millionth time. */
static void longest_hello_fits_a_frame(void **state)
{
	struct slot_ref *channels = calloc(SIVSHM_MAX_SLOTS, sizeof(*channels));
	struct msg_hello hello = {
		.version = PROTOCOL_VERSION, .n_channels = SIVSHM_MAX_SLOTS, .channels = channels};
	char *text = NULL;

	(void)state;
	assert_non_null(channels);
	strcpy(hello.boot_id, "01234567-89ab-cdef-0123-456789abcdef");
	for (uint32_t i = 0; i < SIVSHM_MAX_SLOTS; i++)
		channels[i] = (struct slot_ref){i, UINT32_MAX};
	assert_int_equal(rpc_format_request(INT64_MAX, "Hello", msg_hello_encode(&hello), &text),
			 0);
	assert_true(strlen(text) < FRAME_MAX);
	free(text);
	free(channels);
}

static void text_limits(void **state)
{
	static const struct {
		const char *message, *key;
		size_t longest;
	} cases[] = {
		{"welcome", "trustBundle", PEM_MAX - 1},
		{"issue", "csr", PEM_MAX - 1},
		{"revoked", "reason", REASON_SIZE - 1},
		{"service", "service", 55},
		{"welcome", "vm", 47},
		{"connect", "flight", FLIGHT_MAX / 3 * 4},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		const struct message *m = find(cases[i].message);
		/* base64 grows by four */
		size_t step = strcmp(cases[i].key, "flight") == 0 ? 4 : 1;
		json_t *body = load(m->good), *again = NULL;
		struct failure error;
		char fill = step == 4 ? 'A' : 'a';

		json_object_set_new(body, cases[i].key,
				    json_string(repeated(fill, cases[i].longest + step)));
		assert_refused(m, body, cases[i].key);
		json_object_set_new(body, cases[i].key,
				    json_string(repeated(fill, cases[i].longest)));
		assert_int_equal(m->decode(body, &error, &again), 0);
		assert_true(json_equal(body, again));
		json_decref(again);
		json_decref(body);
	}
}

/* A failed encoder gives nothing rather than half a message. */
static void encoders_refuse(void **state)
{
	const struct msg_issued late = {.certificate = (char *)"x", .not_after = UINT64_MAX};
	const struct msg_service not_utf8 = {.service = "\xff"};
	const struct msg_issue no_csr = {.service = "a"};

	(void)state;
	assert_null(msg_issued_encode(&late));
	assert_null(msg_service_encode(&not_utf8));
	assert_null(msg_issue_encode(&no_csr));
}

static void too_many_channels(void **state)
{
	json_t *body = load(find("hello")->good), *array = json_array(), *again = NULL;
	struct failure error;

	(void)state;
	for (int i = 0; i < SIVSHM_MAX_SLOTS; i++)
		json_array_append_new(array, json_pack("{s:i,s:i}", "slot", i, "generation", 1));
	json_object_set(body, "channels", array);
	assert_int_equal(decode_hello(body, &error, &again), 0);
	assert_true(json_equal(body, again));
	json_decref(again);
	json_array_append_new(array, json_pack("{s:i,s:i}", "slot", 1, "generation", 2));
	assert_refused(find("hello"), body, "there are more channels than slots");
	json_decref(array);
	json_decref(body);
}

static void round_trips(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(messages); i++) {
		json_t *good = load(messages[i].good), *again = NULL;
		struct failure error = {};

		if (messages[i].decode(good, &error, &again) < 0)
			fail_msg("%s: %s", messages[i].name, error.text);
		if (!json_equal(good, again))
			fail_msg("%s: encodes to %s", messages[i].name, json_dumps(again, 0));
		json_decref(again);
		json_decref(good);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(not_objects),
		cmocka_unit_test(members_missing_or_unknown),
		cmocka_unit_test(members_of_wrong_type),
		cmocka_unit_test(members_with_wrong_values),
		cmocka_unit_test(strings_with_nul),
		cmocka_unit_test(encoders_refuse),
		cmocka_unit_test(too_many_channels),
		cmocka_unit_test(text_limits),
		cmocka_unit_test(longest_hello_fits_a_frame),
		cmocka_unit_test(round_trips),
	};

	return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
