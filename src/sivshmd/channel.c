/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "channel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cgroup.h"
#include "listener.h"
#include "log.h"
#include "manager.h"
#include "steps.h"

/* The number in the path survives a restart of the daemon: slot and generation name a channel. */
static void set_path(struct channel *c)
{
	snprintf(c->path, sizeof(c->path), CHANNEL_PATH_PREFIX "/%llu",
		 (unsigned long long)c->ref.generation << 11 | c->ref.slot);
}

static void log_channel(int priority, const char *id, const struct channel *c, const char *what)
{
	char peer[PEER_NAME_SIZE];

	peer_name_format(&c->peer, peer);
	log_event(priority, id,
		  &(struct log_about){.service = c->local, .peer = peer, .channel = c->path},
		  "Channel %s with %s: %s", c->local, peer, what);
}

static void channel_end(struct channel *c, const char *reason)
{
	struct manager *m = c->manager;

	if (c->waiting)
		ready_drop(c->waiting);
	m->channels[c->ref.slot] = NULL;
	log_channel(LOG_INFO, LOG_ID_CHANNEL_CLOSED, c, reason);
	channel_bus_removed(c, reason);
	free(c);
}

int channel_new(struct manager *m, const struct channel_spec *spec, struct channel **ret)
{
	struct channel *c;

	if (spec->ref.slot >= SIVSHM_MAX_SLOTS)
		return -ERANGE;
	/* The slot was free for the kernel, so its former channel has ended; the event is late. */
	if (m->channels[spec->ref.slot])
		channel_end(m->channels[spec->ref.slot], REASON_CLOSED);
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct channel){
		.manager = m,
		.ref = spec->ref,
		.peer = *spec->peer,
		.ring_size = spec->ring_size,
		.uid = spec->uid,
		.cgroup = spec->cgroup,
		.act = spec->act,
		.state = spec->state,
	};
	snprintf(c->local, sizeof(c->local), "%s", spec->local);
	snprintf(c->unit, sizeof(c->unit), "%s", spec->unit ?: "");
	c->unit_is_known = spec->unit != NULL;
	set_path(c);
	m->channels[c->ref.slot] = c;
	*ret = c;
	return 0;
}

void channel_announce(struct channel *c, const struct steps *steps)
{
	char peer[PEER_NAME_SIZE], text[STEPS_TEXT_SIZE] = "";

	peer_name_format(&c->peer, peer);
	if (steps)
		steps_format(steps, text);
	log_event(LOG_INFO, LOG_ID_CHANNEL_OPENED,
		  &(struct log_about){.service = c->local,
				      .peer = peer,
				      .channel = c->path,
				      .steps = steps ? text : NULL},
		  "Channel %s with %s: open%s%s", c->local, peer, steps ? ", microseconds " : "",
		  text);
	channel_bus_added(c);
}

void channels_free(struct manager *m)
{
	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++) {
		free(m->channels[i]);
		m->channels[i] = NULL;
	}
}

void channels_lost(struct manager *m)
{
	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i])
			channel_end(m->channels[i], REASON_DEVICE_GONE);
}

struct channel *channel_find(struct manager *m, const struct slot_ref *ref)
{
	struct channel *c = ref->slot < SIVSHM_MAX_SLOTS ? m->channels[ref->slot] : NULL;

	return c && c->ref.generation == ref->generation ? c : NULL;
}

struct channel *channel_find_path(struct manager *m, const char *path)
{
	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i] && strcmp(m->channels[i]->path, path) == 0)
			return m->channels[i];
	return NULL;
}

const char *channel_state_name(const struct channel *c)
{
	switch (c->state) {
	case SIVSHM_GRANT_ACTIVE:
		return "active";
	case SIVSHM_GRANT_DRAINING:
		return "draining";
	default:
		return "revoked";
	}
}

void channel_close(struct channel *c, const char *reason)
{
	int r;

	if (!c->reason)
		c->reason = reason;
	r = device_close_channel(c->manager->device, &c->ref);
	if (r < 0 && r != -ESTALE)
		log_event(LOG_ERR, LOG_ID_DEVICE, &(struct log_about){.channel = c->path},
			  "Channel %s cannot be closed: %s", c->path, strerror(-r));
}

unsigned channels_count(struct manager *m, const char *service)
{
	unsigned n = 0;

	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i] && strcmp(m->channels[i]->local, service) == 0)
			n++;
	return n;
}

/*
 * Policy
 */

static bool policy_allows(const struct channel *c)
{
	struct policy_question q = {
		.act = c->act,
		.service = c->local,
		.uid = c->uid,
		.unit = c->unit,
		.any_unit = !c->unit_is_known,
		.peer = &c->peer,
		.ring_size = c->ring_size,
	};
	struct policy_verdict v;

	if (c->act != POLICY_BE) {
		policy_decide(c->manager->policy, &q, &v);
		return v.allowed;
	}
	q.act = POLICY_CONNECT;
	policy_decide(c->manager->policy, &q, &v);
	if (v.allowed)
		return true;
	q.act = POLICY_ACCEPT;
	policy_decide(c->manager->policy, &q, &v);
	return v.allowed;
}

