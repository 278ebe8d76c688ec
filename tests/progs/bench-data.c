/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Round trips and streams between two guests, over a sivshm channel and over what there is without
 *it.
 *
 *	bench-data listen SERVICE [OPTIONS]
 *	bench-data connect SERVICE VM/SERVICE [OPTIONS] < orders
 *		--plain PATH	resource2 of an ivshmem-plain device
 *		--uio NAME:PEER	uioN of tests/kmod/ivshmem_uio, and the other end's ivshmem id
 *		--tcp ADDRESS:PORT	where listen listens
 *		--user NAME	become this user when the devices are open
 *		--bus ADDRESS	instead of the system bus
 *		--lock		no page is ever paged out
 *		--histogram	answers of rtt tell all times, in steps of a 32nd of an octave
 *
 * Orders, one a line; each is answered by one line of JSON, times in nanoseconds:
 *
 *	ring BYTES			new rings of this size, first of all
 *	rtt KIND MODE SIZE ROUNDS [PAUSE_US]	before a round, pause so long and up to half as long
 *again stream KIND MODE HOW SIZE COUNT	one way, until the last one is acknowledged both KIND MODE
 *HOW SIZE COUNT	the same both ways at once
 *
 * KIND and MODE as in bench-link.h; HOW: copy (send and recv, contents left alone), touch (copy,
 *and the contents are made before and read after), zero (made and read in place).
 *
 * A channel of its own carries the orders to the other end, and what that counted back.
 */
#include <arpa/inet.h>
#include <err.h>
#include <getopt.h>
#include <grp.h>
#include <math.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench-clock.h"
#include "bench-link.h"
#include "json-out.h"

#define MAX_SIZE (1u << 20)
#define MAX_ROUNDS (1u << 22)
#define FIRST_SIDE 0 /* connect's windows come first in the shared memory */

enum op { RING, RTT, STREAM, BOTH, END, N_OPS };
enum how { COPY, TOUCH, ZERO, N_HOWS };

struct order {
	uint32_t op;
	uint32_t kind;
	uint32_t mode;
	uint32_t how;
	uint32_t size;
	uint32_t count;
	uint32_t pause_us;
	uint32_t ring;
};

/* What one end counted in one order. */
struct tally {
	uint64_t rings;
	uint64_t sleeps;
	uint64_t faults;
};

struct ends {
	const char *as, *to; /* @to: NULL at the listening end */
	const char *plain_path, *uio_name, *tcp_address, *user, *bus;
	bool lock, histogram;
	struct plain plain;
	struct uio uio;
	int tcp_fd;
	struct sivshm_listener *listener;
	struct sivshm_channel *control;
	struct link links[N_KINDS];
	double tick;
};

static const char *const op_names[] = {"ring", "rtt", "stream", "both"};
static const char *const how_names[] = {"copy", "touch", "zero"};
static uint8_t buffer[MAX_SIZE] __attribute__((aligned(4096)));
static uint64_t *times;
static volatile uint64_t sink;

/* Contents: the number of the message in every word */

static void make(void *data, size_t size, uint64_t number)
{
	uint64_t *words = data;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		words[i] = number;
}

static void use(const void *data, size_t size, uint64_t number)
{
	const uint64_t *words = data;
	uint64_t sum = 0;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		sum += words[i];
	if (sum != number * (size / sizeof(*words)))
		errx(1, "message %llu has other contents", (unsigned long long)number);
	sink = sum;
}

static void check_number(const void *data, uint64_t number)
{
	if (memcmp(data, &number, sizeof(number)))
		errx(1, "message %llu came out of turn", (unsigned long long)number);
}

/* One message, in each of the ways */

static void put(struct link *l, const struct order *o, uint64_t number)
{
	void *room;

	switch (o->how) {
	case ZERO:
		check(sivshm_reserve(l->c, o->size, &room, STEP_TIMEOUT_US), "reserve");
		make(room, o->size, number);
		check(sivshm_commit(l->c, o->size), "commit");
		return;
	case TOUCH:
		make(buffer, o->size, number);
		break;
	default:
		memcpy(buffer, &number, sizeof(number));
	}
	l->send(l, buffer, o->size);
}

