/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control port of one VM: its socket, at most one connection, what its daemon has said so far. */
#ifndef CAD_CONTROL_H
#define CAD_CONTROL_H

#include <stdbool.h>

#include "message.h"
#include "rpc-link.h"

struct vm;

struct control {
	struct vm *vm;
	sd_event_source *listen_source; /* owns the fd */
	struct rpc_link *link;		/* NULL: nobody is connected */
	bool ready;			/* the daemon said Hello on it */
	char (*listeners)[SIVSHM_SERVICE_NAME_SIZE];
	size_t n_listeners;
};

/** control_new() - socket and connection, or those of a predecessor */
int control_new(struct vm *vm, struct control **ret);
/** control_free() - with @forget the socket and the fd store's entries go too */
void control_free(struct control *c, bool forget);

bool control_is_connected(const struct vm *vm);
bool control_is_ready(const struct vm *vm);

/** control_notify() - @body is taken over; without a daemon that said Hello: nothing */
void control_notify(struct vm *vm, const char *method, json_t *body);

bool control_is_listening(const struct vm *vm, const char *service);
/** control_listen() - -ENOBUFS beyond @max */
int control_listen(struct vm *vm, const char *service, unsigned max);
/** control_unlisten() - NULL: all of them */
void control_unlisten(struct vm *vm, const char *service);

/* control-methods.c: what the daemon of a VM may say */
void control_handle_request(struct rpc_link *link, struct rpc_request *request, const char *method,
			    json_t *params, void *vm);
void control_handle_notification(struct rpc_link *link, const char *method, json_t *params,
				 void *vm);

#endif
