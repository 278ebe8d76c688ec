/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bell.h"
#include "channel.h"
#include "control.h"
#include "log.h"
#include "manager-bus.h"
#include "manager.h"
#include "reload.h"
#include "session.h"
#include "state.h"
#include "vm.h"

#define EXPIRE_INTERVAL_USEC (60 * 1000000ULL)

struct vm *manager_find_vm(const struct manager *m, const char *name)
{
	for (size_t i = 0; i < m->n_vms; i++)
		if (strcmp(m->vms[i]->name, name) == 0)
			return m->vms[i];
	return NULL;
}

struct region *manager_find_region(const struct manager *m, const char *name)
{
	for (size_t i = 0; i < m->n_regions; i++)
		if (strcmp(m->regions[i]->name, name) == 0)
			return m->regions[i];
	return NULL;
}

struct region *manager_region_by_number(const struct manager *m, uint32_t number)
{
	for (size_t i = 0; i < m->n_regions; i++)
		if (m->regions[i]->number == number)
			return m->regions[i];
	return NULL;
}

uint64_t manager_now(const struct manager *m)
{
	uint64_t now = 0;

	sd_event_now(m->event, CLOCK_MONOTONIC, &now);
	return now;
}

uint64_t manager_realtime_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int on_expire(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)usec;
	state_expire(userdata);
	sd_event_source_set_time_relative(source, EXPIRE_INTERVAL_USEC);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int open_tree(struct manager *m)
{
	int r = tree_open(m->options->runtime_dir, m->options->allow_non_tmpfs, &m->tree);

	if (r == -EXDEV)
		log_error("%s is not on a tmpfs; sections there would be written to a disk",
			  m->options->runtime_dir);
	else if (r < 0)
		log_error("%s: %s", m->options->runtime_dir, strerror(-r));
	if (r >= 0)
		r = tree_make_dir(&m->tree, "vm", 0711, 0);
	if (r >= 0)
		r = tree_make_dir(&m->tree, "region", 0711, 0);
	return r;
}

static int load(struct manager *m)
{
	struct conf_error conf_error = {};
	struct failure error = {};
	int r = config_load(m->options->config_root, &m->config, &conf_error);

	if (r < 0) {
		log_with(LOG_ERR, (.id = LOG_ID_CONFIG), "%s",
			 conf_error.text[0] ? conf_error.text : strerror(-r));
		return -CONF_UNUSABLE;
	}
	if (state_load(m, &error) >= 0)
		return 0;
	log_error("%s", error.text);
	return -STATE_UNUSABLE;
}

/* end_absent() - members whose QEMU is not there (any more): whatever their tables say is over */
static void end_absent(struct manager *m)
{
	for (size_t i = 0; i < m->n_regions; i++)
		for (size_t j = 0; j < m->regions[i]->n_members; j++)
			if (!member_is_connected(&m->regions[i]->members[j]))
				channels_member_gone(&m->regions[i]->members[j]);
}

static void report_restored(const struct manager *m)
{
	unsigned channels = 0, devices = 0;
	const struct channel *c;

	TAILQ_FOREACH(c, &m->channels, entry)
		channels++;
	for (size_t i = 0; i < m->n_regions; i++)
		for (size_t j = 0; j < m->regions[i]->n_members; j++)
			devices += member_is_connected(&m->regions[i]->members[j]);
	if (channels + devices > 0)
		log_info("went on with %u devices and %u channels", devices, channels);
}

static int restore(struct manager *m)
{
	int r = reload_objects(m);

	if (r >= 0)
		r = channels_rebuild(m);
	if (r < 0)
		return r;
	end_absent(m);
	report_restored(m);
	for (size_t i = 0; i < m->n_vms; i++)
		vm_refresh_layout(m->vms[i]);
	m->restored = fdstore_close(m->restored, true);
	return 0;
}

int manager_new(const struct options *options, sd_event *event, struct manager **ret)
{
	_cleanup_(manager_freep) struct manager *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->options = options;
	m->event = sd_event_ref(event);
	m->issued_fd = -1;
	m->tree.fd = -1;
	TAILQ_INIT(&m->channels);
	TAILQ_INIT(&m->sessions);
	r = bell_init();
	if (r < 0)
		log_warning("no asynchronous I/O: %s; %s", strerror(-r),
			    r == -ENOSYS ? "a hostile QEMU can stop this daemon"
					 : "no doorbell is rung, see fs.aio-max-nr");
	r = load(m);
	if (r >= 0)
		r = open_tree(m);
	if (r >= 0)
		r = fdstore_open(&m->restored);
	if (r >= 0)
		r = restore(m);
	if (r >= 0)
		r = sd_event_add_time_relative(event, &m->expire_timer, CLOCK_MONOTONIC,
					       EXPIRE_INTERVAL_USEC, 1000000, on_expire, m);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(m);
	return 0;
}

struct manager *manager_free(struct manager *m)
{
	if (!m)
		return NULL;
	manager_bus_stop(m);
	sessions_free(m);
	channels_free(m);
	for (size_t i = 0; i < m->n_regions; i++)
		region_free(m->regions[i], false);
	for (size_t i = 0; i < m->n_vms; i++)
		vm_free(m->vms[i], false);
	free(m->regions);
	free(m->vms);
	fdstore_close(m->restored, false);
	tree_close(&m->tree);
	closep(&m->issued_fd);
	certificates_done(&m->certificates);
	revocations_done(&m->revoked);
	ca_free(m->ca);
	config_free(m->config);
	sd_event_source_disable_unref(m->expire_timer);
	sd_event_unref(m->event);
	free(m);
	return NULL;
}
