/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link at one end of a socketpair (or a pty for a device), bare bytes at the other. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <termios.h>

#include "frame.h"
#include "rpc.h"
#include "rpc-link.h"

#define MANY 1000

/* struct fixture - what the callbacks saw, and what they are to do */
struct fixture {
	sd_event *event;
	struct rpc_link *link;
	int peer;
	struct frame_reader reader;
	struct rpc_request *requests[MANY];
	size_t n_requests, n_notifications, n_up, n_down, n_malformed, n_answers;
	struct failure why; /* of the last down or failed call */
	int result;	    /* member "x" of the last answer, 0: error */
	bool inside;	    /* a function of rpc-link.h is running: no callback may */
	bool free_in_callback, fail_params, drop;
	struct rpc_call *cancel;
};

static void maybe_free(struct fixture *f)
{
	assert_false(f->inside);
	if (f->free_in_callback)
		f->link = rpc_link_free(f->link);
}

static void on_request(struct rpc_link *link, struct rpc_request *request, const char *method,
		       json_t *params, void *userdata)
{
	struct fixture *f = userdata;

	assert_ptr_equal(link, f->link);
	assert_true(json_is_object(params));
	assert_true(strlen(method) > 0);
	if (f->fail_params) {
		struct failure error = {ERR_INVALID_PARAMS, "no"};

		rpc_request_fail(request, &error);
	} else if (f->drop) {
		rpc_request_drop(request);
	} else {
		f->requests[f->n_requests] = request;
	}
	f->n_requests++;
	maybe_free(f);
}

static void on_notification(struct rpc_link *link, const char *method, json_t *params,
			    void *userdata)
{
	struct fixture *f = userdata;

	(void)method;
	(void)params;
	f->n_notifications++;
	if (f->fail_params)
		rpc_link_count_malformed(link, &f->why);
	f->cancel = rpc_call_cancel(f->cancel);
	maybe_free(f);
}

static void on_up(struct rpc_link *link, void *userdata)
{
	struct fixture *f = userdata;

	assert_true(rpc_link_is_up(link));
	f->n_up++;
	maybe_free(f);
}

static void on_down(struct rpc_link *link, const struct failure *why, void *userdata)
{
	struct fixture *f = userdata;

	assert_false(rpc_link_is_up(link));
	assert_int_equal(rpc_link_notify(link, "A", NULL), -ENOTCONN);
	f->n_down++;
	f->why = *why;
	maybe_free(f);
}

static void on_malformed(struct rpc_link *link, const struct failure *why, void *userdata)
{
	struct fixture *f = userdata;

	(void)link;
	assert_true(why->code != 0);
	f->n_malformed++;
	maybe_free(f);
}

static void on_answer(struct rpc_link *link, json_t *result, const struct failure *error,
		      void *userdata)
{
	struct fixture *f = userdata;

	(void)link;
	assert_true((result != NULL) != (error != NULL));
	f->n_answers++;
	f->result = (int)json_integer_value(json_object_get(result, "x"));
	if (error)
		f->why = *error;
	maybe_free(f);
}

static const struct rpc_link_handler handler = {.request = on_request,
						.notification = on_notification,
						.up = on_up,
						.down = on_down,
						.malformed = on_malformed};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_true(sd_event_new(&f->event) >= 0);
	f->peer = fds[1];
	fcntl(f->peer, F_SETFL, O_NONBLOCK);
	assert_int_equal(rpc_link_new(f->event, fds[0], RPC_LINK_SOCKET, &handler, f, &f->link), 0);
	assert_int_equal(rpc_link_fd(f->link), fds[0]);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < f->n_requests && i < MANY; i++)
		f->requests[i] = rpc_request_drop(f->requests[i]);
	rpc_link_free(f->link);
	if (f->peer >= 0)
		close(f->peer);
	frame_reader_done(&f->reader);
	sd_event_unref(f->event);
	free(f);
	return 0;
}

/* Runs the loop until it has nothing to do for @usec. */
static void settle_for(struct fixture *f, uint64_t usec)
{
	while (sd_event_run(f->event, usec) > 0)
		;
}

static void settle(struct fixture *f)
{
	settle_for(f, 0);
}

static void send_bytes(struct fixture *f, const void *data, size_t size)
{
	assert_int_equal(write(f->peer, data, size), size);
}

/* One frame; only tests that have the link read in between may send more than a socket holds. */
static void send_text(struct fixture *f, const char *text)
{
	send_bytes(f, text, strlen(text) + 1);
}

