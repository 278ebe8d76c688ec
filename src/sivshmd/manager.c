/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "manager.h"

#include <errno.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "accept.h"
#include "connect.h"
#include "listener.h"
#include "log.h"
#include "warm-up.h"

/* of a peer in another VM, whose uid is not known here */
#define UID_PEER ((uid_t)-1)

#define STOP_USEC (50 * USEC_PER_MSEC)
#define SETTLE_USEC (2 * USEC_PER_SEC)
/* The boot goes on after READY, and has the processor. */
#define WARM_UP_AFTER_USEC (1 * USEC_PER_SEC)
#define WARM_UP_ACCURACY_USEC (1 * USEC_PER_MSEC)
#define STORM_TELL_USEC (60 * USEC_PER_SEC)

static const struct device_handler device_handler;

/*
 * Policy
 */

static int load_policy(struct manager *m, struct conf_error *error)
{
	struct policy *policy;
	int r;

	r = policy_load(m->options->config_root, &policy, error);
	if (r < 0)
		return r;
	policy_free(m->policy);
	m->policy = policy;
	log_event(LOG_INFO, LOG_ID_POLICY_LOADED, NULL, "Policy names %zu services",
		  policy->n_services);
	return 0;
}

int manager_reload(struct manager *m, struct conf_error *error)
{
	int r;

	r = load_policy(m, error);
	if (r < 0) {
		log_event(LOG_ERR, LOG_ID_POLICY_REFUSED, NULL,
			  "The policy cannot be used, the old one stays: %s",
			  error->text[0] ? error->text : strerror(-r));
		return r;
	}
	connects_apply_policy(m);
	sessions_apply_policy(m);
	listeners_apply_policy(m);
	channels_apply_policy(m);
	return 0;
}

static unsigned service_load(struct manager *m, const char *service)
{
	return channels_count(m, service) + connects_count(m, service) + sessions_count(m, service);
}

int manager_authorize(struct manager *m, const struct policy_question *q,
		      const struct policy_service **ret, struct failure *error)
{
	struct policy_verdict v;

	policy_decide(m->policy, q, &v);
	if (!v.allowed)
		return failure_set(error, ERR_NOT_AUTHORIZED, "%s", v.text);
	if (service_load(m, v.service->name) >= v.service->channels)
		return failure_set(error, ERR_QUOTA_EXCEEDED,
				   "service %s has %u channels, Channels= allows no more",
				   v.service->name, v.service->channels);
	*ret = v.service;
	return 0;
}

int manager_check_ready(struct manager *m, struct failure *error)
{
	struct sivshm_info info;
	int r;

	r = device_info(m->device, &info);
	if (r < 0)
		return failure_set(error, ERR_NOT_READY, "no kernel module: %s cannot be used",
				   m->options->device);
	if (info.n_slots == 0)
		return failure_set(error, ERR_NOT_READY, "the host gave this VM no grant table");
	if (!control_is_ready(m->control))
		return failure_set(error, ERR_HOST_UNAVAILABLE, "no connection to the host");
	return 0;
}

void manager_client_gone(struct manager *m, const char *name)
{
	connects_client_gone(m, name);
	listeners_client_gone(m, name);
}

/*
 * Refusals
 */

static bool is_refusal(int code)
{
	switch (code) {
	case ERR_NOT_AUTHORIZED:
	case ERR_REFUSED_BY_HOST:
	case ERR_REFUSED_BY_PEER:
	case ERR_HANDSHAKE_FAILED:
	case ERR_QUOTA_EXCEEDED:
	case ERR_REVOKED:
		return true;
	default:
		return false;
	}
}

void manager_refused(struct manager *m, const char *service, const char *peer,
		     const struct failure *why, const struct caller *caller)
{
	uid_t uid = caller ? caller->uid : UID_PEER;
	struct log_about about = {
		.service = service,
		.peer = peer,
		.error = error_name(why->code),
		.caller = caller,
	};
	unsigned suppressed;

	if (!ratelimit_allow(&m->refusals, uid, clock_usec(CLOCK_MONOTONIC), &suppressed))
		return;
	if (suppressed > 0)
		log_plain(LOG_NOTICE, "%u refusals were not logged", suppressed);
	log_event(LOG_NOTICE, LOG_ID_REFUSED, &about, "%s and %s: %s: %s",
		  service[0] ? service : "?", peer[0] ? peer : "listening", about.error, why->text);
	if (is_refusal(why->code))
		manager_bus_refused(m, service, peer, about.error, uid);
}

