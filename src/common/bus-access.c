/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "bus-util.h"

/* An administrator may have to type a password.  Without one polkit answers by itself, and the
 * caller hears of a polkit that does not before its own patience (25 s with most libraries) ends.
 */
#define POLKIT_TIMEOUT_USEC UINT64_C(20000000)
#define POLKIT_INTERACTIVE_TIMEOUT_USEC UINT64_C(120000000)
#define POLKIT_ALLOW_INTERACTION 1U

/* struct question - one caller's message that waits for the bus and perhaps polkit */
struct question {
	LIST_ENTRY(question) entry;
	struct bus_access *access;
	sd_bus_message *message; /* owned */
	sd_bus_slot *slot;	 /* owned: the call under way */
	char *action;		 /* owned; NULL: identify only */
	bool asks_polkit;	 /* the call is that to polkit */
	bus_access_fn fn;
	void *userdata;
	struct bus_sender sender;
};

/* By sender: a flood makes BUS_ACCESS_MAX of them, and each call of it asks how many its sender
 * has. */
#define BUCKETS 256

LIST_HEAD(question_list, question);

struct bus_access {
	sd_bus *bus; /* owned */
	struct question_list questions[BUCKETS];
	size_t n_questions, n_polkit;
};

static struct question_list *bucket_of(struct bus_access *a, const char *sender)
{
	uint32_t hash = 0;

	for (; *sender; sender++)
		hash = hash * 31 + (unsigned char)*sender;
	return &a->questions[hash % BUCKETS];
}

static struct question *question_free(struct question *q)
{
	if (q->access) {
		LIST_REMOVE(q, entry);
		q->access->n_questions--;
		q->access->n_polkit -= q->asks_polkit;
	}
	sd_bus_slot_unref(q->slot);
	sd_bus_message_unref(q->message);
	closep(&q->sender.pidfd);
	free(q->action);
	free(q);
	return NULL;
}

DEFINE_CLEANUP(struct question *, question_free)

int bus_access_new(sd_bus *bus, struct bus_access **ret)
{
	struct bus_access *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->bus = sd_bus_ref(bus);
	*ret = a;
	return 0;
}

struct bus_access *bus_access_free(struct bus_access *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; i < BUCKETS; i++)
		while (!LIST_EMPTY(&a->questions[i]))
			question_free(LIST_FIRST(&a->questions[i]));
	sd_bus_unref(a->bus);
	free(a);
	return NULL;
}

static bool quota_is_left(struct bus_access *a, const char *sender)
{
	const struct question *q;
	size_t n = 0;

	if (a->n_questions >= BUS_ACCESS_MAX)
		return false;
	LIST_FOREACH(q, bucket_of(a, sender), entry)
		n += strcmp(sd_bus_message_get_sender(q->message), sender) == 0;
	return n < BUS_ACCESS_MAX_PER_SENDER;
}

/* Asked when the caller is known: those who wait for polkit must not keep root from acting. */
static bool polkit_quota_is_left(const struct bus_access *a)
{
	return a->n_polkit < BUS_ACCESS_MAX_POLKIT;
}

static uint64_t now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* The reply of an asynchronous method call; 0, as sd-bus wants it from the callback. */
static int deny(sd_bus_message *m, const char *why)
{
	sd_bus_reply_method_errorf(m, SD_BUS_ERROR_ACCESS_DENIED, "%s", why);
	return 0;
}

static int deny_quota(sd_bus_message *m)
{
	return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_LIMITS_EXCEEDED,
					  "too many calls under way");
}

static int deny_no_answer(sd_bus_message *m, const sd_bus_error *e)
{
	sd_bus_reply_method_errorf(m, SD_BUS_ERROR_ACCESS_DENIED,
				   "only root may do this (polkit gave no answer: %s)",
				   e->message ?: e->name);
	return 0;
}

/* Takes over @q. */
static int allow(struct question *question)
{
	_cleanup_(question_freep) struct question *q = question;
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int r = q->fn(q->message, &q->sender, q->userdata, &error);

	if (r < 0 || sd_bus_error_is_set(&error))
		sd_bus_reply_method_errno(q->message, r, &error);
	sd_bus_error_free(&error);
	return 0;
}

