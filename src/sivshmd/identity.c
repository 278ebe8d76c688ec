/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "identity.h"

#include <errno.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/queue.h>

#include "clock.h"
#include "log.h"
#include "spare-key.h"

#define ISSUE_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define RETRY_USEC (10 * USEC_PER_SEC)
#define VALID_MARGIN 2	 /* seconds of life that a certificate needs to be of use */
#define SPREAD_PERCENT 5 /* services do not renew all at once */

struct identity_wait {
	TAILQ_ENTRY(identity_wait) next;
	struct identity *identity;
	identity_fn fn;
	void *userdata;
};

/* One service.  Lives while it has a certificate, a request under way, or is held. */
struct identity {
	TAILQ_ENTRY(identity) next;
	struct identities *store;
	char service[SIVSHM_SERVICE_NAME_SIZE];
	unsigned held;
	bool used;	     /* since the certificate was issued */
	struct keypair pair; /* .certificate NULL: none */
	int64_t not_after;
	EVP_PKEY *new_key; /* of the request under way */
	struct rpc_call *call;
	TAILQ_HEAD(, identity_wait) waits;
	sd_event_source *timer; /* renewal, or the end of its life */
};

struct identities {
	sd_event *event;
	struct control *control;
	struct spare_key *spare;
	TAILQ_HEAD(, identity) list;
};

int identities_new(sd_event *event, struct control *control, struct identities **ret)
{
	struct identities *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = spare_key_new(event, &s->spare);
	if (r < 0) {
		free(s);
		return r;
	}
	s->event = sd_event_ref(event);
	s->control = control;
	TAILQ_INIT(&s->list);
	*ret = s;
	return 0;
}

static void drop_request(struct identity *i)
{
	i->call = rpc_call_cancel(i->call);
	EVP_PKEY_free(i->new_key);
	i->new_key = NULL;
}

static void drop_pair(struct identity *i)
{
	keypair_done(&i->pair);
	i->not_after = 0;
	i->timer = sd_event_source_disable_unref(i->timer);
}

static void identity_free(struct identity *i)
{
	struct identity_wait *w;

	while ((w = TAILQ_FIRST(&i->waits))) {
		TAILQ_REMOVE(&i->waits, w, next);
		free(w);
	}
	drop_request(i);
	drop_pair(i);
	TAILQ_REMOVE(&i->store->list, i, next);
	free(i);
}

struct identities *identities_free(struct identities *s)
{
	if (!s)
		return NULL;
	while (!TAILQ_EMPTY(&s->list))
		identity_free(TAILQ_FIRST(&s->list));
	spare_key_free(s->spare);
	sd_event_unref(s->event);
	free(s);
	return NULL;
}

static struct identity *find(const struct identities *s, const char *service)
{
	struct identity *i;

	TAILQ_FOREACH(i, &s->list, next)
		if (strcmp(i->service, service) == 0)
			return i;
	return NULL;
}

static struct identity *find_or_new(struct identities *s, const char *service)
{
	struct identity *i = find(s, service);

	if (i)
		return i;
	i = calloc(1, sizeof(*i));
	if (!i)
		return NULL;
	i->store = s;
	strcpy(i->service, service);
	TAILQ_INIT(&i->waits);
	TAILQ_INSERT_TAIL(&s->list, i, next);
	return i;
}

static void free_if_idle(struct identity *i)
{
	if (!i->held && !i->call && !i->pair.certificate && TAILQ_EMPTY(&i->waits))
		identity_free(i);
}

static bool is_valid(const struct identity *i)
{
	return i->pair.certificate && control_now(i->store->control) + VALID_MARGIN < i->not_after;
}

static void own_id(const struct identity *i, char ret[SPIFFE_ID_SIZE])
{
	struct peer_name name;

	strcpy(name.vm, control_vm(i->store->control));
	strcpy(name.service, i->service);
	spiffe_id_format(control_trust_domain(i->store->control), &name, ret);
}

/*
 * Issue
 */

static void on_issued(struct rpc_link *link, json_t *result, const struct failure *error,
		      void *userdata);
