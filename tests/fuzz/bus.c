/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CALLS_MAX 12
#define PENDING_MAX 64
#define DEPTH_MAX 4
#define BUS "org.freedesktop.DBus"
#define POLKIT "org.freedesktop.PolicyKit1"

static const struct bus_daemon *the_daemon;
static int listen_fd;
static char address[64];
static pthread_t thread;
static atomic_bool stop;
static sd_bus *server;
static uint64_t pending[PENDING_MAX];
static unsigned n_pending;
static uint8_t polkit_says;
static char last_object[128] = "/";

/* :1.5 is root, :1.6 a user whose process is another's, :1.7 has gone */
static const char *const callers[] = {":1.5", ":1.5", ":1.6", ":1.7"};

/* what the bus and polkit say */

static int reply_credentials(sd_bus_message *m)
{
	const char *name = "";

	sd_bus_message_read(m, "s", &name);
	if (strcmp(name, ":1.7") == 0)
		return sd_bus_reply_method_errorf(m, BUS ".Error.NameHasNoOwner", "gone");
	return sd_bus_reply_method_return(m, "a{sv}", 3, "ProcessID", "u", (uint32_t)getpid(),
					  "UnixUserID", "u", strcmp(name, ":1.5") ? 61001U : 0U,
					  "LinuxSecurityLabel", "ay", 1, 0);
}

static int reply_polkit(sd_bus_message *m)
{
	switch (polkit_says % 6) {
	case 0:
		return sd_bus_reply_method_return(m, "(bba{ss})", 1, 0, 0);
	case 1:
		return sd_bus_reply_method_return(m, "(bba{ss})", 0, 1, 1, "polkit.result", "x");
	case 2:
		return sd_bus_reply_method_return(m, "(bba{ss})", 0, 0, 0);
	case 3:
		return sd_bus_reply_method_return(m, "s", "what?");
	case 4:
		return sd_bus_reply_method_errorf(m, BUS ".Error.ServiceUnknown", "no polkit");
	default:
		return sd_bus_reply_method_errorf(m, BUS ".Error.NoReply", "too late");
	}
}

static int reply_bus(sd_bus_message *m)
{
	const char *member = sd_bus_message_get_member(m);

	if (strcmp(member, "Hello") == 0)
		return sd_bus_reply_method_return(m, "s", ":1.1");
	if (strcmp(member, "RequestName") == 0)
		return sd_bus_reply_method_return(m, "u", 1U);
	if (strcmp(member, "GetConnectionCredentials") == 0)
		return reply_credentials(m);
	return sd_bus_reply_method_return(m, NULL);
}

/* A call is answered once at most; an error has a name of the daemon's or of D-Bus. */
static void take_answer(sd_bus_message *m)
{
	const sd_bus_error *e = sd_bus_message_get_error(m);
	uint64_t cookie = 0;
	const char *object;
	unsigned i = 0;

	must(sd_bus_message_get_reply_cookie(m, &cookie) >= 0);
	while (i < n_pending && pending[i] != cookie)
		i++;
	must(i < n_pending);
	pending[i] = pending[--n_pending];
	if (e)
		must(e->name &&
		     (strncmp(e->name, the_daemon->name, strlen(the_daemon->name)) == 0 ||
		      strncmp(e->name, BUS, strlen(BUS)) == 0 ||
		      strncmp(e->name, "System.Error.", 13) == 0));
	else if (sd_bus_message_has_signature(m, "o") && sd_bus_message_read(m, "o", &object) > 0)
		snprintf(last_object, sizeof(last_object), "%s", object);
}

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const char *to = sd_bus_message_get_destination(m);
	uint8_t type = 0;

	(void)userdata, (void)error;
	sd_bus_message_get_type(m, &type);
	if (type == SD_BUS_MESSAGE_METHOD_CALL && to && strcmp(to, BUS) == 0)
		reply_bus(m);
	else if (type == SD_BUS_MESSAGE_METHOD_CALL && to && strcmp(to, POLKIT) == 0)
		reply_polkit(m);
	else if (type != SD_BUS_MESSAGE_METHOD_CALL && type != SD_BUS_MESSAGE_SIGNAL && the_daemon)
		take_answer(m);
	return 1;
}