static void send_request(struct fixture *f, int id)
{
	char *text = NULL;

	assert_int_equal(rpc_format_request(id, "A", NULL, &text), 0);
	send_text(f, text);
	free(text);
}

static void send_result(struct fixture *f, int64_t id, int x)
{
	char *text = NULL;

	assert_int_equal(rpc_format_result(id, json_pack("{s:i}", "x", x), &text), 0);
	send_text(f, text);
	free(text);
}

/* Next message that the link sent; false: none yet. */
static bool receive(struct fixture *f, struct rpc_message *ret)
{
	for (;;) {
		const char *frame;
		size_t used, length;
		char c;

		if (read(f->peer, &c, 1) != 1)
			return false;
		if (frame_reader_feed(&f->reader, &c, 1, &used, &frame, &length) == 1) {
			assert_int_equal(rpc_parse(frame, length, ret, NULL), 0);
			return true;
		}
	}
}

static struct rpc_message received(struct fixture *f)
{
	struct rpc_message m;

	settle(f);
	assert_true(receive(f, &m));
	return m;
}

static int call(struct fixture *f, uint64_t timeout, struct rpc_call **ret)
{
	int r;

	f->inside = true;
	r = rpc_link_call(f->link, "Ask", NULL, timeout, on_answer, f, ret);
	f->inside = false;
	return r;
}

/* The peer reads the call and knows its id. */
static int64_t call_id(struct fixture *f)
{
	struct rpc_message m = received(f);

	assert_int_equal(m.type, RPC_REQUEST);
	rpc_message_done(&m);
	return m.id;
}

static void bad_fd(void **state)
{
	struct fixture *f = *state;
	struct rpc_link *link = NULL;

	assert_int_equal(rpc_link_new(f->event, -1, RPC_LINK_SOCKET, &handler, f, &link), -EBADF);
	assert_null(link);
	assert_null(rpc_link_free(NULL));
	assert_null(rpc_call_cancel(NULL));
	assert_null(rpc_request_drop(NULL));
}

static void malformed_in_a_row(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 16; i++)
		send_text(f, "nonsense");
	settle(f);
	send_request(f, 1); /* breaks the row */
	for (int i = 0; i < 16; i++)
		send_text(f, "{}");
	settle(f);
	assert_int_equal(f->n_malformed, 32);
	assert_int_equal(f->n_down, 0);
	send_text(f, "[]");
	settle(f);
	assert_int_equal(f->n_down, 1);
	assert_int_equal(f->why.code, ERR_PARSE);
	send_request(f, 2);
	settle(f);
	assert_int_equal(f->n_requests, 1);
}

static void bad_params_in_a_row(void **state)
{
	struct fixture *f = *state;

	f->fail_params = true;
	for (int i = 0; i < 8; i++) {
		send_request(f, i);
		send_text(f, "{\"jsonrpc\":\"2.0\",\"method\":\"N\"}");
	}
	settle(f);
	assert_int_equal(f->n_down, 0);
	send_request(f, 9);
	send_request(f, 10);
	settle(f);
	assert_int_equal(f->n_down, 1);
	assert_int_equal(f->n_requests, 9);
	assert_int_equal(f->n_malformed, 0); /* who counted knows already */
}

/* A request that does not decode is answered, if it can be. */
static void malformed_is_answered(void **state)
{
	struct fixture *f = *state;
	struct rpc_message m;

	send_text(f, "{\"jsonrpc\":\"2.0\",\"method\":\"A\",\"id\":5,\"params\":[]}");
	send_text(f, "{\"jsonrpc\":\"2.0\",\"id\":6,\"result\":5}");
	m = received(f);
	assert_int_equal(m.type, RPC_ERROR);
	assert_int_equal(m.id, 5);
	assert_int_equal(m.error.code, ERR_INVALID_REQUEST);
	assert_false(receive(f, &m));
	assert_int_equal(f->n_malformed, 2);
}

static void too_long_is_malformed(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 17; i++) {
		send_bytes(f, repeated('a', 40000), 40000);
		settle(f);
		send_bytes(f, repeated('a', 40000), 40001);
		settle(f);
		assert_int_equal(f->n_malformed, i + 1);
		assert_int_equal(f->n_down, i == 16);
	}
}

