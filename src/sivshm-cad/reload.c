/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "log.h"
#include "manager.h"
#include "reload.h"
#include "revoke.h"
#include "vm.h"

/* what runs cannot be changed under it */

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static int check_ca(const struct ca_config *old, const struct ca_config *new,
		    struct conf_error *error)
{
	const struct conf_place place = {"ca.conf", 1};

	if (strcmp(old->trust_domain, new->trust_domain) == 0 &&
	    same_text(old->key_file, new->key_file) &&
	    same_text(old->certificate_file, new->certificate_file) &&
	    same_text(old->bundle_file, new->bundle_file))
		return 0;
	return conf_fail(error, &place,
			 "trust domain and CA files change only with a restart of the service");
}

static int check_region(const struct region *region, const struct config *new,
			struct conf_error *error)
{
	const struct region_config *config = config_find_region(new, region->name);
	const struct conf_place place = {config ? config->place.file : "region.d",
					 config ? config->place.line : 0};

	if (!region_in_use(region) || (config && region_fits(region, config)))
		return 0;
	return conf_fail(
		error, &place,
		"region %s is in use: shut down its VMs before it is removed, or Members=, "
		"SectionSize= or Vectors= change",
		region->name);
}

/* vm_is_pinned() - its uid and gid are those of sockets and files in use */
static bool vm_is_pinned(struct vm *vm)
{
	struct member *member;

	for (size_t i = 0; (member = vm_member(vm, i)); i++)
		if (region_in_use(member->region))
			return true;
	return control_is_connected(vm);
}

static bool vm_fits(const struct vm *vm, const struct vm_config *config)
{
	return config && vm->config->uid == config->uid && vm->config->gid == config->gid;
}

static int check_vm(struct vm *vm, const struct config *new, struct conf_error *error)
{
	const struct vm_config *config = config_find_vm(new, vm->name);
	const struct conf_place place = {config ? config->place.file : "vm.d",
					 config ? config->place.line : 0};

	if (!vm_is_pinned(vm) || vm_fits(vm, config))
		return 0;
	return conf_fail(
		error, &place,
		"VM %s or one it shares a region with is running: shut them down before it "
		"is removed, or User= or Group= change",
		vm->name);
}

static int check(struct manager *m, const struct config *new, struct conf_error *error)
{
	int r = check_ca(&m->config->ca, &new->ca, error);

	for (size_t i = 0; i < m->n_regions && r >= 0; i++)
		r = check_region(m->regions[i], new, error);
	for (size_t i = 0; i < m->n_vms && r >= 0; i++)
		r = check_vm(m->vms[i], new, error);
	return r;
}

/* making */

static int compare_vms(const void *a, const void *b)
{
	return strcmp((*(struct vm *const *)a)->name, (*(struct vm *const *)b)->name);
}

static int compare_regions(const void *a, const void *b)
{
	return strcmp((*(struct region *const *)a)->name, (*(struct region *const *)b)->name);
}

static int make_vms(struct manager *m)
{
	struct vm **vms = reallocarray(m->vms, m->config->n_vms + 1, sizeof(*vms));
	int r = 0;

	if (!vms)
		return -ENOMEM;
	m->vms = vms;
	for (size_t i = 0; i < m->config->n_vms && r >= 0; i++) {
		const struct vm_config *config = &m->config->vms[i];

		if (manager_find_vm(m, config->name))
			continue;
		r = vm_new(m, config, &m->vms[m->n_vms]);
		if (r >= 0)
			m->n_vms++;
	}
	qsort(m->vms, m->n_vms, sizeof(*m->vms), compare_vms);
	return r;
}

/* region_number() - what the tables call it, as VMs may run by them; else one that was never used
 */
static uint32_t region_number(struct manager *m, const struct region_config *config)
{
	uint32_t number = 0;

	for (size_t i = 0; i < m->n_vms; i++) {
		uint32_t last = vm_last_region_number(m->vms[i]);

		if (last > m->last_region_number)
			m->last_region_number = last;
		if (number == 0)
			number = vm_region_number(m->vms[i], config->name);
	}
	if (number == 0 || manager_region_by_number(m, number))
		number = ++m->last_region_number;
	return number;
}

static int make_regions(struct manager *m)
{
	struct region **regions =
		reallocarray(m->regions, m->config->n_regions + 1, sizeof(*regions));
	int r = 0;

	if (!regions)
		return -ENOMEM;
	m->regions = regions;
	for (size_t i = 0; i < m->config->n_regions && r >= 0; i++) {
		const struct region_config *config = &m->config->regions[i];

		if (manager_find_region(m, config->name))
			continue;
		r = region_new(m, config, region_number(m, config), &m->regions[m->n_regions]);
		if (r >= 0)
			m->n_regions++;
	}
	qsort(m->regions, m->n_regions, sizeof(*m->regions), compare_regions);
	return r;
}