void channels_apply_policy(struct manager *m)
{
	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i] && !policy_allows(m->channels[i]))
			channel_close(m->channels[i], REASON_POLICY);
}

/*
 * What the kernel says
 */

static void released(struct manager *m, const struct slot_ref *ref)
{
	struct channel *c = channel_find(m, ref);

	control_tell(m->control, "Released", slot_ref_encode(ref));
	if (c)
		channel_end(c, c->reason ? c->reason : REASON_CLOSED);
}

/* The host may be writing the entry: look again. */
static int look(struct manager *m, unsigned slot, struct sivshm_slot *ret)
{
	int r = -EAGAIN;

	for (unsigned i = 0; i < 64 && r == -EAGAIN; i++)
		r = device_slot(m->device, slot, ret);
	return r;
}

/* The next slot, from *@i on, that the kernel holds a channel in.  One that cannot be read must not
 * hide those behind it: what Hello does not name is granted to others. */
static bool next_channel(struct manager *m, unsigned *i, struct sivshm_slot *ret)
{
	int r = 0;

	while (*i < SIVSHM_MAX_SLOTS && r != -ENOENT) {
		r = look(m, (*i)++, ret);
		if (r >= 0 && ret->channel != SIVSHM_CHANNEL_NONE)
			return true;
	}
	return false;
}

/* One that cannot be looked at has not been seen to arrive. */
static bool is_on_its_way(struct channel *c)
{
	struct sivshm_slot s;

	if (c->used || c->waiting)
		return false;
	if (look(c->manager, c->ref.slot, &s) < 0)
		return true;
	c->used = s.flags & SIVSHM_SLOT_USED || s.channel == SIVSHM_CHANNEL_RELEASED ||
		  s.channel_generation != c->ref.generation;
	return !c->used;
}

int channels_check_delivered(struct manager *m, uid_t uid, struct failure *error)
{
	unsigned n = 0;

	for (size_t i = 0; i < ELEMENTSOF(m->channels); i++)
		if (m->channels[i] && m->channels[i]->uid == uid)
			n += is_on_its_way(m->channels[i]);
	if (n == 0 || n + quota_used(m->quota, uid, QUOTA_CONNECT) < UNDELIVERED_MAX)
		return 0;
	return failure_set(
		error, ERR_QUOTA_EXCEEDED,
		"uid %u has %u channels that it has not used yet: read the answers first", uid, n);
}

bool channel_is_released(struct manager *m, const struct slot_ref *ref)
{
	struct sivshm_slot s;

	/* What cannot be read is not known to be released: Hello names it to the host again. */
	return look(m, ref->slot, &s) >= 0 &&
	       (s.channel == SIVSHM_CHANNEL_NONE || s.channel == SIVSHM_CHANNEL_RELEASED ||
		s.channel_generation != ref->generation);
}

/* Does the kernel hold a channel of this grant?  Then its own RELEASED will tell of the end. */
static bool kernel_has(struct manager *m, const struct slot_ref *ref)
{
	struct sivshm_slot s;

	return look(m, ref->slot, &s) >= 0 && s.channel != SIVSHM_CHANNEL_NONE &&
	       s.channel_generation == ref->generation;
}

void channel_never_opened(struct manager *m, const struct slot_ref *ref)
{
	if (ref->generation && !kernel_has(m, ref))
		control_tell(m->control, "Released", slot_ref_encode(ref));
}

static void revoked(struct channel *c)
{
	c->state = SIVSHM_GRANT_REVOKED;
	if (!c->reason)
		c->reason = REASON_REVOKED;
	log_channel(LOG_NOTICE, LOG_ID_CHANNEL_REVOKED, c, c->reason);
	channel_bus_state_changed(c);
	if (c->waiting)
		ready_drop(c->waiting);
}

static void drained(struct channel *c)
{
	if (c->state != SIVSHM_GRANT_ACTIVE)
		return;
	c->state = SIVSHM_GRANT_DRAINING;
	if (!c->reason)
		c->reason = REASON_PEER_CLOSED;
	channel_bus_state_changed(c);
}

static const char *op_name(uint32_t op)
{
	switch (op) {
	case SIVSHM_OP_MMAP:
		return "mmap";
	case SIVSHM_OP_IOCTL:
		return "ioctl";
	case SIVSHM_OP_POLL:
		return "poll";
	case SIVSHM_OP_READ:
		return "read";
	default:
		return "use";
	}
}

