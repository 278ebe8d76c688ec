/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens many channels and says how long each took, D-Bus call to fd.
 *
 *	handshake-bench connect SERVICE PEER COUNT [hold|stay]
 *	handshake-bench listen SERVICE [USER]
 *	handshake-bench turns SERVICE PEER COUNT USER
 *	handshake-bench pair BUS PEER-BUS SERVICE PEER COUNT
 *
 * "hold" keeps every channel open and at the end sends a message of its own through each one and
 * wants exactly that back; "stay" keeps them after that until SIGTERM.  listen echoes on every
 *channel it gets.  Both print one line of JSON.
 *
 * With a USER they are started as root, keep a connection to the bus as root to make sivshmd forget
 * its certificates, and are USER from then on.  turns makes COUNT calls that find no certificate at
 * either end, each followed by one that finds both; its peer is a listen with a USER, which forgets
 * when it is told to on the first channel.
 *
 * pair is turns for two daemons on buses of this machine, whose channels need not work: it is both
 * ends itself, as root, and lets go of each channel at once.
 */
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#include "sivshm.h"

#define MAX_CHANNELS 1024
#define CALL_TIMEOUT_US (30 * 1000000ULL)
#define PAUSE_US 60000 /* between calls: what one leaves to be done is not the next one's */
#define FORGET "forget the certificates"

static struct sivshm_channel *channels[MAX_CHANNELS];
static size_t n_channels;
static sd_bus *root_bus; /* may make sivshmd forget; NULL: nobody asked for it */

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int fail(const char *what, int r, const sd_bus_error *error)
{
	fprintf(stderr, "handshake-bench: %s: %s\n", what,
		error && error->message ? error->message : strerror(-r));
	return r;
}

/* Prints {"step": microseconds, ...} of the identity's Steps. */
static int print_steps(sd_bus_message *m)
{
	const char *step, *sep = "";
	uint64_t usec;
	int r;

	r = sd_bus_message_enter_container(m, 'v', "a(st)");
	if (r < 0)
		return r;
	r = sd_bus_message_enter_container(m, 'a', "(st)");
	if (r < 0)
		return r;
	printf("{");
	while ((r = sd_bus_message_read(m, "(st)", &step, &usec)) > 0) {
		printf("%s\"%s\":%llu", sep, step, (unsigned long long)usec);
		sep = ",";
	}
	printf("}");
	if (r < 0)
		return r;
	sd_bus_message_exit_container(m);
	return sd_bus_message_exit_container(m);
}

/* Goes through the identity dictionary and prints what says how long it took. */
static int print_identity(sd_bus_message *m)
{
	const char *key;
	bool found = false;
	int r;

	r = sd_bus_message_enter_container(m, 'a', "{sv}");
	if (r < 0)
		return r;
	while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		r = sd_bus_message_read(m, "s", &key);
		if (r < 0)
			return r;
		if (strcmp(key, "Steps") == 0) {
			r = print_steps(m);
			found = true;
		} else {
			r = sd_bus_message_skip(m, "v");
		}
		if (r < 0)
			return r;
		sd_bus_message_exit_container(m);
	}
	if (!found)
		printf("{}");
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int become(const char *user)
{
	const struct passwd *p = getpwnam(user);

	if (!p)
		return fail(user, -ENOENT, NULL);
	if (setgroups(0, NULL) < 0 || setresgid(p->pw_gid, p->pw_gid, p->pw_gid) < 0 ||
	    setresuid(p->pw_uid, p->pw_uid, p->pw_uid) < 0)
		return fail(user, -errno, NULL);
	return 0;
}

/* The bus has seen root at the other end, and that is what counts later on. */
static int keep_root_bus(const char *user)
{
	const char *name;
	int r;

	r = sd_bus_open_system(&root_bus);
	if (r >= 0)
		r = sd_bus_get_unique_name(root_bus, &name);
	return r < 0 ? fail("system bus", r, NULL) : become(user);
}

static int forget_certificates(void)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int r;

	r = sd_bus_call_method(root_bus, "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager",
			       "ForgetCertificates", &error, NULL, NULL);
	if (r < 0)
		fail("ForgetCertificates", r, &error);
	sd_bus_error_free(&error);
	return r;
}