static void take(struct link *l, const struct order *o, uint64_t number)
{
	const void *message;

	if (o->how == ZERO) {
		check(sivshm_peek(l->c, &message, STEP_TIMEOUT_US), "peek");
		use(message, o->size, number);
		check(sivshm_release(l->c), "release");
		return;
	}
	l->recv(l, buffer, o->size);
	if (o->how == TOUCH)
		use(buffer, o->size, number);
	else
		check_number(buffer, number);
}

/* Loops: the connecting end's, the listening end's */

/* Not the same distance between any two rounds: two ends that poll must not fall into step. */
static void pause_before(uint32_t pause_us, double tick)
{
	static uint64_t seed = 88172645463325252ull;
	uint64_t until;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	if (!pause_us) {
		for (unsigned int n = seed & 15; n > 0; n--)
			spin_relax();
		return;
	}
	until = ticks() +
		(uint64_t)((double)(pause_us * 1000ull + seed % (pause_us * 500ull)) / tick);
	while (ticks() < until)
		spin_relax();
}

static void rtt_connect(struct link *l, const struct order *o, double tick)
{
	for (uint32_t i = 0; i < o->count; i++) {
		uint64_t start;

		pause_before(o->pause_us, tick);
		start = ticks();
		put(l, o, i);
		l->recv(l, buffer, o->size);
		times[i] = ticks() - start;
		check_number(buffer, i);
	}
}

static void rtt_listen(struct link *l, const struct order *o)
{
	for (uint32_t i = 0; i < o->count; i++) {
		l->recv(l, buffer, o->size);
		l->send(l, buffer, o->size);
	}
}

static void stream_connect(struct link *l, const struct order *o)
{
	uint64_t word;

	for (uint32_t i = 0; i < o->count; i++)
		put(l, o, i);
	l->recv(l, &word, sizeof(word));
}

static void stream_listen(struct link *l, const struct order *o)
{
	uint64_t word = 0;

	for (uint32_t i = 0; i < o->count; i++)
		take(l, o, i);
	l->send(l, &word, sizeof(word));
}

/* One thread does both: whichever can go on, goes on. */
static void both_ways(struct link *l, const struct order *o)
{
	uint32_t sent = 0, taken = 0;

	while (sent < o->count || taken < o->count) {
		int events = 0;
		void *room;

		/* A reservation that does not fit says for how much room the wait is. */
		if (sent < o->count && sivshm_reserve(l->c, o->size, &room, 0) == 0)
			put(l, o, sent++);
		else if (sent < o->count)
			events |= SIVSHM_WRITE;
		if (taken < o->count && ring_readable(&l->c->ring.rx) == 0)
			take(l, o, taken++);
		else if (taken < o->count)
			events |= SIVSHM_READ;
		if (events == ((sent < o->count ? SIVSHM_WRITE : 0) |
			       (taken < o->count ? SIVSHM_READ : 0)) &&
		    events)
			check(sivshm_wait(l->c, events, STEP_TIMEOUT_US), "wait");
	}
}

/* Counting */

static uint64_t faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt;
}

static struct tally tally_of(const struct link *l)
{
	return (struct tally){.rings = l->rings, .sleeps = l->sleeps, .faults = faults()};
}

static struct tally since(const struct tally *before, const struct link *l)
{
	struct tally now = tally_of(l);

	return (struct tally){.rings = now.rings - before->rings,
			      .sleeps = now.sleeps - before->sleeps,
			      .faults = now.faults - before->faults};
}

/* New rings */

static void tell(struct ends *e, const void *data, size_t size)
{
	check(sivshm_send(e->control, data, size, STEP_TIMEOUT_US), "control");
}

static void hear(struct ends *e, void *data, size_t size)
{
	if (sivshm_recv(e->control, data, size, NULL, STEP_TIMEOUT_US) != (ssize_t)size)
		errx(1, "control: the other end is gone, or talks otherwise: %s",
		     sivshm_last_error());
}

static void meet(struct ends *e)
{
	uint64_t word = 0;

	tell(e, &word, sizeof(word));
	hear(e, &word, sizeof(word));
}