/* life */

static void accept_client(void)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	must(fd >= 0 && sd_bus_new(&server) >= 0);
	must(sd_bus_set_fd(server, fd, fd) >= 0);
	must(sd_bus_set_server(server, true,
			       SD_ID128_MAKE(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, a, b, c, d, e, f)) >= 0);
	must(sd_bus_negotiate_fds(server, true) >= 0);
	must(sd_bus_add_filter(server, NULL, on_message, NULL) >= 0);
	must(sd_bus_start(server) >= 0);
}

/* A daemon waits for some answers while it starts. */
static void *serve(void *userdata)
{
	(void)userdata;
	accept_client();
	while (!stop) {
		int r = sd_bus_process(server, NULL);

		must(r >= 0);
		if (r == 0)
			sd_bus_wait(server, 10000);
	}
	return NULL;
}

const char *bus_address(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "sivshm-fuzz-%d", getpid());

	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(listen_fd >= 0);
	must(bind(listen_fd, (struct sockaddr *)&a,
		  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) == 0);
	must(listen(listen_fd, 4) == 0);
	snprintf(address, sizeof(address), "unix:abstract=sivshm-fuzz-%d", getpid());
	must(pthread_create(&thread, NULL, serve, NULL) == 0);
	return address;
}

static void run(void)
{
	int r;

	do {
		the_daemon->run();
		r = sd_bus_process(server, NULL);
		must(r >= 0); /* whatever it was sent, the daemon stays on the bus */
	} while (r > 0);
}

void bus_take_over(const struct bus_daemon *daemon)
{
	for (unsigned i = 0; i < 20; i++) { /* what it asks without waiting */
		daemon->run();
		usleep(5000);
	}
	stop = true;
	must(pthread_join(thread, NULL) == 0);
	the_daemon = daemon;
	run();
}

/* messages */

static const char *word(struct input *in, char *buffer, size_t size)
{
	uint8_t n = input_u8(in);
	size_t n_words = 0;
	struct input text;

	if (n >= 128) {
		while (the_daemon->words[n_words])
			n_words++;
		return the_daemon->words[n % n_words];
	}
	text = input_part(in, n < size ? n : size - 1);
	for (size_t i = 0; i < text.size; i++)
		buffer[i] = text.data[i] >= 0x80 || !text.data[i] ? '?' : (char)text.data[i];
	buffer[text.size] = '\0';
	return buffer;
}

static const char *some_type(uint8_t n)
{
	static const char *const types[] = {"s",  "t", "u", "b",     "y", "(ss)", "as", "v",
					    "ay", "o", "g", "a{sv}", "d", "x",	  "h",	"t"};

	return types[n % (sizeof(types) / sizeof(types[0]))];
}

static int append(sd_bus_message *m, struct input *in, const char *signature, unsigned depth);

/* Bytes of the first complete type of @signature. */
static size_t type_size(const char *signature)
{
	size_t n = 0, depth = 0;

	while (signature[n] == 'a')
		n++;
	do {
		depth += signature[n] == '(' || signature[n] == '{';
		depth -= signature[n] == ')' || signature[n] == '}';
		n++;
	} while (depth > 0 && signature[n]);
	return n;
}