static int keep_channel(int fd)
{
	int r;

	if (n_channels == MAX_CHANNELS)
		return -E2BIG;
	r = sivshm_channel_from_fd(fd, NULL, &channels[n_channels]);
	if (r < 0)
		return fail(sivshm_last_error(), r, NULL);
	n_channels++;
	return 0;
}

/* pair: the listening end, NULL without one */
static sd_bus *peer_bus;
static const char *peer_listener;

/* Takes the channel at the listening end, and says what its daemon says of it. */
static int accept_peer(void)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *reply = NULL;
	const char *path;
	int fd, r;

	r = sd_bus_call_method(peer_bus, "org.sivshm1", peer_listener, "org.sivshm1.Listener",
			       "Accept", &error, &reply, "a{sv}", 0);
	if (r < 0)
		fail("Accept", r, &error);
	else
		r = sd_bus_message_read(reply, "ho", &fd, &path);
	if (r >= 0) {
		printf(",\"peer_steps\":");
		r = print_identity(reply);
	}
	sd_bus_message_unref(reply); /* and closes its fd */
	sd_bus_error_free(&error);
	return r;
}

static int connect_once(sd_bus *bus, const char *service, const char *peer, bool hold, bool first)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *call = NULL, *reply = NULL;
	const char *path;
	double begin;
	int fd = -1, r;

	r = sd_bus_message_new_method_call(bus, &call, "org.sivshm1", "/org/sivshm1",
					   "org.sivshm1.Manager", "Connect");
	if (r >= 0)
		r = sd_bus_message_append(call, "ssa{sv}", service, peer, 0);
	if (r < 0)
		goto out;
	begin = now_ms();
	r = sd_bus_call(bus, call, CALL_TIMEOUT_US, &error, &reply);
	if (r < 0) {
		fail("Connect", r, &error);
		goto out;
	}
	r = sd_bus_message_read(reply, "ho", &fd, &path);
	if (r < 0)
		goto out;
	fd = dup(fd);
	printf("%s{\"ms\":%.3f,\"channel\":\"%s\",\"steps\":", first ? "" : ",", now_ms() - begin,
	       path);
	r = print_identity(reply);
	if (r >= 0 && peer_bus)
		r = accept_peer();
	printf("}");
	if (r < 0)
		goto out;
	r = hold ? keep_channel(fd) : close(fd);
out:
	sd_bus_message_unref(call);
	sd_bus_message_unref(reply);
	sd_bus_error_free(&error);
	return r;
}

/* Sends a message of its own through every channel, and only then looks at the answers: a window
 * that two channels shared would show here. */
static int exchange_all(void)
{
	char text[64], answer[64];
	size_t i;
	int r;

	for (i = 0; i < n_channels; i++) {
		snprintf(text, sizeof(text), "message of channel %zu", i);
		r = sivshm_send(channels[i], text, strlen(text) + 1, CALL_TIMEOUT_US);
		if (r < 0)
			return fail(sivshm_last_error(), r, NULL);
	}
	for (i = 0; i < n_channels; i++) {
		snprintf(text, sizeof(text), "message of channel %zu", i);
		r = (int)sivshm_recv(channels[i], answer, sizeof(answer), NULL, CALL_TIMEOUT_US);
		if (r < 0)
			return fail(sivshm_last_error(), r, NULL);
		if (strcmp(text, answer) != 0)
			return fail("another channel's message came back", -EBADMSG, NULL);
	}
	return 0;
}

/* Waits for SIGTERM, which was blocked before; two minutes at most. */
static int stay_here(const sigset_t *term)
{
	if (sigtimedwait(term, NULL, &(const struct timespec){.tv_sec = 120}) < 0)
		return fail("waiting for SIGTERM", -errno, NULL);
	return 0;
}

static int open_user_bus(sd_bus **ret)
{
	const char *name;
	int r;

	r = sd_bus_open_system(ret);
	if (r >= 0)
		/* waits until this connection stands: that is no part of the call */
		r = sd_bus_get_unique_name(*ret, &name);
	return r < 0 ? fail("system bus", r, NULL) : 0;
}

