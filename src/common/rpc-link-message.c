/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rpc-link-internal.h"

#define TIMEOUT_ACCURACY_USEC 10000

/* Counts the message at hand as malformed; too many in a row are the end of a socket. */
static void count_malformed(struct rpc_link *link)
{
	if (link->is_counted)
		return;
	link->is_counted = true;
	if (++link->n_malformed > RPC_LINK_MAX_MALFORMED && link->kind == RPC_LINK_SOCKET)
		link_fail(link, ERR_PARSE, "too many malformed messages");
}

static void report_malformed(struct rpc_link *link, const struct failure *why)
{
	count_malformed(link);
	if (link->handler->malformed)
		link->handler->malformed(link, why, link->userdata);
}

void rpc_link_count_malformed(struct rpc_link *link, const struct failure *why)
{
	(void)why;
	count_malformed(link);
}

/* @text is taken over; @r: what the formatter said */
static int push_text(struct rpc_link *link, int r, char *text)
{
	if (r >= 0)
		r = link_push(link, text, strlen(text));
	free(text);
	return r;
}

static int push_error(struct rpc_link *link, int64_t id, int code, const char *why)
{
	char *text = NULL;
	int r = rpc_format_error(id, code, why, &text);

	return push_text(link, r, text);
}

/* Own requests */

static void call_free(struct rpc_call *call)
{
	LIST_REMOVE(call, entry);
	call->link->n_calls--;
	sd_event_source_disable_unref(call->timer);
	free(call);
}

struct rpc_call *rpc_call_cancel(struct rpc_call *call)
{
	if (call)
		call_free(call);
	return NULL;
}

/* The call is over before its callback runs: the callback may do anything. */
static void call_complete(struct rpc_call *call, json_t *result, const struct failure *error)
{
	struct rpc_link *link = call->link;
	rpc_call_fn fn = call->fn;
	void *userdata = call->userdata;

	call_free(call);
	fn(link, result, error, userdata);
}

static int on_call_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct failure error;

	(void)source;
	(void)usec;
	failure_set(&error, ERR_TIMED_OUT, "no answer on the control connection in time");
	call_complete(userdata, NULL, &error);
	return 0;
}

void link_fail_calls(struct rpc_link *link, const struct failure *why)
{
	while (link->handler && !LIST_EMPTY(&link->calls))
		call_complete(LIST_FIRST(&link->calls), NULL, why);
}

void link_drop_calls(struct rpc_link *link)
{
	while (!LIST_EMPTY(&link->calls))
		call_free(LIST_FIRST(&link->calls));
}

/* Registers a call; nothing is sent yet. */
static int call_new(struct rpc_link *link, uint64_t timeout_usec, rpc_call_fn fn, void *userdata,
		    struct rpc_call **ret)
{
	struct rpc_call *call;
	int r;

	if (!rpc_link_is_up(link))
		return -ENOTCONN;
	if (link->n_calls >= RPC_LINK_MAX_CALLS)
		return -ENOBUFS;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	*call = (struct rpc_call){
		.link = link, .id = link->next_id++, .fn = fn, .userdata = userdata};
	r = sd_event_add_time_relative(link->event, &call->timer, CLOCK_MONOTONIC, timeout_usec,
				       TIMEOUT_ACCURACY_USEC, on_call_timeout, call);
	if (r < 0) {
		free(call);
		return r;
	}
	LIST_INSERT_HEAD(&link->calls, call, entry);
	link->n_calls++;
	*ret = call;
	return 0;
}

int rpc_link_call(struct rpc_link *link, const char *method, json_t *body, uint64_t timeout_usec,
		  rpc_call_fn fn, void *userdata, struct rpc_call **ret_call)
{
	struct rpc_call *call;
	char *text = NULL;
	int r;

	r = call_new(link, timeout_usec, fn, userdata, &call);
	if (r < 0) {
		json_decref(body);
		return r;
	}
	r = rpc_format_request(call->id, method, body, &text);
	r = push_text(link, r, text);
	if (r < 0) {
		call_free(call);
		return r;
	}
	if (ret_call)
		*ret_call = call;
	return 0;
}