static int append_container(sd_bus_message *m, struct input *in, char type, const char *contents,
			    unsigned times, unsigned depth)
{
	int r = sd_bus_message_open_container(m, type, contents);

	if (r < 0)
		return r;
	while (r >= 0 && times-- > 0)
		r = append(m, in, contents, depth + 1);
	return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_number(sd_bus_message *m, struct input *in, char type)
{
	uint8_t how = input_u8(in);
	uint64_t value = how < 64 ? 1ULL << how : how < 192 ? how - 64U : input_u64(in);
	int flag = how & 1;

	/* little endian: the low bytes are what a smaller type takes */
	return sd_bus_message_append_basic(m, type, type == 'b' ? (void *)&flag : (void *)&value);
}

static int append_one(sd_bus_message *m, struct input *in, const char *type, size_t n,
		      unsigned depth)
{
	char contents[64] = "", text[128];
	const char *variant;

	if (n > 2)
		snprintf(contents, sizeof(contents), "%.*s", (int)n - 2, type + 1);
	switch (type[0]) {
	case 's':
		return sd_bus_message_append_basic(m, 's', word(in, text, sizeof(text)));
	case 'o':
		return sd_bus_message_append_basic(m, 'o', last_object);
	case 'g':
		return sd_bus_message_append_basic(m, 'g', "a{sv}");
	case 'h':
		return sd_bus_message_append_basic(m, 'h', &(int){0});
	case 'v':
		variant = depth < DEPTH_MAX ? some_type(input_u8(in)) : "s";
		return append_container(m, in, 'v', variant, 1, depth);
	case 'a':
		snprintf(contents, sizeof(contents), "%.*s", (int)n - 1, type + 1);
		return append_container(m, in, 'a', contents, input_u8(in) % 4, depth);
	case '(':
		return append_container(m, in, 'r', contents, 1, depth);
	case '{':
		return append_container(m, in, 'e', contents, 1, depth);
	default:
		return append_number(m, in, type[0]);
	}
}

static int append(sd_bus_message *m, struct input *in, const char *signature, unsigned depth)
{
	int r = 0;

	for (size_t n; *signature && r >= 0; signature += n) {
		n = type_size(signature);
		r = append_one(m, in, signature, n, depth);
	}
	return r;
}

static const char *other_signature(uint8_t n)
{
	static const char *const signatures[] = {
		"",	   "s",	 "ss",	     "sss",	 "a{sv}",   "ssa{sv}", "sa{sv}",
		"ssa{ss}", "u",	 "v",	     "(ss)",	 "h",	    "as",      "sssa{sv}",
		"ssas",	   "sv", "ssv",	     "o",	 "ssa(sv)", "y",       "a{us}",
		"aaaas",   "t",	 "ssa{sv}s", "ssa{sas}", "a(sv)",   "sa{sv}s", "svs"};

	return signatures[n % (sizeof(signatures) / sizeof(signatures[0]))];
}

/* One message made of the input, and all that follows from it. */
static void call(struct input *in)
{
	uint8_t which = input_u8(in), how = input_u8(in);
	const struct bus_method *method;
	sd_bus_message *m = NULL;
	uint64_t cookie;
	size_t n = 0;

	while (the_daemon->methods[n].member)
		n++;
	method = &the_daemon->methods[which % n];
	polkit_says = how >> 5;
	must(sd_bus_message_new_method_call(server, &m, the_daemon->name,
					    method->path ? method->path : last_object,
					    method->interface, method->member) >= 0);
	must(sd_bus_message_set_sender(m, callers[how & 3]) >= 0);
	sd_bus_message_set_allow_interactive_authorization(m, how & 8);
	/* what cannot be built is not sent: libsystemd's own checks, at either end */
	if (append(m, in, how & 4 ? other_signature(input_u8(in)) : method->signature, 0) >= 0 &&
	    n_pending < PENDING_MAX && sd_bus_send(server, m, &cookie) >= 0) {
		pending[n_pending++] = cookie;
		if (!(how & 16)) /* else the next one comes before this one was looked at */
			run();
	}
	sd_bus_message_unref(m);
}

static void everybody_leaves(void)
{
	run();
	for (size_t i = 1; i < sizeof(callers) / sizeof(callers[0]); i++) {
		sd_bus_message *m = NULL;

		must(sd_bus_message_new_signal(server, &m, "/org/freedesktop/DBus", BUS,
					       "NameOwnerChanged") >= 0);
		must(sd_bus_message_set_sender(m, BUS) >= 0);
		must(sd_bus_message_append(m, "sss", callers[i], callers[i], "") >= 0);
		must(sd_bus_send(server, m, NULL) >= 0);
		sd_bus_message_unref(m);
	}
	run();
	n_pending = 0;
	snprintf(last_object, sizeof(last_object), "/");
}

void bus_calls(struct input *in)
{
	for (unsigned n = 0; in->size > 0 && n < CALLS_MAX; n++)
		call(in);
	everybody_leaves();
}
