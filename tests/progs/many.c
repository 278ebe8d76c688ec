/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many channels that sleep, and one that is woken: what does the one cost when there are the many?
 *
 *	many listen SERVICE REPORT
 *	many connect SERVICE PEER COUNT REPORT
 *	many work SERVICE REPORT
 *	many wake SERVICE PEER ROUNDS
 *	many handshake SERVICE PEER ROUNDS
 *
 * listen and connect keep every channel they get in one epoll set and sleep there.  At each SIGUSR1
 * they write a line of JSON to the file REPORT: {"channels": how many, "wakeups": times epoll_wait
 * returned for a channel, "spurious": [[slot, times nothing had come on it], ...], "cpu_us": time
 * of this process}.  The file appears when all COUNT channels are open.  SIGTERM ends them.
 *
 * wake sends ROUNDS messages through one channel and back, each after a pause in which both ends
 * have gone to sleep.
 *
 * handshake opens and closes a channel ROUNDS times, and each time does a piece of work, too, that
 * has nothing to do with channels (calls of the bus alone, arithmetic), first here and then at the
 * peer: by that it can be told what else the machine does.  Prints {"ns": [D-Bus call to fd],
 * "control_ns": [that work at both ends]}.  work is listen for that: it does the work for each
 * message.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#include "client/sivshm.h"
#include "kmod/uapi/sivshm.h"

#define RING_SIZE 4096
#define MESSAGE_SIZE 64
#define PAUSE_NS 2000000
#define TIMEOUT_US 30000000ull
#define EVENTS 64
#define UNDER_WAY 8
#define SETTLE_NS 20000000 /* then the end of the last channel is over */
#define CONTROL_CALLS 20
#define CONTROL_STEPS 1000000
#define MAX_CHANNELS SIVSHM_MAX_SLOTS

struct held {
	struct sivshm_channel *channel;
	uint32_t slot;
	uint64_t spurious;
};

static struct held *held[MAX_CHANNELS];
static size_t n_held;
static uint64_t wakeups;
static sd_bus *work_bus;
static bool works; /* for each message, then sends it back */
static int epoll_fd;

static void check(long r, const char *what)
{
	if (r < 0)
		errx(1, "%s: %s (%s)", what, sivshm_last_error(), strerror((int)-r));
}

static uint32_t slot_of(const struct sivshm_channel *c)
{
	struct sivshm_channel_info info;

	if (ioctl(sivshm_get_fd(c), SIVSHM_CHANNEL_GET_INFO, &info) < 0)
		err(1, "GET_INFO");
	return info.slot;
}

static void drop(struct held *h)
{
	for (size_t i = 0; i < n_held; i++)
		if (held[i] == h) {
			held[i] = held[--n_held];
			break;
		}
	/* Closing it is not enough: the bus may hold the file, and so the set, for a moment. */
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, sivshm_get_fd(h->channel), NULL);
	sivshm_close(h->channel);
	free(h);
}

static void open_work_bus(void)
{
	int r = sd_bus_open_system(&work_bus);

	if (r < 0)
		errx(1, "bus: %s", strerror(-r));
}

/* Work that has nothing to do with channels. */
static void control_work(void)
{
	volatile uint64_t x = 1;

	for (int i = 0; i < CONTROL_CALLS; i++) {
		sd_bus_message *reply = NULL;
		int r = sd_bus_call_method(work_bus, "org.freedesktop.DBus",
					   "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId",
					   NULL, &reply, NULL);

		if (r < 0)
			errx(1, "GetId: %s", strerror(-r));
		sd_bus_message_unref(reply);
	}
	for (int i = 0; i < CONTROL_STEPS; i++)
		x = x * 6364136223846793005ull + 1442695040888963407ull;
}

/* Until the channel sleeps again.  Returns how many messages were there, or that it has ended. */
static int take_all(struct held *h)
{
	uint8_t buffer[RING_SIZE];
	int n = 0;
	long r;

	do {
		while ((r = sivshm_recv(h->channel, buffer, sizeof(buffer), NULL, 0)) >= 0) {
			n++;
			if (works) {
				control_work();
				sivshm_send(h->channel, buffer, (size_t)r, TIMEOUT_US);
			}
		}
		if (r == -EAGAIN)
			r = sivshm_arm(h->channel, SIVSHM_READ);
	} while (r > 0);
	return r < 0 ? (int)r : n;
}

static void hold(struct sivshm_channel *c)
{
	struct held *h = calloc(1, sizeof(*h));
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = h};

	if (!h || n_held == MAX_CHANNELS)
		errx(1, "too many channels");
	h->channel = c;
	h->slot = slot_of(c);
	held[n_held++] = h;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sivshm_get_fd(c), &e) < 0)
		err(1, "epoll_ctl");
	if (take_all(h) < 0)
		drop(h);
}

