/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "frame.h"
#include "rpc.h"

#define RPC_DEPTH_MAX 8

void rpc_message_done(struct rpc_message *m)
{
	json_decref(m->body);
	m->body = NULL;
}

/* jansson's parser recurses: bound the depth before it sees the text. */
static bool depth_is_bounded(const char *text, size_t length)
{
	bool in_string = false;
	unsigned depth = 0;

	for (size_t i = 0; i < length; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > RPC_DEPTH_MAX)
				return false;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		}
	}
	return true;
}

static int load_object(const char *text, size_t length, json_t **ret, struct failure *error)
{
	json_auto_t *root = NULL;
	json_error_t why;

	if (length >= FRAME_MAX)
		return failure_set(error, ERR_PARSE, "message of %zu bytes is too long", length);
	if (!depth_is_bounded(text, length))
		return failure_set(error, ERR_PARSE, "nested too deep");
	root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		return failure_set(error, ERR_PARSE, "not JSON: %s (byte %d)", why.text,
				   why.position);
	if (!json_is_object(root))
		return failure_set(error, ERR_INVALID_REQUEST, "not an object");
	*ret = TAKE_PTR(root);
	return 0;
}

static bool id_is_valid(const json_t *id)
{
	return json_is_integer(id) && json_integer_value(id) >= 0;
}

/* Only a request is ever answered by an error: answering an answer would make two daemons that
 * disagree talk about it for ever. */
static int64_t id_to_answer(const json_t *root)
{
	const json_t *id = json_object_get(root, "id");

	return json_object_get(root, "method") && id_is_valid(id) ? json_integer_value(id) : -1;
}

static int parse_version_and_id(const json_t *root, struct rpc_message *m, struct failure *error)
{
	const char *version = json_string_value(json_object_get(root, "jsonrpc"));
	const json_t *id = json_object_get(root, "id");

	if (!version || strcmp(version, "2.0") != 0)
		return failure_set(error, ERR_INVALID_REQUEST, "jsonrpc is not \"2.0\"");
	if (id && !id_is_valid(id))
		return failure_set(error, ERR_INVALID_REQUEST, "id is no whole number");
	m->id = id ? json_integer_value(id) : -1;
	return 0;
}

/* params or result; absent params mean none */
static int take_body(const json_t *root, const char *name, json_t **ret, struct failure *error)
{
	json_t *body = json_object_get(root, name);

	if (body && !json_is_object(body))
		return failure_set(error, ERR_INVALID_REQUEST, "%s is no object", name);
	*ret = body ? json_incref(body) : json_object();
	return *ret ? 0 : failure_set(error, ERR_FAILED, "out of memory");
}

static bool method_is_valid(const json_t *method)
{
	const char *p = json_string_value(method);
	size_t length = json_string_length(method);

	if (!p || length == 0 || length >= RPC_METHOD_SIZE)
		return false;
	for (size_t i = 0; i < length; i++)
		if (!((p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z')))
			return false;
	return true;
}

static int parse_request(const json_t *root, struct rpc_message *m, struct failure *error)
{
	const json_t *method = json_object_get(root, "method");
	bool has_params = json_object_get(root, "params") != NULL;

	m->type = m->id >= 0 ? RPC_REQUEST : RPC_NOTIFICATION;
	if (!method_is_valid(method))
		return failure_set(error, ERR_INVALID_REQUEST, "method is no name");
	if (json_object_size(root) != 2U + has_params + (m->id >= 0))
		return failure_set(error, ERR_INVALID_REQUEST, "request with an unknown member");
	strcpy(m->method, json_string_value(method));
	return take_body(root, "params", &m->body, error);
}

static int parse_error(const json_t *root, struct rpc_message *m, struct failure *error)
{
	const json_t *e = json_object_get(root, "error");
	const json_t *code = json_object_get(e, "code"), *text = json_object_get(e, "message");
	size_t n_known = 2U + (json_object_get(e, "data") != NULL);

	m->type = RPC_ERROR;
	if (!json_is_integer(code) || !json_is_string(text) || json_object_size(e) != n_known)
		return failure_set(error, ERR_INVALID_REQUEST, "error without code and message");
	if (json_integer_value(code) < INT_MIN || json_integer_value(code) > INT_MAX ||
	    json_integer_value(code) == 0)
		return failure_set(error, ERR_INVALID_REQUEST, "error code out of range");
	failure_set(&m->error, (int)json_integer_value(code), "%s", json_string_value(text));
	return 0;
}

static int parse_response(const json_t *root, struct rpc_message *m, struct failure *error)
{
	bool has_result = json_object_get(root, "result") != NULL;
	bool has_error = json_object_get(root, "error") != NULL;

	if (has_result == has_error || m->id < 0 || json_object_size(root) != 3)
		return failure_set(error, ERR_INVALID_REQUEST, "neither request nor response");
	if (has_error)
		return parse_error(root, m, error);
	m->type = RPC_RESULT;
	return take_body(root, "result", &m->body, error);
}

int rpc_parse(const char *text, size_t length, struct rpc_message *ret, struct failure *ret_error)
{
	json_auto_t *root = NULL;
	int r;

	*ret = (struct rpc_message){.id = -1};
	r = load_object(text, length, &root, ret_error);
	if (r < 0)
		return r;
	r = parse_version_and_id(root, ret, ret_error);
	if (r >= 0)
		r = json_object_get(root, "method") ? parse_request(root, ret, ret_error)
						    : parse_response(root, ret, ret_error);
	if (r < 0)
		ret->id = id_to_answer(root);
	return r;
}

/* Completes @root (taken over, may be NULL: out of memory) by @name = @value (taken over) and
 * "jsonrpc", and prints it. */
static int format_message(json_t *root, const char *name, json_t *value, char **ret_text)
{
	json_auto_t *owned = root;
	_cleanup_free_ char *text = NULL;

	/* json_object_set_new() takes @value over even when @root is NULL */
	if (json_object_set_new(owned, name, value) < 0 ||
	    json_object_set_new(owned, "jsonrpc", json_string("2.0")) < 0)
		return -ENOMEM;
	text = json_dumps(owned, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	if (strlen(text) >= FRAME_MAX)
		return -EMSGSIZE;
	*ret_text = TAKE_PTR(text);
	return 0;
}

int rpc_format_request(int64_t id, const char *method, json_t *body, char **ret_text)
{
	json_t *root = json_pack("{s:I, s:s}", "id", (json_int_t)id, "method", method);

	return format_message(root, "params", body ? body : json_object(), ret_text);
}

int rpc_format_notification(const char *method, json_t *body, char **ret_text)
{
	json_t *root = json_pack("{s:s}", "method", method);

	return format_message(root, "params", body ? body : json_object(), ret_text);
}

int rpc_format_result(int64_t id, json_t *body, char **ret_text)
{
	json_t *root = json_pack("{s:I}", "id", (json_int_t)id);

	return format_message(root, "result", body ? body : json_object(), ret_text);
}

int rpc_format_error(int64_t id, int code, const char *text, char **ret_text)
{
	json_t *root = json_pack("{s:I}", "id", (json_int_t)id);
	struct failure clean;
	json_t *error;

	failure_set(&clean, code, "%s", text);
	error = json_pack("{s:i, s:s}", "code", clean.code, "message", clean.text);
	return format_message(root, "error", error, ret_text);
}
