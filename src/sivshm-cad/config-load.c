/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sections and keys of each file.  A key is a row of a table: name, and how its value is taken. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config-load.h"

#define USEC_PER_SEC 1000000ULL
#define USEC_PER_MINUTE (60 * USEC_PER_SEC)
#define USEC_PER_HOUR (60 * USEC_PER_MINUTE)

/** struct loader - what the handlers are given: the object under construction and the section */
struct loader {
	struct config *config;
	enum { SECTION_NONE, SECTION_CA, SECTION_LIMITS } section; /* ca.conf only */
};

/** struct key - @take gets the object of the section; it returns 0, -EINVAL, -ERANGE, -ENOMEM */
struct key {
	const char *name;
	int (*take)(void *object, const char *value);
	const char *wanted; /* what a good value is, for the error */
};

static void words_done(char ***words)
{
	conf_words_free(*words);
}

static int take_key(const struct key *keys, void *object, const struct conf_place *place,
		    const char *name, const char *value, struct conf_error *error)
{
	for (; keys->name; keys++) {
		int r;

		if (strcmp(keys->name, name) != 0)
			continue;
		r = keys->take(object, value);
		if (r == -ENOMEM)
			return r;
		if (r < 0)
			return conf_fail(error, place, "%s=%s: not %s", name, value, keys->wanted);
		return 0;
	}
	return conf_fail(error, place, "unknown key %s=", name);
}

/* grow() - one more zeroed element at the end; NULL: out of memory.  @array is the address of the
 * pointer. */
static void *grow(void *array, size_t *n, size_t size)
{
	void *old, *new;

	memcpy(&old, array, sizeof(old));
	new = reallocarray(old, *n + 1, size);
	if (!new)
		return NULL;
	memcpy(array, &new, sizeof(new));
	memset((char *)new + *n *size, 0, size);
	return (char *)new + (*n)++ *size;
}

static int place_copy(struct config_place *to, const struct conf_place *from)
{
	to->line = from->line;
	to->file = strdup(from->file);
	return to->file ? 0 : -ENOMEM;
}

static int parse_time_between(const char *value, uint64_t min, uint64_t max, uint64_t *ret)
{
	int r = conf_parse_time(value, ret);

	if (r < 0)
		return r;
	return *ret < min || *ret > max ? -ERANGE : 0;
}

static int take_path(char **to, const char *value)
{
	if (value[0] != '/')
		return -EINVAL;
	*to = strdup(value);
	return *to ? 0 : -ENOMEM;
}

/* ca.conf */

static int take_trust_domain(void *object, const char *value)
{
	struct config *config = object;

	if (!trust_domain_is_valid(value))
		return -EINVAL;
	snprintf(config->ca.trust_domain, sizeof(config->ca.trust_domain), "%s", value);
	return 0;
}

static int take_lifetime(void *object, const char *value)
{
	struct config *config = object;

	return parse_time_between(value, USEC_PER_MINUTE, 24 * USEC_PER_HOUR,
				  &config->ca.lifetime_usec);
}

static int take_key_file(void *object, const char *value)
{
	return take_path(&((struct config *)object)->ca.key_file, value);
}

static int take_certificate_file(void *object, const char *value)
{
	return take_path(&((struct config *)object)->ca.certificate_file, value);
}

static int take_bundle_file(void *object, const char *value)
{
	return take_path(&((struct config *)object)->ca.bundle_file, value);
}

static const struct key ca_keys[] = {
	{"TrustDomain", take_trust_domain, "a trust domain (lower case host name)"},
	{"CertificateLifetime", take_lifetime, "a time from 1min to 24h"},
	{"KeyFile", take_key_file, "an absolute path"},
	{"CertificateFile", take_certificate_file, "an absolute path"},
	{"BundleFile", take_bundle_file, "an absolute path"},
	{},
};

static int take_handshake_timeout(void *object, const char *value)
{
	struct config *config = object;

	return parse_time_between(value, USEC_PER_SEC, USEC_PER_MINUTE,
				  &config->limits.handshake_timeout_usec);
}

static int take_drain_timeout(void *object, const char *value)
{
	struct config *config = object;

	return parse_time_between(value, 0, 24 * USEC_PER_HOUR, &config->limits.drain_timeout_usec);
}

static int take_sessions(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, 2032,
				   &((struct config *)object)->limits.sessions_per_vm);
}

static int take_listeners(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, 4096,
				   &((struct config *)object)->limits.listeners_per_vm);
}

static int take_certificates(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, 60000,
				   &((struct config *)object)->limits.certificates_per_minute);
}

