/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certificates.h"

struct certificate_count {
	char vm[sizeof((struct peer_name){}.vm)];
	size_t n;
};

void certificates_done(struct certificates *c)
{
	free(c->list);
	free(c->counts);
	*c = (struct certificates){};
}

static struct certificate_count *find_count(const struct certificates *c, const char *vm)
{
	for (size_t i = 0; i < c->n_counts; i++)
		if (strcmp(c->counts[i].vm, vm) == 0)
			return &c->counts[i];
	return NULL;
}

static struct certificate_count *get_count(struct certificates *c, const char *vm)
{
	struct certificate_count *counts, *found = find_count(c, vm);

	if (found)
		return found;
	counts = reallocarray(c->counts, c->n_counts + 1, sizeof(*counts));
	if (!counts)
		return NULL;
	c->counts = counts;
	found = &counts[c->n_counts++];
	*found = (struct certificate_count){};
	snprintf(found->vm, sizeof(found->vm), "%s", vm);
	return found;
}

/* The VMs that have none go, too. */
static void uncount(struct certificates *c, const char *vm)
{
	struct certificate_count *count = find_count(c, vm);

	if (count && --count->n == 0)
		*count = c->counts[--c->n_counts];
}

int certificates_add(struct certificates *c, const struct certificate *new)
{
	struct certificate_count *count;

	if (c->n == c->allocated) {
		size_t allocated = c->allocated ? 2 * c->allocated : 64;
		struct certificate *list = reallocarray(c->list, allocated, sizeof(*list));

		if (!list)
			return -ENOMEM;
		c->list = list;
		c->allocated = allocated;
	}
	count = get_count(c, new->service.vm);
	if (!count)
		return -ENOMEM;
	count->n++;
	c->list[c->n++] = *new;
	return 0;
}

size_t certificates_expire(struct certificates *c, int64_t now)
{
	size_t kept = 0, n = c->n;

	for (size_t i = 0; i < n; i++)
		if (c->list[i].not_after >= now)
			c->list[kept++] = c->list[i];
		else
			uncount(c, c->list[i].service.vm);
	c->n = kept;
	return n - kept;
}

size_t certificates_revoke(struct certificates *c, const char *vm, const char *service)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++) {
		struct certificate *e = &c->list[i];

		if (e->revoked || strcmp(e->service.vm, vm) != 0 ||
		    (service && strcmp(e->service.service, service) != 0))
			continue;
		e->revoked = true;
		n++;
	}
	return n;
}

size_t certificates_count(const struct certificates *c, const char *vm)
{
	const struct certificate_count *count = find_count(c, vm);

	return count ? count->n : 0;
}

void certificate_format(const struct certificate *c, char ret[CERTIFICATE_LINE_SIZE])
{
	char name[PEER_NAME_SIZE];

	peer_name_format(&c->service, name);
	snprintf(ret, CERTIFICATE_LINE_SIZE, "%s %s %" PRId64 " %" PRId64 " %s\n", c->serial, name,
		 c->not_before, c->not_after, c->revoked ? "revoked" : "valid");
}

static bool parse_line(const char *line, struct certificate *ret)
{
	char name[PEER_NAME_SIZE + 1], state[8];

	_Static_assert(SERIAL_SIZE == 41 && PEER_NAME_SIZE == 104, "field widths below");
	*ret = (struct certificate){};
	if (sscanf(line, "%40[0-9a-f] %104s %" SCNd64 " %" SCNd64 " %7s", ret->serial, name,
		   &ret->not_before, &ret->not_after, state) != 5)
		return false;
	ret->revoked = strcmp(state, "revoked") == 0;
	return peer_name_parse(name, &ret->service) >= 0;
}

int certificates_parse(struct certificates *c, const char *text)
{
	int r = 0;

	for (const char *line = text; line && *line && r >= 0;) {
		const char *end = strchr(line, '\n');
		struct certificate entry;

		if (!end)
			break; /* half a line: the machine went down while it was written */
		if (parse_line(line, &entry))
			r = certificates_add(c, &entry);
		line = end + 1;
	}
	return r;
}
