/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Load for sivshm-cad: the daemons of many VMs, which shake hands as fast as the host lets them.
 *
 *	cad-load RUNTIME-DIR TRUST-DOMAIN SECONDS warm|cold NAME:UID...
 *
 * VMs come in pairs, each connects from its service "c" to "l" of the other one; a pair "A:UID" and
 * "-B:UID" is one that connects and one that only listens.  Everything the host sees is what real
 * daemons say, except that the flights, which it cannot read, are of the usual size and say
 *nothing: so its own work is all there is.  cold: each handshake has a certificate issued at each
 *end.
 *
 * Prints one line of JSON.
 */
#include <err.h>
#include <errno.h>
#include <grp.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench-clock.h"
#include "json-out.h"

#define MAX_VMS 128
#define FRAME_MAX 131072
#define WARM_UP_NS 500000000ull
#define STUCK_NS 10000000000ull

/* Sizes of a TLS 1.3 handshake between two services: ClientHello, ServerHello to Finished, the
 * client's rest. */
#define CLIENT_HELLO_SIZE 260
#define SERVER_FLIGHT_SIZE 1250
#define CLIENT_FLIGHT_SIZE 1050
#define EXPORTER_BYTES 32

enum asked { NOTHING, HELLO, LISTEN, CERTIFICATE, CONNECT, CONFIRM, RELEASED, N_ASKED };

struct vm {
	char name[64];
	uid_t uid;
	int fd;
	bool only_listens;
	struct vm *peer;
	enum asked asked;  /* by the connecting side; what the listening side asks has an id of its
			      own */
	char incoming[16]; /* id of the Incoming that waits for a certificate, as JSON */
	uint64_t started;
	char *in;
	size_t in_size;
};

static struct vm vms[MAX_VMS];
static size_t n_vms;
static bool cold;
static const char *domain;
static char client_hello[512], server_flight[2048], client_flight[2048], exporter[64], csr[2048];
static uint64_t handshakes, certificates, latency_ns;
static bool counting, stopping;

static void base64_of_size(char *ret, size_t size)
{
	static uint8_t bytes[4096];

	EVP_EncodeBlock((unsigned char *)ret, bytes, (int)size);
}

/* One request for all: the host looks at each of them as if it had never seen it. */
static void make_csr(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509_REQ *request = X509_REQ_new();
	BIO *bio = BIO_new(BIO_s_mem());
	char text[1024] = "";
	size_t used = 0;

	if (!key || !request || !bio || X509_REQ_set_pubkey(request, key) != 1 ||
	    X509_REQ_sign(request, key, EVP_sha256()) <= 0 ||
	    PEM_write_bio_X509_REQ(bio, request) != 1 || BIO_read(bio, text, sizeof(text) - 1) <= 0)
		errx(1, "no certificate request can be made");
	for (const char *c = text; *c; c++)
		used += (size_t)snprintf(csr + used, sizeof(csr) - used, *c == '\n' ? "\\n" : "%c",
					 *c);
	BIO_free(bio);
	X509_REQ_free(request);
	EVP_PKEY_free(key);
}

static void say(struct vm *vm, const char *text)
{
	size_t size = strlen(text) + 1; /* the NUL ends the frame */

	for (size_t done = 0; done < size;) {
		ssize_t n = write(vm->fd, text + done, size - done);

		if (n < 0)
			err(1, "%s: write", vm->name);
		done += (size_t)n;
	}
}

/* A request with the id @asked, or with 0 a notification; @format makes the members of params. */
__attribute__((format(printf, 4, 5))) static void ask(struct vm *vm, int asked, const char *method,
						      const char *format, ...)
{
	char text[8192], id[24] = "";
	va_list ap;
	int n;

	if (asked)
		snprintf(id, sizeof(id), "\"id\":%d,", asked);
	n = snprintf(text, sizeof(text), "{\"jsonrpc\":\"2.0\",%s\"method\":\"%s\",\"params\":{",
		     id, method);
	va_start(ap, format);
	n += vsnprintf(text + n, sizeof(text) - (size_t)n, format, ap);
	va_end(ap);
	snprintf(text + n, sizeof(text) - (size_t)n, "}}");
	say(vm, text);
}