static void woken(struct held *h)
{
	int n = take_all(h);

	wakeups++;
	if (n < 0)
		drop(h);
	else if (n == 0)
		h->spurious++;
}

static long long cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000ll + u.ru_utime.tv_usec +
	       u.ru_stime.tv_usec;
}

/* Whole or not at all, for whoever waits for it.  What this takes is not counted. */
static void report(const char *path)
{
	static long long reporting_us;
	long long now_us = cpu_us();
	const char *sep = "";
	char new[256];
	FILE *f;

	snprintf(new, sizeof(new), "%s.new", path);
	f = fopen(new, "w");
	if (!f)
		err(1, "%s", new);
	fprintf(f, "{\"channels\":%zu,\"wakeups\":%llu,\"cpu_us\":%lld,\"spurious\":[", n_held,
		(unsigned long long)wakeups, now_us - reporting_us);
	for (size_t i = 0; i < n_held; i++) {
		fprintf(f, "%s[%u,%llu]", sep, held[i]->slot,
			(unsigned long long)held[i]->spurious);
		sep = ",";
	}
	fprintf(f, "]}\n");
	if (fclose(f) != 0 || rename(new, path) < 0)
		err(1, "%s", path);
	reporting_us += cpu_us() - now_us;
}

static void watch(int fd, void *mark)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = mark};

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		err(1, "epoll_ctl");
}

static void accept_all(struct sivshm_listener *l)
{
	struct sivshm_channel *c;
	int r;

	while ((r = sivshm_accept(l, 0, &c)) == 0)
		hold(c);
	/* one whose other end went before it was taken is no reason to stop */
	if (r != -EAGAIN && r != -ENOLINK)
		check(r, "accept");
}

/* Until SIGTERM. */
static void sleep_on(struct sivshm_listener *l, int signals, const char *path)
{
	struct epoll_event events[EVENTS];
	struct signalfd_siginfo info;

	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == &held) {
				if (read(signals, &info, sizeof(info)) != sizeof(info) ||
				    info.ssi_signo == SIGTERM)
					return;
				report(path);
			} else if (events[i].data.ptr == l) {
				accept_all(l);
			} else {
				woken(events[i].data.ptr);
			}
		}
	}
}

static int take_signals(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (fd < 0)
		err(1, "signalfd");
	watch(fd, &held);
	return fd;
}

static void allow_files(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		err(1, "getrlimit");
	l.rlim_cur = l.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &l) < 0)
		err(1, "setrlimit");
}

static int run_listen(const char *service, const char *path)
{
	struct sivshm_options o = {.size = sizeof(o), .ring_size = RING_SIZE, .backlog = 16};
	int signals = take_signals();
	struct sivshm_listener *l;

	check(sivshm_listen(service, &o, &l), "listen");
	watch(sivshm_listener_get_fd(l), l);
	report(path);
	sleep_on(l, signals, path);
	sivshm_listener_close(l);
	return 0;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
	unsigned long *under_way = userdata;
	struct sivshm_channel *c;
	int fd, r;

	(void)ret_error;
	(*under_way)--;
	if (sd_bus_message_is_method_error(m, NULL))
		errx(1, "Connect: %s", sd_bus_message_get_error(m)->message);
	r = sd_bus_message_read(m, "h", &fd);
	if (r >= 0)
		r = fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (r < 0)
		errx(1, "Connect: no fd in the answer");
	check(sivshm_channel_from_fd(fd, NULL, &c), "channel");
	hold(c);
	return 0;
}

static void call_connect(sd_bus *bus, const char *service, const char *peer,
			 unsigned long *under_way)
{
	int r;

	r = sd_bus_call_method_async(bus, NULL, "org.sivshm1", "/org/sivshm1",
				     "org.sivshm1.Manager", "Connect", on_answer, under_way,
				     "ssa{sv}", service, peer, 1, "RingSize", "t",
				     (uint64_t)RING_SIZE);
	if (r < 0)
		errx(1, "Connect: %s", strerror(-r));
	(*under_way)++;
}

/* One bus connection for all of them, and several calls under way, so that both ends have work. */
static void connect_all(const char *service, const char *peer, unsigned long count)
{
	unsigned long asked = 0, under_way = 0;
	sd_bus *bus;
	int r;

	r = sd_bus_open_system(&bus);
	while (r >= 0 && n_held < count) {
		while (asked < count && under_way < UNDER_WAY) {
			call_connect(bus, service, peer, &under_way);
			asked++;
		}
		r = sd_bus_process(bus, NULL);
		if (r == 0)
			r = sd_bus_wait(bus, TIMEOUT_US);
	}
	if (r < 0)
		errx(1, "bus: %s", strerror(-r));
	sd_bus_flush_close_unref(bus);
}