static int run_connect(int argc, char **argv)
{
	bool stay = argc > 5 && strcmp(argv[5], "stay") == 0;
	bool hold = stay || (argc > 5 && strcmp(argv[5], "hold") == 0);
	int count = atoi(argv[4]), i, r;
	sd_bus *bus = NULL;
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	if (stay)
		sigprocmask(SIG_BLOCK, &term, NULL);
	r = open_user_bus(&bus);
	if (r < 0)
		return r;
	printf("{\"calls\":[");
	for (i = 0; i < count && r >= 0; i++)
		r = connect_once(bus, argv[2], argv[3], hold, i == 0);
	if (r >= 0)
		r = exchange_all();
	if (r >= 0 && stay)
		r = stay_here(&term);
	printf("],\"channels\":%zu,\"ok\":%s}\n", n_channels, r < 0 ? "false" : "true");
	fflush(stdout);
	while (n_channels > 0)
		sivshm_close(channels[--n_channels]);
	sd_bus_unref(bus);
	return r;
}

/* Both ends; the peer by the channel that is there for this. */
static int forget_at_both_ends(void)
{
	char answer[64];
	ssize_t n;
	int r;

	r = sivshm_send(channels[0], FORGET, sizeof(FORGET), CALL_TIMEOUT_US);
	if (r < 0)
		return fail(sivshm_last_error(), r, NULL);
	n = sivshm_recv(channels[0], answer, sizeof(answer), NULL, CALL_TIMEOUT_US);
	if (n < 0)
		return fail(sivshm_last_error(), (int)n, NULL);
	if (strcmp(answer, FORGET) != 0)
		return fail("the peer did not forget", -EBADMSG, NULL);
	return forget_certificates();
}

/* pair */

static int open_bus_at(const char *address, sd_bus **ret)
{
	const char *name;
	int r = sd_bus_new(ret);

	if (r >= 0)
		r = sd_bus_set_address(*ret, address);
	if (r >= 0)
		r = sd_bus_set_bus_client(*ret, true);
	if (r >= 0)
		r = sd_bus_start(*ret);
	if (r >= 0)
		r = sd_bus_get_unique_name(*ret, &name);
	return r < 0 ? fail(address, r, NULL) : 0;
}

static int forget_at(sd_bus *bus)
{
	root_bus = bus;
	return forget_certificates();
}

static int take_pair_turns(sd_bus *bus, char **argv)
{
	int count = atoi(argv[6]), i, r = 0;

	for (i = 0; i < 2 * count && r >= 0; i++) {
		if (i % 2 == 0)
			r = forget_at(bus) < 0 ? -EIO : forget_at(peer_bus);
		usleep(PAUSE_US);
		if (r >= 0)
			r = connect_once(bus, argv[4], argv[5], false, i == 0);
	}
	return r;
}

static int run_pair(char **argv)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *reply = NULL;
	sd_bus *bus = NULL;
	int r;

	r = open_bus_at(argv[2], &bus);
	if (r >= 0)
		r = open_bus_at(argv[3], &peer_bus);
	if (r < 0)
		return r;
	r = sd_bus_call_method(peer_bus, "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager",
			       "Listen", &error, &reply, "sa{sv}", strchr(argv[5], '/') + 1, 0);
	if (r < 0)
		return fail("Listen", r, &error);
	r = sd_bus_message_read(reply, "o", &peer_listener);
	printf("{\"calls\":[");
	if (r >= 0)
		r = take_pair_turns(bus, argv);
	printf("],\"ok\":%s}\n", r < 0 ? "false" : "true");
	fflush(stdout);
	sd_bus_message_unref(reply);
	sd_bus_unref(bus);
	sd_bus_unref(peer_bus);
	return r;
}

static int take_turns(sd_bus *bus, char **argv)
{
	int count = atoi(argv[4]), i, r;

	r = connect_once(bus, argv[2], argv[3], true, true);
	for (i = 0; i < count && r >= 0; i++) {
		r = forget_at_both_ends();
		usleep(PAUSE_US);
		if (r >= 0)
			r = connect_once(bus, argv[2], argv[3], false, false);
		usleep(PAUSE_US);
		if (r >= 0)
			r = connect_once(bus, argv[2], argv[3], false, false);
		usleep(PAUSE_US);
	}
	return r;
}