static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static int request(struct identity *i, struct failure *error)
{
	struct msg_issue issue = {};
	int r;

	if (i->call)
		return 0;
	strcpy(issue.service, i->service);
	if (spare_key_take(i->store->spare, &i->new_key, &issue.csr) >= 0)
		r = control_call(i->store->control, "IssueCertificate", msg_issue_encode(&issue),
				 ISSUE_TIMEOUT_USEC, on_issued, i, &i->call, error);
	else
		r = failure_set(error, ERR_FAILED, "no key can be made for %s", i->service);
	msg_issue_done(&issue);
	if (r < 0)
		drop_request(i);
	return r;
}

static void set_timer(struct identity *i, int64_t seconds)
{
	uint64_t usec = seconds > 0 ? (uint64_t)seconds * USEC_PER_SEC : 0;

	if (usec < USEC_PER_SEC)
		usec = USEC_PER_SEC;
	i->timer = sd_event_source_disable_unref(i->timer);
	if (sd_event_add_time_relative(i->store->event, &i->timer, CLOCK_BOOTTIME, usec, 0,
				       on_timer, i) < 0)
		log_plain(LOG_WARNING, "The certificate of %s will not be renewed in time",
			  i->service);
}

static int64_t renewal_after(int64_t life)
{
	uint8_t byte;
	int64_t spread = 0;

	if (RAND_bytes(&byte, sizeof(byte)) == 1)
		spread = life * SPREAD_PERCENT * (byte - 128) / (100 * 128);
	return life * 2 / 3 + spread;
}

static void install(struct identity *i, struct keypair *pair)
{
	int64_t life;

	drop_pair(i);
	i->pair = *pair;
	i->not_after = certificate_not_after(pair->certificate);
	i->used = !TAILQ_EMPTY(&i->waits);
	life = i->not_after - control_now(i->store->control);
	set_timer(i, renewal_after(life));
}

/* After those who wait for it have it: the journal has to run for each entry. */
static void log_issued(const struct identity *i)
{
	if (!i->pair.certificate)
		return;
	log_event(LOG_INFO, LOG_ID_CERTIFICATE, &(struct log_about){.service = i->service},
		  "Certificate of service %s, good for %lld s", i->service,
		  (long long)(i->not_after - control_now(i->store->control)));
}

static int take_issued(struct identity *i, json_t *result, struct failure *error)
{
	struct msg_issued issued = {};
	struct keypair pair;
	char id[SPIFFE_ID_SIZE];
	int r;

	r = msg_issued_decode(result, &issued, error);
	if (r < 0)
		return r;
	own_id(i, id);
	r = keypair_new(i->new_key, issued.certificate, id, control_trust(i->store->control),
			control_now(i->store->control), &pair, error);
	msg_issued_done(&issued);
	if (r < 0)
		return r;
	install(i, &pair);
	return 0;
}

/* A callback may cancel other waits, or begin new ones: take one at a time. */
static void tell_all(struct identity *i, const struct failure *error)
{
	TAILQ_HEAD(, identity_wait) told = TAILQ_HEAD_INITIALIZER(told);
	struct identity_wait *w;

	TAILQ_CONCAT(&told, &i->waits, next);
	i->held++; /* stays alive meanwhile */
	TAILQ_FOREACH(w, &told, next)
		w->identity = NULL;
	while ((w = TAILQ_FIRST(&told))) {
		TAILQ_REMOVE(&told, w, next);
		if (w->fn)
			w->fn(error ? NULL : &i->pair, error, w->userdata);
		free(w);
	}
	i->held--;
}

static void retry_or_expire(struct identity *i, const struct failure *error)
{
	log_event(LOG_WARNING, LOG_ID_CERTIFICATE,
		  &(struct log_about){.service = i->service, .error = error_name(error->code)},
		  "No certificate for service %s: %s", i->service, error->text);
	if (i->pair.certificate || i->held)
		set_timer(i, RETRY_USEC / USEC_PER_SEC);
}