static struct sivshm_channel *shared_channel(struct plain *p, const struct backend *backend,
					     void *userdata, uint32_t ring)
{
	struct sivshm_channel *c;
	int r;

	p->ring_size = ring;
	r = plain_reset(p);
	if (r < 0)
		errx(1, "memory for two rings of %u bytes: %s", ring, strerror(-r));
	check(channel_new(backend, userdata, NULL, &c), "channel on shared memory");
	return c;
}

static struct sivshm_channel *new_channel(struct ends *e, uint32_t ring)
{
	struct sivshm_options o = {.size = sizeof(o), .ring_size = ring, .bus = e->bus};
	struct sivshm_channel *c;

	if (e->to)
		check(sivshm_connect(e->as, e->to, &o, &c), "connect");
	else
		check(sivshm_accept(e->listener, STEP_TIMEOUT_US, &c), "accept");
	return c;
}

/* Windows of shared memory are zeroed by their owner, and both ends wait until both have done it.
 */
static void new_rings(struct ends *e, uint32_t ring)
{
	for (int i = SIVSHM; i <= UIO_LIB; i++)
		if (i != UIO && e->links[i].c)
			sivshm_close(e->links[i].c);
	meet(e);
	link_channel(&e->links[SIVSHM], new_channel(e, ring));
	if (e->plain_path)
		link_channel(&e->links[PLAIN],
			     shared_channel(&e->plain, &backend_plain, &e->plain, ring));
	if (e->uio_name) {
		link_channel(&e->links[UIO_LIB],
			     shared_channel(&e->uio.plain, &backend_uio, &e->uio, ring));
		link_uio(&e->links[UIO], &e->links[UIO_LIB], &e->uio);
	}
	if (e->tcp_address)
		link_tcp(&e->links[TCP], e->tcp_fd);
	meet(e);
}

/* The connecting end */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The mean of those from @low to @high: a clock that counts in steps has only steps for
 * percentiles. */
static double middle(uint32_t n, double low, double high)
{
	size_t first = (size_t)((double)(n - 1) * low), last = (size_t)((double)(n - 1) * high);
	double sum = 0;

	for (size_t i = first; i <= last; i++)
		sum += (double)times[i];
	return sum / (double)(last - first + 1);
}

static void add_percentiles(json_t *j, const struct order *o, double tick)
{
	static const struct {
		const char *name;
		double low, high;
	} wanted[] = {
		{"min", 0, 0},	      {"p50", .45, .55},       {"p99", .989, .991},
		{"p999", .999, .999}, {"p9999", .9999, .9999}, {"max", 1, 1},
	};

	qsort(times, o->count, sizeof(*times), compare);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
		json_object_set_new(
			j, wanted[i].name,
			json_real(middle(o->count, wanted[i].low, wanted[i].high) * tick));
}

/* [[lower bound, count], ...]; the times are in order. */
static json_t *histogram(uint32_t n, double tick)
{
	json_t *all = json_array();
	uint32_t first = 0;
	double step = 0;

	for (uint32_t i = 0; i <= n; i++) {
		double next = i < n ? floor(log2((double)times[i] * tick) * 32) : -1;

		if (i > first && next != step) {
			json_array_append_new(
				all, json_pack("[fI]", exp2(step / 32), (json_int_t)(i - first)));
			first = i;
		}
		step = next;
	}
	return all;
}

static void report(const struct ends *e, const struct order *o, uint64_t took,
		   const struct tally *own, const struct tally *other)
{
	json_t *j = json_pack(
		"{ss ss ss ss sI sI sf sI sI sI sI sI sI}", "op", op_names[o->op], "kind",
		kind_names[o->kind], "mode", mode_names[o->mode], "how", how_names[o->how], "size",
		(json_int_t)o->size, "n", (json_int_t)o->count, "ns", (double)took * e->tick,
		"rings", (json_int_t)own->rings, "sleeps", (json_int_t)own->sleeps, "faults",
		(json_int_t)own->faults, "peer_rings", (json_int_t)other->rings, "peer_sleeps",
		(json_int_t)other->sleeps, "peer_faults", (json_int_t)other->faults);

	if (o->op == RTT)
		add_percentiles(j, o, e->tick);
	if (o->op == RTT && e->histogram)
		json_object_set_new(j, "histogram", histogram(o->count, e->tick));
	print_json(j);
}

