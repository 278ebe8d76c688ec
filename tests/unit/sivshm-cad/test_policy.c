/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "policy.h"

static struct revocations revoked;

static struct decision decide(const struct config *config, const char *from_text,
			      const char *to_text)
{
	struct peer_name from, to;
	struct decision d;

	assert_int_equal(peer_name_parse(from_text, &from), 0);
	assert_int_equal(peer_name_parse(to_text, &to), 0);
	policy_decide(config, &revoked, &from, &to, &d);
	return d;
}

static void expect(const struct config *config, const char *from, const char *to, int code,
		   const char *word)
{
	struct decision d = decide(config, from, to);

	if (d.why.code != code || !strstr(d.why.text, word))
		fail_msg("%s to %s: %d %s", from, to, d.why.code, d.why.text);
	assert_true((code == 0) == (d.rule != NULL));
}

static void test_refusals(void **state)
{
	struct config *config;

	(void)state;
	put_example();
	put("region.d/all.conf", "");
	config = load();
	expect(config, "x/sensor", "b/dashboard", ERR_NOT_AUTHORIZED, "no VM x");
	expect(config, "a/other", "b/dashboard", ERR_NOT_AUTHORIZED, "vm.d/a.conf");
	/* without a rule the answer does not tell what exists */
	expect(config, "a/sensor", "x/dashboard", ERR_REFUSED_BY_HOST,
	       "no section [Allow a/sensor x/dashboard] in policy.d");
	expect(config, "a/sensor", "b/other", ERR_REFUSED_BY_HOST,
	       "no section [Allow a/sensor b/other] in policy.d");
	expect(config, "a/sensor", "c/logger", ERR_REFUSED_BY_HOST,
	       "no section [Allow a/sensor c/logger] in policy.d");
	expect(config, "a/sensor", "a/camera", ERR_REFUSED_BY_HOST,
	       "no section [Allow a/sensor a/camera] in policy.d");
	expect(config, "a/camera", "b/dashboard", ERR_REFUSED_BY_HOST,
	       "no section [Allow a/camera b/dashboard] in policy.d");
	/* a rule is for one direction */
	expect(config, "b/dashboard", "a/sensor", ERR_REFUSED_BY_HOST,
	       "[Allow b/dashboard a/sensor]");
	config_free(config);
}

static void test_revoked(void **state)
{
	struct config *config;

	(void)state;
	put_example();
	config = load();
	revocations_add(&revoked, "b", "stolen");
	expect(config, "a/sensor", "b/dashboard", ERR_REVOKED, "stolen");
	expect(config, "a/camera", "b/dashboard", ERR_REFUSED_BY_HOST, "policy.d");
	revocations_remove(&revoked, "b");
	revocations_add(&revoked, "a/sensor", "odd");
	expect(config, "a/sensor", "b/dashboard", ERR_REVOKED, "restore a/sensor");
	expect(config, "a/camera", "b/dashboard", ERR_REFUSED_BY_HOST, "policy.d");
	revocations_done(&revoked);
	config_free(config);
}

static void test_allowed(void **state)
{
	struct config *config;

	(void)state;
	put_example();
	config = load();
	expect(config, "a/sensor", "b/dashboard", 0, "policy.d/demo.conf:1 allows it");
	assert_int_equal(decide(config, "a/sensor", "b/dashboard").rule->channels, 3);
	config_free(config);
}

static void test_may_hold(void **state)
{
	struct peer_name name;
	struct config *config;
	struct failure why;

	(void)state;
	put_example();
	config = load();
	peer_name_parse("a/dashboard", &name);
	assert_true(policy_may_hold(config, &revoked, &name, &why) < 0);
	assert_int_equal(why.code, ERR_NOT_AUTHORIZED);
	peer_name_parse("a/camera", &name);
	assert_int_equal(policy_may_hold(config, &revoked, &name, &why), 0);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_refusals),
		CASE(test_revoked),
		CASE(test_allowed),
		CASE(test_may_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
