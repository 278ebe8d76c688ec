/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The inside of a control connection: rpc-link.c moves bytes, rpc-link-message.c their meaning. */
#ifndef SIVSHM_RPC_LINK_INTERNAL_H
#define SIVSHM_RPC_LINK_INTERNAL_H

#include <sys/queue.h>

#include "frame.h"
#include "rpc.h"
#include "rpc-link.h"

struct rpc_call {
	LIST_ENTRY(rpc_call) entry;
	struct rpc_link *link;
	int64_t id;
	rpc_call_fn fn;
	void *userdata;
	sd_event_source *timer; /* owned */
};

struct rpc_request {
	LIST_ENTRY(rpc_request) entry;
	struct rpc_link *link; /* NULL: orphan */
	int64_t id;
};

LIST_HEAD(rpc_call_list, rpc_call);
LIST_HEAD(rpc_request_list, rpc_request);

struct rpc_link {
	unsigned n_refs; /* the owner's, and one for each dispatch under way */
	const struct rpc_link_handler *handler; /* NULL: freed, waits for a dispatch to return */
	void *userdata;

	sd_event *event; /* owned */
	enum rpc_link_kind kind;
	int fd; /* owned */
	bool is_up;
	bool is_failing; /* goes down when the loop runs @defer */
	struct failure why;
	sd_event_source *io, *defer, *retry; /* owned; @retry: DEVICE */
	uint64_t retry_usec;

	struct frame_reader reader;
	struct frame_queue queue;

	struct rpc_call_list calls;
	struct rpc_request_list requests;
	size_t n_calls, n_requests;
	int64_t next_id;
	unsigned n_malformed;		   /* in a row */
	bool is_counted;		   /* the message at hand was */
	const struct rpc_request *current; /* in handler->request(), not yet answered */
};

/** link_fail() - go down from the loop; the first reason counts */
void link_fail(struct rpc_link *link, int code, const char *text);
/** link_push() - queue and try to write; takes over nothing */
int link_push(struct rpc_link *link, const char *text, size_t length);

/** link_dispatch() - one frame; the link may be freed when it returns, the caller holds a reference
 */
void link_dispatch(struct rpc_link *link, const char *text, size_t length);
/** link_dispatch_too_long() - a frame was dropped unread */
void link_dispatch_too_long(struct rpc_link *link);
/** link_fail_calls() - every call that waits gets @why; stops when a callback frees the link */
void link_fail_calls(struct rpc_link *link, const struct failure *why);
/** link_drop_calls() - every call that waits is forgotten */
void link_drop_calls(struct rpc_link *link);
/** link_orphan_requests() - nobody will read the answers */
void link_orphan_requests(struct rpc_link *link);

#endif
