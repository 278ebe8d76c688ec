/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pure core when memory ends, a file cannot be read, or OpenSSL fails: each story runs with its
 * first such call failing, its second, and so on, until it comes through; and all of that once more
 * with every later call failing too.  No crash, an error that says so, and all memory given back.
 *
 * Not a fuzzer: there is an end to it.  Argument: the folder of the corpora.
 */
#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/provider.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bio-text.h"
#include "config.h"
#include "crypto.h"
#include "files.h"
#include "frame.h"
#include "handshake.h"
#include "message.h"
#include "pki.h"
#include "rpc.h"

#define ID_A "spiffe://sivshm.local/vm/rtos/service/sensor"
#define ID_B "spiffe://sivshm.local/vm/ivi/service/dashboard"

static unsigned long n_calls, fail_at, n_injected;
static bool fail_on; /* every later one too */
static long balance; /* of what the core has from malloc() and friends */

static bool fails(void)
{
	n_calls++;
	if (!fail_at || n_calls < fail_at || (n_calls > fail_at && !fail_on))
		return false;
	n_injected++;
	return true;
}

/* what can fail; the linker puts these before the core's calls (--wrap) */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void __wrap_free(void *p);
int __wrap_asprintf(char **ret, const char *format, ...);

#define COUNTED(expression)                               \
	({                                                \
		void *_p = fails() ? NULL : (expression); \
		balance += _p != NULL;                    \
		if (!_p)                                  \
			errno = ENOMEM;                   \
		_p;                                       \
	})