/* sweeping: what a predecessor made for another configuration holds memory, and shows it to its
 * readers */

static bool is_vm(const char *name, void *config)
{
	return config_find_vm(config, name);
}

static bool is_region(const char *name, void *config)
{
	return config_find_region(config, name);
}

static bool is_member(const char *name, void *region)
{
	return region_config_member(region, name) >= 0;
}

static void sweep(struct manager *m)
{
	char path[64];

	tree_sweep(&m->tree, "vm", is_vm, m->config);
	tree_sweep(&m->tree, "region", is_region, m->config);
	for (size_t i = 0; i < m->config->n_regions; i++) {
		snprintf(path, sizeof(path), "region/%s", m->config->regions[i].name);
		tree_sweep(&m->tree, path, is_member, &m->config->regions[i]);
	}
}

/* advise() - what is allowed, but not what one wants */
static void advise(const struct config *config)
{
	size_t fds = 2 * config->n_vms;

	for (size_t i = 0; i < config->n_regions; i++)
		fds += 1 + config->regions[i].n_members * (config->regions[i].vectors + 2);
	if (fds > FDSTORE_SIZE)
		log_warning(
			"%zu descriptors are to be kept over a restart, FileDescriptorStoreMax= is "
			"%u: some machines would lose their devices",
			fds, FDSTORE_SIZE);
	for (size_t i = 0; i < config->n_vms; i++)
		for (size_t j = 0; j < i; j++)
			if (config->vms[i].uid == config->vms[j].uid)
				log_warning("VMs %s and %s have the same User=: nothing keeps one "
					    "QEMU from the other",
					    config->vms[j].name, config->vms[i].name);
}

static int check_restored(struct manager *m)
{
	struct conf_error error;
	int r = 0;

	for (size_t i = 0; m->restored && i < m->n_vms && r >= 0; i++)
		r = vm_check_restored(m->vms[i], &error);
	if (r < 0)
		log_with(LOG_ERR, (.id = LOG_ID_CONFIG), "%s", error.text);
	return r;
}

int reload_objects(struct manager *m)
{
	int r = make_vms(m);

	advise(m->config);
	if (r >= 0)
		r = check_restored(m);
	if (r >= 0 && m->restored)
		sweep(m);
	if (r >= 0)
		r = make_regions(m);
	for (size_t i = 0; i < m->n_regions && r >= 0; i++)
		r = region_set_readers(m->regions[i],
				       config_find_region(m->config, m->regions[i]->name));
	return r;
}

/* unmaking: check() has seen that none of this is in use */

static void drop_regions(struct manager *m)
{
	size_t kept = 0, n = m->n_regions;

	for (size_t i = 0; i < n; i++) {
		struct region *region = m->regions[i];
		const struct region_config *config = config_find_region(m->config, region->name);
		bool keep = config && region_fits(region, config);

		for (size_t j = 0; j < region->n_members && keep; j++)
			keep = vm_fits(region->members[j].vm,
				       config_find_vm(m->config, region->members[j].vm->name));
		if (keep)
			m->regions[kept++] = region;
		else
			region_free(region, true);
	}
	m->n_regions = kept;
}

static void drop_vms(struct manager *m)
{
	size_t kept = 0, n = m->n_vms;

	for (size_t i = 0; i < n; i++) {
		struct vm *vm = m->vms[i];
		const struct vm_config *config = config_find_vm(m->config, vm->name);

		if (vm_fits(vm, config)) {
			vm->config = config;
			m->vms[kept++] = vm;
		} else {
			vm_free(vm, true);
		}
	}
	m->n_vms = kept;
}

int manager_reload(struct manager *m, struct conf_error *error)
{
	_cleanup_(config_freep) struct config *config = NULL;
	int r = config_load(m->options->config_root, &config, error);
	struct config *old;

	if (r >= 0)
		r = check(m, config, error);
	if (r < 0) {
		log_with(LOG_ERR, (.id = LOG_ID_CONFIG), "%s; the old configuration stays in force",
			 error->text);
		return r;
	}
	old = m->config;
	m->config = TAKE_PTR(config);
	drop_regions(m);
	drop_vms(m);
	config_free(old);
	r = reload_objects(m);
	if (r < 0)
		snprintf(error->text, sizeof(error->text), "%s: %s", m->tree.path, strerror(-r));
	for (size_t i = 0; i < m->n_vms; i++)
		vm_refresh_layout(m->vms[i]);
	revoke_forbidden(m);
	log_with(LOG_INFO, (.id = LOG_ID_CONFIG),
		 "configuration read: %zu VMs, %zu regions, %zu rules", m->config->n_vms,
		 m->config->n_regions, m->config->n_rules);
	return r;
}
