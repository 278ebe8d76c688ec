/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of VMs, regions and services, and the SPIFFE ids made of them. Pure. */
#ifndef SIVSHM_NAMES_H
#define SIVSHM_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "sivshm_table.h"

#define TRUST_DOMAIN_SIZE 128
#define PEER_NAME_SIZE (SIVSHM_VM_NAME_SIZE + SIVSHM_SERVICE_NAME_SIZE)
#define SPIFFE_ID_SIZE (9 + TRUST_DOMAIN_SIZE + 4 + SIVSHM_VM_NAME_SIZE + 9 + SIVSHM_SERVICE_NAME_SIZE)

/** struct peer_name - "vm/service" taken apart */
struct peer_name {
	char vm[SIVSHM_VM_NAME_SIZE];
	char service[SIVSHM_SERVICE_NAME_SIZE];
};

bool vm_name_is_valid(const char *name);
bool region_name_is_valid(const char *name);
bool service_name_is_valid(const char *name);
bool trust_domain_is_valid(const char *name);

/** peer_name_parse() - "vm/service" -> parts; -EINVAL unless both are valid */
int peer_name_parse(const char *text, struct peer_name *ret);
/** peer_name_format() - parts -> "vm/service"; @ret has PEER_NAME_SIZE bytes */
void peer_name_format(const struct peer_name *name, char *ret);
bool peer_name_equal(const struct peer_name *a, const struct peer_name *b);

/** spiffe_id_format() - @ret has SPIFFE_ID_SIZE bytes; arguments are valid names */
void spiffe_id_format(const char *trust_domain, const struct peer_name *name, char *ret);
/** spiffe_id_parse() - exact inverse; -EINVAL for anything else */
int spiffe_id_parse(const char *id, char *ret_trust_domain, struct peer_name *ret);

/** ring_size_is_valid() - a power of two from SIVSHM_MIN_RING_SIZE to SIVSHM_MAX_RING_SIZE */
bool ring_size_is_valid(unsigned long long size);

#endif