static void on_issued(struct rpc_link *link, json_t *result, const struct failure *error,
		      void *userdata)
{
	struct identity *i = userdata;
	struct failure why = {};

	i->call = NULL;
	if (error)
		why = control_failure(link, error);
	else
		take_issued(i, result, &why);
	drop_request(i);
	if (why.code)
		retry_or_expire(i, &why);
	tell_all(i, why.code ? &why : NULL);
	if (!why.code)
		log_issued(i);
	free_if_idle(i);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct identity *i = userdata;
	struct failure error;

	(void)source;
	(void)usec;
	if (i->pair.certificate && !is_valid(i))
		drop_pair(i);
	if ((i->used || i->held) && control_is_ready(i->store->control)) {
		if (request(i, &error) < 0)
			retry_or_expire(i, &error);
	} else if (i->pair.certificate) {
		set_timer(i, i->not_after - control_now(i->store->control) - VALID_MARGIN + 1);
	}
	free_if_idle(i);
	return 0;
}

/*
 * For users
 */

static int wait_for(struct identity *i, identity_fn fn, void *userdata, struct identity_wait **ret,
		    struct failure *error)
{
	struct identity_wait *w;
	int r;

	r = request(i, error);
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return failure_set(error, ERR_FAILED, "out of memory");
	*w = (struct identity_wait){.identity = i, .fn = fn, .userdata = userdata};
	TAILQ_INSERT_TAIL(&i->waits, w, next);
	*ret = w;
	return 0;
}

int identity_want(struct identities *s, const char *service, identity_fn fn, void *userdata,
		  struct identity_wait **ret_wait, const struct keypair **ret_pair,
		  struct failure *error)
{
	struct identity *i = find_or_new(s, service);
	int r;

	if (!i)
		return failure_set(error, ERR_FAILED, "out of memory");
	i->used = true;
	if (is_valid(i)) {
		*ret_pair = &i->pair;
		return 1;
	}
	drop_pair(i);
	r = wait_for(i, fn, userdata, ret_wait, error);
	if (r < 0)
		free_if_idle(i);
	return r;
}

struct identity_wait *identity_wait_cancel(struct identity_wait *w)
{
	if (!w)
		return NULL;
	if (!w->identity) { /* just now being told: tell_all() frees it */
		w->fn = NULL;
		return NULL;
	}
	TAILQ_REMOVE(&w->identity->waits, w, next);
	free(w);
	return NULL;
}

void identity_hold(struct identities *s, const char *service)
{
	struct identity *i = find_or_new(s, service);
	struct failure error;

	if (!i)
		return;
	i->held++;
	if (!is_valid(i) && control_is_ready(s->control) && request(i, &error) < 0)
		retry_or_expire(i, &error);
}

void identity_unhold(struct identities *s, const char *service)
{
	struct identity *i = find(s, service);

	if (!i || !i->held)
		return;
	i->held--;
	free_if_idle(i);
}

void identities_forget(struct identities *s, const char *service)
{
	struct identity *i, *next;

	for (i = TAILQ_FIRST(&s->list); i; i = next) {
		next = TAILQ_NEXT(i, next);
		if (service && strcmp(i->service, service) != 0)
			continue;
		drop_pair(i);
		free_if_idle(i);
	}
}

void identities_host_ready(struct identities *s)
{
	struct failure error;
	struct identity *i, *next;
	char id[SPIFFE_ID_SIZE];

	spare_key_renew(s->spare);
	for (i = TAILQ_FIRST(&s->list); i; i = next) {
		next = TAILQ_NEXT(i, next);
		own_id(i, id);
		/* The host may be another one, with another name for this VM. */
		if (i->pair.certificate && keypair_check(&i->pair, id, control_trust(s->control),
							 control_now(s->control), &error) < 0)
			drop_pair(i);
		if (i->held && !i->pair.certificate && request(i, &error) < 0)
			retry_or_expire(i, &error);
		free_if_idle(i);
	}
}

void identities_host_lost(struct identities *s, const struct failure *why)
{
	struct identity *i, *next;

	for (i = TAILQ_FIRST(&s->list); i; i = next) {
		drop_request(i);
		tell_all(i, why); /* may free others, not this one */
		next = TAILQ_NEXT(i, next);
		free_if_idle(i);
	}
}

bool identities_next(const struct identities *s, unsigned *index, const char **ret_service,
		     const X509 **ret_certificate)
{
	const struct identity *i;
	unsigned n = 0;

	TAILQ_FOREACH(i, &s->list, next) {
		if (!i->pair.certificate || n++ < *index)
			continue;
		(*index)++;
		*ret_service = i->service;
		*ret_certificate = i->pair.certificate;
		return true;
	}
	return false;
}
