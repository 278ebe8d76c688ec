/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What session.c (life and end) and session-relay.c (the steps) share. */
#ifndef CAD_SESSION_INTERNAL_H
#define CAD_SESSION_INTERNAL_H

#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "channel.h"
#include "session.h"

enum session_state {
	SESSION_INCOMING,  /* A waits for Connect, B was asked */
	SESSION_OFFERED,   /* A has SH..SF */
	SESSION_FINISHING, /* A waits for Confirm, B has CC..CF; later, the windows are zeroed */
	SESSION_GRANTED,   /* both have a grant, Opened is due */
};

struct session {
	struct manager *manager;
	TAILQ_ENTRY(session) entry;
	enum session_state state;
	uint8_t id[SESSION_ID_SIZE]; /* and the channel's */
	struct peer_name from, to;
	struct vm *from_vm, *to_vm;
	uint64_t ring_size;
	struct rpc_request *request;	  /* of A, to be answered */
	struct rpc_call *call;		  /* to B, under way */
	size_t call_bytes;		  /* charged to to_vm->relay_bytes and from_vm->sent_bytes */
	uint8_t exporter[EXPORTER_SIZE];  /* A's */
	struct channel *prepared;	  /* not published yet */
	bool opened[N_ENDS];
	sd_event_source *timer;
};

/** session_new() - charged to @vm, timer running; NULL: out of memory */
struct session *session_new(struct vm *vm, struct vm *to_vm, const struct peer_name *from,
			    const struct msg_connect *msg);
/** session_find() - only those that @vm has a part in */
struct session *session_find(const struct manager *m, const struct vm *vm,
			     const uint8_t id[SESSION_ID_SIZE]);
/** session_fail() - both ends but @culprit (NULL: none), who knows already, are told; @s is freed */
void session_fail(struct session *s, const struct vm *culprit, const struct failure *why);
/** session_call_done() - B has answered, or will not: its charge ends */
void session_call_done(struct session *s);
/** session_start_timer() - HandshakeTimeout from now */
int session_start_timer(struct session *s);
/** session_report_refusal() - limited for each VM: refusals cost the VM nothing, but the log and the bus */
void session_report_refusal(struct vm *vm, const struct peer_name *from, const struct peer_name *to,
			    const struct failure *why);

#endif