void *__wrap_malloc(size_t size)
{
	return COUNTED(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return COUNTED(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
	void *q = fails() ? NULL : __real_realloc(p, size);

	balance += q && !p;
	return q;
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	void *q = fails() ? NULL : __real_reallocarray(p, n, size);

	balance += q && !p;
	return q;
}

char *__wrap_strdup(const char *s)
{
	return COUNTED(__real_strdup(s));
}

char *__wrap_strndup(const char *s, size_t n)
{
	return COUNTED(__real_strndup(s, n));
}

void __wrap_free(void *p)
{
	balance -= p != NULL;
	__real_free(p);
}

int __wrap_asprintf(char **ret, const char *format, ...)
{
	va_list ap;
	int n;

	if (fails())
		return -1;
	va_start(ap, format);
	n = vasprintf(ret, format, ap);
	va_end(ap);
	balance += n >= 0;
	return n;
}

/* WRAP(): a function that returns @failure when it fails */
#define WRAP(type, name, failure, parameters, arguments)            \
	type __real_##name parameters;                              \
	type __wrap_##name parameters;                              \
	type __wrap_##name parameters                               \
	{                                                           \
		return fails() ? failure : __real_##name arguments; \
	}

WRAP(ssize_t, read, (errno = EIO, -1), (int fd, void *buffer, size_t size), (fd, buffer, size))
WRAP(OSSL_LIB_CTX *, OSSL_LIB_CTX_new, NULL, (void), ())
WRAP(OSSL_PROVIDER *, OSSL_PROVIDER_load, NULL, (OSSL_LIB_CTX * c, const char *name), (c, name))
WRAP(int, OSSL_PROVIDER_add_builtin, 0,
     (OSSL_LIB_CTX * c, const char *name, OSSL_provider_init_fn *start), (c, name, start))
WRAP(SSL_CTX *, SSL_CTX_new_ex, NULL,
     (OSSL_LIB_CTX * c, const char *properties, const SSL_METHOD *method), (c, properties, method))
WRAP(int, SSL_CTX_set_ciphersuites, 0, (SSL_CTX * c, const char *list), (c, list))
WRAP(SSL *, SSL_new, NULL, (SSL_CTX * c), (c))
WRAP(BIO *, BIO_new, NULL, (const BIO_METHOD *method), (method))
WRAP(int, BIO_write, -1, (BIO * b, const void *data, int n), (b, data, n))
WRAP(int, BIO_read, -1, (BIO * b, void *data, int n), (b, data, n))
WRAP(int, SSL_use_certificate, 0, (SSL * s, X509 *c), (s, c))
WRAP(int, SSL_use_PrivateKey, 0, (SSL * s, EVP_PKEY *k), (s, k))
WRAP(int, SSL_do_handshake, -1, (SSL * s), (s))
WRAP(int, PEM_write_bio_X509, 0, (BIO * b, const X509 *c), (b, c))
WRAP(int, SSL_export_keying_material, 0,
     (SSL * s, unsigned char *out, size_t n, const char *label, size_t n_label,
      const unsigned char *context, size_t n_context, int use),
     (s, out, n, label, n_label, context, n_context, use))

long __real_SSL_ctrl(SSL *s, int what, long n, void *p);
long __wrap_SSL_ctrl(SSL *s, int what, long n, void *p);

/* Most of what this is for only stores a value. */
long __wrap_SSL_ctrl(SSL *s, int what, long n, void *p)
{
	bool may_fail = what == SSL_CTRL_SET_VERIFY_CERT_STORE || what == SSL_CTRL_CHAIN;

	return may_fail && fails() ? 0 : __real_SSL_ctrl(s, what, n, p);
}

/* the stories; each says whether it came through */

static char *text; /* of the corpus file that a story is about */
static size_t text_size;

static bool was_told(int r, const struct failure *error)
{
	must(r < 0 && error->code != 0 && error->text[0]);
	return false;
}

#define CODEC(name, done)                                      \
	static bool try_##name(json_t *body)                   \
	{                                                      \
		struct msg_##name m;                           \
		struct failure error = {};                     \
		int r = msg_##name##_decode(body, &m, &error); \
		json_t *again;                                 \
                                                               \
		if (r < 0)                                     \
			return was_told(r, &error);            \
		again = msg_##name##_encode(&m);               \
		done;                                          \
		json_decref(again);                            \
		return again;                                  \
	}

CODEC(hello, msg_hello_done(&m))
CODEC(welcome, msg_welcome_done(&m))
CODEC(issue, msg_issue_done(&m))
CODEC(issued, msg_issued_done(&m))
CODEC(connect, flight_done(&m.flight))
CODEC(incoming, flight_done(&m.flight))
CODEC(confirm, flight_done(&m.flight))
CODEC(finished, )

static bool tell_message(void)
{
	static bool (*const codecs[])(json_t * body) = {try_hello,   try_welcome, try_issue,
							try_issued,  try_connect, try_incoming,
							try_confirm, try_finished};
	json_t *body = json_loadb(text, text_size, 0, NULL);
	bool whole = body;

	for (size_t i = 0; body && i < sizeof(codecs) / sizeof(codecs[0]); i++)
		codecs[i](body); /* most are another message: what counts is what is left behind */
	json_decref(body);
	return whole;
}

static bool answer(const struct rpc_message *m)
{
	json_t *body = json_incref(m->body);
	char *again = NULL;
	int r = m->type == RPC_REQUEST	      ? rpc_format_request(m->id, m->method, body, &again)
		: m->type == RPC_NOTIFICATION ? rpc_format_notification(m->method, body, &again)
		: m->type == RPC_RESULT
			? rpc_format_result(m->id, body, &again)
			: rpc_format_error(m->id, m->error.code, m->error.text, &again);

	must((r == 0) == (again != NULL));
	free(again);
	return r == 0;
}

static bool tell_frames(void)
{
	struct frame_reader reader = {};
	struct frame_queue queue = {};
	bool whole = true;

	for (size_t at = 0, used; at < text_size; at += used) {
		struct failure error = {};
		struct rpc_message m;
		const char *frame;
		size_t length;
		int r = frame_reader_feed(&reader, text + at, text_size - at, &used, &frame,
					  &length);

		if (r <= 0) {
			whole = whole && r != -ENOMEM;
			used += r == -ENOMEM; /* a byte is lost, with the connection */
			continue;
		}
		whole = frame_queue_push(&queue, frame, length) == 0 && whole;
		r = rpc_parse(frame, length, &m, &error);
		if (r < 0)
			was_told(r, &error);
		else
			whole = answer(&m) && whole;
		rpc_message_done(&m);
	}
	frame_reader_done(&reader);
	frame_queue_done(&queue);
	return whole;
}

static bool tell_config(void)
{
	struct config *config = NULL;
	struct conf_error error = {};
	int r = config_load(files_root, &config, &error);

	must((r == 0) == (config != NULL));
	config_free(config);
	return r == 0;
}

static struct pki_pair ca, leaf_a, leaf_b;
static X509_STORE *trust;

static struct handshake *new_end(bool initiator)
{
	const struct pki_pair *leaf = initiator ? &leaf_a : &leaf_b;
	struct handshake_identity identity = {leaf->key, leaf->certificate, NULL};
	struct handshake_config config = {.initiator = initiator,
					  .identity = &identity,
					  .trust = trust,
					  .peer_id = initiator ? ID_B : ID_A,
					  .now = PKI_NOW};
	struct handshake *h = NULL;
	struct failure error = {};
	int r = handshake_new(&config, &h, &error);

	if (r < 0)
		was_told(r, &error);
	must((r == 0) == (h != NULL));
	return h;
}

static bool end_handshake(struct handshake *h)
{
	static const struct peer_name a = {"rtos", "sensor"}, b = {"ivi", "dashboard"};
	static const uint8_t session[SESSION_ID_SIZE];
	uint8_t exporter[EXPORTER_SIZE];
	struct failure error = {};
	char *pem = NULL;
	int r, q;

	r = handshake_peer_certificate(h, &pem);
	must((r == 0) == (pem != NULL));
	free(pem);
	q = handshake_result(h, session, &a, &b, 4096, exporter, &error);
	if (q < 0)
		was_told(q, &error);
	return r == 0 && q == 0;
}

static bool tell_handshake(void)
{
	struct handshake *a = new_end(true), *b = a ? new_end(false) : NULL;
	struct flight flights[3] = {}, none = {};
	bool whole;

	whole = a && b && handshake_start(a, &flights[0], NULL) == 0 &&
		handshake_step(b, &flights[0], &flights[1], NULL) == 0 &&
		handshake_step(a, &flights[1], &flights[2], NULL) == 0 &&
		handshake_step(b, &flights[2], &none, NULL) == 0;
	whole = whole && end_handshake(a) && end_handshake(b);
	for (size_t i = 0; i < 3; i++)
		flight_done(&flights[i]);
	handshake_free(a);
	handshake_free(b);
	ERR_clear_error();
	return whole;
}

/* Before handshakes: kept once it is there, it would shift what they count. */
static bool tell_crypto(void)
{
	return crypto_context() != NULL;
}

/* the sweep */

static void sweep(bool (*tell)(void))
{
	bool as_always;

	fail_at = 0;
	/* what is made once and kept is made with the first failures, not before */
	for (fail_at = 1;; fail_at++) {
		long before = balance;
		unsigned long injected = n_injected;

		n_calls = 0;
		as_always = tell();
		must(balance == before);
		if (n_injected == injected)
			break;
	}
	fail_at = 0;
	must(tell() == as_always);
}

static void sweep_both(bool (*tell)(void))
{
	fail_on = false;
	sweep(tell);
	fail_on = true;
	sweep(tell);
	fail_on = false;
}

static void read_text(const char *folder, const char *name)
{
	char path[512];
	struct stat st;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "r");
	must(f && fstat(fileno(f), &st) == 0);
	text_size = (size_t)st.st_size;
	text = malloc(text_size + 1);
	must(text && fread(text, 1, text_size, f) == text_size);
	fclose(f);
}

static void sweep_corpus(const char *corpora, const char *name, bool (*tell)(void))
{
	const struct dirent *entry;
	char folder[256];
	DIR *d;

	snprintf(folder, sizeof(folder), "%s/%s", corpora, name);
	d = opendir(folder);
	must(d);
	while ((entry = readdir(d))) {
		struct input in;

		if (entry->d_name[0] == '.')
			continue;
		read_text(folder, entry->d_name);
		in = (struct input){(const uint8_t *)text, text_size};
		if (tell == tell_config)
			files_write(&in);
		for (size_t i = 0; tell == tell_frames && i < text_size; i++)
			if (text[i] == '\n')
				text[i] = '\0';
		sweep_both(tell);
		free(text);
	}
	closedir(d);
}

static void *counted_malloc(size_t size)
{
	return __wrap_malloc(size);
}

static void set_up(void)
{
	static const char *const folders[] = {"sivshm-ca", "sivshm-ca/vm.d", "sivshm-ca/region.d",
					      "sivshm-ca/policy.d", NULL};
	static const char *const names[] = {"ca.conf",	       "vm.d/a.conf",	  "vm.d/b.conf",
					    "region.d/a.conf", "policy.d/a.conf", NULL};

	files_init(folders, names, "sivshm-ca");
	ca = pki_ca("ca", NULL);
	leaf_a = pki_leaf(&ca, ID_A);
	leaf_b = pki_leaf(&ca, ID_B);
	trust = pki_store(&ca);
	json_set_alloc_funcs(counted_malloc, __wrap_free); /* jansson's fail as well */
}

int main(int argc, char **argv)
{
	must(argc == 2);
	set_up();
	sweep(tell_crypto);
	must(tell_crypto());
	sweep_both(tell_handshake);
	must(tell_handshake());
	sweep_corpus(argv[1], "message", tell_message);
	sweep_corpus(argv[1], "frame", tell_frames);
	sweep_corpus(argv[1], "config", tell_config);
	pki_done(&ca);
	pki_done(&leaf_a);
	pki_done(&leaf_b);
	X509_STORE_free(trust);
	printf("%lu failures\n", n_injected);
	return 0;
}
