/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/pem.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "bio-text.h"
#include "frame.h"
#include "log.h"
#include "pki.h"
#include "rpc.h"

#define TURNS_MAX 10000

static char root[128], port[160], device[160];
static struct options options = {.config_root = root, .port = port, .device = device};
static int listen_fd, host_fd = -1;
static struct frame_reader reader;
static char *bundle;
struct manager *guest;

static const char policy[] =
	"[Service sensor]\nUser=0\nConnect=ivi/dashboard ivi/recorder\n"
	"Accept=ivi/dashboard\nChannels=4\nMaxRingSize=64K\n"
	"[Service camera]\nUser=0\nUnit=camera.service\nConnect=ivi/dashboard\n"
	"[Service other]\nUser=61001\nAccept=ivi/dashboard\n";

/* Instead of log.c: every text is made, so that a wrong argument is seen, and nobody reads it. */
static void format_and_forget(const char *format, va_list ap)
{
	char text[1024];

	must(vsnprintf(text, sizeof(text), format, ap) >= 0);
}

void log_event(int priority, const char *id, const struct log_about *about, const char *format, ...)
{
	va_list ap;

	(void)priority, (void)id, (void)about;
	va_start(ap, format);
	format_and_forget(format, ap);
	va_end(ap);
}

void log_plain(int priority, const char *format, ...)
{
	va_list ap;

	(void)priority;
	va_start(ap, format);
	format_and_forget(format, ap);
	va_end(ap);
}

/* The module: one table without grants. */
int ioctl(int fd, unsigned long request, ...)
{
	struct sivshm_info *info;
	va_list ap;
	void *argument;

	va_start(ap, request);
	argument = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) != SIVSHM_IOC_MAGIC)
		return (int)syscall(SYS_ioctl, fd, request, argument);
	if (request == SIVSHM_GET_INFO) {
		info = argument;
		*info = (struct sivshm_info){.abi = SIVSHM_ABI, .n_slots = 8, .vm = "rtos"};
		return 0;
	}
	if (request == SIVSHM_GET_SLOT)
		return 0; /* FREE, no channel */
	errno = ENOENT;
	return -1;
}

/* The host */

static void answer(const char *text)
{
	if (text)
		must(send(host_fd, text, strlen(text) + 1, MSG_NOSIGNAL) > 0);
}

static json_t *welcome(json_t *params)
{
	struct msg_welcome w = {.version = PROTOCOL_VERSION,
				.vm = "rtos",
				.trust_domain = "fuzz.example",
				.time_usec = PKI_NOW * 1000000ULL,
				.trust_bundle = bundle};
	struct msg_hello hello;

	must(msg_hello_decode(params, &hello, NULL) == 0);
	memcpy(w.nonce, hello.nonce, sizeof(w.nonce));
	msg_hello_done(&hello);
	return msg_welcome_encode(&w);
}

static void answer_frame(const char *frame, size_t length)
{
	struct rpc_message m;
	char *text = NULL;

	must(rpc_parse(frame, length, &m, NULL) == 0); /* a guest says nothing that is wrong */
	if (m.type == RPC_REQUEST && strcmp(m.method, "Hello") == 0)
		must(rpc_format_result(m.id, welcome(m.body), &text) == 0);
	else if (m.type == RPC_REQUEST &&
		 (strcmp(m.method, "Connect") == 0 || strcmp(m.method, "IssueCertificate") == 0))
		must(rpc_format_error(m.id, ERR_REFUSED_BY_HOST, "no", &text) == 0);
	else if (m.type == RPC_REQUEST)
		must(rpc_format_result(m.id, NULL, &text) == 0);
	answer(text);
	free(text);
	rpc_message_done(&m);
}

/* host_turn() - was there something to do? */
static bool host_turn(void)
{
	char buffer[65536];
	ssize_t n;

	if (host_fd < 0) {
		host_fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		return host_fd >= 0;
	}
	n = recv(host_fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	for (size_t at = 0, used; n > 0 && at < (size_t)n; at += used) {
		const char *frame;
		size_t length;

		if (frame_reader_feed(&reader, buffer + at, (size_t)n - at, &used, &frame,
				      &length) > 0)
			answer_frame(frame, length);
	}
	return n > 0;
}

/* life */

static void make_root(void)
{
	static const char *const folders[] = {"/etc", "/etc/sivshm", "/etc/sivshm/policy.d"};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char path[200];
	FILE *f;

	fuzz_folder(root, sizeof(root));
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		must(mkdir(path, 0700) == 0);
	}
	snprintf(path, sizeof(path), "%s/etc/sivshm/policy.d/fuzz.conf", root);
	f = fopen(path, "w");
	must(f && fputs(policy, f) >= 0 && fclose(f) == 0);
	snprintf(device, sizeof(device), "%s/device", root);
	must(mkfifo(device, 0600) == 0);
	snprintf(port, sizeof(port), "%s/port", root);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", port);
	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	must(listen_fd >= 0 && bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	must(listen(listen_fd, 4) == 0);
}

static void make_bundle(void)
{
	struct pki_pair ca = pki_ca("ca", NULL);
	BIO *bio = BIO_new(BIO_s_mem());

	must(bio && PEM_write_bio_X509(bio, ca.certificate) == 1);
	bundle = bio_text(bio);
	must(bundle);
	BIO_free(bio);
	pki_done(&ca);
}

void guest_init(const char *bus)
{
	make_root();
	make_bundle();
	options.bus = bus;
	must(manager_new(&options, &guest) == 0);
	must(manager_start(guest) == 0);
	for (unsigned i = 0; i < 1000 && !control_is_ready(guest->control); i++) {
		guest_run();
		usleep(1000);
	}
	must(control_is_ready(guest->control));
	/* one that came in the midst of an input would make two runs differ */
	for (unsigned i = 0; i < 10000 && guest->warm_up; i++) {
		guest_run();
		usleep(1000);
	}
	must(!guest->warm_up);
}

void guest_run(void)
{
	unsigned turns = 0;

	do
		while (sd_event_run(guest->event, 0) > 0)
			must(turns++ < TURNS_MAX); /* it comes to rest by itself */
	while (host_turn());
	must(!guest || sd_event_get_state(guest->event) != SD_EVENT_FINISHED);
}

void guest_check_empty(void)
{
	must(TAILQ_EMPTY(&guest->connects) && TAILQ_EMPTY(&guest->listeners));
	must(TAILQ_EMPTY(&guest->sessions));
	for (unsigned kind = 0; kind < 3; kind++)
		must(quota_used(guest->quota, 0, kind) == 0);
}