/*
 * To systemd
 */

void manager_tell_status(struct manager *m)
{
	if (control_is_ready(m->control))
		sd_notifyf(false, "STATUS=Serving VM %s of %s", control_vm(m->control),
			   control_trust_domain(m->control));
	else
		sd_notify(false, "STATUS=Waiting for the host");
}

/* Once: the host is there, or it takes so long that nobody should wait for it. */
static void settle(struct manager *m)
{
	if (!m->settle)
		return;
	m->settle = sd_event_source_disable_unref(m->settle);
	sd_notify(false, "READY=1");
}

static int on_settle(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	settle(userdata);
	return 0;
}

/* warm_up() - the first handshake, before anybody wants one: in parts, and when nothing else is to
 * be done.  One that is under way does the same by itself. */
static int warm_up(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct manager *m = userdata;
	bool is_busy = !TAILQ_EMPTY(&m->connects) || !TAILQ_EMPTY(&m->sessions);
	struct failure error;
	int r = is_busy ? 1 : warm_up_step(m->warm_up, &error);

	(void)usec;
	if (r > 0 && sd_event_source_set_time_relative(s, is_busy ? WARM_UP_AFTER_USEC : 0) >= 0 &&
	    sd_event_source_set_enabled(s, SD_EVENT_ONESHOT) >= 0)
		return 0;
	if (r < 0)
		log_plain(LOG_WARNING, "A handshake with itself fails: %s", error.text);
	m->warm_up = warm_up_free(m->warm_up);
	m->warm_up_timer = sd_event_source_disable_unref(m->warm_up_timer);
	return 0;
}

/* Not before Welcome, as all use of random numbers. */
static void warm_up_later(struct manager *m)
{
	if (m->is_warm)
		return;
	m->is_warm = true;
	m->warm_up = warm_up_new();
	if (!m->warm_up ||
	    sd_event_add_time_relative(m->event, &m->warm_up_timer, CLOCK_MONOTONIC,
				       WARM_UP_AFTER_USEC, WARM_UP_ACCURACY_USEC, warm_up, m) < 0 ||
	    sd_event_source_set_priority(m->warm_up_timer, SD_EVENT_PRIORITY_IDLE) < 0)
		log_plain(LOG_WARNING, "The first handshake will take longer than others");
}

void manager_settled(struct manager *m)
{
	manager_tell_status(m);
	settle(m);
	warm_up_later(m);
}

/*
 * From the kernel
 */

static void device_opened(void *userdata)
{
	struct manager *m = userdata;
	struct sivshm_info info;

	if (device_info(m->device, &info) >= 0)
		log_event(LOG_INFO, LOG_ID_DEVICE, NULL,
			  "Kernel module has ABI %u, %u slots, %u sections, %u channels", info.abi,
			  info.n_slots, info.n_sections, info.n_channels);
	channels_adopt(m);
	/* Not before: Hello tells the host which channels still exist. */
	control_start(m->control);
}

static void device_table_changed(struct manager *m)
{
	struct sivshm_info info;

	if (device_info(m->device, &info) >= 0)
		log_event(LOG_INFO, LOG_ID_DEVICE, NULL,
			  "Devices have changed: %u slots, %u sections", info.n_slots,
			  info.n_sections);
}

/* A peer can make several a second for as long as it likes: the journal gets one line a minute. */
static void device_storm(struct manager *m, uint64_t count)
{
	uint64_t now = clock_usec(CLOCK_MONOTONIC);

	m->n_storms += count;
	if (m->storm_told && now - m->storm_told < STORM_TELL_USEC)
		return;
	log_event(LOG_WARNING, LOG_ID_STORM, NULL,
		  "A peer rang so often that its doorbell was masked for a while, %llu times now",
		  (unsigned long long)m->n_storms);
	m->storm_told = now;
	m->n_storms = 0;
}