static void give_order(struct ends *e, const struct order *o)
{
	struct link *l = &e->links[o->kind];
	struct tally before, own, other;
	uint64_t start;

	tell(e, o, sizeof(*o));
	if (o->op == RING) {
		new_rings(e, o->ring);
		print_json(json_pack("{ss sI}", "op", "ring", "size", (json_int_t)o->ring));
		return;
	}
	link_mode(l, o->mode);
	meet(e); /* the other end is ready */
	before = tally_of(l);
	start = ticks();
	if (o->op == RTT)
		rtt_connect(l, o, e->tick);
	else if (o->op == STREAM)
		stream_connect(l, o);
	else
		both_ways(l, o);
	start = ticks() - start;
	own = since(&before, l);
	hear(e, &other, sizeof(other));
	report(e, o, start, &own, &other);
}

static uint32_t find(const char *word, const char *const *names, uint32_t n, const char *line)
{
	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(word, names[i]))
			return i;
	errx(2, "order \"%s\": \"%s\" is none of those that are known", line, word);
}

static struct order parse_order(const struct ends *e, const char *line)
{
	char op[16], kind[16], mode[16], how[16] = "copy";
	struct order o = {};
	int n;

	if (sscanf(line, "ring %u", &o.ring) == 1)
		return o;
	if (sscanf(line, "rtt %15s %15s %u %u %u", kind, mode, &o.size, &o.count, &o.pause_us) >= 4)
		strcpy(op, "rtt");
	else if ((n = sscanf(line, "%15s %15s %15s %15s %u %u", op, kind, mode, how, &o.size,
			     &o.count)) != 6)
		errx(2, "order \"%s\": see the source for what there is", line);
	o.op = find(op, op_names, sizeof(op_names) / sizeof(*op_names), line);
	o.kind = find(kind, kind_names, N_KINDS, line);
	o.mode = find(mode, mode_names, N_MODES, line);
	o.how = find(how, how_names, N_HOWS, line);
	if (o.size < sizeof(uint64_t) || o.size > MAX_SIZE || !o.count || o.count > MAX_ROUNDS)
		errx(2, "order \"%s\": 8 to %u bytes, 1 to %u times", line, MAX_SIZE, MAX_ROUNDS);
	if (!e->links[o.kind].send || (!e->links[o.kind].c && (o.op == BOTH || o.how == ZERO)))
		errx(2, "order \"%s\": not with %s here", line, kind);
	return o;
}

static int run_connect(struct ends *e)
{
	struct order end = {.op = END};
	char line[256];

	e->control = new_channel(e, 65536);
	e->tick = tick_ns();
	times = malloc(MAX_ROUNDS * sizeof(*times));
	if (!times)
		err(1, "memory");
	memset(times, 1, MAX_ROUNDS * sizeof(*times)); /* no page is new when a round is timed */
	while (fgets(line, sizeof(line), stdin)) {
		struct order o;

		line[strcspn(line, "\n")] = '\0';
		o = parse_order(e, line);
		give_order(e, &o);
	}
	tell(e, &end, sizeof(end));
	sivshm_close(e->control);
	return 0;
}

/* The listening end */

static void obey(struct ends *e, const struct order *o)
{
	struct link *l = &e->links[o->kind < N_KINDS ? o->kind : 0];
	struct tally before, own;

	if (o->op == RING) {
		new_rings(e, o->ring);
		return;
	}
	if (o->op >= END || o->kind >= N_KINDS || !l->send || o->size > MAX_SIZE)
		errx(1, "an order that this end cannot follow");
	link_mode(l, o->mode);
	before = tally_of(l);
	meet(e);
	if (o->op == RTT)
		rtt_listen(l, o);
	else if (o->op == STREAM)
		stream_listen(l, o);
	else
		both_ways(l, o);
	own = since(&before, l);
	tell(e, &own, sizeof(own));
}

