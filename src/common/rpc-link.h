/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One control connection on an sd-event loop (docs/protocol.md): frames, requests both ways with
 * timeouts, notifications.  Not pure; part of common_bus_lib.  Writes no log.
 *
 * Callbacks come from the event loop alone, never from inside a function of this header, and may
 * call anything here, rpc_link_free() on their own link included.
 *
 * A link is up or down.  Down: calls and notifications fail with -ENOTCONN, what was queued or half
 * read is forgotten, every call that waited has had its callback, requests not yet answered are
 * orphans (answering them is harmless).
 *
 *	RPC_LINK_SOCKET  is up when made; down() is the end of it, the owner frees it
 *	RPC_LINK_DEVICE  virtio-serial port, begins down; goes up and down with the host's end
 */
#ifndef SIVSHM_RPC_LINK_H
#define SIVSHM_RPC_LINK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "cleanup.h"
#include "errors.h"

#define RPC_LINK_MAX_REQUESTS 256 /* of the peer, not yet answered; more get ERR_QUOTA_EXCEEDED */
#define RPC_LINK_MAX_CALLS 4096	  /* own, not yet answered */
#define RPC_LINK_MAX_MALFORMED 16 /* in a row; one more takes a socket down */

struct rpc_link;    /* owned by who made it */
struct rpc_call;    /* own request under way; owned by the link, see rpc_call_cancel() */
struct rpc_request; /* request of the peer; owned by the handler until it answers or drops it */

enum rpc_link_kind { RPC_LINK_SOCKET, RPC_LINK_DEVICE };

/**
 * struct rpc_link_handler - what the owner of a link is told; static, may be shared by links
 * @request:      @request must be given to exactly one of rpc_request_reply(), _fail(), _drop(),
 * now or later, whatever happens to the link meanwhile; @params is borrowed
 * @notification: @params is borrowed
 * @up:           DEVICE: the host's end is there; the place for rpc_link_write_nul() and Hello
 * @down:         why: ERR_CLOSED hang-up or I/O error, ERR_PARSE too many malformed messages,
 *                ERR_QUOTA_EXCEEDED output queue full
 * @malformed:    a message was dropped (too long, no JSON-RPC, unknown id is no such case); may be
 * NULL
 */
struct rpc_link_handler {
	void (*request)(struct rpc_link *link, struct rpc_request *request, const char *method,
			json_t *params, void *userdata);
	void (*notification)(struct rpc_link *link, const char *method, json_t *params,
			     void *userdata);
	void (*up)(struct rpc_link *link, void *userdata);
	void (*down)(struct rpc_link *link, const struct failure *why, void *userdata);
	void (*malformed)(struct rpc_link *link, const struct failure *why, void *userdata);
};

/**
 * rpc_link_new() - take over a connected socket or an open device
 * @fd: made nonblocking and owned by the link on success, the caller's on failure
 * @handler, @userdata: borrowed until rpc_link_free()
 */
int rpc_link_new(sd_event *event, int fd, enum rpc_link_kind kind,
		 const struct rpc_link_handler *handler, void *userdata, struct rpc_link **ret);
/**
 * rpc_link_free() - close the fd; silent: neither down() nor callbacks of calls that wait
 * Requests not yet answered become orphans.  NULL is fine; returns NULL.
 */
struct rpc_link *rpc_link_free(struct rpc_link *link);
DEFINE_CLEANUP(struct rpc_link *, rpc_link_free)

bool rpc_link_is_up(const struct rpc_link *link);
/** rpc_link_unsent() - bytes that the other end has not taken; 0 when down */
size_t rpc_link_unsent(const struct rpc_link *link);
/** rpc_link_fd() - borrowed, e.g. for the fd store */
int rpc_link_fd(const struct rpc_link *link);

/**
 * rpc_link_write_nul() - end what a dead predecessor left half-written; first thing on a connection
 * that is not new
 */
int rpc_link_write_nul(struct rpc_link *link);

/**
 * rpc_call_fn - the answer to an own request; called once
 * Either @result (borrowed object) or @error is set: the peer's error, ERR_TIMED_OUT, or
 * ERR_CLOSED when the link went down.
 */
typedef void (*rpc_call_fn)(struct rpc_link *link, json_t *result, const struct failure *error,
			    void *userdata);

/**
 * rpc_link_call() - send a request
 * @body: taken over, also on failure; NULL: {}
 * @timeout_usec: relative; not 0
 * @ret_call: handle for rpc_call_cancel(), valid until @fn is called or the link freed; may be NULL
 * On failure (-ENOTCONN, -ENOBUFS, -EMSGSIZE, -ENOMEM) @fn is not called.  Ids begin at a random
 * number, so an answer to a dead predecessor matches nothing and is ignored.
 */
int rpc_link_call(struct rpc_link *link, const char *method, json_t *body, uint64_t timeout_usec,
		  rpc_call_fn fn, void *userdata, struct rpc_call **ret_call);
/** rpc_call_cancel() - the answer is no more wanted: @fn is not called.  NULL is fine; returns NULL
 */
struct rpc_call *rpc_call_cancel(struct rpc_call *call);

/** rpc_link_notify() - @body is taken over, also on failure; NULL: {} */
int rpc_link_notify(struct rpc_link *link, const char *method, json_t *body);

/*
 * Answers.  All three take over @request; 0, or a negative errno when the answer could not be
 * queued (-ENOTCONN: orphan), which needs no action.
 */
/** rpc_request_reply() - @result is taken over; NULL: {} */
int rpc_request_reply(struct rpc_request *request, json_t *result);
/** rpc_request_fail() - ERR_INVALID_PARAMS and ERR_NO_SUCH_METHOD in the handler count as malformed
 */
int rpc_request_fail(struct rpc_request *request, const struct failure *error);
/** rpc_request_drop() - no answer at all (what came before Welcome); NULL is fine; returns NULL */
struct rpc_request *rpc_request_drop(struct rpc_request *request);
DEFINE_CLEANUP(struct rpc_request *, rpc_request_drop)

/** rpc_link_count_malformed() - in notification(): the params did not decode */
void rpc_link_count_malformed(struct rpc_link *link, const struct failure *why);

#endif