static const struct key limits_keys[] = {
	{"HandshakeTimeout", take_handshake_timeout, "a time from 1s to 60s"},
	{"DrainTimeout", take_drain_timeout, "a time up to 24h"},
	{"SessionsPerVM", take_sessions, "a number from 1 to 2032"},
	{"ListenersPerVM", take_listeners, "a number from 1 to 4096"},
	{"CertificatesPerMinute", take_certificates, "a number from 1 to 60000"},
	{},
};

static int ca_section(void *userdata, const struct conf_place *place, const char *section,
		      struct conf_error *error)
{
	struct loader *l = userdata;

	if (strcmp(section, "CA") == 0)
		l->section = SECTION_CA;
	else if (strcmp(section, "Limits") == 0)
		l->section = SECTION_LIMITS;
	else
		return conf_fail(error, place, "unknown section [%s]", section);
	return 0;
}

static int ca_key(void *userdata, const struct conf_place *place, const char *key,
		  const char *value, struct conf_error *error)
{
	struct loader *l = userdata;

	return take_key(l->section == SECTION_CA ? ca_keys : limits_keys, l->config, place, key,
			value, error);
}

int config_load_ca(const char *root, struct config *config, struct conf_error *error)
{
	static const struct conf_handler handler = {ca_section, ca_key};
	struct loader l = {.config = config};

	return conf_load_file(root, CONFIG_DIR "/ca.conf", &handler, &l, error);
}

/* section_name() - "VM rtos" with @kind "VM" -> "rtos"; NULL if it is another kind */
static const char *section_name(const char *section, const char *kind)
{
	size_t n = strlen(kind);

	return strncmp(section, kind, n) == 0 && section[n] == ' ' ? section + n + 1 : NULL;
}

/* vm.d */

static int take_user(void *object, const char *value)
{
	struct vm_config *vm = object;
	uint32_t gid;
	int r = conf_parse_user(value, &vm->uid, &gid);

	if (r < 0)
		return r;
	vm->has_user = true;
	if (!vm->has_group)
		vm->gid = gid;
	return 0;
}

static int take_group(void *object, const char *value)
{
	struct vm_config *vm = object;

	vm->has_group = true;
	return conf_parse_group(value, &vm->gid);
}

static int take_services(void *object, const char *value)
{
	struct vm_config *vm = object;
	_cleanup_(words_done) char **words = NULL;
	size_t n;
	int r = conf_split(value, &words, &n);

	for (size_t i = 0; r >= 0 && i < n; i++) {
		char(*service)[SIVSHM_SERVICE_NAME_SIZE];

		if (!service_name_is_valid(words[i]) || vm_config_has_service(vm, words[i]))
			return -EINVAL;
		service = grow(&vm->services, &vm->n_services, sizeof(*vm->services));
		if (!service)
			return -ENOMEM;
		snprintf(*service, sizeof(*service), "%s", words[i]);
	}
	return r;
}

static int take_vm_channels(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, SIVSHM_MAX_SLOTS,
				   &((struct vm_config *)object)->channels);
}

static int take_pci_slot(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, PCI_SLOT_LAST,
				   &((struct vm_config *)object)->pci_slot);
}

static const struct key vm_keys[] = {
	{"User", take_user, "a user of this system, or a number"},
	{"Group", take_group, "a group of this system, or a number"},
	{"Services", take_services, "a list of service names, each once"},
	{"Channels", take_vm_channels, "a number from 1 to 2032"},
	{"PciSlot", take_pci_slot, "a PCI slot from 1 to 30"},
	{},
};

static int vm_section(void *userdata, const struct conf_place *place, const char *section,
		      struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;
	const char *name = section_name(section, "VM");
	struct vm_config *vm;

	if (!name)
		return conf_fail(error, place, "unknown section [%s], [VM name] is meant here",
				 section);
	if (!vm_name_is_valid(name))
		return conf_fail(error, place, "%s is not a name for a VM", name);
	vm = grow(&config->vms, &config->n_vms, sizeof(*config->vms));
	if (!vm)
		return -ENOMEM;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	vm->channels = 256;
	vm->pci_slot = 0x10;
	return place_copy(&vm->place, place);
}

static int vm_key(void *userdata, const struct conf_place *place, const char *key,
		  const char *value, struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;

	return take_key(vm_keys, &config->vms[config->n_vms - 1], place, key, value, error);
}

int config_load_vms(const char *root, struct config *config, struct conf_error *error)
{
	static const struct conf_handler handler = {vm_section, vm_key};
	struct loader l = {.config = config};

	return conf_load_dir(root, CONFIG_DIR "/vm.d", &handler, &l, error);
}

/* region.d */

