/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "revocations.h"

void revocations_done(struct revocations *set)
{
	for (size_t i = 0; i < set->n; i++)
		free(set->entries[i].reason);
	free(set->entries);
	*set = (struct revocations){};
}

const struct revocation *revocations_find(const struct revocations *set, const char *name)
{
	for (size_t i = 0; i < set->n; i++)
		if (strcmp(set->entries[i].name, name) == 0)
			return &set->entries[i];
	return NULL;
}

/* one_line() - reasons come from the bus; a line end in one must not make a second entry of it */
static char *one_line(const char *reason)
{
	char *copy = strdup(reason);

	for (char *c = copy; c && *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
	return copy;
}

int revocations_add(struct revocations *set, const char *name, const char *reason)
{
	struct revocation *old = (struct revocation *)revocations_find(set, name), *new;
	_cleanup_free_ char *copy = one_line(reason);

	if (!copy)
		return -ENOMEM;
	if (old) {
		free(old->reason);
		old->reason = TAKE_PTR(copy);
		return 0;
	}
	new = reallocarray(set->entries, set->n + 1, sizeof(*new));
	if (!new)
		return -ENOMEM;
	set->entries = new;
	new += set->n++;
	snprintf(new->name, sizeof(new->name), "%s", name);
	new->reason = TAKE_PTR(copy);
	return 1;
}

bool revocations_remove(struct revocations *set, const char *name)
{
	struct revocation *entry = (struct revocation *)revocations_find(set, name);

	if (!entry)
		return false;
	free(entry->reason);
	*entry = set->entries[--set->n];
	return true;
}

const struct revocation *revocations_covers(const struct revocations *set,
					    const struct peer_name *service)
{
	const struct revocation *entry = revocations_find(set, service->vm);
	char name[PEER_NAME_SIZE];

	if (entry)
		return entry;
	peer_name_format(service, name);
	return revocations_find(set, name);
}

char *revocations_format(const struct revocations *set)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < set->n; i++)
		fprintf(f, "%s %s\n", set->entries[i].name, set->entries[i].reason);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int parse_line(char *line, struct revocations *set)
{
	char *space = strchr(line, ' ');
	struct peer_name name;
	int r;

	if (!space)
		return -EINVAL;
	*space = '\0';
	if (!vm_name_is_valid(line) && peer_name_parse(line, &name) < 0)
		return -EINVAL;
	r = revocations_add(set, line, space + 1);
	return r < 0 ? r : 0;
}

int revocations_parse(const char *text, struct revocations *ret)
{
	_cleanup_free_ char *copy = strdup(text);
	char *state = NULL;
	int r = copy ? 0 : -ENOMEM;

	for (char *line = copy ? strtok_r(copy, "\n", &state) : NULL; line && r >= 0;
	     line = strtok_r(NULL, "\n", &state))
		r = parse_line(line, ret);
	if (r < 0)
		revocations_done(ret);
	return r;
}
