/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON-RPC 2.0 objects: text <-> struct rpc_message. Pure. */
#ifndef SIVSHM_RPC_H
#define SIVSHM_RPC_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define RPC_METHOD_SIZE 32

enum rpc_type { RPC_REQUEST, RPC_NOTIFICATION, RPC_RESULT, RPC_ERROR };

/** struct rpc_message - one decoded message; @body is owned */
struct rpc_message {
	enum rpc_type type;
	int64_t id; /* REQUEST, RESULT, ERROR */
	char method[RPC_METHOD_SIZE]; /* REQUEST, NOTIFICATION */
	json_t *body; /* params or result: always an object; NULL for ERROR */
	struct failure error; /* ERROR */
};

void rpc_message_done(struct rpc_message *m);

/**
 * rpc_parse() - total decoder
 * On failure @ret_error says what is wrong (ERR_PARSE, ERR_INVALID_REQUEST) and @ret->id is the id
 * to answer, or -1 if there is none.  Depth and size of the JSON are bounded, duplicate keys refused.
 */
int rpc_parse(const char *text, size_t length, struct rpc_message *ret, struct failure *ret_error);

/* The formatters take over @body (NULL: empty object), also on failure; the caller frees @ret_text. */
int rpc_format_request(int64_t id, const char *method, json_t *body, char **ret_text);
int rpc_format_notification(const char *method, json_t *body, char **ret_text);
int rpc_format_result(int64_t id, json_t *body, char **ret_text);
int rpc_format_error(int64_t id, int code, const char *text, char **ret_text);

#endif
