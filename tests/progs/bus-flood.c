/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bus-flood: many calls of one method of sivshmd, or a single one.
 *
 *	bus-flood [OPTION]... PATH INTERFACE METHOD SIGNATURE [STRING]...
 *
 *	--calls N	so many calls
 *	--connections N	in turn on so many connections
 *	--window N	calls under way on each connection, 0 is no limit
 *	--settle MS	do not wait for those whose answers do not come for so long
 *	--hold		keep all connections, and what came on them, until stdin ends
 *	--deaf		never read an answer, and hold too
 *	--fill N	first N answers of some kilobytes on each connection, to fill its socket
 *	--pause MS	between deaf calls
 *
 * SIGNATURE is of "s" and "a{sv}": strings come from the command line, %u in one is the number of
 * the call, options are empty.
 *
 * Prints {"answers": {NAME: N}, "texts": {NAME: first text}, "seconds": S, "sent": N, "unread": N}.
 * The NAME of success is "ok"; unread are the bytes that lie in the sockets.
 */
#include <err.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#include "json-out.h"

#define MAX_CONNECTIONS 256
#define CALL_TIMEOUT_US (300 * 1000000ULL)

struct connection {
	sd_bus *bus;
	unsigned under_way;
};

static struct connection connections[MAX_CONNECTIONS];
static unsigned n_connections = 1, n_calls = 1, n_fill, pause_ms, settle_ms, window = 16, n_sent,
		n_answered;
static bool hold, deaf;
static char **method; /* path, interface, method, signature, strings */
static json_t *answers, *texts;
static sd_event *event;

static void check(int r, const char *what)
{
	if (r < 0)
		errx(2, "%s: %s", what, strerror(-r));
}

static void count(const char *name, const char *text)
{
	json_int_t n = json_integer_value(json_object_get(answers, name));

	json_object_set_new(answers, name, json_integer(n + 1));
	if (n == 0)
		json_object_set_new(texts, name, json_string(text));
}

/* The number of the call takes the place of %u. */
static int append_string(sd_bus_message *m, const char *text)
{
	const char *at = strstr(text, "%u");
	char buffer[256];

	if (!at)
		return sd_bus_message_append(m, "s", text);
	snprintf(buffer, sizeof(buffer), "%.*s%u%s", (int)(at - text), text, n_sent, at + 2);
	return sd_bus_message_append(m, "s", buffer);
}

static sd_bus_message *new_call(sd_bus *bus)
{
	char **string = method + 4;
	sd_bus_message *m;
	int r;

	r = sd_bus_message_new_method_call(bus, &m, "org.sivshm1", method[0], method[1], method[2]);
	check(r, "new call");
	for (const char *c = method[3]; *c && r >= 0; c++) {
		if (*c == 's' && *string)
			r = append_string(m, *string++);
		else if (strncmp(c, "a{sv}", 5) == 0) {
			r = sd_bus_message_append(m, "a{sv}", 0);
			c += 4;
		} else
			errx(2, "signature and strings do not fit");
	}
	check(r, "arguments");
	return m;
}

static void send_more(struct connection *c);

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const sd_bus_error *e = sd_bus_message_get_error(m);
	struct connection *c = userdata;

	(void)error;
	count(e ? e->name : "ok", e ? e->message : "");
	if (hold && !e)
		sd_bus_message_ref(m); /* with the fd in it */
	c->under_way--;
	n_answered++;
	send_more(c);
	return 0;
}

static void send_one(struct connection *c)
{
	sd_bus_message *m = new_call(c->bus);
	uint64_t cookie;
	int r;

	if (deaf)
		r = sd_bus_send(c->bus, m, &cookie);
	else
		r = sd_bus_call_async(c->bus, NULL, m, on_answer, c, CALL_TIMEOUT_US);
	check(r, "send");
	sd_bus_message_unref(m);
	c->under_way++;
	n_sent++;
}

static void send_more(struct connection *c)
{
	while (n_sent < n_calls && (window == 0 || c->under_way < window))
		send_one(c);
}