static void too_many_requests(void **state)
{
	struct fixture *f = *state;
	struct rpc_message m;

	for (int i = 0; i < RPC_LINK_MAX_REQUESTS + 2; i++) {
		send_request(f, i);
		settle(f);
	}
	assert_int_equal(f->n_requests, RPC_LINK_MAX_REQUESTS);
	for (int i = 0; i < 2; i++) {
		m = received(f);
		assert_int_equal(m.error.code, ERR_QUOTA_EXCEEDED);
		assert_int_equal(m.id, RPC_LINK_MAX_REQUESTS + i);
	}
	assert_int_equal(rpc_request_reply(f->requests[7], NULL), 0);
	f->requests[7] = NULL;
	m = received(f);
	assert_int_equal(m.type, RPC_RESULT);
	assert_int_equal(m.id, 7);
	rpc_message_done(&m);
	send_request(f, 1000);
	settle(f);
	assert_int_equal(f->n_requests, RPC_LINK_MAX_REQUESTS + 1);
	assert_int_equal(f->n_down, 0);
}

static void too_many_calls(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < RPC_LINK_MAX_CALLS; i++) {
		assert_int_equal(call(f, 60000000, NULL), 0);
		call_id(f);
	}
	assert_int_equal(call(f, 60000000, NULL), -ENOBUFS);
	f->link = rpc_link_free(f->link);
	assert_int_equal(f->n_answers, 0);
}

/* A peer that does not read is dropped, but not from inside the call that noticed. */
static void output_queue_full(void **state)
{
	struct fixture *f = *state;
	int r = 0;

	for (int i = 0; i < 200 && r == 0; i++) {
		f->inside = true;
		r = rpc_link_notify(f->link, "N", json_pack("{s:s}", "x", repeated('a', 30000)));
		f->inside = false;
	}
	assert_int_equal(r, -ENOBUFS);
	assert_int_equal(f->n_down, 0);
	assert_false(rpc_link_is_up(f->link));
	assert_int_equal(call(f, 1000000, NULL), -ENOTCONN);
	settle(f);
	assert_int_equal(f->n_down, 1);
	assert_int_equal(f->why.code, ERR_QUOTA_EXCEEDED);
}

static void too_long_to_send(void **state)
{
	struct fixture *f = *state;
	struct rpc_message m;

	assert_int_equal(rpc_link_call(f->link, "A",
				       json_pack("{s:s}", "x", repeated('a', FRAME_MAX)), 1000000,
				       on_answer, f, NULL),
			 -EMSGSIZE);
	send_request(f, 3);
	settle(f);
	assert_int_equal(rpc_request_reply(TAKE_PTR(f->requests[0]),
					   json_pack("{s:s}", "x", repeated('a', FRAME_MAX))),
			 -EMSGSIZE);
	m = received(f); /* the peer is told at once */
	assert_int_equal(m.type, RPC_ERROR);
	assert_int_equal(m.id, 3);
	assert_int_equal(f->n_answers, 0);
}

static void call_times_out(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	assert_int_equal(call(f, 20000, NULL), 0);
	id = call_id(f);
	settle_for(f, 100000);
	assert_int_equal(f->n_answers, 1);
	assert_int_equal(f->why.code, ERR_TIMED_OUT);
	send_result(f, id, 5); /* too late */
	settle(f);
	assert_int_equal(f->n_answers, 1);
	assert_int_equal(f->n_malformed, 0);
}

static void call_is_cancelled(void **state)
{
	struct fixture *f = *state;
	struct rpc_call *c = NULL;
	int64_t id;

	assert_int_equal(call(f, 20000, &c), 0);
	id = call_id(f);
	assert_null(rpc_call_cancel(c));
	send_result(f, id, 5);
	settle_for(f, 60000);
	assert_int_equal(f->n_answers, 0);
	/* cancelled by the message before the answer, in the same read */
	assert_int_equal(call(f, 1000000, &f->cancel), 0);
	id = call_id(f);
	send_text(f, "{\"jsonrpc\":\"2.0\",\"method\":\"N\"}");
	send_result(f, id, 5);
	settle(f);
	assert_int_equal(f->n_answers, 0);
}

static void peer_hangs_up(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(call(f, 60000000, NULL), 0);
	assert_int_equal(call(f, 60000000, NULL), 0);
	send_request(f, 1);
	settle(f);
	shutdown(f->peer, SHUT_WR);
	settle(f);
	assert_int_equal(f->n_answers, 2);
	assert_int_equal(f->n_down, 1);
	assert_int_equal(f->why.code, ERR_CLOSED);
	assert_int_equal(rpc_request_reply(TAKE_PTR(f->requests[0]), json_object()), -ENOTCONN);
	assert_int_equal(call(f, 1000000, NULL), -ENOTCONN);
	assert_int_equal(rpc_link_write_nul(f->link), -ENOTCONN);
}

