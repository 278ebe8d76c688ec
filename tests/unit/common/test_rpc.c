/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "frame.h"
#include "rpc.h"

#define HEAD "{\"jsonrpc\":\"2.0\","

static void assert_refused(const char *text, size_t length, int code, int64_t id)
{
	struct rpc_message m;
	struct failure f = {};

	if (rpc_parse(text, length, &m, &f) >= 0)
		fail_msg("accepted: %s", text);
	assert_int_equal(f.code, code);
	assert_int_equal(m.id, id);
	assert_true(strlen(f.text) > 0);
	assert_null(m.body);
	rpc_message_done(&m);
}

static void refuses_what_is_not_json(void **state)
{
	static const char *const bad[] = {
		"",
		" ",
		"{",
		"}",
		"nonsense",
		"{\"jsonrpc\":\"2.0\",\"method\":\"A\",}",
		"{'jsonrpc':'2.0'}",
		HEAD "\"method\":\"A\",\"method\":\"B\"}", /* duplicate */
		HEAD "\"method\":\"A\",\"params\":{\"a\":1,\"a\":1}}",
		HEAD "\"method\":\"A\"} {}",			      /* more after the end */
		HEAD "\"method\":\"A\",\"id\":99999999999999999999}", /* no int64 */
		HEAD "\"method\":\"\xff\"}",
		HEAD "\"method\":\"\xed\xa0\x80\"}",
		HEAD "\"method\":\"a\\u0000b\"}",
		HEAD "\"method\":\"a\\ud800\"}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":1e999}}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":NaN}}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":01}}",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_refused(bad[i], strlen(bad[i]), ERR_PARSE, -1);
	assert_refused(HEAD "\"method\":\"A\"}\0", sizeof(HEAD "\"method\":\"A\"}"), ERR_PARSE, -1);
	assert_refused(repeated(' ', FRAME_MAX), FRAME_MAX, ERR_PARSE, -1);
}

static void refuses_depth(void **state)
{
	char text[400];

	(void)state;
	assert_refused(repeated('[', 60000), 60000, ERR_PARSE, -1);
	snprintf(text, sizeof(text), HEAD "\"method\":\"A\",\"params\":{\"x\":%s%.7s}}", "[[[[[[[",
		 "]]]]]]]");
	assert_refused(text, strlen(text), ERR_PARSE, -1);
}

/* Brackets in strings are no depth; the deepest that is allowed is allowed. */
static void accepts_depth(void **state)
{
	static const char *const good[] = {
		HEAD "\"method\":\"A\",\"params\":{\"x\":[[[[[[]]]]]]}}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":\"[[[[[[[[[[[[[{{{{{{{\"}}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":\"\\\"[[[[[[[[[[[[\\\\\"}}",
		HEAD "\"method\":\"A\",\"params\":{\"x\":[[],[],[],[],[],[],[],[],[],[],[]]}}",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		struct rpc_message m;

		assert_int_equal(rpc_parse(good[i], strlen(good[i]), &m, NULL), 0);
		rpc_message_done(&m);
	}
}

static void refuses_wrong_requests(void **state)
{
	static const struct {
		const char *text;
		int64_t id;
	} cases[] = {
		{"[]", -1},
		{"[" HEAD "\"method\":\"A\",\"id\":1}]", -1}, /* no batches */
		{"{}", -1},
		{"{\"method\":\"A\",\"id\":7}", 7},
		{"{\"jsonrpc\":\"1.0\",\"method\":\"A\",\"id\":7}", 7},
		{"{\"jsonrpc\":2.0,\"method\":\"A\",\"id\":7}", 7},
		{HEAD "\"method\":1,\"id\":7}", 7},
		{HEAD "\"method\":\"\",\"id\":7}", 7},
		{HEAD "\"method\":null,\"id\":7}", 7},
		{HEAD "\"method\":\"A.B\",\"id\":7}", 7},
		{HEAD "\"method\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"id\":7}", 7},
		{HEAD "\"method\":\"A\",\"id\":7,\"params\":[]}", 7},
		{HEAD "\"method\":\"A\",\"id\":7,\"params\":null}", 7},
		{HEAD "\"method\":\"A\",\"id\":7,\"extra\":1}", 7},
		{HEAD "\"method\":\"A\",\"id\":7,\"result\":{}}", 7},
		{HEAD "\"method\":\"A\",\"id\":\"7\"}", -1},
		{HEAD "\"method\":\"A\",\"id\":-1}", -1},
		{HEAD "\"method\":\"A\",\"id\":7.0}", -1},
		{HEAD "\"method\":\"A\",\"id\":null}", -1},
		{HEAD "\"method\":\"A\",\"id\":[7]}", -1},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++)
		assert_refused(cases[i].text, strlen(cases[i].text), ERR_INVALID_REQUEST,
			       cases[i].id);
}

