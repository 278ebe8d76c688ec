/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* identity.c between a control connection and users that are this test. */
#include "test.h"

#include <openssl/pem.h>

#include "identity.h"
#include "log.h"
#include "pki.h"

#define ID "spiffe://test/vm/rtos/service/sensor"

static struct pki_pair ca;
static X509_STORE *trust;
static int64_t now = PKI_NOW;
static bool ready = true;

/* the call under way */
static rpc_call_fn call_fn;
static void *call_userdata;
static char *call_csr;
static unsigned n_calls;

void log_event(int priority, const char *id, const struct log_about *about, const char *format, ...)
{
	(void)priority, (void)id, (void)about, (void)format;
}

void log_plain(int priority, const char *format, ...)
{
	(void)priority, (void)format;
}

bool control_is_ready(const struct control *c)
{
	(void)c;
	return ready;
}

const char *control_vm(const struct control *c)
{
	(void)c;
	return "rtos";
}

const char *control_trust_domain(const struct control *c)
{
	(void)c;
	return "test";
}

X509_STORE *control_trust(const struct control *c)
{
	(void)c;
	return trust;
}

int64_t control_now(const struct control *c)
{
	(void)c;
	return now;
}

struct failure control_failure(const struct rpc_link *link, const struct failure *error)
{
	(void)link;
	return *error;
}

int control_call(struct control *c, const char *method, json_t *body, uint64_t timeout_usec,
		 rpc_call_fn fn, void *userdata, struct rpc_call **ret_call, struct failure *error)
{
	struct msg_issue issue;

	(void)c;
	assert_string_equal(method, "IssueCertificate");
	assert_true(timeout_usec > 0);
	assert_int_equal(msg_issue_decode(body, &issue, error), 0);
	json_decref(body);
	if (!ready) {
		msg_issue_done(&issue);
		return failure_set(error, ERR_HOST_UNAVAILABLE, "test");
	}
	assert_null(call_fn);
	call_fn = fn;
	call_userdata = userdata;
	call_csr = TAKE_PTR(issue.csr);
	*ret_call = (struct rpc_call *)&call_fn;
	n_calls++;
	msg_issue_done(&issue);
	return 0;
}

static void call_end(void)
{
	call_fn = NULL;
	free(TAKE_PTR(call_csr));
}

struct rpc_call *rpc_call_cancel(struct rpc_call *call)
{
	if (call)
		call_end();
	return NULL;
}

/* what sivshm-cad would answer */
static char *sign(const char *csr, int64_t lifetime)
{
	struct pki_pair leaf = pki_issue("x", &ca,
					 &(struct pki_options){.san = "URI:" ID,
							       .not_before = now - 1,
							       .lifetime = lifetime + 1});
	BIO *in = BIO_new_mem_buf(csr, -1), *out = BIO_new(BIO_s_mem());
	X509_REQ *request = PEM_read_bio_X509_REQ(in, NULL, NULL, NULL);
	char *text = calloc(1, 8192);

	assert_non_null(request);
	assert_int_equal(X509_set_pubkey(leaf.certificate, X509_REQ_get0_pubkey(request)), 1);
	assert_true(X509_sign(leaf.certificate, ca.key, EVP_sha256()) > 0);
	assert_int_equal(PEM_write_bio_X509(out, leaf.certificate), 1);
	assert_true(BIO_read(out, text, 8191) > 0);
	X509_REQ_free(request);
	BIO_free(in);
	BIO_free(out);
	pki_done(&leaf);
	return text;
}

static void answer(int64_t lifetime)
{
	struct msg_issued issued = {.certificate = sign(call_csr, lifetime),
				    .not_after = (uint64_t)(now + lifetime)};
	json_t *result = msg_issued_encode(&issued);
	rpc_call_fn fn = call_fn;

	msg_issued_done(&issued);
	call_end();
	fn(NULL, result, NULL, call_userdata);
	json_decref(result);
}