static int run_turns(char **argv)
{
	sd_bus *bus = NULL;
	int r;

	r = keep_root_bus(argv[5]);
	if (r >= 0)
		r = open_user_bus(&bus);
	if (r < 0)
		return r;
	printf("{\"calls\":[");
	r = take_turns(bus, argv);
	printf("],\"ok\":%s}\n", r < 0 ? "false" : "true");
	fflush(stdout);
	while (n_channels > 0)
		sivshm_close(channels[--n_channels]);
	sd_bus_unref(bus);
	sd_bus_unref(root_bus);
	return r;
}

/* Echoes what is there.  Returns a negative value when the channel has ended. */
static int echo(struct sivshm_channel *c)
{
	char buffer[4096];
	ssize_t n;
	int r;

	do {
		while ((n = sivshm_recv(c, buffer, sizeof(buffer), NULL, 0)) >= 0) {
			if (root_bus && (size_t)n == sizeof(FORGET) &&
			    memcmp(buffer, FORGET, sizeof(FORGET)) == 0 &&
			    forget_certificates() < 0)
				return -EIO;
			r = sivshm_send(c, buffer, (size_t)n, CALL_TIMEOUT_US);
			if (r < 0)
				return r;
		}
		if (n != -EAGAIN)
			return (int)n;
		r = sivshm_arm(c, SIVSHM_READ);
	} while (r > 0);
	return r;
}

static void accept_all(struct sivshm_listener *l, uint64_t *total)
{
	while (n_channels < MAX_CHANNELS && sivshm_accept(l, 0, &channels[n_channels]) >= 0) {
		n_channels++;
		(*total)++;
	}
}

static void serve_all(void)
{
	for (size_t i = 0; i < n_channels;) {
		if (echo(channels[i]) >= 0) {
			i++;
			continue;
		}
		sivshm_close(channels[i]);
		channels[i] = channels[--n_channels];
	}
}

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static int run_listen(int argc, char **argv)
{
	static struct pollfd fds[MAX_CHANNELS + 1];
	struct sivshm_listener *l;
	uint64_t total = 0;
	int r;

	signal(SIGTERM, on_signal);
	if (argc > 3 && keep_root_bus(argv[3]) < 0)
		return -EPERM;
	r = sivshm_listen(argv[2], NULL, &l);
	if (r < 0)
		return fail(sivshm_last_error(), r, NULL);
	fprintf(stderr, "listening\n");
	while (!stop) {
		accept_all(l, &total);
		serve_all();
		fds[0] = (struct pollfd){.fd = sivshm_listener_get_fd(l), .events = POLLIN};
		for (size_t i = 0; i < n_channels; i++)
			fds[i + 1] =
				(struct pollfd){.fd = sivshm_get_fd(channels[i]), .events = POLLIN};
		/* a second at most: a signal between the test and the call must not be lost */
		poll(fds, n_channels + 1, 1000);
	}
	printf("{\"accepted\":%llu}\n", (unsigned long long)total);
	while (n_channels > 0)
		sivshm_close(channels[--n_channels]);
	sivshm_listener_close(l);
	sd_bus_unref(root_bus);
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (argc >= 5 && strcmp(argv[1], "connect") == 0)
		return run_connect(argc, argv) < 0;
	if (argc == 6 && strcmp(argv[1], "turns") == 0)
		return run_turns(argv) < 0;
	if (argc == 7 && strcmp(argv[1], "pair") == 0 && strchr(argv[5], '/'))
		return run_pair(argv) < 0;
	if ((argc == 3 || argc == 4) && strcmp(argv[1], "listen") == 0)
		return run_listen(argc, argv) < 0;
	fprintf(stderr, "usage: handshake-bench connect SERVICE PEER COUNT [hold|stay]\n"
			"       handshake-bench listen SERVICE [USER]\n"
			"       handshake-bench turns SERVICE PEER COUNT USER\n"
			"       handshake-bench pair BUS PEER-BUS SERVICE PEER COUNT\n");
	return 2;
}
