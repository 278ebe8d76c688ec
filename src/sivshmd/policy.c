/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "policy.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct policy_service *service_done(struct policy_service *s)
{
	free(s->connect.items);
	free(s->accept.items);
	return NULL;
}

struct policy *policy_free(struct policy *p)
{
	if (!p)
		return NULL;
	for (size_t i = 0; i < p->n_services; i++)
		service_done(&p->services[i]);
	for (size_t i = 0; i < p->n_files; i++)
		free(p->files[i]);
	free(p->services);
	free(p->files);
	free(p);
	return NULL;
}

const struct policy_service *policy_find(const struct policy *p, const char *service)
{
	for (size_t i = 0; i < p->n_services; i++)
		if (strcmp(p->services[i].name, service) == 0)
			return &p->services[i];
	return NULL;
}

__attribute__((format(printf, 4, 5))) static bool verdict(struct policy_verdict *v, bool allowed,
							  const struct policy_line *line,
							  const char *format, ...)
{
	va_list ap;
	int n = 0;

	v->allowed = allowed;
	if (line && line->file)
		n = snprintf(v->text, sizeof(v->text), "%s:%u: ", line->file, line->line);
	if (n < 0 || (size_t)n >= sizeof(v->text))
		return allowed;
	va_start(ap, format);
	vsnprintf(v->text + n, sizeof(v->text) - (size_t)n, format, ap);
	va_end(ap);
	return allowed;
}

static bool unit_matches(const struct policy_service *s, const struct policy_question *q)
{
	return !s->unit[0] || q->any_unit || strcmp(s->unit, q->unit) == 0;
}

/* May the caller be service @s?  Says so in @v if not. */
static bool may_be(const struct policy_service *s, const struct policy_question *q,
		   struct policy_verdict *v)
{
	if (s->uid != q->uid)
		return verdict(v, false, &s->user_line,
			       "service %s belongs to uid %u, the caller has uid %u", s->name,
			       s->uid, q->uid);
	if (!unit_matches(s, q))
		return verdict(v, false, &s->unit_line,
			       "service %s belongs to unit %s, the caller is in %s", s->name,
			       s->unit, q->unit[0] ? q->unit : "none");
	return verdict(v, true, &s->line, "the caller is service %s", s->name);
}

static const struct policy_service *
find_only(const struct policy *p, const struct policy_question *q, struct policy_verdict *v)
{
	const struct policy_service *found = NULL;

	for (size_t i = 0; i < p->n_services; i++) {
		const struct policy_service *s = &p->services[i];

		if (s->uid != q->uid || !unit_matches(s, q))
			continue;
		if (found) {
			verdict(v, false, &s->line,
				"the caller may be %s and %s, so it has to name one", found->name,
				s->name);
			return NULL;
		}
		found = s;
	}
	if (!found)
		verdict(v, false, NULL, "no service belongs to uid %u in %s", q->uid,
			q->unit[0] ? q->unit : "no unit");
	return found;
}

static const struct policy_service *
find_service(const struct policy *p, const struct policy_question *q, struct policy_verdict *v)
{
	const struct policy_service *s;

	if (!q->service[0])
		return find_only(p, q, v);
	s = policy_find(p, q->service);
	if (!s) {
		verdict(v, false, NULL, "no section [Service %s]", q->service);
		return NULL;
	}
	return may_be(s, q, v) ? s : NULL;
}

static bool peer_listed(const struct policy_peers *peers, const struct policy_service *s,
			const struct policy_question *q, struct policy_verdict *v)
{
	const char *key = q->act == POLICY_CONNECT ? "Connect" : "Accept";
	char name[PEER_NAME_SIZE];

	peer_name_format(q->peer, name);
	for (size_t i = 0; i < peers->n; i++)
		if (peer_name_equal(&peers->items[i].name, q->peer))
			return verdict(v, true, &peers->items[i].line, "%s=%s", key, name);
	return verdict(v, false, &s->line, "%s= of service %s does not name %s", key, s->name,
		       name);
}

static bool act_allowed(const struct policy_service *s, const struct policy_question *q,
			struct policy_verdict *v)
{
	switch (q->act) {
	case POLICY_CONNECT:
		return peer_listed(&s->connect, s, q, v);
	case POLICY_ACCEPT:
		return peer_listed(&s->accept, s, q, v);
	case POLICY_LISTEN:
		if (s->accept.n > 0)
			return verdict(v, true, &s->accept.items[0].line, "service %s may listen",
				       s->name);
		return verdict(v, false, &s->line, "service %s has no Accept=", s->name);
	case POLICY_BE:
		break;
	}
	return verdict(v, true, &s->line, "the caller is service %s", s->name);
}

void policy_decide(const struct policy *p, const struct policy_question *q,
		   struct policy_verdict *ret)
{
	const struct policy_service *s;

	*ret = (struct policy_verdict){};
	s = find_service(p, q, ret);
	ret->service = s;
	if (!s || !act_allowed(s, q, ret))
		return;
	if (q->ring_size > s->max_ring)
		verdict(ret, false, s->max_ring_line.file ? &s->max_ring_line : &s->line,
			"MaxRingSize= of service %s is %llu bytes, asked for %llu", s->name,
			(unsigned long long)s->max_ring, (unsigned long long)q->ring_size);
}