__attribute__((format(printf, 3, 4))) static void reply(struct vm *vm, const char *id,
							const char *format, ...)
{
	char text[8192];
	va_list ap;
	int n = snprintf(text, sizeof(text), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{", id);

	va_start(ap, format);
	n += vsnprintf(text + n, sizeof(text) - (size_t)n, format, ap);
	va_end(ap);
	snprintf(text + n, sizeof(text) - (size_t)n, "}}");
	say(vm, text);
}

static void connect_peer(struct vm *vm)
{
	vm->asked = CONNECT;
	ask(vm, CONNECT, "Connect",
	    "\"from\":\"c\",\"to\":\"%s/l\",\"ringSize\":4096,\"flight\":\"%s\"", vm->peer->name,
	    client_hello);
}

static void begin(struct vm *vm)
{
	vm->started = monotonic_ns();
	if (!cold) {
		connect_peer(vm);
		return;
	}
	vm->asked = CERTIFICATE;
	ask(vm, CERTIFICATE, "IssueCertificate", "\"service\":\"c\",\"csr\":\"%s\"", csr);
}

static const char *string_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (!s)
		errx(1, "the host left out %s", key);
	return s;
}

static void end_channel(struct vm *vm, const json_t *grant, const char *session, int asked)
{
	int slot = (int)json_integer_value(json_object_get(grant, "slot"));
	int generation = (int)json_integer_value(json_object_get(grant, "generation"));

	ask(vm, NOTHING, "Opened", "\"session\":\"%s\",\"slot\":%d,\"generation\":%d", session,
	    slot, generation);
	ask(vm, asked, "Released", "\"slot\":%d,\"generation\":%d", slot, generation);
}

static char sessions[MAX_VMS][40]; /* of the connecting sides */

static void on_result(struct vm *vm, json_int_t id, const json_t *result)
{
	char *session = sessions[vm - vms];

	switch (id) {
	case CERTIFICATE:
		certificates += counting;
		connect_peer(vm);
		return;
	case CONNECT:
		snprintf(session, sizeof(sessions[0]), "%s", string_of(result, "session"));
		vm->asked = CONFIRM;
		ask(vm, CONFIRM, "Confirm",
		    "\"session\":\"%s\",\"flight\":\"%s\",\"peer\":\"spiffe://%s/vm/%s/service/l\","
		    "\"exporter\":\"%s\"",
		    session, client_flight, domain, vm->peer->name, exporter);
		return;
	case CONFIRM:
		vm->asked = RELEASED;
		end_channel(vm, result, session, RELEASED);
		return;
	case RELEASED:
		handshakes += counting;
		if (counting)
			latency_ns += monotonic_ns() - vm->started;
		vm->asked = NOTHING;
		if (!stopping)
			begin(vm);
		return;
	case N_ASKED + CERTIFICATE: /* of the listening side, which owes an answer */
		certificates += counting;
		reply(vm, vm->incoming, "\"flight\":\"%s\"", server_flight);
		return;
	default:
		return;
	}
}

static void on_call(struct vm *vm, const char *method, const json_t *id, const json_t *params)
{
	char number[16];

	snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(id));
	if (!strcmp(method, "Incoming") && cold) {
		snprintf(vm->incoming, sizeof(vm->incoming), "%s", number);
		ask(vm, N_ASKED + CERTIFICATE, "IssueCertificate",
		    "\"service\":\"l\",\"csr\":\"%s\"", csr);
	} else if (!strcmp(method, "Incoming")) {
		reply(vm, number, "\"flight\":\"%s\"", server_flight);
	} else if (!strcmp(method, "Finish")) {
		reply(vm, number, "\"peer\":\"spiffe://%s/vm/%s/service/c\",\"exporter\":\"%s\"",
		      domain, vm->peer->name, exporter);
	} else if (!strcmp(method, "Granted")) {
		end_channel(vm, params, string_of(params, "session"), N_ASKED + RELEASED);
	} else if (!strcmp(method, "Abort")) {
		errx(1, "%s: a handshake was aborted: %s", vm->name,
		     string_of(json_object_get(params, "error"), "message"));
	}
}

static void on_frame(struct vm *vm, const char *text)
{
	json_t *m = json_loads(text, 0, NULL), *result, *error;
	const char *method;

	if (!m)
		errx(1, "%s: the host sent no JSON", vm->name);
	method = json_string_value(json_object_get(m, "method"));
	result = json_object_get(m, "result");
	error = json_object_get(m, "error");
	if (method)
		on_call(vm, method, json_object_get(m, "id"), json_object_get(m, "params"));
	else if (result)
		on_result(vm, json_integer_value(json_object_get(m, "id")), result);
	else if (error)
		errx(1, "%s: %s", vm->name, string_of(error, "message"));
	json_decref(m);
}

static void take(struct vm *vm)
{
	ssize_t n = read(vm->fd, vm->in + vm->in_size, FRAME_MAX - vm->in_size);
	char *start = vm->in, *nul;

	if (n <= 0)
		err(1, "%s: the host hung up", vm->name);
	vm->in_size += (size_t)n;
	while ((nul = memchr(start, '\0', vm->in_size - (size_t)(start - vm->in)))) {
		if (*start)
			on_frame(vm, start);
		start = nul + 1;
	}
	vm->in_size -= (size_t)(start - vm->in);
	memmove(vm->in, start, vm->in_size);
}