int rpc_link_notify(struct rpc_link *link, const char *method, json_t *body)
{
	char *text = NULL;
	int r = rpc_format_notification(method, body, &text);

	return push_text(link, r, text);
}

/* The peer's requests */

struct rpc_request *rpc_request_drop(struct rpc_request *request)
{
	if (!request)
		return NULL;
	if (request->link) {
		if (request->link->current == request)
			request->link->current = NULL;
		LIST_REMOVE(request, entry);
		request->link->n_requests--;
	}
	free(request);
	return NULL;
}

void link_orphan_requests(struct rpc_link *link)
{
	while (!LIST_EMPTY(&link->requests)) {
		struct rpc_request *request = LIST_FIRST(&link->requests);

		LIST_REMOVE(request, entry);
		request->link = NULL;
	}
	link->n_requests = 0;
	link->current = NULL;
}

int rpc_request_reply(struct rpc_request *request, json_t *result)
{
	_cleanup_(rpc_request_dropp) struct rpc_request *owned = request;
	char *text = NULL;
	int r;

	if (!owned->link) {
		json_decref(result);
		return -ENOTCONN;
	}
	r = rpc_format_result(owned->id, result, &text);
	/* an error is an answer too: the peer need not wait for its timeout */
	if (r < 0)
		push_error(owned->link, owned->id, ERR_FAILED, "cannot encode the answer");
	return push_text(owned->link, r, text);
}

int rpc_request_fail(struct rpc_request *request, const struct failure *error)
{
	_cleanup_(rpc_request_dropp) struct rpc_request *owned = request;

	if (!owned->link)
		return -ENOTCONN;
	if (owned->link->current == owned &&
	    (error->code == ERR_INVALID_PARAMS || error->code == ERR_NO_SUCH_METHOD))
		count_malformed(owned->link);
	return push_error(owned->link, owned->id, error->code, error->text);
}

/* Charged before the handler sees it. */
static struct rpc_request *request_new(struct rpc_link *link, int64_t id)
{
	struct rpc_request *request;

	if (link->n_requests >= RPC_LINK_MAX_REQUESTS)
		return NULL;
	request = calloc(1, sizeof(*request));
	if (!request)
		return NULL;
	*request = (struct rpc_request){.link = link, .id = id};
	LIST_INSERT_HEAD(&link->requests, request, entry);
	link->n_requests++;
	return request;
}

static void dispatch_request(struct rpc_link *link, const struct rpc_message *m)
{
	struct rpc_request *request = request_new(link, m->id);

	if (!request) {
		push_error(link, m->id, ERR_QUOTA_EXCEEDED, "too many requests under way");
		return;
	}
	link->current = request;
	link->handler->request(link, request, m->method, m->body, link->userdata);
	link->current = NULL;
}

/* Answers to nothing are legal: the call was cancelled, timed out or a dead predecessor's. */
static void dispatch_response(struct rpc_link *link, const struct rpc_message *m)
{
	struct rpc_call *call;

	LIST_FOREACH(call, &link->calls, entry) {
		if (call->id == m->id)
			break;
	}
	if (call)
		call_complete(call, m->body, m->type == RPC_ERROR ? &m->error : NULL);
}

static void dispatch_malformed(struct rpc_link *link, const struct rpc_message *m,
			       const struct failure *why)
{
	if (m->id >= 0)
		push_error(link, m->id, why->code, why->text);
	report_malformed(link, why);
}

void link_dispatch(struct rpc_link *link, const char *text, size_t length)
{
	struct rpc_message m;
	struct failure why = {};

	link->is_counted = false;
	if (rpc_parse(text, length, &m, &why) < 0)
		dispatch_malformed(link, &m, &why);
	else if (m.type == RPC_REQUEST)
		dispatch_request(link, &m);
	else if (m.type == RPC_NOTIFICATION)
		link->handler->notification(link, m.method, m.body, link->userdata);
	else
		dispatch_response(link, &m);
	if (!link->is_counted)
		link->n_malformed = 0;
	rpc_message_done(&m);
}

void link_dispatch_too_long(struct rpc_link *link)
{
	struct failure why;

	link->is_counted = false;
	failure_set(&why, ERR_PARSE, "message is longer than %d bytes", FRAME_MAX);
	report_malformed(link, &why);
}