static void fill(sd_bus *bus)
{
	for (unsigned i = 0; i < n_fill; i++) {
		sd_bus_message *m;

		check(sd_bus_message_new_method_call(bus, &m, "org.sivshm1", "/org/sivshm1",
						     "org.freedesktop.DBus.Introspectable",
						     "Introspect"),
		      "new call");
		check(sd_bus_send(bus, m, &(uint64_t){0}), "send");
		sd_bus_message_unref(m);
	}
}

/* Nothing is ever read: what comes fills the socket, and then the bus. */
static void flood_deaf(void)
{
	for (unsigned i = 0; i < n_connections; i++)
		fill(connections[i].bus);
	while (n_sent < n_calls) {
		struct connection *c = &connections[n_sent % n_connections];

		send_one(c);
		check(sd_bus_flush(c->bus), "flush");
		usleep(pause_ms * 1000);
	}
}

static void flood(void)
{
	/* in turn, so that each connection has its share */
	for (unsigned round = 0; n_sent < n_calls && (window == 0 || round < window); round++)
		for (unsigned i = 0; i < n_connections && n_sent < n_calls; i++)
			send_one(&connections[i]);
	for (unsigned i = 0; i < n_connections; i++)
		check(sd_bus_attach_event(connections[i].bus, event, 0), "attach");
	/* sd_event_loop() would close the connections at its end */
	while (n_answered < n_calls) {
		int r = sd_event_run(event, settle_ms ? settle_ms * 1000ull : UINT64_MAX);

		check(r, "event loop");
		if (r == 0)
			break;
	}
}

static void open_connections(void)
{
	const char *name;

	for (unsigned i = 0; i < n_connections; i++) {
		check(sd_bus_open_system(&connections[i].bus), "system bus");
		check(sd_bus_get_unique_name(connections[i].bus, &name), "system bus");
	}
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{"calls", required_argument, NULL, 'n'},
		{"connections", required_argument, NULL, 'c'},
		{"window", required_argument, NULL, 'w'},
		{"hold", no_argument, NULL, 'h'},
		{"deaf", no_argument, NULL, 'd'},
		{"fill", required_argument, NULL, 'f'},
		{"pause", required_argument, NULL, 'p'},
		{"settle", required_argument, NULL, 's'},
		{},
	};
	int o;

	while ((o = getopt_long(argc, argv, "+", options, NULL)) >= 0) {
		if (o == 'n')
			n_calls = (unsigned)atoi(optarg);
		else if (o == 'c')
			n_connections = (unsigned)atoi(optarg);
		else if (o == 'w')
			window = (unsigned)atoi(optarg);
		else if (o == 'p')
			pause_ms = (unsigned)atoi(optarg);
		else if (o == 's')
			settle_ms = (unsigned)atoi(optarg);
		else if (o == 'f')
			n_fill = (unsigned)atoi(optarg);
		else if (o == 'h')
			hold = true;
		else if (o == 'd')
			deaf = hold = true;
		else
			exit(2);
	}
	if (argc - optind < 4 || n_calls == 0 || n_connections == 0 ||
	    n_connections > MAX_CONNECTIONS)
		errx(2, "usage: see the head of bus-flood.c");
	method = argv + optind;
}

/* Until no more comes for a while. */
static json_int_t unread(void)
{
	json_int_t before = -1, total = 0;

	while (deaf && before != total) {
		before = total;
		usleep(500000);
		total = 0;
		for (unsigned i = 0; i < n_connections; i++) {
			int n = 0;

			check(ioctl(sd_bus_get_fd(connections[i].bus), FIONREAD, &n), "FIONREAD");
			total += n;
		}
	}
	return total;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	char byte;
	double began, seconds;

	parse(argc, argv);
	answers = json_object();
	texts = json_object();
	check(sd_event_new(&event), "event");
	open_connections();
	began = now();
	if (deaf)
		flood_deaf();
	else
		flood();
	seconds = now() - began;
	print_json(json_pack("{so so sf sI sI}", "answers", answers, "texts", texts, "seconds",
			     seconds, "sent", (json_int_t)n_sent, "unread", unread()));
	while (hold && read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}
