/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's configuration (docs/config.md) as one checked, immutable object. Pure but for reading
 * the files. */
#ifndef CAD_CONFIG_H
#define CAD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleanup.h"
#include "conf.h"
#include "names.h"

#define CONFIG_DIR "sivshm-ca"
#define PCI_SLOT_LAST 30 /* slot 31 is the ISA bridge on q35 */

/** struct config_place - where an object was defined, for messages; @file is owned */
struct config_place {
	char *file;
	unsigned line;
};

struct vm_config {
	char name[SIVSHM_VM_NAME_SIZE];
	struct config_place place;
	bool has_user, has_group;
	uint32_t uid, gid;
	char (*services)[SIVSHM_SERVICE_NAME_SIZE];
	size_t n_services;
	unsigned channels;
	unsigned pci_slot;
};

struct region_config {
	char name[SIVSHM_REGION_NAME_SIZE];
	struct config_place place;
	char (*members)[SIVSHM_VM_NAME_SIZE]; /* a member's index is its ivshmem peer id */
	size_t n_members;
	uint64_t section_size;
	unsigned vectors;
};

struct rule_config {
	struct peer_name from, to;
	struct config_place place;
	unsigned channels;
	uint64_t max_ring_size;
};

struct ca_config {
	char trust_domain[TRUST_DOMAIN_SIZE];
	uint64_t lifetime_usec;
	char *key_file, *certificate_file, *bundle_file; /* NULL: not set */
};

struct limits_config {
	uint64_t handshake_timeout_usec;
	uint64_t drain_timeout_usec;
	unsigned sessions_per_vm;
	unsigned listeners_per_vm;
	unsigned certificates_per_minute;
};

/** struct config - everything; @vms and @regions are sorted by name, @rules in file order */
struct config {
	struct ca_config ca;
	struct limits_config limits;
	struct vm_config *vms;
	size_t n_vms;
	struct region_config *regions;
	size_t n_regions;
	struct rule_config *rules;
	size_t n_rules;
};

/** config_load() - read and check everything below @root ("" normally); the caller frees */
int config_load(const char *root, struct config **ret, struct conf_error *error);
struct config *config_free(struct config *config);
DEFINE_CLEANUP(struct config *, config_free)

const struct vm_config *config_find_vm(const struct config *config, const char *name);
const struct region_config *config_find_region(const struct config *config, const char *name);
const struct rule_config *config_find_rule(const struct config *config,
					   const struct peer_name *from,
					   const struct peer_name *to);
bool vm_config_has_service(const struct vm_config *vm, const char *service);
/** region_config_member() - index of @vm in the region, -1 if it is none */
int region_config_member(const struct region_config *region, const char *vm);

/** config_check() - what only shows when everything was read; part of config_load(), apart for
 * tests */
int config_check(struct config *config, struct conf_error *error);

#endif
