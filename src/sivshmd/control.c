/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "clock.h"
#include "crypto.h"
#include "keypair.h"
#include "log.h"
#include "port.h"

#define RETRY_FIRST_USEC (100 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (5 * USEC_PER_SEC)
#define HELLO_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define TELL_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"

struct control {
	sd_event *event;
	const char *port;
	const struct control_handler *handler;
	void *userdata;
	bool started;
	bool ready;
	int last_error;		/* of opening; logged when it changes */
	struct rpc_link *link;	/* NULL: port not open */
	struct rpc_call *hello; /* under way */
	uint8_t nonce[NONCE_SIZE];
	sd_event_source *retry;
	uint64_t retry_usec;
	/* from Welcome */
	char vm[SIVSHM_VM_NAME_SIZE];
	char trust_domain[TRUST_DOMAIN_SIZE];
	X509_STORE *trust;
	uint64_t host_usec; /* host's time at @boot_usec of CLOCK_BOOTTIME */
	uint64_t boot_usec;
};

static const struct rpc_link_handler link_handler;

static void say_hello(struct control *c);
static int on_retry(sd_event_source *s, uint64_t usec, void *userdata);

int control_new(sd_event *event, const char *port, const struct control_handler *handler,
		void *userdata, struct control **ret)
{
	_cleanup_(control_freep) struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	*c = (struct control){
		.event = sd_event_ref(event),
		.port = port,
		.handler = handler,
		.userdata = userdata,
		.retry_usec = RETRY_FIRST_USEC,
	};
	r = sd_event_add_time_relative(event, &c->retry, CLOCK_MONOTONIC, 0, 0, on_retry, c);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(c->retry, SD_EVENT_OFF);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	rpc_link_free(c->link);
	sd_event_source_disable_unref(c->retry);
	sd_event_unref(c->event);
	X509_STORE_free(c->trust);
	free(c);
	return NULL;
}

void control_shut(struct control *c)
{
	c->ready = false;
}

bool control_is_ready(const struct control *c)
{
	return c->ready;
}

static void retry_later(struct control *c)
{
	sd_event_source_set_time_relative(c->retry, c->retry_usec);
	sd_event_source_set_enabled(c->retry, SD_EVENT_ONESHOT);
	c->retry_usec *= 2;
	if (c->retry_usec > RETRY_MAX_USEC)
		c->retry_usec = RETRY_MAX_USEC;
}

static void set_lost(struct control *c, const struct failure *why)
{
	c->hello = rpc_call_cancel(c->hello);
	if (!c->ready)
		return;
	c->ready = false;
	log_event(LOG_WARNING, LOG_ID_HOST_DOWN, NULL, "Lost the host: %s", why->text);
	c->handler->lost(why, c->userdata);
}

/*
 * Opening
 */

static int open_link(struct control *c)
{
	_cleanup_close_ int fd = -1;
	enum rpc_link_kind kind = RPC_LINK_DEVICE;
	int r;

	r = port_open(c->port, &fd, &kind);
	if (r < 0)
		return r;
	r = rpc_link_new(c->event, fd, kind, &link_handler, c, &c->link);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	return 0;
}

static void try_open(struct control *c)
{
	int r;

	r = open_link(c);
	if (r < 0) {
		if (r != c->last_error)
			log_event(LOG_WARNING, LOG_ID_HOST_DOWN, NULL,
				  "Control port %s cannot be used yet: %s", c->port, strerror(-r));
		c->last_error = r;
		retry_later(c);
		return;
	}
	c->last_error = 0;
	if (rpc_link_is_up(c->link))
		say_hello(c);
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct control *c = userdata;

	(void)s;
	(void)usec;
	if (!c->link)
		try_open(c);
	else if (rpc_link_is_up(c->link) && !c->ready && !c->hello)
		say_hello(c);
	return 0;
}

