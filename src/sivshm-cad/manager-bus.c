/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bus-util.h"
#include "log.h"
#include "manager-bus.h"
#include "manager-list.h"
#include "manager.h"
#include "policy.h"
#include "qemu-args.h"
#include "revoke.h"
#include "vm.h"

#define BUS_RETRY_USEC (3 * 1000000ULL)
#define BUS_ERROR(name) "org.sivshm.ca1.Error." name
#define NO_SUCH_VM BUS_ERROR("NoSuchVM")
#define NO_SUCH_SERVICE BUS_ERROR("NoSuchService")
#define NO_SUCH_CHANNEL BUS_ERROR("NoSuchChannel")

static void (*on_ready)(struct manager *m);

/* questions */

static int method_explain_policy(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	struct manager *m = userdata;
	const char *from_text, *to_text;
	struct peer_name from, to;
	struct decision d;
	int r = sd_bus_message_read(msg, "ss", &from_text, &to_text);

	if (r < 0)
		return r;
	if (peer_name_parse(from_text, &from) < 0 || peer_name_parse(to_text, &to) < 0)
		return sd_bus_error_set(error, SD_BUS_ERROR_INVALID_ARGS,
					"names have the form vm/service");
	policy_decide(m->config, &m->revoked, &from, &to, &d);
	return sd_bus_reply_method_return(msg, "bs", d.why.code == 0, d.why.text);
}

static int read_vm(sd_bus_message *msg, struct manager *m, struct vm **ret,
		   struct layout *ret_layout, sd_bus_error *error)
{
	const char *name;
	int r = sd_bus_message_read(msg, "s", &name);

	if (r < 0)
		return r;
	*ret = manager_find_vm(m, name);
	if (!*ret)
		return sd_bus_error_setf(error, NO_SUCH_VM, "there is no VM %s", name);
	layout_make(m->config, (*ret)->config, ret_layout);
	return 0;
}

static int method_get_qemu_arguments(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
	struct manager *m = userdata;
	struct layout layout;
	char **args = NULL;
	struct vm *vm;
	int r = read_vm(msg, m, &vm, &layout, error);

	if (r >= 0)
		r = qemu_args(m->tree.path, vm->config, &layout, &args);
	if (r >= 0)
		r = sd_bus_message_new_method_return(msg, &reply);
	if (r >= 0)
		r = sd_bus_message_append_strv(reply, args);
	qemu_args_free(args);
	return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_get_libvirt_xml(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	_cleanup_free_ char *xml = NULL;
	struct manager *m = userdata;
	struct layout layout;
	struct vm *vm;
	int r = read_vm(msg, m, &vm, &layout, error);

	if (r >= 0)
		r = libvirt_xml(m->tree.path, vm->config, &layout, &xml);
	return r < 0 ? r : sd_bus_reply_method_return(msg, "s", xml);
}

/* administrator's methods: the vtable's handler asks who it is, the second one acts */

static int do_revoke_channel(sd_bus_message *msg, const struct bus_sender *sender, void *userdata,
			     sd_bus_error *error)
{
	const char *id, *reason;
	int r = sd_bus_message_read(msg, "ss", &id, &reason);

	(void)sender;
	if (r < 0)
		return r;
	if (revoke_channel(userdata, id, reason) < 0)
		return sd_bus_error_setf(error, NO_SUCH_CHANNEL, "there is no open channel %s", id);
	return sd_bus_reply_method_return(msg, NULL);
}

/* revoke_reply() - in force already; the error says that it will not survive a restart */
static int revoke_reply(sd_bus_message *msg, int r, sd_bus_error *error)
{
	if (r < 0)
		return sd_bus_error_setf(error, BUS_ERROR("Failed"),
					 "in force, but not written to disk: %s", strerror(-r));
	return sd_bus_reply_method_return(msg, NULL);
}

static int do_revoke_service(sd_bus_message *msg, const struct bus_sender *sender, void *userdata,
			     sd_bus_error *error)
{
	struct manager *m = userdata;
	const char *name, *reason;
	const struct vm_config *vm;
	struct peer_name parts;
	int r = sd_bus_message_read(msg, "ss", &name, &reason);

	(void)sender;
	if (r < 0)
		return r;
	vm = peer_name_parse(name, &parts) < 0 ? NULL : config_find_vm(m->config, parts.vm);
	if (!vm || !vm_config_has_service(vm, parts.service))
		return sd_bus_error_setf(error, NO_SUCH_SERVICE, "there is no service %s", name);
	return revoke_reply(msg, revoke_name(m, name, reason), error);
}

static int do_revoke_vm(sd_bus_message *msg, const struct bus_sender *sender, void *userdata,
			sd_bus_error *error)
{
	struct manager *m = userdata;
	const char *name, *reason;
	int r = sd_bus_message_read(msg, "ss", &name, &reason);

	(void)sender;
	if (r < 0)
		return r;
	if (!config_find_vm(m->config, name))
		return sd_bus_error_setf(error, NO_SUCH_VM, "there is no VM %s", name);
	return revoke_reply(msg, revoke_name(m, name, reason), error);
}

static int do_restore(sd_bus_message *msg, const struct bus_sender *sender, void *userdata,
		      sd_bus_error *error)
{
	const char *name;
	int r = sd_bus_message_read(msg, "s", &name);

	(void)sender;
	if (r < 0)
		return r;
	r = revoke_undo(userdata, name);
	if (r == -ENOENT)
		return sd_bus_error_setf(error, strchr(name, '/') ? NO_SUCH_SERVICE : NO_SUCH_VM,
					 "%s is not revoked", name);
	return revoke_reply(msg, r, error);
}

static int do_reload(sd_bus_message *msg, const struct bus_sender *sender, void *userdata,
		     sd_bus_error *error)
{
	struct conf_error why = {};

	(void)sender;
	if (manager_reload(userdata, &why) < 0)
		return sd_bus_error_set(error, BUS_ERROR("BadConfiguration"), why.text);
	return sd_bus_reply_method_return(msg, NULL);
}

#define ADMINISTRATOR(name)                                                                       \
	static int method_##name(sd_bus_message *msg, void *userdata, sd_bus_error *error)        \
	{                                                                                         \
		(void)error;                                                                      \
		return bus_access_authorize(((struct manager *)userdata)->access, msg, CA_ACTION, \
					    do_##name, userdata);                                 \
	}

ADMINISTRATOR(revoke_channel)
ADMINISTRATOR(revoke_service)
ADMINISTRATOR(revoke_vm)
ADMINISTRATOR(restore)
ADMINISTRATOR(reload)

/* properties */

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	(void)bus, (void)path, (void)interface, (void)property, (void)userdata, (void)error;
	return sd_bus_message_append(reply, "s", SIVSHM_VERSION);
}

static int get_trust_domain(sd_bus *bus, const char *path, const char *interface,
			    const char *property, sd_bus_message *reply, void *userdata,
			    sd_bus_error *error)
{
	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "s",
				     ((struct manager *)userdata)->config->ca.trust_domain);
}

