/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * org.sivshm1.Manager.  Methods are declared unprivileged, for else sd-bus would ask the bus about
 * the caller and sit for the answer; who may do what is decided here, when the bus has told.
 * Arguments are checked before the bus is asked: a message that waits is a proper, thus small, one.
 */
#include <errno.h>
#include <string.h>

#include "bus-args.h"
#include "connect.h"
#include "listener.h"
#include "manager-bus.h"

#define INTERFACE "org.sivshm1.Manager"
#define ACTION_RELOAD "org.sivshm1.reload"
#define WRITE_QUEUE_MAX 1024
#define TEXT_SHOWN 100 /* of a wrong argument, in the error */

bool manager_bus_is_full(struct manager *m)
{
	uint64_t n;

	return sd_bus_get_n_queued_write(m->bus, &n) < 0 || n > WRITE_QUEUE_MAX;
}

int manager_bus_identify(struct manager *m, sd_bus_message *message,
			 const struct bus_sender *sender, struct caller *ret, sd_bus_error *error)
{
	struct failure failure;

	(void)m;
	if (caller_identify(sd_bus_message_get_sender(message), sender->uid, sender->pid,
			    sender->pidfd, ret, &failure) < 0)
		return bus_error_set_failure(error, &failure);
	return 0;
}

static int check_service(const char *service, sd_bus_error *error)
{
	if (!service[0] || service_name_is_valid(service))
		return 0;
	return bus_args_invalid(error, "'%.*s' is no service name", TEXT_SHOWN, service);
}

static int parse_peer(const char *text, struct peer_name *ret, sd_bus_error *error)
{
	if (peer_name_parse(text, ret) >= 0)
		return 0;
	return bus_args_invalid(error, "'%.*s' is no peer, which is 'vm/service'", TEXT_SHOWN,
				text);
}

/* identify_caller() - the arguments are right (@r): who is it?  @fn reads them again when that is
 * known */
static int identify_caller(struct manager *m, sd_bus_message *message, int r, bus_access_fn fn)
{
	if (r >= 0)
		r = sd_bus_message_rewind(message, true);
	return r < 0 ? r : bus_access_identify(m->access, message, fn, m);
}

/*
 * Connect
 */

static int read_connect(sd_bus_message *message, struct connect_request *ret, sd_bus_error *error)
{
	const struct bus_option options[] = {
		{"RingSize", 't', SIVSHM_MIN_RING_SIZE, SIVSHM_MAX_RING_SIZE, &ret->ring_size},
		{"TimeoutUSec", 't', 1, CONNECT_TIMEOUT_MAX_USEC, &ret->timeout_usec},
	};
	const char *peer;
	int r;

	ret->ring_size = RING_SIZE_DEFAULT;
	ret->timeout_usec = CONNECT_TIMEOUT_DEFAULT_USEC;
	r = sd_bus_message_read(message, "ss", &ret->service, &peer);
	if (r < 0)
		return r;
	r = check_service(ret->service, error);
	if (r < 0)
		return r;
	r = parse_peer(peer, &ret->peer, error);
	if (r < 0)
		return r;
	r = bus_args_options(message, options, ELEMENTSOF(options), error);
	if (r < 0)
		return r;
	if (!ring_size_is_valid(ret->ring_size))
		return bus_args_invalid(error, "RingSize is no power of two from 4096");
	return 0;
}

static int connect_identified(sd_bus_message *message, const struct bus_sender *sender,
			      void *userdata, sd_bus_error *error)
{
	struct connect_request request = {.arrived_usec = sender->arrived_usec};
	struct manager *m = userdata;
	char peer[PEER_NAME_SIZE];
	struct failure failure;
	struct caller caller;
	int r;

	r = read_connect(message, &request, error);
	if (r < 0)
		return r;
	r = manager_bus_identify(m, message, sender, &caller, error);
	if (r < 0)
		return r;
	r = connect_start(m, &caller, message, &request, &failure);
	if (r >= 0)
		return 0;
	peer_name_format(&request.peer, peer);
	manager_refused(m, request.service, peer, &failure, &caller);
	return bus_error_set_failure(error, &failure);
}

static int method_connect(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct connect_request request;

	return identify_caller(userdata, message, read_connect(message, &request, error),
			       connect_identified);
}

