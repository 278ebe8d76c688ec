/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The relay of one handshake (docs/protocol.md): A = connecting VM, B = listening VM. */
#ifndef CAD_SESSION_H
#define CAD_SESSION_H

#include "message.h"
#include "rpc-link.h"

struct manager;
struct vm;

/** session_connect() - Connect of @vm; takes over @request and the flight of @msg */
void session_connect(struct vm *vm, struct rpc_request *request, struct msg_connect *msg);
/** session_confirm() - Confirm of @vm; takes over @request and the flight of @msg */
void session_confirm(struct vm *vm, struct rpc_request *request, struct msg_confirm *msg);
/** session_cancel() - of either VM; a grant that was made is withdrawn */
int session_cancel(struct vm *vm, const uint8_t id[SESSION_ID_SIZE], struct failure *error);
/** session_opened() - the kernel of @vm has the channel */
void session_opened(struct vm *vm, const struct msg_granted *msg);

/** sessions_vm_lost() - the control port went away: handshakes fail, grants wait for Opened until
 * the timeout */
void sessions_vm_lost(struct vm *vm);
/** sessions_vm_restarted() - Hello: the daemon knows nothing of any session */
void sessions_vm_restarted(struct vm *vm);
/** sessions_recheck() - after a change of policy or revocations: what is not allowed any more fails
 */
void sessions_recheck(struct manager *m);
/** sessions_free() - silently, at the end of the process */
void sessions_free(struct manager *m);

#endif