static void answer_error(int code)
{
	struct failure error = {.code = code, .text = "test"};
	rpc_call_fn fn = call_fn;

	call_end();
	fn(NULL, NULL, &error, call_userdata);
}

struct user {
	struct identities *store;
	struct identity_wait *wait;
	struct user *cancels; /* in its callback */
	bool wants_again;
	unsigned n_good, n_bad;
	int code;
};

static void on_identity(const struct keypair *pair, const struct failure *error, void *userdata);

static int want(struct user *u)
{
	const struct keypair *pair = NULL;
	struct failure error;
	int r;

	r = identity_want(u->store, "sensor", on_identity, u, &u->wait, &pair, &error);
	if (r > 0)
		assert_non_null(pair);
	if (r < 0)
		u->code = error.code;
	return r;
}

static void on_identity(const struct keypair *pair, const struct failure *error, void *userdata)
{
	struct user *u = userdata;

	u->wait = NULL;
	assert_true((pair != NULL) == (error == NULL));
	if (pair)
		u->n_good++;
	else
		u->n_bad++, u->code = error->code;
	if (u->cancels)
		u->cancels->wait = identity_wait_cancel(u->cancels->wait);
	if (u->wants_again)
		u->wants_again = false, want(u);
}

static sd_event *event;

static struct identities *begin(void)
{
	struct identities *s;

	ready = true;
	now = PKI_NOW;
	n_calls = 0;
	assert_true(sd_event_new(&event) >= 0);
	assert_int_equal(identities_new(event, NULL, &s), 0);
	return s;
}

static void end(struct identities *s)
{
	identities_free(s);
	assert_null(call_fn);
	sd_event_unref(event);
}

static unsigned count(const struct identities *s)
{
	const X509 *certificate;
	const char *service;
	unsigned i = 0;

	while (identities_next(s, &i, &service, &certificate))
		assert_string_equal(service, "sensor");
	return i;
}

static void refused(void **state)
{
	struct identities *s = begin();
	struct user u = {.store = s};

	(void)state;
	ready = false;
	assert_true(want(&u) < 0);
	assert_int_equal(u.code, ERR_HOST_UNAVAILABLE);
	ready = true;
	assert_int_equal(want(&u), 0);
	answer_error(ERR_REVOKED);
	assert_int_equal(u.n_bad, 1);
	assert_int_equal(u.code, ERR_REVOKED);
	assert_int_equal(count(s), 0);
	end(s);
}

static void once_for_all(void **state)
{
	struct identities *s = begin();
	struct user a = {.store = s}, b = {.store = s};

	(void)state;
	assert_int_equal(want(&a), 0);
	assert_int_equal(want(&b), 0);
	assert_int_equal(n_calls, 1);
	answer(3600);
	assert_int_equal(a.n_good, 1);
	assert_int_equal(b.n_good, 1);
	assert_int_equal(want(&a), 1);
	assert_int_equal(n_calls, 1);
	assert_int_equal(count(s), 1);
	/* too old: a new one */
	now += 3599;
	assert_int_equal(want(&a), 0);
	assert_int_equal(n_calls, 2);
	end(s);
}

static void callbacks_do_what_they_like(void **state)
{
	struct identities *s = begin();
	struct user a = {.store = s}, b = {.store = s}, c = {.store = s};

	(void)state;
	assert_int_equal(want(&a), 0);
	assert_int_equal(want(&b), 0);
	assert_int_equal(want(&c), 0);
	a.cancels = &b;
	a.wants_again = true;
	answer(3600);
	assert_int_equal(a.n_good, 1);
	assert_int_equal(b.n_good, 0);
	assert_int_equal(c.n_good, 1);

	identities_forget(s, NULL);
	a.cancels = NULL;
	a.wants_again = true;
	b.cancels = &c;
	assert_int_equal(want(&a), 0);
	assert_int_equal(want(&b), 0);
	assert_int_equal(want(&c), 0);
	answer_error(ERR_FAILED); /* a asks again from its callback */
	assert_int_equal(a.n_bad, 1);
	assert_int_equal(c.n_bad, 0);
	assert_non_null(call_fn);
	answer(3600);
	assert_int_equal(a.n_good, 2);
	end(s);
}