/* None of them is answered. */
static void refuses_wrong_responses(void **state)
{
	static const char *const bad[] = {
		HEAD "\"id\":7}",
		HEAD "\"result\":{}}",
		HEAD "\"id\":7,\"result\":{},\"error\":{\"code\":-1,\"message\":\"\"}}",
		HEAD "\"id\":7,\"result\":[]}",
		HEAD "\"id\":7,\"result\":null}",
		HEAD "\"id\":7,\"result\":{},\"extra\":1}",
		HEAD "\"id\":null,\"error\":{\"code\":-1,\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":null}",
		HEAD "\"id\":7,\"error\":\"text\"}",
		HEAD "\"id\":7,\"error\":{}}",
		HEAD "\"id\":7,\"error\":{\"code\":-1}}",
		HEAD "\"id\":7,\"error\":{\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":{\"code\":\"-1\",\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":{\"code\":-1,\"message\":5}}",
		HEAD "\"id\":7,\"error\":{\"code\":0,\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":{\"code\":4294967296,\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":{\"code\":-1.5,\"message\":\"\"}}",
		HEAD "\"id\":7,\"error\":{\"code\":-1,\"message\":\"\",\"extra\":1}}",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_refused(bad[i], strlen(bad[i]), ERR_INVALID_REQUEST, -1);
}

static struct rpc_message parsed(char *text)
{
	struct rpc_message m;
	struct failure f;

	assert_non_null(text);
	if (rpc_parse(text, strlen(text), &m, &f) < 0)
		fail_msg("%s: %s", text, f.text);
	free(text);
	return m;
}

static void request_round_trip(void **state)
{
	struct rpc_message m;
	char *text = NULL;

	(void)state;
	assert_int_equal(rpc_format_request(0, "Listen", json_pack("{s:i}", "x", 5), &text), 0);
	m = parsed(text);
	assert_int_equal(m.type, RPC_REQUEST);
	assert_int_equal(m.id, 0);
	assert_string_equal(m.method, "Listen");
	assert_int_equal(json_integer_value(json_object_get(m.body, "x")), 5);
	rpc_message_done(&m);
	assert_int_equal(rpc_format_request(INT64_MAX, "A", NULL, &text), 0);
	m = parsed(text);
	assert_true(m.id == INT64_MAX);
	assert_int_equal(json_object_size(m.body), 0);
	rpc_message_done(&m);
}

static void notification_round_trip(void **state)
{
	struct rpc_message m;
	char *text = NULL;

	(void)state;
	assert_int_equal(rpc_format_notification("Reset", NULL, &text), 0);
	m = parsed(text);
	assert_int_equal(m.type, RPC_NOTIFICATION);
	assert_string_equal(m.method, "Reset");
	assert_true(json_is_object(m.body));
	rpc_message_done(&m);
	m = parsed(strdup(HEAD "\"method\":\"Reset\"}"));
	assert_true(json_is_object(m.body));
	rpc_message_done(&m);
}

static void result_round_trip(void **state)
{
	struct rpc_message m;
	char *text = NULL;

	(void)state;
	assert_int_equal(rpc_format_result(9, NULL, &text), 0);
	m = parsed(text);
	assert_int_equal(m.type, RPC_RESULT);
	assert_int_equal(m.id, 9);
	assert_int_equal(json_object_size(m.body), 0);
	rpc_message_done(&m);
}

static void error_round_trip(void **state)
{
	struct rpc_message m;
	char *text = NULL;

	(void)state;
	assert_int_equal(rpc_format_error(9, ERR_REVOKED, "no\nmore \xff", &text), 0);
	m = parsed(text);
	assert_int_equal(m.type, RPC_ERROR);
	assert_int_equal(m.error.code, ERR_REVOKED);
	assert_string_equal(m.error.text, "no?more ?");
	assert_null(m.body);
	rpc_message_done(&m);
	m = parsed(strdup(HEAD
			  "\"id\":1,\"error\":{\"code\":7,\"message\":\"\\u001b\",\"data\":[]}}"));
	assert_int_equal(m.error.code, 7);
	assert_string_equal(m.error.text, "?");
	rpc_message_done(&m);
}

static void formatters_refuse(void **state)
{
	json_t *body = json_object();
	char *text = NULL;

	(void)state;
	json_object_set_new(body, "x", json_string(repeated('a', FRAME_MAX)));
	json_incref(body);
	assert_int_equal(rpc_format_result(1, body, &text), -EMSGSIZE);
	assert_int_equal(rpc_format_request(1, "A", body, &text), -EMSGSIZE);
	assert_null(text);
	/* no UTF-8: jansson makes no string of it */
	assert_int_equal(rpc_format_request(1, "\xff", json_object(), &text), -ENOMEM);
	assert_null(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_what_is_not_json),
		cmocka_unit_test(refuses_depth),
		cmocka_unit_test(refuses_wrong_requests),
		cmocka_unit_test(refuses_wrong_responses),
		cmocka_unit_test(formatters_refuse),
		cmocka_unit_test(accepts_depth),
		cmocka_unit_test(request_round_trip),
		cmocka_unit_test(notification_round_trip),
		cmocka_unit_test(result_round_trip),
		cmocka_unit_test(error_round_trip),
	};

	return cmocka_run_group_tests_name("rpc", tests, NULL, NULL);
}