static int on_polkit(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	_cleanup_(question_freep) struct question *q = userdata;
	const sd_bus_error *e = sd_bus_message_get_error(reply);
	int authorized = 0, challenge = 0;

	(void)error;
	if (sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
	    sd_bus_error_has_name(e, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
		return deny(q->message, "only root may do this (there is no polkit to ask)");
	if (e)
		return deny_no_answer(q->message, e);
	if (sd_bus_message_enter_container(reply, 'r', "bba{ss}") < 0 ||
	    sd_bus_message_read(reply, "bb", &authorized, &challenge) < 0)
		return deny(q->message, "polkit's answer is not understood");
	if (!authorized)
		return deny(q->message, challenge ? "polkit wants an administrator's password"
						  : "polkit does not allow this");
	return allow(TAKE_PTR(q));
}

static int ask_polkit(struct question *q)
{
	_cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
	bool interactive = sd_bus_message_get_allow_interactive_authorization(q->message) > 0;
	int r;

	r = sd_bus_message_new_method_call(q->access->bus, &call, "org.freedesktop.PolicyKit1",
					   "/org/freedesktop/PolicyKit1/Authority",
					   "org.freedesktop.PolicyKit1.Authority",
					   "CheckAuthorization");
	if (r < 0)
		return r;
	r = sd_bus_message_append(call, "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s",
				  sd_bus_message_get_sender(q->message), q->action, 0,
				  interactive ? POLKIT_ALLOW_INTERACTION : 0U, "");
	if (r < 0)
		return r;
	q->slot = sd_bus_slot_unref(q->slot);
	q->asks_polkit = true;
	q->access->n_polkit++;
	return sd_bus_call_async(q->access->bus, &q->slot, call, on_polkit, q,
				 interactive ? POLKIT_INTERACTIVE_TIMEOUT_USEC
					     : POLKIT_TIMEOUT_USEC);
}

static int read_pidfd(sd_bus_message *reply, int *ret)
{
	int fd, r;

	r = sd_bus_message_read(reply, "v", "h", &fd);
	if (r < 0)
		return r;
	closep(ret);
	*ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *ret < 0 ? -errno : 0;
}

static int read_u32(sd_bus_message *reply, uint32_t *ret)
{
	return sd_bus_message_read(reply, "v", "u", ret);
}

static int read_credential(sd_bus_message *reply, struct bus_sender *sender, bool *has_uid)
{
	uint32_t value = 0;
	const char *key;
	int r;

	r = sd_bus_message_read(reply, "s", &key);
	if (r < 0)
		return r;
	if (strcmp(key, "UnixUserID") == 0) {
		r = read_u32(reply, &value);
		sender->uid = value;
		*has_uid = true;
	} else if (strcmp(key, "ProcessID") == 0) {
		r = read_u32(reply, &value);
		sender->pid = (pid_t)value;
	} else if (strcmp(key, "ProcessFD") == 0) {
		r = read_pidfd(reply, &sender->pidfd);
	} else {
		r = sd_bus_message_skip(reply, "v");
	}
	return r;
}

/* a{sv} of GetConnectionCredentials; -ENXIO when the uid is not in it */
static int read_credentials(sd_bus_message *reply, struct bus_sender *sender)
{
	bool has_uid = false;
	int r;

	r = sd_bus_message_enter_container(reply, 'a', "{sv}");
	if (r < 0)
		return r;
	while ((r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
		r = read_credential(reply, sender, &has_uid);
		if (r >= 0)
			r = sd_bus_message_exit_container(reply);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	return has_uid ? 0 : -ENXIO;
}

static int on_credentials(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	_cleanup_(question_freep) struct question *q = userdata;

	(void)error;
	if (sd_bus_message_is_method_error(reply, NULL) || read_credentials(reply, &q->sender) < 0)
		return deny(q->message, "the bus does not tell who the caller is");
	if (!q->action || q->sender.uid == 0)
		return allow(TAKE_PTR(q));
	if (!polkit_quota_is_left(q->access)) {
		deny_quota(q->message);
		return 0;
	}
	if (ask_polkit(q) < 0)
		return deny(q->message, "polkit cannot be asked");
	TAKE_PTR(q); /* on_polkit() has it */
	return 0;
}

static int ask(struct bus_access *a, sd_bus_message *m, const char *action, bus_access_fn fn,
	       void *userdata)
{
	_cleanup_(question_freep) struct question *q = NULL;
	const char *sender = sd_bus_message_get_sender(m);
	int r;

	if (!sender)
		return -EACCES;
	if (!quota_is_left(a, sender)) {
		deny_quota(m);
		return 1;
	}
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	*q = (struct question){
		.fn = fn,
		.userdata = userdata,
		.message = sd_bus_message_ref(m),
		.sender = {.pidfd = -1, .arrived_usec = now_usec()},
	};
	if (action && !(q->action = strdup(action)))
		return -ENOMEM;
	r = sd_bus_call_method_async(a->bus, &q->slot, "org.freedesktop.DBus",
				     "/org/freedesktop/DBus", "org.freedesktop.DBus",
				     "GetConnectionCredentials", on_credentials, q, "s", sender);
	if (r < 0)
		return r;
	q->access = a;
	LIST_INSERT_HEAD(bucket_of(a, sender), q, entry);
	a->n_questions++;
	TAKE_PTR(q);
	return 1;
}

int bus_access_identify(struct bus_access *a, sd_bus_message *m, bus_access_fn fn, void *userdata)
{
	return ask(a, m, NULL, fn, userdata);
}

int bus_access_authorize(struct bus_access *a, sd_bus_message *m, const char *action,
			 bus_access_fn fn, void *userdata)
{
	return ask(a, m, action, fn, userdata);
}
