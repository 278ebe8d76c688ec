/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "names.h"

static const char spiffe_scheme[] = "spiffe://";
static const char spiffe_vm[] = "/vm/";
static const char spiffe_service[] = "/service/";

/* No isalnum(): names must not depend on a locale. */
static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* [a-z0-9]([a-z0-9<extra>]*[a-z0-9])?, with its NUL at most @size bytes */
static bool is_name(const char *name, size_t size, const char *extra)
{
	size_t length = strnlen(name, size);

	if (length == 0 || length >= size)
		return false;
	if (!is_alnum(name[0]) || !is_alnum(name[length - 1]))
		return false;
	for (size_t i = 0; i < length; i++)
		if (!is_alnum(name[i]) && !strchr(extra, name[i]))
			return false;
	return true;
}

bool vm_name_is_valid(const char *name)
{
	return is_name(name, SIVSHM_VM_NAME_SIZE, "-");
}

bool region_name_is_valid(const char *name)
{
	return is_name(name, SIVSHM_REGION_NAME_SIZE, "-");
}

bool service_name_is_valid(const char *name)
{
	return is_name(name, SIVSHM_SERVICE_NAME_SIZE, "._-");
}

/* An empty label ("a..b") is allowed in no trust domain: it is not a host name. */
bool trust_domain_is_valid(const char *name)
{
	return is_name(name, TRUST_DOMAIN_SIZE, "._-") && !strstr(name, "..");
}

/* Copy a part of @length bytes; false when it does not fit with its NUL. */
static bool copy_part(char *to, size_t size, const char *from, size_t length)
{
	if (length >= size)
		return false;
	memcpy(to, from, length);
	to[length] = '\0';
	return true;
}

int peer_name_parse(const char *text, struct peer_name *ret)
{
	const char *slash = strchr(text, '/');
	struct peer_name name = {};

	if (!slash)
		return -EINVAL;
	if (!copy_part(name.vm, sizeof(name.vm), text, (size_t)(slash - text)) ||
	    !vm_name_is_valid(name.vm) || !service_name_is_valid(slash + 1))
		return -EINVAL;
	copy_part(name.service, sizeof(name.service), slash + 1, strlen(slash + 1));
	*ret = name;
	return 0;
}

void peer_name_format(const struct peer_name *name, char *ret)
{
	snprintf(ret, PEER_NAME_SIZE, "%.*s/%.*s", SIVSHM_VM_NAME_SIZE - 1, name->vm,
		 SIVSHM_SERVICE_NAME_SIZE - 1, name->service);
}

bool peer_name_equal(const struct peer_name *a, const struct peer_name *b)
{
	return strcmp(a->vm, b->vm) == 0 && strcmp(a->service, b->service) == 0;
}

void spiffe_id_format(const char *trust_domain, const struct peer_name *name, char *ret)
{
	snprintf(ret, SPIFFE_ID_SIZE, "%s%.*s%s%.*s%s%.*s", spiffe_scheme, TRUST_DOMAIN_SIZE - 1,
		 trust_domain, spiffe_vm, SIVSHM_VM_NAME_SIZE - 1, name->vm, spiffe_service,
		 SIVSHM_SERVICE_NAME_SIZE - 1, name->service);
}

/* Takes the text up to the next slash. */
static int take_part(const char **p, char *ret, size_t size)
{
	size_t length = strcspn(*p, "/");

	if (!copy_part(ret, size, *p, length))
		return -EINVAL;
	*p += length;
	return 0;
}

static int skip_literal(const char **p, const char *literal)
{
	size_t length = strlen(literal);

	if (strncmp(*p, literal, length) != 0)
		return -EINVAL;
	*p += length;
	return 0;
}

int spiffe_id_parse(const char *id, char *ret_trust_domain, struct peer_name *ret)
{
	char trust_domain[TRUST_DOMAIN_SIZE];
	struct peer_name name = {};
	const char *p = id;

	if (skip_literal(&p, spiffe_scheme) < 0 ||
	    take_part(&p, trust_domain, sizeof(trust_domain)) < 0 ||
	    skip_literal(&p, spiffe_vm) < 0 || take_part(&p, name.vm, sizeof(name.vm)) < 0 ||
	    skip_literal(&p, spiffe_service) < 0 ||
	    take_part(&p, name.service, sizeof(name.service)) < 0 || *p != '\0')
		return -EINVAL;
	if (!trust_domain_is_valid(trust_domain) || !vm_name_is_valid(name.vm) ||
	    !service_name_is_valid(name.service))
		return -EINVAL;
	memcpy(ret_trust_domain, trust_domain, sizeof(trust_domain));
	*ret = name;
	return 0;
}

bool ring_size_is_valid(unsigned long long size)
{
	return size >= SIVSHM_MIN_RING_SIZE && size <= SIVSHM_MAX_RING_SIZE &&
	       (size & (size - 1)) == 0;
}