void control_start(struct control *c)
{
	struct failure why = {.code = ERR_HOST_UNAVAILABLE, .text = "saying Hello again"};

	c->started = true;
	if (!c->link) {
		try_open(c);
		return;
	}
	if (!rpc_link_is_up(c->link))
		return; /* Hello comes with up() */
	set_lost(c, &why);
	say_hello(c);
}

/*
 * Hello
 */

static void read_boot_id(char ret[BOOT_ID_SIZE])
{
	_cleanup_close_ int fd = open(BOOT_ID_FILE, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, BOOT_ID_SIZE - 1);

	ret[n > 0 ? n : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

static int make_hello(struct control *c, struct msg_hello *ret)
{
	*ret = (struct msg_hello){.version = PROTOCOL_VERSION};
	if (getrandom(c->nonce, sizeof(c->nonce), 0) != sizeof(c->nonce))
		return -EIO;
	memcpy(ret->nonce, c->nonce, sizeof(ret->nonce));
	read_boot_id(ret->boot_id);
	return c->handler->channels(&ret->channels, &ret->n_channels, c->userdata);
}

static int take_welcome(struct control *c, const struct msg_welcome *w, struct failure *error)
{
	X509_STORE *trust;
	int r;

	if (w->version != PROTOCOL_VERSION)
		return failure_set(error, ERR_FAILED, "host speaks version %u, this is %d",
				   w->version, PROTOCOL_VERSION);
	if (CRYPTO_memcmp(w->nonce, c->nonce, sizeof(c->nonce)) != 0)
		return failure_set(error, ERR_FAILED, "Welcome for another Hello");
	/* A cloned VM may have the entropy of its twin: no key is made before this. */
	if (crypto_mix(w->random, sizeof(w->random)) < 0)
		return failure_set(error, ERR_FAILED, "out of memory");
	r = trust_new(w->trust_bundle, &trust, error);
	if (r < 0)
		return r;
	X509_STORE_free(c->trust);
	c->trust = trust;
	strcpy(c->vm, w->vm);
	strcpy(c->trust_domain, w->trust_domain);
	c->host_usec = w->time_usec;
	c->boot_usec = clock_usec(CLOCK_BOOTTIME);
	return 0;
}

static int decode_welcome(struct control *c, json_t *result, struct failure *error)
{
	struct msg_welcome w = {};
	int r;

	r = msg_welcome_decode(result, &w, error);
	if (r < 0)
		return r;
	r = take_welcome(c, &w, error);
	msg_welcome_done(&w);
	return r;
}

static void on_welcome(struct rpc_link *link, json_t *result, const struct failure *error,
		       void *userdata)
{
	struct control *c = userdata;
	struct failure why = {};

	(void)link;
	c->hello = NULL;
	if (error)
		why = *error;
	else
		decode_welcome(c, result, &why);
	if (why.code) {
		if (why.code != ERR_CLOSED)
			log_event(LOG_WARNING, LOG_ID_HOST_DOWN, NULL,
				  "No Welcome from the host: %s", why.text);
		retry_later(c);
		return;
	}
	c->ready = true;
	c->retry_usec = RETRY_FIRST_USEC;
	log_event(LOG_INFO, LOG_ID_HOST_UP, NULL, "Host is there; this VM is %s of %s", c->vm,
		  c->trust_domain);
	c->handler->ready(c->userdata);
}

static void say_hello(struct control *c)
{
	struct msg_hello hello;
	int r;

	c->hello = rpc_call_cancel(c->hello);
	r = make_hello(c, &hello);
	if (r >= 0)
		r = rpc_link_write_nul(c->link);
	if (r >= 0)
		r = rpc_link_call(c->link, "Hello", msg_hello_encode(&hello), HELLO_TIMEOUT_USEC,
				  on_welcome, c, &c->hello);
	msg_hello_done(&hello);
	if (r < 0)
		retry_later(c);
}

/*
 * Link
 */

static void on_up(struct rpc_link *link, void *userdata)
{
	(void)link;
	say_hello(userdata);
}

static void on_down(struct rpc_link *link, const struct failure *why, void *userdata)
{
	struct control *c = userdata;
	struct stat st;

	set_lost(c, why);
	if (fstat(rpc_link_fd(link), &st) == 0 && !S_ISSOCK(st.st_mode))
		return; /* a device comes up again by itself */
	c->link = rpc_link_free(link);
	retry_later(c);
}

static void on_request(struct rpc_link *link, struct rpc_request *request, const char *method,
		       json_t *params, void *userdata)
{
	struct control *c = userdata;

	(void)link;
	if (c->ready)
		c->handler->request(request, method, params, c->userdata);
	else
		rpc_request_drop(request);
}

static void on_notification(struct rpc_link *link, const char *method, json_t *params,
			    void *userdata)
{
	struct control *c = userdata;
	struct failure why = {.code = ERR_HOST_UNAVAILABLE, .text = "it has started anew"};

	(void)link;
	if (strcmp(method, "Reset") == 0) {
		set_lost(c, &why);
		say_hello(c);
	} else if (c->ready) {
		c->handler->notification(method, params, c->userdata);
	}
}

static void on_malformed(struct rpc_link *link, const struct failure *why, void *userdata)
{
	(void)link;
	(void)userdata;
	log_event(LOG_NOTICE, LOG_ID_PROTOCOL, NULL, "Dropped a message of the host: %s",
		  why->text);
}

static const struct rpc_link_handler link_handler = {
	.request = on_request,
	.notification = on_notification,
	.up = on_up,
	.down = on_down,
	.malformed = on_malformed,
};

/*
 * Calls
 */

int control_call(struct control *c, const char *method, json_t *body, uint64_t timeout_usec,
		 rpc_call_fn fn, void *userdata, struct rpc_call **ret_call, struct failure *error)
{
	int r;

	if (!c->ready) {
		json_decref(body);
		return failure_set(error, ERR_HOST_UNAVAILABLE, "no connection to the host");
	}
	r = rpc_link_call(c->link, method, body, timeout_usec, fn, userdata, ret_call);
	if (r < 0)
		return failure_set(error, ERR_HOST_UNAVAILABLE, "%s cannot be sent to the host: %s",
				   method, strerror(-r));
	return 0;
}

struct failure control_failure(const struct rpc_link *link, const struct failure *error)
{
	struct failure lost;

	if (error->code != ERR_CLOSED || rpc_link_is_up(link))
		return *error;
	failure_set(&lost, ERR_HOST_UNAVAILABLE, "lost the host: %.200s", error->text);
	return lost;
}

static void on_told(struct rpc_link *link, json_t *result, const struct failure *error,
		    void *userdata)
{
	struct control *c = userdata;
	struct failure why = {};

	(void)link;
	(void)result;
	if (!error || error->code != ERR_TIMED_OUT)
		return;
	/* The host may now believe anything; Hello tells it what there is. */
	failure_set(&why, ERR_HOST_UNAVAILABLE, "it does not answer");
	set_lost(c, &why);
	say_hello(c);
}

void control_tell(struct control *c, const char *method, json_t *body)
{
	struct failure error;

	if (!c->ready)
		json_decref(body);
	else if (control_call(c, method, body, TELL_TIMEOUT_USEC, on_told, c, NULL, &error) < 0)
		log_event(LOG_WARNING, LOG_ID_PROTOCOL, NULL, "%s", error.text);
}

void control_notify(struct control *c, const char *method, json_t *body)
{
	if (c->ready)
		rpc_link_notify(c->link, method, body);
	else
		json_decref(body);
}

void control_count_malformed(struct control *c, const struct failure *why)
{
	if (c->link)
		rpc_link_count_malformed(c->link, why);
}

const char *control_vm(const struct control *c)
{
	return c->vm;
}

const char *control_trust_domain(const struct control *c)
{
	return c->trust_domain;
}

X509_STORE *control_trust(const struct control *c)
{
	return c->trust;
}

int64_t control_now(const struct control *c)
{
	return (int64_t)((c->host_usec + clock_usec(CLOCK_BOOTTIME) - c->boot_usec) / USEC_PER_SEC);
}