static void cancelled(void **state)
{
	struct identities *s = begin();
	struct user u = {.store = s};

	(void)state;
	assert_int_equal(want(&u), 0);
	u.wait = identity_wait_cancel(u.wait);
	answer(3600); /* kept, for the next one */
	assert_int_equal(u.n_good + u.n_bad, 0);
	assert_int_equal(want(&u), 1);
	identity_wait_cancel(NULL);
	end(s);
}

static void host_lost(void **state)
{
	struct failure why = {.code = ERR_HOST_UNAVAILABLE};
	struct identities *s = begin();
	struct user u = {.store = s};

	(void)state;
	assert_int_equal(want(&u), 0);
	ready = false;
	identities_host_lost(s, &why);
	assert_null(call_fn);
	assert_int_equal(u.n_bad, 1);
	ready = true;
	identities_host_ready(s);
	assert_int_equal(n_calls, 1); /* nobody wants it any more */
	end(s);
}

static void held(void **state)
{
	struct failure why = {.code = ERR_HOST_UNAVAILABLE};
	struct identities *s = begin();

	(void)state;
	ready = false;
	identity_hold(s, "sensor");
	identity_hold(s, "sensor");
	ready = true;
	identities_host_ready(s);
	assert_int_equal(n_calls, 1);
	answer(3600);
	assert_int_equal(count(s), 1);
	identities_host_lost(s, &why);
	assert_int_equal(count(s), 1); /* still good */
	identities_host_ready(s);
	assert_int_equal(n_calls, 1);
	identities_forget(s, "other");
	assert_int_equal(count(s), 1);
	identities_forget(s, "sensor");
	assert_int_equal(count(s), 0);
	identity_unhold(s, "sensor");
	identity_unhold(s, "sensor");
	identity_unhold(s, "sensor");
	end(s);
}

static void another_host(void **state)
{
	struct pki_pair second = pki_ca("second", NULL);
	X509_STORE *first = trust;
	struct identities *s = begin();
	struct user u = {.store = s};

	(void)state;
	assert_int_equal(want(&u), 0);
	answer(3600);
	assert_int_equal(count(s), 1);
	trust = pki_store(&second);
	identities_host_ready(s); /* who trusts something else */
	assert_int_equal(count(s), 0);
	X509_STORE_free(trust);
	trust = first;
	pki_done(&second);
	end(s);
}

static void run_for(uint64_t usec)
{
	uint64_t until, at;

	sd_event_now(event, CLOCK_MONOTONIC, &until);
	until += usec;
	do {
		sd_event_run(event, 50000);
		sd_event_now(event, CLOCK_MONOTONIC, &at);
	} while (at < until && !call_fn);
}

static void renewed(void **state)
{
	struct identities *s = begin();
	struct user u = {.store = s};

	(void)state;
	assert_int_equal(want(&u), 0);
	answer(1); /* of use for nothing, but the timer is short */
	now = PKI_NOW;
	run_for(3000000);
	assert_non_null(call_fn);
	answer(3600);
	assert_int_equal(count(s), 1);
	assert_int_equal(want(&u), 1);
	end(s);
}

static int set_up(void **state)
{
	(void)state;
	ca = pki_ca("ca", NULL);
	trust = pki_store(&ca);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	X509_STORE_free(trust);
	pki_done(&ca);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused),
		cmocka_unit_test(once_for_all),
		cmocka_unit_test(callbacks_do_what_they_like),
		cmocka_unit_test(cancelled),
		cmocka_unit_test(host_lost),
		cmocka_unit_test(held),
		cmocka_unit_test(another_host),
		cmocka_unit_test(renewed),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