/*
 * Listen
 */

static int read_listen(sd_bus_message *message, struct listen_request *ret, sd_bus_error *error)
{
	uint64_t backlog = BACKLOG_DEFAULT;
	const struct bus_option options[] = {
		{"Backlog", 'u', 1, BACKLOG_MAX, &backlog},
		{"MaxRingSize", 't', SIVSHM_MIN_RING_SIZE, SIVSHM_MAX_RING_SIZE, &ret->max_ring},
	};
	int r;

	r = sd_bus_message_read(message, "s", &ret->service);
	if (r < 0)
		return r;
	r = check_service(ret->service, error);
	if (r < 0)
		return r;
	r = bus_args_options(message, options, ELEMENTSOF(options), error);
	if (r < 0)
		return r;
	if (ret->max_ring && !ring_size_is_valid(ret->max_ring))
		return bus_args_invalid(error, "MaxRingSize is no power of two from 4096");
	ret->backlog = (unsigned)backlog;
	return 0;
}

static int listen_identified(sd_bus_message *message, const struct bus_sender *sender,
			     void *userdata, sd_bus_error *error)
{
	struct listen_request request = {};
	struct manager *m = userdata;
	struct failure failure;
	struct caller caller;
	int r;

	r = read_listen(message, &request, error);
	if (r < 0)
		return r;
	r = manager_bus_identify(m, message, sender, &caller, error);
	if (r < 0)
		return r;
	r = listener_start(m, &caller, message, &request, &failure);
	if (r >= 0)
		return 0;
	manager_refused(m, request.service, "", &failure, &caller);
	return bus_error_set_failure(error, &failure);
}

static int method_listen(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct listen_request request = {};

	return identify_caller(userdata, message, read_listen(message, &request, error),
			       listen_identified);
}

/*
 * Explain
 */

struct explain_request {
	const char *service;
	bool listens; /* no peer is named */
	struct peer_name peer;
};

static int read_explain(sd_bus_message *message, struct explain_request *ret, sd_bus_error *error)
{
	const char *peer;
	int r;

	r = sd_bus_message_read(message, "ss", &ret->service, &peer);
	if (r < 0)
		return r;
	r = check_service(ret->service, error);
	if (r < 0)
		return r;
	ret->listens = !peer[0];
	return ret->listens ? 0 : parse_peer(peer, &ret->peer, error);
}

static int explain_identified(sd_bus_message *message, const struct bus_sender *sender,
			      void *userdata, sd_bus_error *error)
{
	struct explain_request request;
	struct manager *m = userdata;
	struct policy_question q = {};
	struct policy_verdict verdict;
	struct caller caller;
	int r;

	r = read_explain(message, &request, error);
	if (r >= 0)
		r = manager_bus_identify(m, message, sender, &caller, error);
	if (r < 0)
		return r;
	q.act = request.listens ? POLICY_LISTEN : POLICY_CONNECT;
	q.service = request.service;
	q.uid = caller.uid;
	q.unit = caller.unit;
	q.peer = &request.peer;
	policy_decide(m->policy, &q, &verdict);
	return sd_bus_reply_method_return(message, "bs", verdict.allowed, verdict.text);
}

static int method_explain(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct explain_request request;

	return identify_caller(userdata, message, read_explain(message, &request, error),
			       explain_identified);
}

/*
 * Administration
 */

static int reload_authorized(sd_bus_message *message, const struct bus_sender *sender,
			     void *userdata, sd_bus_error *error)
{
	struct conf_error wrong;

	(void)sender;
	if (manager_reload(userdata, &wrong) < 0) {
		sd_bus_error_setf(error, error_dbus_name(ERR_FAILED), "%s",
				  wrong.text[0] ? wrong.text : "the policy cannot be read");
		return -EBADMSG;
	}
	return sd_bus_reply_method_return(message, NULL);
}

static int method_reload(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;

	(void)error;
	return bus_access_authorize(m->access, message, ACTION_RELOAD, reload_authorized, m);
}

static int forget_authorized(sd_bus_message *message, const struct bus_sender *sender,
			     void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;

	(void)sender;
	(void)error;
	identities_forget(m->identities, NULL);
	return sd_bus_reply_method_return(message, NULL);
}

