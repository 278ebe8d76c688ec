/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy.d/ to struct policy. */
#include <errno.h>
#include <string.h>

#include "policy.h"

/* Does @unit look like the name of a unit that can hold a process? */
static bool unit_is_valid(const char *unit)
{
	const char *dot = strrchr(unit, '.');

	if (!dot || dot == unit || strlen(unit) >= UNIT_NAME_SIZE || strchr(unit, '/'))
		return false;
	return strcmp(dot, ".service") == 0 || strcmp(dot, ".scope") == 0 ||
	       strcmp(dot, ".socket") == 0 || strcmp(dot, ".mount") == 0 ||
	       strcmp(dot, ".swap") == 0;
}

/* Keep a copy of the file's name for as long as the policy lives; lines of a file come in a row. */
static int own_line(struct policy *p, const struct conf_place *place, struct policy_line *ret)
{
	char **files;

	if (p->n_files == 0 || strcmp(p->files[p->n_files - 1], place->file) != 0) {
		files = reallocarray(p->files, p->n_files + 1, sizeof(*files));
		if (!files)
			return -ENOMEM;
		p->files = files;
		p->files[p->n_files] = strdup(place->file);
		if (!p->files[p->n_files])
			return -ENOMEM;
		p->n_files++;
	}
	*ret = (struct policy_line){p->files[p->n_files - 1], place->line};
	return 0;
}

static int check_complete(const struct policy *p, struct conf_error *error)
{
	const struct policy_service *s;

	if (p->n_services == 0)
		return 0;
	s = &p->services[p->n_services - 1];
	if (s->user_line.file)
		return 0;
	return conf_fail(error, &(struct conf_place){s->line.file, s->line.line},
			 "[Service %s] needs User=", s->name);
}

static int on_section(void *userdata, const struct conf_place *place, const char *section,
		      struct conf_error *error)
{
	struct policy *p = userdata;
	struct policy_service *services, *s;
	const char *name;
	int r;

	r = check_complete(p, error);
	if (r < 0)
		return r;
	if (strncmp(section, "Service ", 8) != 0)
		return conf_fail(error, place, "unknown section [%s]", section);
	name = section + 8;
	if (!service_name_is_valid(name))
		return conf_fail(error, place, "'%s' is no valid service name", name);
	services = reallocarray(p->services, p->n_services + 1, sizeof(*services));
	if (!services)
		return -ENOMEM;
	p->services = services;
	s = &services[p->n_services];
	*s = (struct policy_service){
		.channels = POLICY_DEFAULT_CHANNELS,
		.max_ring = POLICY_DEFAULT_RING,
	};
	strcpy(s->name, name);
	p->n_services++;
	return own_line(p, place, &s->line);
}

static int add_peer(struct policy_peers *peers, const char *word, const struct policy_line *line,
		    const struct conf_place *place, struct conf_error *error)
{
	struct policy_peer *items;
	struct peer_name name;

	if (peer_name_parse(word, &name) < 0)
		return conf_fail(error, place, "'%s' is no peer, which is 'vm/service'", word);
	for (size_t i = 0; i < peers->n; i++)
		if (peer_name_equal(&peers->items[i].name, &name))
			return conf_fail(error, place, "'%s' is named twice", word);
	items = reallocarray(peers->items, peers->n + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	peers->items = items;
	items[peers->n++] = (struct policy_peer){name, *line};
	return 0;
}

static int parse_peers(struct policy_peers *peers, const char *value,
		       const struct policy_line *line, const struct conf_place *place,
		       struct conf_error *error)
{
	char **words;
	size_t n;
	int r;

	r = conf_split(value, &words, &n);
	if (r < 0)
		return conf_fail(error, place, "'%s' is no list", value);
	for (size_t i = 0; i < n && r >= 0; i++)
		r = add_peer(peers, words[i], line, place, error);
	conf_words_free(words);
	return r < 0 ? r : 0;
}

static int parse_user(struct policy_service *s, const char *value, const struct policy_line *line,
		      const struct conf_place *place, struct conf_error *error)
{
	uint32_t uid, gid;

	if (conf_parse_user(value, &uid, &gid) < 0)
		return conf_fail(error, place, "User=%s: no such user", value);
	s->uid = uid;
	s->user_line = *line;
	return 0;
}

static int parse_unit(struct policy_service *s, const char *value, const struct policy_line *line,
		      const struct conf_place *place, struct conf_error *error)
{
	if (!unit_is_valid(value))
		return conf_fail(error, place, "Unit=%s: not the name of a unit with its suffix",
				 value);
	strcpy(s->unit, value);
	s->unit_line = *line;
	return 0;
}

static int parse_ring(struct policy_service *s, const char *value, const struct policy_line *line,
		      const struct conf_place *place, struct conf_error *error)
{
	if (conf_parse_size(value, &s->max_ring) < 0 || !ring_size_is_valid(s->max_ring))
		return conf_fail(error, place, "MaxRingSize=%s: a power of two from 4K to 1G",
				 value);
	s->max_ring_line = *line;
	return 0;
}

static int on_key(void *userdata, const struct conf_place *place, const char *key,
		  const char *value, struct conf_error *error)
{
	struct policy *p = userdata;
	struct policy_service *s;
	struct policy_line line;
	int r;

	if (p->n_services == 0)
		return conf_fail(error, place, "%s= outside of a section", key);
	s = &p->services[p->n_services - 1];
	r = own_line(p, place, &line);
	if (r < 0)
		return r;
	if (strcmp(key, "User") == 0)
		return parse_user(s, value, &line, place, error);
	if (strcmp(key, "Unit") == 0)
		return parse_unit(s, value, &line, place, error);
	if (strcmp(key, "Connect") == 0)
		return parse_peers(&s->connect, value, &line, place, error);
	if (strcmp(key, "Accept") == 0)
		return parse_peers(&s->accept, value, &line, place, error);
	if (strcmp(key, "MaxRingSize") == 0)
		return parse_ring(s, value, &line, place, error);
	if (strcmp(key, "Channels") != 0)
		return conf_fail(error, place, "unknown key %s=", key);
	if (conf_parse_unsigned(value, 1, POLICY_MAX_CHANNELS, &s->channels) < 0)
		return conf_fail(error, place, "Channels=%s: a number from 1 to %d", value,
				 POLICY_MAX_CHANNELS);
	return 0;
}

int policy_load(const char *root, struct policy **ret, struct conf_error *error)
{
	static const struct conf_handler handler = {.section = on_section, .key = on_key};
	_cleanup_(policy_freep) struct policy *p = NULL;
	int r;

	*error = (struct conf_error){};
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	r = conf_load_dir(root, "sivshm/policy.d", &handler, p, error);
	if (r >= 0)
		r = check_complete(p, error);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(p);
	return 0;
}