static int take_members(void *object, const char *value)
{
	struct region_config *region = object;
	_cleanup_(words_done) char **words = NULL;
	size_t n;
	int r = conf_split(value, &words, &n);

	for (size_t i = 0; r >= 0 && i < n; i++) {
		char(*member)[SIVSHM_VM_NAME_SIZE];

		if (!vm_name_is_valid(words[i]) || region_config_member(region, words[i]) >= 0)
			return -EINVAL;
		member = grow(&region->members, &region->n_members, sizeof(*region->members));
		if (!member)
			return -ENOMEM;
		snprintf(*member, sizeof(*member), "%s", words[i]);
	}
	return r;
}

static int take_section_size(void *object, const char *value)
{
	struct region_config *region = object;
	int r = conf_parse_size(value, &region->section_size);

	if (r < 0)
		return r;
	if (region->section_size < SIVSHM_MIN_SECTION_SIZE ||
	    region->section_size > SIVSHM_MAX_SECTION_SIZE ||
	    (region->section_size & (region->section_size - 1)))
		return -ERANGE;
	return 0;
}

static int take_vectors(void *object, const char *value)
{
	return conf_parse_unsigned(value, 2, SIVSHM_MAX_VECTORS,
				   &((struct region_config *)object)->vectors);
}

static const struct key region_keys[] = {
	{"Members", take_members, "a list of VMs, each once"},
	{"SectionSize", take_section_size, "a power of two from 1M to 64G"},
	{"Vectors", take_vectors, "a number from 2 to 64"},
	{},
};

static int region_section(void *userdata, const struct conf_place *place, const char *section,
			  struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;
	const char *name = section_name(section, "Region");
	struct region_config *region;

	if (!name)
		return conf_fail(error, place, "unknown section [%s], [Region name] is meant here",
				 section);
	/* control.sock of a VM lies beside its regions' sockets */
	if (!region_name_is_valid(name) || strcmp(name, "control") == 0)
		return conf_fail(error, place, "%s is not a name for a region", name);
	region = grow(&config->regions, &config->n_regions, sizeof(*config->regions));
	if (!region)
		return -ENOMEM;
	snprintf(region->name, sizeof(region->name), "%s", name);
	region->section_size = 16 * 1024 * 1024;
	region->vectors = 8;
	return place_copy(&region->place, place);
}

static int region_key(void *userdata, const struct conf_place *place, const char *key,
		      const char *value, struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;

	return take_key(region_keys, &config->regions[config->n_regions - 1], place, key, value,
			error);
}

int config_load_regions(const char *root, struct config *config, struct conf_error *error)
{
	static const struct conf_handler handler = {region_section, region_key};
	struct loader l = {.config = config};

	return conf_load_dir(root, CONFIG_DIR "/region.d", &handler, &l, error);
}

/* policy.d */

static int take_rule_channels(void *object, const char *value)
{
	return conf_parse_unsigned(value, 1, SIVSHM_MAX_SLOTS,
				   &((struct rule_config *)object)->channels);
}

static int take_max_ring_size(void *object, const char *value)
{
	struct rule_config *rule = object;
	int r = conf_parse_size(value, &rule->max_ring_size);

	if (r < 0)
		return r;
	return ring_size_is_valid(rule->max_ring_size) ? 0 : -ERANGE;
}

static const struct key rule_keys[] = {
	{"Channels", take_rule_channels, "a number from 1 to 2032"},
	{"MaxRingSize", take_max_ring_size, "a power of two from 4K to 1G"},
	{},
};

static int rule_section(void *userdata, const struct conf_place *place, const char *section,
			struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;
	const char *pair = section_name(section, "Allow");
	_cleanup_(words_done) char **words = NULL;
	struct rule_config *rule;
	size_t n = 0;
	int r;

	if (!pair)
		return conf_fail(
			error, place,
			"unknown section [%s], [Allow vm/service vm/service] is meant here",
			section);
	r = conf_split(pair, &words, &n);
	if (r < 0)
		return r;
	rule = grow(&config->rules, &config->n_rules, sizeof(*config->rules));
	if (!rule)
		return -ENOMEM;
	if (n != 2 || peer_name_parse(words[0], &rule->from) < 0 ||
	    peer_name_parse(words[1], &rule->to) < 0)
		return conf_fail(error, place,
				 "[%s]: two names of the form vm/service are meant here", section);
	rule->channels = 16;
	rule->max_ring_size = 1024 * 1024;
	return place_copy(&rule->place, place);
}

static int rule_key(void *userdata, const struct conf_place *place, const char *key,
		    const char *value, struct conf_error *error)
{
	struct config *config = ((struct loader *)userdata)->config;

	return take_key(rule_keys, &config->rules[config->n_rules - 1], place, key, value, error);
}

int config_load_rules(const char *root, struct config *config, struct conf_error *error)
{
	static const struct conf_handler handler = {rule_section, rule_key};
	struct loader l = {.config = config};

	return conf_load_dir(root, CONFIG_DIR "/policy.d", &handler, &l, error);
}