static int run_listen(struct ends *e)
{
	struct order o;

	check(sivshm_accept(e->listener, SIVSHM_FOREVER, &e->control), "accept");
	for (;;) {
		ssize_t n = sivshm_recv(e->control, &o, sizeof(o), NULL, SIVSHM_FOREVER);

		check(n, "order");
		if (n != sizeof(o) || o.op == END)
			break;
		obey(e, &o);
	}
	sivshm_close(e->control);
	sivshm_listener_close(e->listener);
	return 0;
}

/* Start */

static int tcp_open(const char *text, bool listens)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	char *colon, address[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, c;

	snprintf(address, sizeof(address), "%s", text);
	colon = strchr(address, ':');
	if (!colon)
		errx(2, "--tcp ADDRESS:PORT");
	*colon = '\0';
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1)
		errx(2, "--tcp %s: no such address", text);
	if (!listens) {
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			err(1, "connect to %s", text);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		return fd;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0)
		err(1, "listen at %s", text);
	c = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (c < 0)
		err(1, "accept at %s", text);
	setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	close(fd);
	return c;
}

static void become(const char *user)
{
	struct passwd *p = getpwnam(user);

	if (!p || initgroups(user, p->pw_gid) < 0 || setgid(p->pw_gid) < 0 || setuid(p->pw_uid) < 0)
		err(1, "become %s", user);
}

static void start_listening(struct ends *e)
{
	struct sivshm_options options = {.size = sizeof(options), .backlog = 4, .bus = e->bus};

	check(sivshm_listen(e->as, &options, &e->listener), "listen");
	fprintf(stderr, "listening\n");
}

static void open_all(struct ends *e)
{
	int side = e->to ? FIRST_SIDE : !FIRST_SIDE, r = 0;
	char name[32];
	unsigned int peer;

	if (e->plain_path)
		r = plain_open(e->plain_path, side, 0, &e->plain);
	if (r < 0)
		errx(1, "%s: %s", e->plain_path, strerror(-r));
	if (e->uio_name) {
		if (sscanf(e->uio_name, "%31[^:]:%u", name, &peer) != 2)
			errx(2, "--uio NAME:PEER");
		r = uio_open(name, side, peer, 0, &e->uio);
	}
	if (r < 0)
		errx(1, "%s: %s", e->uio_name, strerror(-r));
	if (e->lock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		err(1, "mlockall");
	if (e->user)
		become(e->user);
	/* Who can be reached by TCP listens for channels too. */
	if (!e->to)
		start_listening(e);
	if (e->tcp_address)
		e->tcp_fd = tcp_open(e->tcp_address, !e->to);
}

static void parse(int argc, char **argv, struct ends *e)
{
	static const struct option options[] = {
		{"plain", required_argument, NULL, 'p'}, {"uio", required_argument, NULL, 'u'},
		{"tcp", required_argument, NULL, 't'},	 {"user", required_argument, NULL, 'U'},
		{"lock", no_argument, NULL, 'l'},	 {"bus", required_argument, NULL, 'b'},
		{"histogram", no_argument, NULL, 'h'},	 {},
	};
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (o) {
		case 'p':
			e->plain_path = optarg;
			break;
		case 'u':
			e->uio_name = optarg;
			break;
		case 't':
			e->tcp_address = optarg;
			break;
		case 'U':
			e->user = optarg;
			break;
		case 'b':
			e->bus = optarg;
			break;
		case 'l':
			e->lock = true;
			break;
		case 'h':
			e->histogram = true;
			break;
		default:
			exit(2);
		}
}

int main(int argc, char **argv)
{
	static struct ends e;

	parse(argc, argv, &e);
	argv += optind;
	argc -= optind;
	if (argc == 3 && !strcmp(argv[0], "connect")) {
		e.as = argv[1];
		e.to = argv[2];
		open_all(&e);
		return run_connect(&e);
	}
	if (argc == 2 && !strcmp(argv[0], "listen")) {
		e.as = argv[1];
		open_all(&e);
		return run_listen(&e);
	}
	errx(2,
	     "usage: bench-data listen SERVICE [OPTIONS] | connect SERVICE VM/SERVICE [OPTIONS]");
}
