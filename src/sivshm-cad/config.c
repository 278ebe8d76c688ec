/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config-load.h"
#include "config.h"

static void place_done(struct config_place *place)
{
	free(place->file);
	place->file = NULL;
}

static void vms_free(struct vm_config *vms, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		place_done(&vms[i].place);
		free(vms[i].services);
	}
	free(vms);
}

static void regions_free(struct region_config *regions, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		place_done(&regions[i].place);
		free(regions[i].members);
	}
	free(regions);
}

static void rules_free(struct rule_config *rules, size_t n)
{
	for (size_t i = 0; i < n; i++)
		place_done(&rules[i].place);
	free(rules);
}

struct config *config_free(struct config *config)
{
	if (!config)
		return NULL;
	vms_free(config->vms, config->n_vms);
	regions_free(config->regions, config->n_regions);
	rules_free(config->rules, config->n_rules);
	free(config->ca.key_file);
	free(config->ca.certificate_file);
	free(config->ca.bundle_file);
	free(config);
	return NULL;
}

const struct vm_config *config_find_vm(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_vms; i++)
		if (strcmp(config->vms[i].name, name) == 0)
			return &config->vms[i];
	return NULL;
}

const struct region_config *config_find_region(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_regions; i++)
		if (strcmp(config->regions[i].name, name) == 0)
			return &config->regions[i];
	return NULL;
}

const struct rule_config *config_find_rule(const struct config *config,
					   const struct peer_name *from, const struct peer_name *to)
{
	for (size_t i = 0; i < config->n_rules; i++)
		if (peer_name_equal(&config->rules[i].from, from) &&
		    peer_name_equal(&config->rules[i].to, to))
			return &config->rules[i];
	return NULL;
}

bool vm_config_has_service(const struct vm_config *vm, const char *service)
{
	for (size_t i = 0; i < vm->n_services; i++)
		if (strcmp(vm->services[i], service) == 0)
			return true;
	return false;
}

int region_config_member(const struct region_config *region, const char *vm)
{
	for (size_t i = 0; i < region->n_members; i++)
		if (strcmp(region->members[i], vm) == 0)
			return (int)i;
	return -1;
}

/* fail_at() - conf_fail() with the place of an object */
#define fail_at(error, at, ...)                                                              \
	conf_fail(error, &(const struct conf_place){.file = (at)->file, .line = (at)->line}, \
		  __VA_ARGS__)

static int check_vm(const struct config *config, const struct vm_config *vm,
		    struct conf_error *error)
{
	unsigned slots = 1, sections = 0;

	if (!vm->has_user)
		return fail_at(error, &vm->place, "VM %s: User= is missing", vm->name);
	for (size_t i = 0; i < config->n_regions; i++) {
		if (region_config_member(&config->regions[i], vm->name) < 0)
			continue;
		slots += config->regions[i].n_members;
		sections += config->regions[i].n_members;
	}
	if (sections > SIVSHM_MAX_SECTIONS || vm->pci_slot + slots - 1 > PCI_SLOT_LAST)
		return fail_at(
			error, &vm->place,
			"VM %s: its regions need more PCI slots than there are from PciSlot= on",
			vm->name);
	return 0;
}

static int check_region(const struct config *config, const struct region_config *region,
			struct conf_error *error)
{
	if (region->n_members == 0)
		return fail_at(error, &region->place, "region %s: Members= is missing",
			       region->name);
	if (region->n_members < 2)
		return fail_at(error, &region->place, "region %s: a region joins two VMs at least",
			       region->name);
	for (size_t i = 0; i < region->n_members; i++)
		if (!config_find_vm(config, region->members[i]))
			return fail_at(error, &region->place, "Members=: there is no VM %s",
				       region->members[i]);
	return 0;
}

static int check_rule_end(const struct config *config, const struct rule_config *rule,
			  const struct peer_name *end, struct conf_error *error)
{
	const struct vm_config *vm = config_find_vm(config, end->vm);
	char name[PEER_NAME_SIZE];

	if (!vm)
		return fail_at(error, &rule->place, "Allow: there is no VM %s", end->vm);
	if (!vm_config_has_service(vm, end->service)) {
		peer_name_format(end, name);
		return fail_at(error, &rule->place, "Allow: %s is not in Services= of its VM",
			       name);
	}
	return 0;
}

static int check_ca(const struct config *config, struct conf_error *error)
{
	const struct conf_place place = {.file = "ca.conf", .line = 1};

	if (!config->ca.key_file != !config->ca.certificate_file)
		return conf_fail(error, &place, "KeyFile= and CertificateFile= go together");
	if (config->ca.bundle_file && !config->ca.certificate_file)
		return conf_fail(error, &place, "BundleFile= needs KeyFile= and CertificateFile=");
	return 0;
}

static int compare_vms(const void *a, const void *b)
{
	return strcmp(((const struct vm_config *)a)->name, ((const struct vm_config *)b)->name);
}

static int compare_regions(const void *a, const void *b)
{
	return strcmp(((const struct region_config *)a)->name,
		      ((const struct region_config *)b)->name);
}

int config_check(struct config *config, struct conf_error *error)
{
	int r = check_ca(config, error);

	if (config->n_vms > 1)
		qsort(config->vms, config->n_vms, sizeof(*config->vms), compare_vms);
	if (config->n_regions > 1)
		qsort(config->regions, config->n_regions, sizeof(*config->regions),
		      compare_regions);
	for (size_t i = 0; r >= 0 && i < config->n_regions; i++)
		r = check_region(config, &config->regions[i], error);
	for (size_t i = 0; r >= 0 && i < config->n_vms; i++)
		r = check_vm(config, &config->vms[i], error);
	for (size_t i = 0; r >= 0 && i < config->n_rules; i++) {
		r = check_rule_end(config, &config->rules[i], &config->rules[i].from, error);
		if (r >= 0)
			r = check_rule_end(config, &config->rules[i], &config->rules[i].to, error);
	}
	return r;
}

static void config_defaults(struct config *config)
{
	snprintf(config->ca.trust_domain, sizeof(config->ca.trust_domain), "sivshm.local");
	config->ca.lifetime_usec = 3600ULL * 1000000;
	config->limits = (struct limits_config){
		.handshake_timeout_usec = 10 * 1000000ULL,
		.drain_timeout_usec = 30 * 1000000ULL,
		.sessions_per_vm = 64,
		.listeners_per_vm = 256,
		.certificates_per_minute = 600,
	};
}

int config_load(const char *root, struct config **ret, struct conf_error *error)
{
	_cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));
	int r;

	if (!config)
		return -ENOMEM;
	config_defaults(config);
	r = config_load_ca(root, config, error);
	if (r >= 0)
		r = config_load_vms(root, config, error);
	if (r >= 0)
		r = config_load_regions(root, config, error);
	if (r >= 0)
		r = config_load_rules(root, config, error);
	if (r >= 0)
		r = config_check(config, error);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(config);
	return 0;
}