static int get_trust_bundle(sd_bus *bus, const char *path, const char *interface,
			    const char *property, sd_bus_message *reply, void *userdata,
			    sd_bus_error *error)
{
	(void)bus, (void)path, (void)interface, (void)property, (void)error;
	return sd_bus_message_append(reply, "s", ((struct manager *)userdata)->ca->bundle);
}

/* everybody may call; a handler that has to ask who it is does */
#define OPEN SD_BUS_VTABLE_UNPRIVILEGED

static const sd_bus_vtable manager_vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("ListVMs", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(subbuuuuasb)", vms),
				list_vms, OPEN),
	SD_BUS_METHOD_WITH_ARGS("ListRegions", SD_BUS_NO_ARGS,
				SD_BUS_RESULT("a(stua(subtt))", regions), list_regions, OPEN),
	SD_BUS_METHOD_WITH_ARGS("ListChannels", SD_BUS_NO_ARGS,
				SD_BUS_RESULT("a(ssssusutt)", channels), list_channels, OPEN),
	SD_BUS_METHOD_WITH_ARGS("ListCertificates", SD_BUS_NO_ARGS,
				SD_BUS_RESULT("a(ssttb)", certificates), list_certificates, OPEN),
	SD_BUS_METHOD_WITH_ARGS("ExplainPolicy", SD_BUS_ARGS("s", from, "s", to),
				SD_BUS_RESULT("b", allowed, "s", reason), method_explain_policy,
				OPEN),
	SD_BUS_METHOD_WITH_ARGS("GetQemuArguments", SD_BUS_ARGS("s", vm),
				SD_BUS_RESULT("as", arguments), method_get_qemu_arguments, OPEN),
	SD_BUS_METHOD_WITH_ARGS("GetLibvirtXML", SD_BUS_ARGS("s", vm), SD_BUS_RESULT("s", xml),
				method_get_libvirt_xml, OPEN),
	SD_BUS_METHOD_WITH_ARGS("RevokeChannel", SD_BUS_ARGS("s", id, "s", reason),
				SD_BUS_NO_RESULT, method_revoke_channel, OPEN),
	SD_BUS_METHOD_WITH_ARGS("RevokeService", SD_BUS_ARGS("s", service, "s", reason),
				SD_BUS_NO_RESULT, method_revoke_service, OPEN),
	SD_BUS_METHOD_WITH_ARGS("RevokeVM", SD_BUS_ARGS("s", vm, "s", reason), SD_BUS_NO_RESULT,
				method_revoke_vm, OPEN),
	SD_BUS_METHOD_WITH_ARGS("Restore", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT, method_restore,
				OPEN),
	SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_reload, OPEN),
	SD_BUS_PROPERTY("Version", "s", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("TrustDomain", "s", get_trust_domain, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_PROPERTY("TrustBundle", "s", get_trust_bundle, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_SIGNAL_WITH_ARGS("ChannelOpened", SD_BUS_ARGS("s", id, "s", from, "s", to), 0),
	SD_BUS_SIGNAL_WITH_ARGS("ChannelClosed", SD_BUS_ARGS("s", id, "s", reason), 0),
	SD_BUS_SIGNAL_WITH_ARGS("Refused", SD_BUS_ARGS("s", from, "s", to, "s", error, "s", reason),
				0),
	SD_BUS_VTABLE_END,
};

/* life */

static void say_ready(struct manager *m)
{
	void (*ready)(struct manager * m) = on_ready;

	on_ready = NULL;
	if (ready)
		ready(m);
}

static int on_name(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	const sd_bus_error *e = sd_bus_message_get_error(reply);
	uint32_t result = 0;

	(void)error;
	if (e)
		log_error("bus name " CA_BUS_NAME ": %s", e->message);
	else if (sd_bus_message_read(reply, "u", &result) >= 0 && result != 1)
		log_error("bus name " CA_BUS_NAME " is taken: another sivshm-cad runs");
	say_ready(userdata);
	return 0;
}

static void retry_later(struct manager *m);

static int on_disconnected(sd_bus_message *msg, void *userdata, sd_bus_error *error)
{
	(void)msg, (void)error;
	log_warning("the bus went away; going on without it until it is back");
	manager_bus_stop(userdata);
	retry_later(userdata);
	return 0;
}

static int export_object(struct manager *m)
{
	int r = bus_access_new(m->bus, &m->access);

	if (r >= 0)
		r = sd_bus_add_object_vtable(m->bus, NULL, CA_OBJECT_PATH, CA_INTERFACE,
					     manager_vtable, m);
	if (r >= 0)
		r = sd_bus_match_signal_async(m->bus, NULL, "org.freedesktop.DBus.Local", NULL,
					      "org.freedesktop.DBus.Local", "Disconnected",
					      on_disconnected, NULL, m);
	if (r >= 0)
		r = sd_bus_request_name_async(m->bus, NULL, CA_BUS_NAME, 0, on_name, m);
	return r;
}

static int connect_bus(struct manager *m)
{
	int r = bus_open(m->event, m->options->bus_address, &m->bus);

	if (r >= 0)
		r = export_object(m);
	if (r < 0)
		manager_bus_stop(m);
	return r;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source, (void)usec;
	if (connect_bus(userdata) < 0)
		retry_later(userdata);
	return 0;
}

static void retry_later(struct manager *m)
{
	m->bus_retry = sd_event_source_disable_unref(m->bus_retry);
	sd_event_add_time_relative(m->event, &m->bus_retry, CLOCK_MONOTONIC, BUS_RETRY_USEC, 0,
				   on_retry, m);
}

int manager_bus_start(struct manager *m, void (*ready)(struct manager *m))
{
	int r = connect_bus(m);

	on_ready = ready;
	if (r >= 0)
		return 0;
	if (m->options->bus_address) {
		log_error("bus %s: %s", m->options->bus_address, strerror(-r));
		return r;
	}
	log_warning("no system bus (%s); going on without D-Bus", strerror(-r));
	retry_later(m);
	say_ready(m);
	return 0;
}

void manager_bus_stop(struct manager *m)
{
	m->access = bus_access_free(m->access);
	m->bus = sd_bus_flush_close_unref(m->bus);
	m->bus_retry = sd_event_source_disable_unref(m->bus_retry);
}

/* signals */

/* ascii() - texts are cut at a byte count, and the bus takes no broken character */
static const char *ascii(const char *text, char *buffer, size_t size)
{
	snprintf(buffer, size, "%s", text);
	for (char *c = buffer; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return buffer;
}

void manager_bus_channel_opened(struct manager *m, const char *id, const char *from, const char *to)
{
	if (m->bus)
		sd_bus_emit_signal(m->bus, CA_OBJECT_PATH, CA_INTERFACE, "ChannelOpened", "sss", id,
				   from, to);
}

void manager_bus_channel_closed(struct manager *m, const char *id, const char *reason)
{
	char text[256];

	if (m->bus)
		sd_bus_emit_signal(m->bus, CA_OBJECT_PATH, CA_INTERFACE, "ChannelClosed", "ss", id,
				   ascii(reason, text, sizeof(text)));
}

void manager_bus_refused(struct manager *m, const char *from, const char *to, const char *error,
			 const char *reason)
{
	char text[ERROR_TEXT_SIZE];

	if (m->bus)
		sd_bus_emit_signal(m->bus, CA_OBJECT_PATH, CA_INTERFACE, "Refused", "ssss", from,
				   to, error, ascii(reason, text, sizeof(text)));
}
