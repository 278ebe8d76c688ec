/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "frame.h"

static struct frame_reader reader;

static int done(void **state)
{
	(void)state;
	frame_reader_done(&reader);
	return 0;
}

/* Feeds all of @data; appends "<length>;" or "E;" for each event to @log. */
static void feed_all(const char *data, size_t size, char *log, size_t log_size)
{
	while (size > 0) {
		const char *frame;
		size_t used = 0, length = 0, n = strlen(log);
		int r = frame_reader_feed(&reader, data, size, &used, &frame, &length);

		assert_true(used <= size);
		data += used;
		size -= used;
		if (r == -EMSGSIZE) {
			snprintf(log + n, log_size - n, "E;");
		} else if (r == 1) {
			assert_int_equal(strlen(frame), length);
			snprintf(log + n, log_size - n, "%zu%c;", length, frame[0]);
		} else {
			assert_int_equal(r, 0);
			assert_int_equal(size, 0);
		}
	}
}

static void reader_drops_too_long(void **state)
{
	char log[64] = "";

	(void)state;
	feed_all(repeated('a', FRAME_MAX), FRAME_MAX, log, sizeof(log));
	assert_string_equal(log, "");
	feed_all(repeated('b', 60000), 60000, log, sizeof(log));
	assert_string_equal(log, "");
	feed_all("bb\0cc\0", 6, log, sizeof(log));
	assert_string_equal(log, "E;2c;");
}

static void reader_drops_too_long_in_pieces(void **state)
{
	char log[64] = "";

	(void)state;
	for (size_t i = 0; i < FRAME_MAX; i++)
		feed_all("x", 1, log, sizeof(log));
	feed_all("", 1, log, sizeof(log));
	assert_string_equal(log, "E;");
}

static void reader_takes_longest(void **state)
{
	char log[64] = "";

	(void)state;
	feed_all(repeated('a', FRAME_MAX - 1), FRAME_MAX, log, sizeof(log));
	assert_string_equal(log, "131071a;");
	for (size_t i = 0; i < FRAME_MAX - 1; i++)
		feed_all("x", 1, log, sizeof(log));
	feed_all("", 1, log, sizeof(log));
	assert_string_equal(log, "131071a;131071x;");
}

static void reader_skips_empty(void **state)
{
	char log[64] = "";

	(void)state;
	feed_all("\0\0\0a\0\0b\0\0", 9, log, sizeof(log));
	assert_string_equal(log, "1a;1b;");
}

static void reader_byte_at_a_time(void **state)
{
	static const char data[] = "one\0\0three\0{}";
	char log[64] = "";

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		feed_all(data + i, 1, log, sizeof(log));
	assert_string_equal(log, "3o;5t;2{;");
}

static void reader_reset_forgets(void **state)
{
	char log[64] = "";

	(void)state;
	feed_all("half", 4, log, sizeof(log));
	frame_reader_reset(&reader);
	feed_all("ab\0", 3, log, sizeof(log));
	feed_all(repeated('a', FRAME_MAX), FRAME_MAX, log, sizeof(log));
	frame_reader_reset(&reader);
	feed_all("ab\0", 3, log, sizeof(log));
	assert_string_equal(log, "2a;2a;");
}

static void queue_refuses(void **state)
{
	struct frame_queue q = {};
	const void *data;

	(void)state;
	assert_int_equal(frame_queue_push(&q, repeated('a', FRAME_MAX), FRAME_MAX), -EMSGSIZE);
	assert_int_equal(frame_queue_peek(&q, &data), 0);
	for (size_t i = 0; i < FRAME_QUEUE_MAX / FRAME_MAX; i++)
		assert_int_equal(frame_queue_push(&q, repeated('a', FRAME_MAX - 1), FRAME_MAX - 1),
				 0);
	assert_int_equal(frame_queue_push(&q, "", 0), -ENOBUFS);
	assert_int_equal(frame_queue_peek(&q, &data), FRAME_QUEUE_MAX);
	/* what was written makes room */
	frame_queue_consume(&q, 1);
	assert_int_equal(frame_queue_push(&q, "", 0), 0);
	assert_int_equal(frame_queue_push(&q, "", 0), -ENOBUFS);
	frame_queue_done(&q);
	frame_queue_done(&q);
}

/* Pushes and consumes in sizes that do not divide each other; the bytes stay in order. */
static void queue_keeps_order(void **state)
{
	struct frame_queue q = {};
	unsigned next_in = 0, next_out = 0;

	(void)state;
	for (unsigned step = 0; step < 20000; step++) {
		char frame[7];
		const void *data;
		size_t waiting;

		memset(frame, 1 + next_in++ % 255, sizeof(frame));
		assert_int_equal(frame_queue_push(&q, frame, sizeof(frame)), 0);
		waiting = frame_queue_peek(&q, &data);
		for (size_t take = step % 19; take >= 8 && waiting >= 8; take -= 8, waiting -= 8) {
			memset(frame, 1 + next_out++ % 255, sizeof(frame));
			assert_memory_equal(data, frame, sizeof(frame));
			assert_int_equal(((const char *)data)[7], 0);
			frame_queue_consume(&q, 8);
			frame_queue_peek(&q, &data);
		}
	}
	assert_true(next_out > 1000);
	frame_queue_done(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(reader_drops_too_long, done),
		cmocka_unit_test_teardown(reader_drops_too_long_in_pieces, done),
		cmocka_unit_test_teardown(reader_takes_longest, done),
		cmocka_unit_test_teardown(reader_skips_empty, done),
		cmocka_unit_test_teardown(reader_byte_at_a_time, done),
		cmocka_unit_test_teardown(reader_reset_forgets, done),
		cmocka_unit_test(queue_refuses),
		cmocka_unit_test(queue_keeps_order),
	};

	return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
