/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Control frames: what the other end of a control port writes, from bytes to struct rpc_message.
 *
 * Input: one byte says how many bytes come at a time ('0': all) and whether (0xff) a run of
 * blanks longer than a frame may be stands in front; the rest is the stream, a line end being a NUL
 * too, so that seeds are text.
 */
#include <errno.h>

#include "fuzz.h"
#include "frame.h"
#include "rpc.h"

#define RUN (FRAME_MAX - 8)

static bool is_printable(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

static void check_failure(const struct rpc_message *m, const struct failure *error)
{
	must(error->code == ERR_PARSE || error->code == ERR_INVALID_REQUEST);
	must(error->text[0] && is_printable(error->text));
	must(m->id >= -1 && !m->body);
}

static int format(const struct rpc_message *m, char **ret)
{
	json_t *body = json_incref(m->body);

	switch (m->type) {
	case RPC_REQUEST:
		return rpc_format_request(m->id, m->method, body, ret);
	case RPC_NOTIFICATION:
		return rpc_format_notification(m->method, body, ret);
	case RPC_RESULT:
		return rpc_format_result(m->id, body, ret);
	case RPC_ERROR:
		return rpc_format_error(m->id, m->error.code, m->error.text, ret);
	}
	abort();
}

/* What was understood can be said again, and is understood as the same. */
static void check_message(const struct rpc_message *m)
{
	struct rpc_message again;
	struct failure error;
	char *text = NULL;
	int r = format(m, &text);

	must((m->type == RPC_ERROR) == !m->body && (!m->body || json_is_object(m->body)));
	must(m->type == RPC_NOTIFICATION ? m->id == -1 : m->id >= 0);
	if (r == -EMSGSIZE) /* escapes make a text longer */
		return;
	must(r == 0 && rpc_parse(text, strlen(text), &again, &error) == 0);
	must(again.type == m->type && again.id == m->id);
	must(m->type > RPC_NOTIFICATION || strcmp(again.method, m->method) == 0);
	must(m->type == RPC_ERROR ? again.error.code == m->error.code &&
					    strcmp(again.error.text, m->error.text) == 0
				  : json_equal(again.body, m->body));
	rpc_message_done(&again);
	free(text);
}

static void parse(const char *frame, size_t length)
{
	struct rpc_message m;
	struct failure error = {};
	char *exact = malloc(length + 1); /* so that one byte too far is seen */

	must(exact);
	memcpy(exact, frame, length + 1);
	if (rpc_parse(exact, length, &m, &error) < 0)
		check_failure(&m, &error);
	else
		check_message(&m);
	rpc_message_done(&m);
	free(exact);
}

/* The stream cut at NULs in the plainest way: what has to come out next.  Returns as feed() does.
 */
static int expect(const char **p, const char *end, const char **ret, size_t *ret_length)
{
	for (;;) {
		const char *nul = *p < end ? memchr(*p, '\0', (size_t)(end - *p)) : NULL;

		if (!nul)
			return 0;
		*ret = *p;
		*ret_length = (size_t)(nul - *p);
		*p = nul + 1;
		if (*ret_length >= FRAME_MAX)
			return -EMSGSIZE;
		if (*ret_length > 0)
			return 1;
	}
}

/* Reads @size bytes of @stream in pieces of @step; frames go to @queue when there is one. */
static void read_stream(const char *stream, size_t size, size_t step, struct frame_queue *queue)
{
	const char *cursor = stream, *frame, *wanted;
	struct frame_reader reader = {};
	size_t length, wanted_length;
	int r, expected;

	for (size_t at = 0; at < size;) {
		size_t used = SIZE_MAX, piece = size - at < step ? size - at : step;

		r = frame_reader_feed(&reader, stream + at, piece, &used, &frame, &length);
		must(used <= piece && (r != 0 || used == piece));
		at += used;
		if (r == 0)
			continue;
		expected = expect(&cursor, stream + size, &wanted, &wanted_length);
		must(r == expected);
		if (r < 0)
			continue;
		must(length == wanted_length && memcmp(frame, wanted, length + 1) == 0);
		if (queue)
			must(frame_queue_push(queue, frame, length) == 0);
		parse(frame, length);
	}
	must(expect(&cursor, stream + size, &wanted, &wanted_length) == 0);
	frame_reader_done(&reader);
}

/* What was queued comes out again as it was, in whatever pieces. */
static void drain(struct frame_queue *queue, size_t step)
{
	struct frame_reader reader = {};
	const void *waiting;
	size_t n;

	while ((n = frame_queue_peek(queue, &waiting)) > 0) {
		const char *frame;
		size_t used, length, piece = n < step ? n : step;

		must(frame_reader_feed(&reader, waiting, piece, &used, &frame, &length) >= 0);
		frame_queue_consume(queue, used);
		if (used == piece && piece > 1) /* something waits while more is put in */
			must(frame_queue_push(queue, "", 0) == 0);
	}
	must(reader.length == 0 && !reader.discarding);
	frame_reader_done(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	size_t step = how == '0' ? SIZE_MAX : (size_t)how + 1;
	size_t run = how == 0xff ? RUN : 0;
	struct frame_queue queue = {};
	char *stream = malloc(run + in.size + 1);

	must(stream);
	memset(stream, ' ', run);
	if (in.size > 0)
		memcpy(stream + run, in.data, in.size);
	for (size_t i = 0; i < run + in.size; i++)
		if (stream[i] == '\n')
			stream[i] = '\0';
	read_stream(stream, run + in.size, run ? 4096 * step : step, &queue);
	drain(&queue, step);
	frame_queue_done(&queue);
	free(stream);
	return 0;
}