/* What was sent before the end is still read. */
static void last_words(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 200; i++)
		send_request(f, i);
	f->drop = true;
	close(f->peer);
	f->peer = -1;
	settle(f);
	assert_int_equal(f->n_requests, 200);
	assert_int_equal(f->n_down, 1);
}

static void free_in_request(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	send_request(f, 1);
	send_request(f, 2); /* in the same read */
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_requests, 1);
}

static void free_in_notification(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	for (int i = 0; i < 2; i++)
		send_text(f, "{\"jsonrpc\":\"2.0\",\"method\":\"N\"}");
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_notifications, 1);
}

static void free_in_malformed(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	send_text(f, "x");
	send_text(f, "x");
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_malformed, 1);
}

static void free_in_answer(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	assert_int_equal(call(f, 1000000, NULL), 0);
	assert_int_equal(call(f, 1000000, NULL), 0);
	send_result(f, call_id(f), 1);
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_answers, 1);
}

static void free_in_timeout(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	assert_int_equal(call(f, 1000, NULL), 0);
	assert_int_equal(call(f, 1000, NULL), 0);
	settle_for(f, 60000);
	assert_null(f->link);
	assert_int_equal(f->n_answers, 1);
}

static void free_in_failed_call(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	assert_int_equal(call(f, 1000000, NULL), 0);
	assert_int_equal(call(f, 1000000, NULL), 0);
	shutdown(f->peer, SHUT_WR);
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_answers, 1);
	assert_int_equal(f->n_down, 0);
}

static void free_in_down(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	shutdown(f->peer, SHUT_WR);
	settle(f);
	assert_null(f->link);
	assert_int_equal(f->n_down, 1);
}

static void stale_answers_are_ignored(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(call(f, 1000000, NULL), 0);
	call_id(f);
	for (int i = 0; i < 40; i++)
		send_result(f, i, 1);
	settle(f);
	assert_int_equal(f->n_answers, 0);
	assert_int_equal(f->n_down, 0);
}

static void lone_nul(void **state)
{
	struct fixture *f = *state;
	char c = 'x';

	assert_int_equal(rpc_link_write_nul(f->link), 0);
	assert_int_equal(read(f->peer, &c, 1), 1);
	assert_int_equal(c, 0);
	send_bytes(f, "\0\0\0", 3);
	settle(f);
	assert_int_equal(f->n_malformed, 0);
}

static void byte_at_a_time(void **state)
{
	struct fixture *f = *state;
	static const char text[] = "{\"jsonrpc\":\"2.0\",\"method\":\"A\",\"id\":1}";

	for (size_t i = 0; i < sizeof(text); i++) {
		assert_int_equal(f->n_requests, 0);
		send_bytes(f, text + i, 1);
		settle(f);
	}
	assert_int_equal(f->n_requests, 1);
}

/* More output than the socket takes: the loop writes the rest in order. */
static void slow_reader(void **state)
{
	struct fixture *f = *state;
	struct rpc_message m;

	for (int i = 0; i < 40; i++)
		assert_int_equal(
			rpc_link_notify(f->link, "N",
					json_pack("{s:i,s:s}", "x", i, "y", repeated('a', 20000))),
			0);
	for (int i = 0; i < 40;) {
		settle(f);
		if (!receive(f, &m))
			continue;
		assert_int_equal(json_integer_value(json_object_get(m.body, "x")), i++);
		rpc_message_done(&m);
	}
	assert_int_equal(f->n_down, 0);
}

static void calls_answered_out_of_order(void **state)
{
	struct fixture *f = *state;
	struct failure error = {ERR_NO_SUCH_PEER, "nobody"};
	int64_t first, second;
	char *text = NULL;

	assert_int_equal(call(f, 1000000, NULL), 0);
	assert_int_equal(call(f, 1000000, NULL), 0);
	first = call_id(f);
	second = call_id(f);
	assert_int_equal(second, first + 1);
	send_result(f, second, 22);
	settle(f);
	assert_int_equal(f->n_answers, 1);
	assert_int_equal(f->result, 22);
	assert_int_equal(rpc_format_error(first, error.code, error.text, &text), 0);
	send_text(f, text);
	free(text);
	settle(f);
	assert_int_equal(f->n_answers, 2);
	assert_int_equal(f->why.code, ERR_NO_SUCH_PEER);
	assert_string_equal(f->why.text, "nobody");
}

