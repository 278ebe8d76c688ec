/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include "policy.h"

static struct policy_peer dashboard = {{"ivi", "dashboard"}, {"f", 5}};
static struct policy_peer radio = {{"ivi", "radio"}, {"f", 6}};

static struct policy_service services[] = {
	{.name = "sensor",
	 .line = {"f", 1},
	 .uid = 7,
	 .user_line = {"f", 2},
	 .unit = "sensor.service",
	 .unit_line = {"f", 3},
	 .connect = {&dashboard, 1},
	 .max_ring = 65536,
	 .max_ring_line = {"f", 4}},
	{.name = "free",
	 .line = {"f", 10},
	 .uid = 8,
	 .user_line = {"f", 11},
	 .accept = {&radio, 1},
	 .max_ring = 4096},
	{.name = "second",
	 .line = {"f", 20},
	 .uid = 8,
	 .user_line = {"f", 21},
	 .unit = "second.service",
	 .unit_line = {"f", 22},
	 .max_ring = 4096},
};
static const struct policy policy = {services, ELEMENTSOF(services), NULL, 0};
static const struct peer_name to_dashboard = {"ivi", "dashboard"};
static const struct peer_name to_radio = {"ivi", "radio"};

static struct policy_verdict ask(struct policy_question q)
{
	struct policy_verdict v;

	policy_decide(&policy, &q, &v);
	return v;
}

static void deny(struct policy_question q, const char *text)
{
	struct policy_verdict v = ask(q);

	assert_false(v.allowed);
	if (!strstr(v.text, text))
		fail_msg("'%s' does not say '%s'", v.text, text);
}

static void default_is_deny(void **state)
{
	const struct policy empty = {};
	struct policy_verdict v;

	(void)state;
	for (int act = POLICY_BE; act <= POLICY_ACCEPT; act++) {
		policy_decide(
			&empty,
			&(struct policy_question){
				.act = act, .service = "sensor", .unit = "", .peer = &to_radio},
			&v);
		assert_false(v.allowed);
		assert_null(v.service);
		policy_decide(&empty,
			      &(struct policy_question){
				      .act = act, .service = "", .unit = "", .peer = &to_radio},
			      &v);
		assert_false(v.allowed);
	}
}

static void refusals(void **state)
{
	struct policy_question q = {.act = POLICY_CONNECT,
				    .service = "sensor",
				    .uid = 7,
				    .unit = "sensor.service",
				    .peer = &to_dashboard};
	struct policy_question wrong;

	(void)state;
	assert_true(ask(q).allowed);

	wrong = q, wrong.service = "nobody";
	deny(wrong, "no section [Service nobody]");
	wrong = q, wrong.uid = 0;
	deny(wrong, "f:2: service sensor belongs to uid 7, the caller has uid 0");
	wrong = q, wrong.unit = "other.service";
	deny(wrong,
	     "f:3: service sensor belongs to unit sensor.service, the caller is in other.service");
	wrong = q, wrong.unit = "";
	deny(wrong, "the caller is in none");
	wrong = q, wrong.peer = &to_radio;
	deny(wrong, "f:1: Connect= of service sensor does not name ivi/radio");
	wrong = q, wrong.act = POLICY_ACCEPT;
	deny(wrong, "Accept= of service sensor does not name ivi/dashboard");
	wrong = q, wrong.act = POLICY_LISTEN;
	deny(wrong, "f:1: service sensor has no Accept=");
	wrong = q, wrong.ring_size = 131072;
	deny(wrong, "f:4: MaxRingSize= of service sensor is 65536 bytes, asked for 131072");
	wrong = q, wrong.service = "", wrong.uid = 9;
	deny(wrong, "no service belongs to uid 9");
	/* root is nobody's service */
	wrong = q, wrong.uid = 0, wrong.any_unit = true;
	deny(wrong, "uid 0");
}

static void the_only_one(void **state)
{
	struct policy_question q = {.act = POLICY_BE, .service = "", .uid = 8, .unit = "x.service"};
	struct policy_verdict v = ask(q);

	(void)state;
	assert_true(v.allowed);
	assert_string_equal(v.service->name, "free");
	q.unit = "second.service";
	deny(q, "f:20: the caller may be free and second, so it has to name one");
	q.service = "second";
	assert_true(ask(q).allowed);
}

static void allowed(void **state)
{
	struct policy_verdict v;

	(void)state;
	v = ask((struct policy_question){.act = POLICY_CONNECT,
					 .service = "",
					 .uid = 7,
					 .unit = "sensor.service",
					 .peer = &to_dashboard,
					 .ring_size = 65536});
	assert_true(v.allowed);
	assert_string_equal(v.text, "f:5: Connect=ivi/dashboard");
	v = ask((struct policy_question){
		.act = POLICY_LISTEN, .service = "free", .uid = 8, .unit = ""});
	assert_true(v.allowed);
	v = ask((struct policy_question){
		.act = POLICY_ACCEPT, .service = "free", .uid = 8, .unit = "", .peer = &to_radio});
	assert_true(v.allowed);
	assert_string_equal(v.text, "f:6: Accept=ivi/radio");
	v = ask((struct policy_question){.act = POLICY_CONNECT,
					 .service = "sensor",
					 .uid = 7,
					 .unit = "",
					 .any_unit = true,
					 .peer = &to_dashboard});
	assert_true(v.allowed);
}

static void long_names_do_not_overflow(void **state)
{
	struct policy_question q = {
		.act = POLICY_BE, .service = "sensor", .uid = 7, .unit = repeated('u', 255)};

	(void)state;
	deny(q, "service sensor belongs to unit");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(default_is_deny),
		cmocka_unit_test(refusals),
		cmocka_unit_test(the_only_one),
		cmocka_unit_test(allowed),
		cmocka_unit_test(long_names_do_not_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