static int run_connect(const char *service, const char *peer, unsigned long count, const char *path)
{
	int signals = take_signals();

	connect_all(service, peer, count);
	report(path);
	sleep_on(NULL, signals, path);
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void round_trip(struct sivshm_channel *c)
{
	uint8_t message[MESSAGE_SIZE] = {};

	nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
	check(sivshm_send(c, message, sizeof(message), TIMEOUT_US), "send");
	check(sivshm_recv(c, message, sizeof(message), NULL, TIMEOUT_US), "receive");
}

static int run_wake(const char *service, const char *peer, unsigned long rounds)
{
	/* it shall sleep, not spin */
	struct sivshm_options o = {.size = sizeof(o), .ring_size = RING_SIZE, .spin_us = 1};
	struct sivshm_channel *c;

	check(sivshm_connect(service, peer, &o, &c), "connect");
	for (unsigned long i = 0; i < rounds; i++)
		round_trip(c);
	sivshm_close(c);
	return 0;
}

static int connect_once(const char *service, const char *peer)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *reply = NULL;
	int fd, r;

	r = sd_bus_call_method(work_bus, "org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager",
			       "Connect", &error, &reply, "ssa{sv}", service, peer, 1, "RingSize",
			       "t", (uint64_t)RING_SIZE);
	if (r < 0)
		errx(1, "Connect: %s", error.message ? error.message : strerror(-r));
	r = sd_bus_message_read(reply, "h", &fd);
	if (r < 0)
		errx(1, "Connect: no fd in the answer");
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	sd_bus_message_unref(reply);
	return fd;
}

static void print_times(const char *name, const uint64_t *ns, unsigned long n)
{
	printf("\"%s\":[", name);
	for (unsigned long i = 0; i < n; i++)
		printf("%s%llu", i ? "," : "", (unsigned long long)ns[i]);
	printf("]");
}

static int run_handshake(const char *service, const char *peer, unsigned long rounds)
{
	uint64_t *ns = calloc(rounds, sizeof(*ns)), *control = calloc(rounds, sizeof(*control));
	struct sivshm_options o = {.size = sizeof(o), .ring_size = RING_SIZE};
	struct sivshm_channel *there;
	unsigned long answer;

	if (!ns || !control)
		errx(1, "no memory");
	open_work_bus();
	check(sivshm_connect(service, peer, &o, &there), "connect");
	/* that the bus connection stands is no part of it */
	close(connect_once(service, peer));
	for (unsigned long i = 0; i < rounds; i++) {
		uint64_t began;
		int fd;

		nanosleep(&(struct timespec){.tv_nsec = SETTLE_NS}, NULL);
		began = now_ns();
		fd = connect_once(service, peer);
		ns[i] = now_ns() - began;
		close(fd);
		nanosleep(&(struct timespec){.tv_nsec = SETTLE_NS}, NULL);
		began = now_ns();
		control_work();
		check(sivshm_send(there, &i, sizeof(i), TIMEOUT_US), "send");
		check(sivshm_recv(there, &answer, sizeof(answer), NULL, TIMEOUT_US), "receive");
		control[i] = now_ns() - began;
	}
	printf("{");
	print_times("ns", ns, rounds);
	printf(",");
	print_times("control_ns", control, rounds);
	printf("}\n");
	sivshm_close(there);
	sd_bus_flush_close_unref(work_bus);
	free(ns);
	free(control);
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	allow_files();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		err(1, "epoll_create1");
	if (argc == 4 && strcmp(argv[1], "work") == 0) {
		works = true;
		open_work_bus();
	}
	if (argc == 4 && (works || strcmp(argv[1], "listen") == 0))
		return run_listen(argv[2], argv[3]);
	if (argc == 6 && strcmp(argv[1], "connect") == 0)
		return run_connect(argv[2], argv[3], strtoul(argv[4], NULL, 10), argv[5]);
	if (argc == 5 && strcmp(argv[1], "wake") == 0)
		return run_wake(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	if (argc == 5 && strcmp(argv[1], "handshake") == 0)
		return run_handshake(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	fprintf(stderr, "usage: many listen SERVICE REPORT\n"
			"       many connect SERVICE PEER COUNT REPORT\n"
			"       many work SERVICE REPORT\n"
			"       many wake SERVICE PEER ROUNDS\n"
			"       many handshake SERVICE PEER ROUNDS\n");
	return 2;
}