static void requests_answered_later(void **state)
{
	struct fixture *f = *state;
	struct failure error = {ERR_REVOKED, "gone"};
	struct rpc_message m;

	send_request(f, 10);
	send_request(f, 11);
	settle(f);
	assert_int_equal(rpc_request_fail(TAKE_PTR(f->requests[1]), &error), 0);
	assert_int_equal(rpc_request_reply(TAKE_PTR(f->requests[0]), json_pack("{s:i}", "x", 3)),
			 0);
	m = received(f);
	assert_int_equal(m.id, 11);
	assert_int_equal(m.error.code, ERR_REVOKED);
	m = received(f);
	assert_int_equal(m.id, 10);
	assert_int_equal(json_integer_value(json_object_get(m.body, "x")), 3);
	rpc_message_done(&m);
}

/* The master side of a pty is a device whose other end comes and goes. */
static int open_device(int *ret_other)
{
	struct termios t;
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(grantpt(fd), 0);
	assert_int_equal(unlockpt(fd), 0);
	assert_int_equal(tcgetattr(fd, &t), 0);
	cfmakeraw(&t);
	assert_int_equal(tcsetattr(fd, TCSANOW, &t), 0);
	*ret_other = open(ptsname(fd), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_true(*ret_other >= 0);
	return fd;
}

static void device_comes_and_goes(void **state)
{
	struct fixture *f = *state;
	struct rpc_message m;
	char name[64];
	int fd;

	f->link = rpc_link_free(f->link);
	close(f->peer);
	fd = open_device(&f->peer);
	snprintf(name, sizeof(name), "%s", ptsname(fd));
	close(f->peer);
	assert_int_equal(rpc_link_new(f->event, fd, RPC_LINK_DEVICE, &handler, f, &f->link), 0);
	assert_false(rpc_link_is_up(f->link));
	settle_for(f, 200000);
	assert_int_equal(f->n_up, 0);
	assert_int_equal(f->n_down, 0);

	for (size_t round = 1; round <= 2; round++) {
		f->peer = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		for (int i = 0; i < 100 && f->n_up < round; i++)
			sd_event_run(f->event, 50000);
		assert_int_equal(f->n_up, round);
		send_request(f, 1);
		settle_for(f, 50000);
		assert_int_equal(f->n_requests, round);
		assert_int_equal(rpc_request_reply(TAKE_PTR(f->requests[round - 1]), NULL), 0);
		m = received(f);
		rpc_message_done(&m);
		assert_int_equal(call(f, 60000000, NULL), 0);
		send_bytes(f, "{\"half", 6); /* forgotten when it is back */
		settle_for(f, 50000);
		close(f->peer);
		for (int i = 0; i < 100 && f->n_down < round; i++)
			sd_event_run(f->event, 50000);
		assert_int_equal(f->n_down, round);
		assert_int_equal(f->n_answers, round);
	}
	f->peer = -1;
}

/* The host cannot be dropped: what is malformed is only counted, a full queue refuses. */
static void device_stays(void **state)
{
	struct fixture *f = *state;
	int r = 0;

	f->link = rpc_link_free(f->link);
	close(f->peer);
	assert_int_equal(rpc_link_new(f->event, open_device(&f->peer), RPC_LINK_DEVICE, &handler, f,
				      &f->link),
			 0);
	settle_for(f, 50000);
	assert_int_equal(f->n_up, 1);
	for (int i = 0; i < 20; i++)
		send_text(f, "nonsense");
	settle_for(f, 50000);
	assert_int_equal(f->n_malformed, 20);
	for (int i = 0; i < 200 && r == 0; i++)
		r = rpc_link_notify(f->link, "N", json_pack("{s:s}", "x", repeated('a', 30000)));
	assert_int_equal(r, -ENOBUFS);
	settle(f);
	assert_int_equal(f->n_down, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bad_fd),
		TEST(malformed_in_a_row),
		TEST(bad_params_in_a_row),
		TEST(malformed_is_answered),
		TEST(too_long_is_malformed),
		TEST(too_many_requests),
		TEST(too_many_calls),
		TEST(output_queue_full),
		TEST(too_long_to_send),
		TEST(call_times_out),
		TEST(call_is_cancelled),
		TEST(peer_hangs_up),
		TEST(last_words),
		TEST(free_in_request),
		TEST(free_in_notification),
		TEST(free_in_malformed),
		TEST(free_in_answer),
		TEST(free_in_timeout),
		TEST(free_in_failed_call),
		TEST(free_in_down),
		TEST(stale_answers_are_ignored),
		TEST(lone_nul),
		TEST(byte_at_a_time),
		TEST(slow_reader),
		TEST(calls_answered_out_of_order),
		TEST(requests_answered_later),
		TEST(device_comes_and_goes),
		TEST(device_stays),
	};

	return cmocka_run_group_tests_name("rpc-link", tests, NULL, NULL);
}