static void device_event(const struct sivshm_event *event, void *userdata)
{
	struct manager *m = userdata;

	if (event->type == SIVSHM_EVENT_TABLE)
		device_table_changed(m);
	else if (event->type == SIVSHM_EVENT_STORM)
		device_storm(m, event->count);
	else
		channel_event(m, event);
}

static void device_lost(void *userdata)
{
	channels_lost(userdata);
}

static const struct device_handler device_handler = {
	.opened = device_opened,
	.event = device_event,
	.lost = device_lost,
};

/*
 * Life
 */

static int make_parts(struct manager *m)
{
	int r;

	r = sd_event_default(&m->event);
	if (r >= 0)
		r = quota_new(&m->quota);
	if (r >= 0)
		r = device_new(m->event, m->options->device, &device_handler, m, &m->device);
	if (r >= 0)
		r = control_new(m->event, m->options->port, &manager_control_handler, m,
				&m->control);
	if (r >= 0)
		r = identities_new(m->event, m->control, &m->identities);
	return r;
}

int manager_new(const struct options *options, struct manager **ret)
{
	_cleanup_(manager_freep) struct manager *m = calloc(1, sizeof(*m));
	struct conf_error error;
	int r;

	if (!m)
		return -ENOMEM;
	m->options = options;
	TAILQ_INIT(&m->connects);
	TAILQ_INIT(&m->listeners);
	TAILQ_INIT(&m->sessions);
	r = load_policy(m, &error);
	if (r < 0) {
		log_event(LOG_ERR, LOG_ID_POLICY_REFUSED, NULL, "The policy cannot be used: %s",
			  error.text[0] ? error.text : strerror(-r));
		return -CONF_UNUSABLE;
	}
	r = make_parts(m);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(m);
	return 0;
}

static int on_stopped(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)usec;
	(void)userdata;
	return sd_event_exit(sd_event_source_get_event(s), 0);
}

void manager_stop(struct manager *m)
{
	struct failure why;

	failure_set(&why, ERR_CLOSED, "sivshmd ends");
	connects_fail_all(m, &why);
	listeners_close_all(m, &why);
	/* a moment, so that what was said leaves */
	if (m->stop || sd_event_add_time_relative(m->event, &m->stop, CLOCK_MONOTONIC, STOP_USEC, 0,
						  on_stopped, m) < 0)
		sd_event_exit(m->event, 0);
}

/* Without a word: the event loop is over. */
static void forget_clients(struct manager *m)
{
	struct failure why = {.code = ERR_CLOSED};

	control_shut(m->control);
	connects_fail_all(m, &why);
	listeners_close_all(m, &why);
	channels_free(m);
}

struct manager *manager_free(struct manager *m)
{
	if (!m)
		return NULL;
	if (m->bus)
		forget_clients(m);
	sd_event_source_disable_unref(m->stop);
	sd_event_source_disable_unref(m->settle);
	sd_event_source_disable_unref(m->warm_up_timer);
	warm_up_free(m->warm_up);
	bus_access_free(m->access);
	sd_bus_flush_close_unref(m->bus);
	identities_free(m->identities);
	control_free(m->control);
	device_free(m->device);
	quota_free(m->quota);
	policy_free(m->policy);
	sd_event_unref(m->event);
	free(m->hello);
	free(m);
	return NULL;
}

int manager_start(struct manager *m)
{
	int r;

	r = manager_bus_start(m);
	if (r < 0) {
		log_plain(LOG_ERR, "Cannot get onto the bus (%s): %s",
			  m->options->bus ? m->options->bus : "the system bus", strerror(-r));
		return r;
	}
	r = sd_event_add_time_relative(m->event, &m->settle, CLOCK_MONOTONIC, SETTLE_USEC, 0,
				       on_settle, m);
	if (r < 0) {
		log_plain(LOG_ERR, "Event loop: %s", strerror(-r));
		return r;
	}
	manager_tell_status(m);
	device_start(m->device);
	return 0;
}
