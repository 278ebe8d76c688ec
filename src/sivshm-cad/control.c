/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "control.h"
#include "log.h"
#include "manager.h"
#include "session.h"
#include "vm.h"

#define PATH_SIZE 80

static void stored_name(const struct vm *vm, char prefix, char *ret)
{
	snprintf(ret, FDSTORE_NAME_SIZE, "%c.%s", prefix, vm->name);
}

bool control_is_connected(const struct vm *vm)
{
	return vm->control && vm->control->link;
}

bool control_is_ready(const struct vm *vm)
{
	return vm->control && vm->control->ready;
}

void control_notify(struct vm *vm, const char *method, json_t *body)
{
	if (control_is_ready(vm))
		rpc_link_notify(vm->control->link, method,
				body); /* a full queue ends the link by itself */
	else
		json_decref(body);
}

static size_t find_listener(const struct control *c, const char *service)
{
	size_t i = 0;

	while (i < c->n_listeners && strcmp(c->listeners[i], service) != 0)
		i++;
	return i;
}

bool control_is_listening(const struct vm *vm, const char *service)
{
	return vm->control && find_listener(vm->control, service) < vm->control->n_listeners;
}

int control_listen(struct vm *vm, const char *service, unsigned max)
{
	struct control *c = vm->control;
	char(*list)[SIVSHM_SERVICE_NAME_SIZE];

	if (control_is_listening(vm, service))
		return 0;
	if (c->n_listeners >= max)
		return -ENOBUFS;
	list = reallocarray(c->listeners, c->n_listeners + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	c->listeners = list;
	snprintf(list[c->n_listeners++], sizeof(*list), "%s", service);
	return 0;
}

void control_unlisten(struct vm *vm, const char *service)
{
	struct control *c = vm->control;
	size_t i;

	if (!service) {
		c->n_listeners = 0;
		return;
	}
	i = find_listener(c, service);
	if (i < c->n_listeners)
		memmove(c->listeners[i], c->listeners[--c->n_listeners], sizeof(*c->listeners));
}

static void disconnect(struct control *c)
{
	c->link = rpc_link_free(c->link);
	c->ready = false;
	c->n_listeners = 0;
}

static void on_down(struct rpc_link *link, const struct failure *why, void *userdata)
{
	struct vm *vm = userdata;
	char name[FDSTORE_NAME_SIZE];

	(void)link;
	if (why->code == ERR_CLOSED && vm_may_log_connection(vm))
		log_info("VM %s: control port disconnected", vm->name);
	else if (why->code != ERR_CLOSED)
		log_warning("VM %s: control port dropped: %s", vm->name, why->text);
	stored_name(vm, 'C', name);
	fdstore_remove(name);
	disconnect(vm->control);
	sessions_vm_lost(vm);
}

static const struct rpc_link_handler link_handler = {
	.request = control_handle_request,
	.notification = control_handle_notification,
	.down = on_down,
};

static bool is_of_vm(struct vm *vm, int fd)
{
	uint32_t uid;

	if (tree_peer_uid(fd, &uid) >= 0 && uid == vm->config->uid)
		return true;
	if (vm_may_log_connection(vm))
		log_warning("VM %s: a process that is not uid %u tried its control port", vm->name,
			    vm->config->uid);
	return false;
}

static bool may_connect(struct vm *vm, int fd)
{
	if (!is_of_vm(vm, fd))
		return false;
	if (!vm->control->link)
		return true;
	if (vm_may_log_connection(vm))
		log_warning("VM %s: its control port has a connection already", vm->name);
	return false;
}

static int on_connection(sd_event_source *source, int listen_fd, uint32_t events, void *userdata)
{
	_cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct vm *vm = userdata;
	char name[FDSTORE_NAME_SIZE];

	(void)source, (void)events;
	if (fd < 0 || !may_connect(vm, fd) ||
	    rpc_link_new(vm->manager->event, fd, RPC_LINK_SOCKET, &link_handler, vm,
			 &vm->control->link) < 0)
		return 0;
	stored_name(vm, 'C', name);
	fdstore_put(name, TAKE_FD(fd));
	/* a daemon that said Hello on a connection that broke does not know that it has to say it
	 * again */
	rpc_link_write_nul(vm->control->link);
	rpc_link_notify(vm->control->link, "Reset", NULL);
	if (vm_may_log_connection(vm))
		log_info("VM %s: control port connected", vm->name);
	return 0;
}

static int start_listening(struct control *c)
{
	struct manager *m = c->vm->manager;
	char name[FDSTORE_NAME_SIZE], path[PATH_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	stored_name(c->vm, 'L', name);
	snprintf(path, sizeof(path), "vm/%s/control.sock", c->vm->name);
	fd = fdstore_take(m->restored, name);
	if (fd < 0 || !tree_keep_socket(&m->tree, path, c->vm->config->gid)) {
		closep(&fd);
		fd = -1;
		r = tree_listen(&m->tree, path, c->vm->config->gid, &fd);
		if (r < 0)
			return r;
		fdstore_put(name, fd);
	}
	r = sd_event_add_io(m->event, &c->listen_source, fd, EPOLLIN, on_connection, c->vm);
	if (r >= 0)
		r = sd_event_source_set_ratelimit(c->listen_source, 1000000, 100);
	if (r >= 0)
		r = sd_event_source_set_io_fd_own(c->listen_source, true);
	if (r >= 0)
		TAKE_FD(fd);
	return r;
}

/* adopt_connection() - the daemon at its end has to say Hello again: what it said before is
 * forgotten */
static int adopt_connection(struct control *c)
{
	char name[FDSTORE_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	stored_name(c->vm, 'C', name);
	fd = fdstore_take(c->vm->manager->restored, name);
	if (fd < 0)
		return 0;
	if (!is_of_vm(c->vm, fd)) { /* any more: User= was another one */
		fdstore_remove(name);
		return 0;
	}
	r = rpc_link_new(c->vm->manager->event, fd, RPC_LINK_SOCKET, &link_handler, c->vm,
			 &c->link);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	rpc_link_write_nul(c->link);
	return rpc_link_notify(c->link, "Reset", NULL);
}

int control_new(struct vm *vm, struct control **ret)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->vm = vm;
	r = start_listening(c);
	if (r >= 0)
		r = adopt_connection(c);
	if (r < 0) {
		control_free(c, false);
		return r;
	}
	*ret = c;
	return 0;
}

void control_free(struct control *c, bool forget)
{
	char name[FDSTORE_NAME_SIZE];

	if (!c)
		return;
	disconnect(c);
	sd_event_source_disable_unref(c->listen_source);
	free(c->listeners);
	if (forget) {
		stored_name(c->vm, 'L', name);
		fdstore_remove(name);
		stored_name(c->vm, 'C', name);
		fdstore_remove(name);
	}
	free(c);
}