/* Start */

static void open_vm(struct vm *vm, const char *runtime)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if ((size_t)snprintf(a.sun_path, sizeof(a.sun_path), "%s/vm/%s/control.sock", runtime,
			     vm->name) >= sizeof(a.sun_path))
		errx(2, "%s: too long a path", runtime);
	vm->in = malloc(FRAME_MAX);
	vm->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!vm->in || vm->fd < 0 || setegid(vm->uid) < 0 || seteuid(vm->uid) < 0 ||
	    connect(vm->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		err(1, "%s", a.sun_path);
	if (seteuid(0) < 0 || setegid(0) < 0)
		err(1, "root again");
	if (write(vm->fd, "", 1) != 1)
		err(1, "%s", a.sun_path);
	ask(vm, HELLO, "Hello",
	    "\"version\":1,\"nonce\":\"%032d\",\"bootId\":\"00000000-0000-4000-8000-000000000000\","
	    "\"channels\":[]",
	    7);
	ask(vm, LISTEN, "Listen", "\"service\":\"l\"");
}

static void parse(int argc, char **argv)
{
	if (argc < 7 || argc % 2 == 0 || argc - 5 > MAX_VMS)
		errx(2, "usage: cad-load RUNTIME-DIR TRUST-DOMAIN SECONDS warm|cold NAME:UID...");
	domain = argv[2];
	cold = !strcmp(argv[4], "cold");
	for (int i = 5; i < argc; i++) {
		struct vm *vm = &vms[n_vms];

		vm->only_listens = argv[i][0] == '-';
		if (sscanf(argv[i] + vm->only_listens, "%63[^:]:%u", vm->name, &vm->uid) != 2)
			errx(2, "%s: NAME:UID", argv[i]);
		vm->peer = &vms[n_vms++ ^ 1];
	}
}

static void run_until(int epoll, uint64_t end)
{
	struct epoll_event events[64];
	uint64_t now;

	while ((now = monotonic_ns()) < end) {
		int n = epoll_wait(epoll, events, 64, (int)((end - now) / 1000000) + 1);

		for (int i = 0; i < n; i++)
			take(events[i].data.ptr);
	}
}

/* Until no handshake is under way: the host must be left without channels. */
static void finish(int epoll)
{
	uint64_t end = monotonic_ns() + STUCK_NS;

	stopping = true;
	for (size_t i = 0; i < n_vms; i++)
		while (vms[i].asked != NOTHING) {
			if (monotonic_ns() > end)
				errx(1, "%s: a handshake does not end", vms[i].name);
			run_until(epoll, monotonic_ns() + 1000000);
		}
}

int main(int argc, char **argv)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	uint64_t start, seconds;

	parse(argc, argv);
	seconds = strtoul(argv[3], NULL, 10);
	base64_of_size(client_hello, CLIENT_HELLO_SIZE);
	base64_of_size(server_flight, SERVER_FLIGHT_SIZE);
	base64_of_size(client_flight, CLIENT_FLIGHT_SIZE);
	base64_of_size(exporter, EXPORTER_BYTES);
	make_csr();
	if (setgroups(0, NULL) < 0)
		err(1, "setgroups");
	for (size_t i = 0; i < n_vms; i++) {
		struct epoll_event e = {.events = EPOLLIN, .data.ptr = &vms[i]};

		open_vm(&vms[i], argv[1]);
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, vms[i].fd, &e) < 0)
			err(1, "epoll");
	}
	run_until(epoll, monotonic_ns() + WARM_UP_NS / 5); /* Welcome, and everybody listens */
	for (size_t i = 0; i < n_vms; i++)
		if (!vms[i].only_listens)
			begin(&vms[i]);
	run_until(epoll, monotonic_ns() + WARM_UP_NS);
	counting = true;
	printf("counting\n");
	fflush(stdout);
	start = monotonic_ns();
	run_until(epoll, start + seconds * 1000000000ull);
	start = monotonic_ns() - start;
	counting = false;
	if (!handshakes)
		errx(1, "not one handshake in %s s", argv[3]);
	print_json(json_pack("{sI sI sf sf}", "handshakes", (json_int_t)handshakes, "certificates",
			     (json_int_t)certificates, "seconds", (double)start / 1e9, "latency_ms",
			     (double)latency_ns / 1e6 / (double)handshakes));
	finish(epoll);
	return 0;
}
