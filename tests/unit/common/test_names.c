/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "names.h"

static const char *const never_names[] = {"",	 "-a",	 "a-", "A",  "a b",   "a/b", "\xc3\xa4",
					  "a\n", " a",	 "a ", ".a", "a.",    "_a",  "a_",
					  "a:b", "a%2f", "..", "a*", "a\x7f", "a,b"};

static void names_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(never_names); i++) {
		assert_false(vm_name_is_valid(never_names[i]));
		assert_false(region_name_is_valid(never_names[i]));
		assert_false(service_name_is_valid(never_names[i]));
		assert_false(trust_domain_is_valid(never_names[i]));
	}
	assert_false(vm_name_is_valid("a.b"));
	assert_false(vm_name_is_valid("a_b"));
	assert_false(region_name_is_valid("a.b"));
	assert_false(trust_domain_is_valid("a..b"));
}

static void names_limits(void **state)
{
	(void)state;
	assert_false(vm_name_is_valid(repeated('a', 48)));
	assert_true(vm_name_is_valid(repeated('a', 47)));
	assert_false(region_name_is_valid(repeated('a', 32)));
	assert_true(region_name_is_valid(repeated('a', 31)));
	assert_false(service_name_is_valid(repeated('a', 56)));
	assert_true(service_name_is_valid(repeated('a', 55)));
	assert_false(trust_domain_is_valid(repeated('a', TRUST_DOMAIN_SIZE)));
	assert_true(trust_domain_is_valid(repeated('a', TRUST_DOMAIN_SIZE - 1)));
}

static void names_accepted(void **state)
{
	(void)state;
	assert_true(vm_name_is_valid("a"));
	assert_true(vm_name_is_valid("0"));
	assert_true(vm_name_is_valid("rtos-2"));
	assert_true(vm_name_is_valid("a--b"));
	assert_true(service_name_is_valid("a.b_c-d"));
	assert_true(trust_domain_is_valid("fleet.example.org"));
}

static void peer_name_refused(void **state)
{
	static const char *const bad[] = {"",	  "/",	 "a",	"a/",	"/b",	"a/b/c",
					  "a//b", "A/b", "a/B", "a /b", "a/b ", "a.x/b"};
	struct peer_name name = {.vm = "kept"};
	char text[200];

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(peer_name_parse(bad[i], &name), -EINVAL);
	snprintf(text, sizeof(text), "%.90s/b", repeated('a', 48));
	assert_int_equal(peer_name_parse(text, &name), -EINVAL);
	snprintf(text, sizeof(text), "a/%.90s", repeated('b', 56));
	assert_int_equal(peer_name_parse(text, &name), -EINVAL);
	assert_string_equal(name.vm, "kept");
}

static void peer_name_round_trip(void **state)
{
	struct peer_name name, again;
	char text[PEER_NAME_SIZE], longest[PEER_NAME_SIZE];
	int n = snprintf(longest, sizeof(longest), "%s/", repeated('a', 47));

	(void)state;
	snprintf(longest + n, sizeof(longest) - (size_t)n, "%s", repeated('b', 55));
	assert_int_equal(peer_name_parse(longest, &name), 0);
	peer_name_format(&name, text);
	assert_string_equal(text, longest);
	assert_int_equal(peer_name_parse("rtos/sensor", &again), 0);
	assert_string_equal(again.vm, "rtos");
	assert_string_equal(again.service, "sensor");
	assert_false(peer_name_equal(&name, &again));
	assert_true(peer_name_equal(&again, &again));
}

static void spiffe_id_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"spiffe://",
		"spiffe:///vm/a/service/b",
		"SPIFFE://d/vm/a/service/b",
		"spiffe://D/vm/a/service/b",
		"spiffe://d/vm/a/service/",
		"spiffe://d/vm//service/b",
		"spiffe://d/vm/a/service/b/",
		"spiffe://d/vm/a/service/b/c",
		"spiffe://d/vm/a/service/b?x=1",
		"spiffe://d/vm/a/service/b#x",
		"spiffe://d:1/vm/a/service/b",
		"spiffe://u@d/vm/a/service/b",
		"spiffe://d/vm/a%2fservice/b",
		"spiffe://d/vm/../service/b",
		"spiffe://d/xx/a/service/b",
		"spiffe://d/vm/a/server/b",
		"https://d/vm/a/service/b",
		" spiffe://d/vm/a/service/b",
	};
	char domain[TRUST_DOMAIN_SIZE] = "kept", text[400];
	struct peer_name name;

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(spiffe_id_parse(bad[i], domain, &name), -EINVAL);
	snprintf(text, sizeof(text), "spiffe://%.200s/vm/a/service/b",
		 repeated('d', TRUST_DOMAIN_SIZE));
	assert_int_equal(spiffe_id_parse(text, domain, &name), -EINVAL);
	assert_string_equal(domain, "kept");
}

static void spiffe_id_round_trip(void **state)
{
	char id[SPIFFE_ID_SIZE], domain[TRUST_DOMAIN_SIZE], longest[TRUST_DOMAIN_SIZE];
	struct peer_name name = {}, again;

	(void)state;
	memset(name.vm, 'v', sizeof(name.vm) - 1);
	memset(name.service, 's', sizeof(name.service) - 1);
	snprintf(longest, sizeof(longest), "%.127s", repeated('d', TRUST_DOMAIN_SIZE - 1));
	spiffe_id_format(longest, &name, id);
	assert_int_equal(spiffe_id_parse(id, domain, &again), 0);
	assert_string_equal(domain, longest);
	assert_true(peer_name_equal(&name, &again));

	assert_int_equal(peer_name_parse("rtos/sensor", &name), 0);
	spiffe_id_format("sivshm.local", &name, id);
	assert_string_equal(id, "spiffe://sivshm.local/vm/rtos/service/sensor");
}

static void ring_sizes(void **state)
{
	(void)state;
	assert_false(ring_size_is_valid(0));
	assert_false(ring_size_is_valid(2048));
	assert_false(ring_size_is_valid(4097));
	assert_false(ring_size_is_valid(12288));
	assert_false(ring_size_is_valid(1ULL << 31));
	assert_false(ring_size_is_valid(1ULL << 63));
	assert_true(ring_size_is_valid(4096));
	assert_true(ring_size_is_valid(1ULL << 30));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_refused),	cmocka_unit_test(names_limits),
		cmocka_unit_test(names_accepted),	cmocka_unit_test(peer_name_refused),
		cmocka_unit_test(peer_name_round_trip), cmocka_unit_test(spiffe_id_refused),
		cmocka_unit_test(spiffe_id_round_trip), cmocka_unit_test(ring_sizes),
	};

	return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