static void denied(struct manager *m, struct channel *c, const struct sivshm_event *e)
{
	struct caller who = {.uid = e->uid, .pid = (pid_t)e->pid, .cgroup = e->cgroup};
	char peer[PEER_NAME_SIZE] = "";
	unsigned suppressed;

	/* Who is denied can try as fast as events are read.  A limit of its own for each uid and
	 * channel: what was used up elsewhere hides nothing here. */
	if (!ratelimit_allow(&m->denials, e->uid + e->slot * 0x9e3779b1u,
			     clock_usec(CLOCK_MONOTONIC), &suppressed))
		return;
	if (suppressed > 0)
		log_plain(LOG_NOTICE, "%u refusals were not logged", suppressed);
	if (c)
		peer_name_format(&c->peer, peer);
	log_event(LOG_WARNING, LOG_ID_DENIED,
		  &(struct log_about){.service = c ? c->local : "",
				      .peer = peer,
				      .channel = c ? c->path : NULL,
				      .error = error_name(ERR_NOT_AUTHORIZED),
				      .caller = &who},
		  "Process %u of uid %u, not the holder, tried to %s channel %s (%llu times)",
		  e->pid, e->uid, op_name(e->op), c ? c->path : "?", (unsigned long long)e->count);
	manager_bus_refused(m, c ? c->local : "", peer, error_name(ERR_NOT_AUTHORIZED), e->uid);
}

void channel_event(struct manager *m, const struct sivshm_event *event)
{
	struct slot_ref ref = {event->slot, event->generation};
	struct channel *c = channel_find(m, &ref);

	if (event->type == SIVSHM_EVENT_RELEASED)
		released(m, &ref);
	else if (event->type == SIVSHM_EVENT_DENIED)
		denied(m, c, event);
	else if (event->type == SIVSHM_EVENT_REVOKED && c)
		revoked(c);
	else if (event->type == SIVSHM_EVENT_DRAINING && c)
		drained(c);
}

/*
 * What was there before
 */

static enum sivshm_grant_state slot_state(const struct sivshm_slot *s)
{
	if (s->channel == SIVSHM_CHANNEL_REVOKED || s->state == SIVSHM_GRANT_REVOKED ||
	    s->state == SIVSHM_GRANT_FREE)
		return SIVSHM_GRANT_REVOKED;
	return (enum sivshm_grant_state)s->state;
}

/* NULL: there is nothing to adopt, or it cannot be. */
static struct channel *adopt(struct manager *m, const struct sivshm_slot *s)
{
	struct slot_ref ref = {s->slot, s->channel_generation};
	struct channel_spec spec = {
		.ref = ref,
		.local = (const char *)s->local_service,
		.ring_size = s->tx_size - SIVSHM_PAGE_SIZE,
		.uid = s->uid,
		.cgroup = s->cgroup,
		.act = POLICY_BE,
		.state = slot_state(s),
	};
	struct channel *c = NULL;
	struct peer_name peer;
	int r;

	r = device_adopt(m->device, &ref);
	if (r < 0) {
		log_event(LOG_WARNING, LOG_ID_DEVICE, NULL, "Slot %u cannot be adopted: %s",
			  s->slot, strerror(-r));
		return NULL;
	}
	if (s->channel == SIVSHM_CHANNEL_RELEASED)
		return NULL; /* its event comes now */
	snprintf(peer.vm, sizeof(peer.vm), "%s", (const char *)s->peer_vm);
	snprintf(peer.service, sizeof(peer.service), "%s", (const char *)s->peer_service);
	spec.peer = &peer;
	if (!channel_find(m, &ref) && channel_new(m, &spec, &c) < 0)
		log_plain(LOG_ERR, "Slot %u: out of memory", s->slot);
	return c;
}

struct adopted {
	struct channel *channels[SIVSHM_MAX_SLOTS];
	size_t n, n_unknown;
};

static bool on_cgroup(uint64_t cgroup, const char *path, void *userdata)
{
	struct adopted *a = userdata;

	for (size_t i = 0; i < a->n; i++) {
		struct channel *c = a->channels[i];

		if (c->cgroup != cgroup || c->unit_is_known)
			continue;
		cgroup_unit(path, c->unit, sizeof(c->unit));
		c->unit_is_known = true;
		a->n_unknown--;
	}
	return a->n_unknown > 0;
}

void channels_adopt(struct manager *m)
{
	struct adopted a = {};
	struct sivshm_slot s;
	unsigned i = 0;

	while (next_channel(m, &i, &s)) {
		struct channel *c = s.flags & SIVSHM_SLOT_ORPHAN ? adopt(m, &s) : NULL;

		if (c)
			a.channels[a.n++] = c;
	}
	/* One walk for all of them: whoever may make groups makes as many as he likes. */
	a.n_unknown = a.n;
	if (a.n > 0)
		caller_walk_cgroups(on_cgroup, &a);
	for (size_t n = 0; n < a.n; n++)
		channel_announce(a.channels[n], NULL);
	channels_apply_policy(m);
}

int channels_in_kernel(struct manager *m, struct slot_ref **ret, size_t *ret_n)
{
	_cleanup_free_ struct slot_ref *refs = NULL;
	struct sivshm_slot s;
	unsigned i = 0;
	size_t n = 0;

	refs = calloc(SIVSHM_MAX_SLOTS, sizeof(*refs));
	if (!refs)
		return -ENOMEM;
	while (next_channel(m, &i, &s))
		if (s.channel == SIVSHM_CHANNEL_OPEN || s.channel == SIVSHM_CHANNEL_REVOKED)
			refs[n++] = (struct slot_ref){s.slot, s.channel_generation};
	*ret = TAKE_PTR(refs);
	*ret_n = n;
	return 0;
}
