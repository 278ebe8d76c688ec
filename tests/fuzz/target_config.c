/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's configuration, from files to struct config, and the decisions that come of it.
 *
 * Input: text; a line "= NAME" begins the file NAME below etc/sivshm-ca (of a few; any other name
 * is a file more of policy.d).
 */
#include "config.h"
#include "files.h"
#include "layout.h"
#include "policy.h"

static const char *const names[] = {"ca.conf",	       "vm.d/a.conf",	  "vm.d/b.conf",
				    "region.d/a.conf", "policy.d/a.conf", NULL};
static const char *const folders[] = {"sivshm-ca", "sivshm-ca/vm.d", "sivshm-ca/region.d",
				      "sivshm-ca/policy.d", NULL};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	files_init(folders, names, "sivshm-ca");
	return 0;
}

static void check_vm(const struct config *config, const struct vm_config *vm)
{
	struct layout layout;

	must(vm_name_is_valid(vm->name) && config_find_vm(config, vm->name) == vm);
	must(vm->channels >= 1 && vm->channels <= SIVSHM_MAX_SLOTS);
	must(vm->uid != UINT32_MAX && vm->gid != UINT32_MAX);
	for (size_t i = 0; i < vm->n_services; i++)
		must(service_name_is_valid(vm->services[i]));
	layout_make(config, vm, &layout);
	must(layout.n <= SIVSHM_MAX_SECTIONS);
	for (size_t i = 0; i < layout.n; i++)
		must(layout.entries[i].pci_slot > vm->pci_slot &&
		     layout.entries[i].pci_slot <= PCI_SLOT_LAST);
}

static void check_region(const struct config *config, const struct region_config *region)
{
	must(region_name_is_valid(region->name) && region->n_members >= 2);
	must(__builtin_popcountll(region->section_size) == 1);
	must(region->section_size >= SIVSHM_MIN_SECTION_SIZE);
	must(region->section_size <= SIVSHM_MAX_SECTION_SIZE);
	must(region->vectors >= 2 && region->vectors <= SIVSHM_MAX_VECTORS);
	for (size_t i = 0; i < region->n_members; i++)
		must(config_find_vm(config, region->members[i]) &&
		     region_config_member(region, region->members[i]) == (int)i);
}

/* No way from one service to another but by a rule, within a region of both. */
static void check_decisions(const struct config *config)
{
	struct revocations none = {};
	struct decision d;

	for (size_t i = 0; i < config->n_rules; i++) {
		const struct rule_config *rule = &config->rules[i];

		must(ring_size_is_valid(rule->max_ring_size) && rule->channels > 0);
		policy_decide(config, &none, &rule->from, &rule->to, &d);
		must((d.why.code == 0) == (d.rule == rule));
		policy_decide(config, &none, &rule->to, &rule->from, &d);
		must(d.why.code != 0 || (peer_name_equal(&d.rule->from, &rule->to) &&
					 peer_name_equal(&d.rule->to, &rule->from)));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct config *config = NULL;
	struct conf_error error = {};
	int r;

	files_write(&in);
	r = config_load(files_root, &config, &error);
	must((r == 0) == (config != NULL) && r <= 0);
	must(r == 0 || error.text[0]);
	if (config) {
		for (size_t i = 0; i < config->n_vms; i++)
			check_vm(config, &config->vms[i]);
		for (size_t i = 0; i < config->n_regions; i++)
			check_region(config, &config->regions[i]);
		must(trust_domain_is_valid(config->ca.trust_domain));
		check_decisions(config);
	}
	config_free(config);
	return 0;
}
