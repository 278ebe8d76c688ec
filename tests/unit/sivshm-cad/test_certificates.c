/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "certificates.h"
#include "fixture.h"

static struct certificate make(const char *vm, const char *service, int64_t end)
{
	struct certificate c = {.not_before = 1, .not_after = end};

	memset(c.serial, 'a', sizeof(c.serial) - 1);
	snprintf(c.service.vm, sizeof(c.service.vm), "%s", vm);
	snprintf(c.service.service, sizeof(c.service.service), "%s", service);
	return c;
}

static void fill(struct certificates *list)
{
	for (int i = 0; i < 100; i++) {
		struct certificate c = make(i % 2 ? "a" : "b", i % 4 < 2 ? "x" : "y", 100 + i);

		assert_int_equal(certificates_add(list, &c), 0);
	}
}

static void test_expire(void **state)
{
	struct certificates list = {};

	(void)state;
	fill(&list);
	assert_int_equal(certificates_expire(&list, 100), 0);
	assert_int_equal(certificates_expire(&list, 150), 50);
	assert_int_equal(list.list[0].not_after, 150);
	assert_int_equal(certificates_count(&list, "a"), 25);
	certificates_done(&list);
}

static void test_revoke(void **state)
{
	struct certificates list = {};

	(void)state;
	fill(&list);
	assert_int_equal(certificates_revoke(&list, "c", NULL), 0);
	assert_int_equal(certificates_revoke(&list, "a", "x"), 25);
	assert_int_equal(certificates_revoke(&list, "a", "x"), 0);
	assert_int_equal(certificates_revoke(&list, "a", NULL), 25);
	certificates_done(&list);
}

static void test_text(void **state)
{
	struct certificate c = make("a", "x", 77);
	struct certificates list = {};
	char line[CERTIFICATE_LINE_SIZE], text[2 * CERTIFICATE_LINE_SIZE + 16];

	(void)state;
	c.revoked = true;
	certificate_format(&c, line);
	snprintf(text, sizeof(text), "%srubbish\n%s", line, line);
	text[strlen(text) - 1] = '\0'; /* the last line was cut off */
	assert_int_equal(certificates_parse(&list, text), 0);
	assert_int_equal(list.n, 1);
	assert_memory_equal(&list.list[0], &c, sizeof(c));
	certificates_done(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_expire),
		cmocka_unit_test(test_revoke),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