static int method_forget(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;

	(void)error;
	return bus_access_authorize(m->access, message, ACTION_RELOAD, forget_authorized, m);
}

/*
 * Signals
 */

void manager_bus_refused(struct manager *m, const char *service, const char *peer,
			 const char *error, uid_t uid)
{
	if (!manager_bus_is_full(m))
		sd_bus_emit_signal(m->bus, MANAGER_PATH, INTERFACE, "Refused", "sssu", service,
				   peer, error, (uint32_t)uid);
}

void manager_bus_host_changed(struct manager *m)
{
	if (!manager_bus_is_full(m))
		sd_bus_emit_properties_changed(m->bus, MANAGER_PATH, INTERFACE, "HostConnected",
					       "VM", "TrustDomain", NULL);
}

static const sd_bus_vtable vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("Connect", SD_BUS_ARGS("s", service, "s", peer, "a{sv}", options),
				SD_BUS_RESULT("h", fd, "o", channel, "a{sv}", identity),
				method_connect, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Listen", SD_BUS_ARGS("s", service, "a{sv}", options),
				SD_BUS_RESULT("o", listener), method_listen,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("ListChannels", SD_BUS_NO_ARGS,
				SD_BUS_RESULT("a(ouusssust)", channels), manager_list_channels,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("ListListeners", SD_BUS_NO_ARGS,
				SD_BUS_RESULT("a(osusuu)", listeners), manager_list_listeners,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Explain", SD_BUS_ARGS("s", service, "s", peer),
				SD_BUS_RESULT("b", allowed, "s", reason), method_explain,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_reload,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_ARGS("ForgetCertificates", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT,
				method_forget, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("Version", "s", manager_get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("VM", "s", manager_get_vm, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_PROPERTY("TrustDomain", "s", manager_get_trust_domain, 0,
			SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_PROPERTY("HostConnected", "b", manager_get_host_connected, 0,
			SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_PROPERTY("KernelABI", "u", manager_get_kernel_abi, 0, 0),
	SD_BUS_PROPERTY("Sections", "a(ssbtsb)", manager_get_sections, 0, 0),
	SD_BUS_PROPERTY("Certificates", "a(ssst)", manager_get_certificates, 0, 0),
	SD_BUS_SIGNAL_WITH_ARGS("ChannelAdded", SD_BUS_ARGS("o", channel, "s", local, "s", peer),
				0),
	SD_BUS_SIGNAL_WITH_ARGS("ChannelRemoved", SD_BUS_ARGS("o", channel, "s", reason), 0),
	SD_BUS_SIGNAL_WITH_ARGS("Refused",
				SD_BUS_ARGS("s", service, "s", peer, "s", error, "u", uid), 0),
	SD_BUS_VTABLE_END,
};

/*
 * Start
 */

/* One match for all clients: a client's objects end with its name. */
static int on_name_gone(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
	const char *name, *former, *now;

	(void)error;
	if (sd_bus_message_read(message, "sss", &name, &former, &now) >= 0 && !now[0])
		manager_client_gone(userdata, name);
	return 0;
}

static int watch_names(struct manager *m)
{
	return sd_bus_add_match(m->bus, NULL,
				"type='signal',sender='org.freedesktop.DBus',"
				"path='/org/freedesktop/DBus',interface='org.freedesktop.DBus',"
				"member='NameOwnerChanged',arg2=''",
				on_name_gone, m);
}

int manager_bus_start(struct manager *m)
{
	int r;

	r = bus_open(m->event, m->options->bus, &m->bus);
	if (r >= 0)
		r = sd_bus_set_exit_on_disconnect(m->bus, true);
	if (r >= 0)
		r = bus_access_new(m->bus, &m->access);
	if (r >= 0)
		r = sd_bus_add_object_vtable(m->bus, NULL, MANAGER_PATH, INTERFACE, vtable, m);
	if (r >= 0)
		r = channel_bus_add(m);
	if (r >= 0)
		r = listener_bus_add(m);
	if (r >= 0)
		r = watch_names(m);
	return r < 0 ? r : sd_bus_request_name(m->bus, MANAGER_BUS_NAME, 0);
}
