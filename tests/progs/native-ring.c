/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring between two pinned processes, batch by batch in turns with what it is compared with:
 *
 *	line	a bare cache line each way, one word to and fro: what the processor can do
 *	paused	the same, with the processor's pause between two looks at the line
 *	plain	the ring of spsc.h, between programs that trust each other
 *	sivshm	sivshm_send() and sivshm_recv() over memory of a memfd
 *
 *	native-ring rtt SIZE RING BATCH BATCHES ROUNDS
 *	native-ring stream SIZE RING COUNT TURNS ROUNDS [PAGE]
 *	native-ring count plain|sivshm SIZE MESSAGES	both ends in one thread, for callgrind
 *	native-ring faults RING MESSAGES		with and without prefault
 *		--cpus A,B	default: the first two that this process may use
 *
 * Output: lines of JSON, times in nanoseconds.  A batch is timed as a whole; the single round trips
 * of rtt are timed in batches of their own, since looking at the clock costs as much as the way
 * there.  Before every batch a few rounds go uncounted, which bring the caches over from the last
 * kind.  Stream's PAGE is the size of the pages behind the windows: 4096, or that of huge ones.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <linux/memfd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench-clock.h"
#include "client/channel.h"
#include "json-out.h"
#include "plain.h"
#include "spsc.h"

#define MAX_SIZE (1u << 20)
#define WARM_UP 16
#define PAIR 128 /* lines are fetched two at a time */
#define SMALL_PAGE 4096u

enum kind { LINE, PAUSED, PLAIN, SIVSHM, N_KINDS };
enum op { ECHO = 1, SINK, END };

static const char *const kind_names[] = {"line", "paused", "plain", "sivshm"};

/**
 * struct shared - what both processes see beside the windows
 * @turn:  number of the order; stored with release after the order
 * @done:  of the last order that the second process has carried out
 * @ping, @pong: the two lines
 * @faults: of the second process
 */
struct shared {
	uint64_t turn;
	uint32_t op;
	uint32_t kind;
	uint64_t count;
	uint64_t done __attribute__((aligned(PAIR)));
	uint64_t faults;
	uint64_t ping __attribute__((aligned(PAIR)));
	uint64_t pong __attribute__((aligned(PAIR)));
};

/**
 * struct end - one process's
 * @word:  of the line, last one sent or echoed
 * @tick:  nanoseconds of a tick
 */
struct end {
	struct plain memory[N_KINDS];
	struct sivshm_channel *channel;
	struct spsc spsc;
	struct shared *shared;
	uint64_t word;
	double tick;
};

static uint8_t buffer[MAX_SIZE] __attribute__((aligned(4096)));
static uint64_t page_size = SMALL_PAGE;
static int cpus[2] = {-1, -1};

/* Memory: windows as plain.c has them, or with the ring at the start of a huge page */

static int huge_map(void *userdata, uint64_t offset, size_t size, int prot, void **ret)
{
	struct plain *p = userdata;
	int side = offset == SIVSHM_TX_OFFSET ? p->side : !p->side;
	uint64_t window = page_size + p->ring_size, whole = window + p->ring_size;
	off_t start = (off_t)((uint64_t)side * window);
	uint8_t *room, *at;

	(void)size;
	room = mmap(NULL, whole + page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	at = room + page_size - (uintptr_t)room % page_size;
	if (mmap(at, window, prot, MAP_SHARED | MAP_FIXED, p->fd, start) == MAP_FAILED ||
	    mmap(at + window, p->ring_size, prot, MAP_SHARED | MAP_FIXED, p->fd,
		 start + (off_t)page_size) == MAP_FAILED)
		return -errno;
	/* The control page is the end of the huge page before the ring. */
	*ret = at + page_size - SIVSHM_CONTROL_SIZE;
	return 0;
}

static struct backend memory_backend(void)
{
	struct backend b = backend_plain;

	if (page_size != SMALL_PAGE)
		b.map = huge_map;
	return b;
}

static int memory_new(uint64_t ring_size)
{
	unsigned int flags = page_size == SMALL_PAGE ? 0 : MFD_HUGETLB | MFD_HUGE_2MB;
	int fd = memfd_create("native-ring", MFD_CLOEXEC | flags);

	if (fd < 0 || ftruncate(fd, (off_t)(2 * (page_size + ring_size))) < 0)
		err(1, "memory in pages of %lu bytes", (unsigned long)page_size);
	return fd;
}

/* The library's windows have their own prefault; spsc's get the same here. */
static void touch(const uint8_t *window, size_t size)
{
	for (size_t at = 0; at < size; at += SMALL_PAGE)
		(void)*(const volatile uint8_t *)(window + at);
}

static void map_end(struct end *e, int side, uint64_t flags)
{
	static struct backend backend;
	struct sivshm_options o = {.size = sizeof(o), .spin_us = UINT32_MAX, .flags = flags};
	struct plain *p = &e->memory[PLAIN];
	size_t size = SIVSHM_CONTROL_SIZE + 2 * p->ring_size;
	void *own, *peer;

	backend = memory_backend();
	e->memory[PLAIN].side = e->memory[SIVSHM].side = side;
	if (channel_new(&backend, &e->memory[SIVSHM], &o, &e->channel) < 0)
		errx(1, "channel: %s", sivshm_last_error());
	if (backend.map(p, SIVSHM_TX_OFFSET, size, PROT_READ | PROT_WRITE, &own) < 0 ||
	    backend.map(p, SIVSHM_RX_OFFSET, size, PROT_READ, &peer) < 0)
		err(1, "windows");
	touch(own, size);
	touch(peer, size);
	e->spsc = (struct spsc){.own = own, .peer = peer, .size = p->ring_size};
}

static void end_new(struct end *e, uint64_t ring_size)
{
	*e = (struct end){};
	for (int kind = PLAIN; kind < N_KINDS; kind++)
		e->memory[kind] =
			(struct plain){.fd = memory_new(ring_size), .ring_size = ring_size};
	e->shared = mmap(NULL, sizeof(*e->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (e->shared == MAP_FAILED)
		err(1, "shared memory");
}

static uint64_t faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt;
}

/* One message, in each of the ways.  On the line it is a word, whatever its size. */

static void send_sivshm(struct end *e, size_t size)
{
	if (sivshm_send(e->channel, buffer, size, SIVSHM_FOREVER) < 0)
		errx(1, "send: %s", sivshm_last_error());
}

static size_t recv_sivshm(struct end *e)
{
	ssize_t n = sivshm_recv(e->channel, buffer, sizeof(buffer), NULL, SIVSHM_FOREVER);

	if (n < 0)
		errx(1, "receive: %s", sivshm_last_error());
	return (size_t)n;
}

static void send_line(struct end *e, uint64_t *line)
{
	__atomic_store_n(line, ++e->word, __ATOMIC_RELEASE);
}

static void recv_line(const uint64_t *line, uint64_t word)
{
	while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != word)
		;
}

static void recv_paused(const uint64_t *line, uint64_t word)
{
	while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != word)
		spin_relax();
}

static void round_line(struct end *e, enum kind kind)
{
	send_line(e, &e->shared->ping);
	if (kind == LINE)
		recv_line(&e->shared->pong, e->word);
	else
		recv_paused(&e->shared->pong, e->word);
}

static void echo_line(struct end *e, enum kind kind)
{
	if (kind == LINE)
		recv_line(&e->shared->ping, e->word + 1);
	else
		recv_paused(&e->shared->ping, e->word + 1);
	send_line(e, &e->shared->pong);
}

static void round_plain(struct end *e, size_t size)
{
	spsc_send(&e->spsc, buffer, size);
	if (spsc_recv(&e->spsc, buffer) != size)
		errx(1, "plain: another size came back");
}

static void round_sivshm(struct end *e, size_t size)
{
	send_sivshm(e, size);
	if (recv_sivshm(e) != size)
		errx(1, "sivshm: another size came back");
}

static void rounds(struct end *e, enum kind kind, size_t size, uint64_t count)
{
	for (; count; count--)
		switch (kind) {
		case LINE:
		case PAUSED:
			round_line(e, kind);
			break;
		case PLAIN:
			round_plain(e, size);
			break;
		default:
			round_sivshm(e, size);
		}
}

/* The second process */

static void echo(struct end *e, enum kind kind, uint64_t count)
{
	for (; count; count--)
		switch (kind) {
		case LINE:
		case PAUSED:
			echo_line(e, kind);
			break;
		case PLAIN:
			spsc_send(&e->spsc, buffer, spsc_recv(&e->spsc, buffer));
			break;
		default:
			send_sivshm(e, recv_sivshm(e));
		}
}

static void sink(struct end *e, enum kind kind, uint64_t count)
{
	for (; count; count--)
		if (kind == PLAIN)
			spsc_recv(&e->spsc, buffer);
		else
			recv_sivshm(e);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		err(1, "processor %d", cpu);
}

static void serve(struct end *e)
{
	struct shared *s = e->shared;

	for (uint64_t turn = 1;; turn++) {
		uint64_t before = faults();

		while (__atomic_load_n(&s->turn, __ATOMIC_ACQUIRE) != turn)
			spin_relax();
		if (s->op == END)
			return;
		if (s->op == ECHO)
			echo(e, s->kind, s->count);
		else
			sink(e, s->kind, s->count);
		s->faults = faults() - before;
		__atomic_store_n(&s->done, turn, __ATOMIC_RELEASE);
	}
}

static void on_child(int signal)
{
	static const char text[] = "native-ring: the second process ended early\n";

	(void)signal;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(1);
}

static pid_t start_second(struct end *e, uint64_t flags)
{
	pid_t parent = getpid(), pid;

	signal(SIGCHLD, on_child);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	pin(cpus[1]);
	(void)monotonic_ns(); /* the clock has a page too */
	map_end(e, 1, flags);
	serve(e);
	_exit(0);
}

static void order(struct end *e, enum op op, enum kind kind, uint64_t count)
{
	struct shared *s = e->shared;

	s->op = op;
	s->kind = kind;
	s->count = count;
	__atomic_store_n(&s->turn, s->turn + 1, __ATOMIC_RELEASE);
}

static void await(struct end *e)
{
	while (__atomic_load_n(&e->shared->done, __ATOMIC_ACQUIRE) != e->shared->turn)
		spin_relax();
}

static void start(struct end *e, uint64_t ring_size, uint64_t flags)
{
	end_new(e, ring_size);
	(void)!fflush(stdout);
	start_second(e, flags);
	pin(cpus[0]);
	map_end(e, 0, flags);
	e->tick = tick_ns();
	memset(buffer, 1, sizeof(buffer));
}

static void stop(struct end *e)
{
	signal(SIGCHLD, SIG_DFL);
	order(e, END, 0, 0);
	while (wait(NULL) < 0 && errno == EINTR)
		;
}

/* Figures of a list of times */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double percentile(const double *times, size_t n, double percent)
{
	return times[(size_t)((double)(n - 1) * percent / 100)];
}

static void put_summary(json_t *o, double *times, size_t n)
{
	double sum = 0;

	qsort(times, n, sizeof(*times), compare);
	for (size_t i = 0; i < n; i++)
		sum += times[i];
	json_object_update_new(o, json_pack("{sI sf sf sf sf sf}", "n", (json_int_t)n, "mean",
					    sum / (double)n, "p50", percentile(times, n, 50), "p99",
					    percentile(times, n, 99), "p999",
					    percentile(times, n, 99.9), "max", times[n - 1]));
}

/* A round: batches of all kinds in turns, each kind's once as a whole and once trip by trip */

struct sizes {
	size_t size;
	uint64_t ring;
	size_t batch;
	size_t batches;
	size_t rounds;
};

struct tally {
	double *batches;
	double *trips;
	uint64_t faults;
};

static void time_batch(struct end *e, enum kind kind, const struct sizes *s, double *ret)
{
	uint64_t t;

	order(e, ECHO, kind, WARM_UP + s->batch);
	rounds(e, kind, s->size, WARM_UP);
	t = ticks();
	rounds(e, kind, s->size, s->batch);
	*ret = (double)(ticks() - t) * e->tick / (double)s->batch;
	await(e);
}

static void time_trips(struct end *e, enum kind kind, const struct sizes *s, double *ret)
{
	uint64_t t, now;

	order(e, ECHO, kind, WARM_UP + s->batch);
	rounds(e, kind, s->size, WARM_UP);
	t = ticks();
	for (size_t i = 0; i < s->batch; i++, t = now) {
		rounds(e, kind, s->size, 1);
		now = ticks();
		ret[i] = (double)(now - t) * e->tick;
	}
	await(e);
}

static void rtt_round(struct end *e, const struct sizes *s, struct tally tallies[static N_KINDS])
{
	for (size_t i = 0; i < s->batches; i++)
		for (int kind = 0; kind < N_KINDS; kind++) {
			struct tally *t = &tallies[kind];
			uint64_t before = faults();

			time_batch(e, kind, s, &t->batches[i]);
			t->faults += e->shared->faults;
			time_trips(e, kind, s, &t->trips[i * s->batch]);
			t->faults += e->shared->faults + faults() - before;
		}
}

static double *doubles(size_t n)
{
	double *a = calloc(n, sizeof(*a));

	if (!a)
		err(1, "memory");
	memset(a, 1, n * sizeof(*a)); /* touched: its faults are not the ring's */
	return a;
}

static void rtt_report(const struct sizes *s, int kind, struct tally *t)
{
	json_t *batches = json_object(), *trips = json_object();

	put_summary(batches, t->batches, s->batches);
	put_summary(trips, t->trips, s->batches * s->batch);
	print_json(json_pack("{ss sI so so sI}", "kind", kind_names[kind], "size",
			     (json_int_t)s->size, "batches", batches, "trips", trips, "faults",
			     (json_int_t)t->faults));
	t->faults = 0;
}

static int run_rtt(const struct sizes *s)
{
	struct tally tallies[N_KINDS] = {};
	struct end e;

	for (int kind = 0; kind < N_KINDS; kind++) {
		tallies[kind].batches = doubles(s->batches);
		tallies[kind].trips = doubles(s->batches * s->batch);
	}
	start(&e, s->ring, SIVSHM_PREFAULT);
	for (size_t i = 0; i <= s->rounds; i++) {
		rtt_round(&e, s, tallies);
		/* The first round goes uncounted: it touches what is touched by nobody else. */
		for (int kind = 0; kind < N_KINDS; kind++)
			if (i)
				rtt_report(s, kind, &tallies[kind]);
			else
				tallies[kind].faults = 0;
	}
	stop(&e);
	return 0;
}

/* Streams: all messages one way, until the other end has them */

static double time_stream(struct end *e, enum kind kind, size_t size, uint64_t count)
{
	uint64_t t = ticks();

	order(e, SINK, kind, count);
	for (uint64_t i = 0; i < count; i++)
		if (kind == PLAIN)
			spsc_send(&e->spsc, buffer, size);
		else
			send_sivshm(e, size);
	await(e);
	return (double)(ticks() - t) * e->tick / (double)count;
}

static void stream_round(struct end *e, const struct sizes *s, struct tally tallies[static N_KINDS])
{
	for (size_t i = 0; i < s->batches; i++)
		for (int kind = PLAIN; kind < N_KINDS; kind++) {
			struct tally *t = &tallies[kind];
			uint64_t before = faults();

			t->batches[i] = time_stream(e, kind, s->size, s->batch);
			t->faults += e->shared->faults + faults() - before;
		}
}

static void stream_report(const struct sizes *s, int kind, struct tally *t)
{
	json_t *o = json_pack("{ss sI sI sI sI}", "kind", kind_names[kind], "size",
			      (json_int_t)s->size, "ring", (json_int_t)s->ring, "page",
			      (json_int_t)page_size, "faults", (json_int_t)t->faults);

	put_summary(o, t->batches, s->batches);
	print_json(o);
	t->faults = 0;
}

static int run_stream(const struct sizes *s)
{
	struct tally tallies[N_KINDS] = {};
	struct end e;

	for (int kind = PLAIN; kind < N_KINDS; kind++)
		tallies[kind].batches = doubles(s->batches);
	start(&e, s->ring, SIVSHM_PREFAULT);
	for (int kind = PLAIN; kind < N_KINDS; kind++) /* once round the ring */
		time_stream(&e, kind, s->size, s->ring / s->size + 1);
	for (size_t i = 0; i <= s->rounds; i++) {
		stream_round(&e, s, tallies);
		for (int kind = PLAIN; kind < N_KINDS; kind++)
			if (i)
				stream_report(s, kind, &tallies[kind]);
			else
				tallies[kind].faults = 0;
	}
	stop(&e);
	return 0;
}

/* Both ends in this process and thread: nothing waits, and every run has the same instructions. */

static void both_ends(struct end ends[static 2], uint64_t ring_size)
{
	end_new(&ends[0], ring_size);
	ends[1] = ends[0];
	map_end(&ends[0], 0, 0);
	map_end(&ends[1], 1, 0);
}

static int run_count(enum kind kind, size_t size, uint64_t messages)
{
	struct end ends[2];

	both_ends(ends, 1 << 16);
	memset(buffer, 1, sizeof(buffer));
	for (uint64_t i = 0; i < messages; i++)
		if (kind == PLAIN) {
			spsc_send(&ends[0].spsc, buffer, size);
			spsc_recv(&ends[1].spsc, buffer);
		} else {
			send_sivshm(&ends[0], size);
			recv_sivshm(&ends[1]);
		}
	return 0;
}

static uint64_t faults_of(struct end *e, size_t size, uint64_t messages)
{
	uint64_t before = faults();

	time_stream(e, SIVSHM, size, messages);
	return faults() - before + e->shared->faults;
}

static void faults_with(uint64_t ring_size, uint64_t messages, uint64_t flags)
{
	size_t size = 1016; /* a record of 1 KiB */
	uint64_t first, lap, later;
	struct end e;

	start(&e, ring_size, flags);
	time_stream(&e, PLAIN, size, 2); /* the program's own pages: code, buffer, orders */
	first = faults_of(&e, size, 1);
	lap = faults_of(&e, size, ring_size / 1024);
	later = faults_of(&e, size, messages);
	stop(&e);
	print_json(json_pack("{sb sI sI sI sI sI}", "prefault", !!(flags & SIVSHM_PREFAULT), "ring",
			     (json_int_t)ring_size, "messages", (json_int_t)messages,
			     "first_message", (json_int_t)first, "first_lap", (json_int_t)lap,
			     "later", (json_int_t)later));
}

static int run_faults(uint64_t ring_size, uint64_t messages)
{
	faults_with(ring_size, messages, 0);
	faults_with(ring_size, messages, SIVSHM_PREFAULT);
	return 0;
}

/* Command line */

static void choose_cpus(void)
{
	int n = 0;
	cpu_set_t set;

	if (cpus[0] >= 0)
		return;
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		err(1, "which processors");
	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET(cpu, &set))
			cpus[n++] = cpu;
	if (n < 2)
		errx(1,
		     "this process may use one processor only; two are needed, one for each end");
}

static void take_cpus(const char *text)
{
	if (sscanf(text, "%d,%d", &cpus[0], &cpus[1]) != 2 || cpus[0] < 0 || cpus[1] < 0 ||
	    cpus[0] == cpus[1])
		errx(2, "--cpus %s: two different processors, as in 0,1", text);
}

static uint64_t number(const char *text, uint64_t from, uint64_t to)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text || *end || n < from || n > to)
		errx(2, "%s: not a number from %llu to %llu", text, (unsigned long long)from,
		     (unsigned long long)to);
	return n;
}

static struct sizes take_sizes(char **words)
{
	struct sizes s = {.size = number(words[1], 1, MAX_SIZE),
			  .ring = number(words[2], 4096, 1u << 30),
			  .batch = number(words[3], 1, 1u << 24),
			  .batches = number(words[4], 1, 1u << 20),
			  .rounds = number(words[5], 1, 1u << 20)};

	if (s.ring & (s.ring - 1) || spsc_record(s.size) > s.ring)
		errx(2, "the ring is a power of two and has room for a message");
	return s;
}

static int run(int n, char **words)
{
	struct sizes s;

	if (n == 4 && !strcmp(words[0], "count")) {
		int kind = strcmp(words[1], "plain") ? SIVSHM : PLAIN;

		return run_count(kind, number(words[2], 1, 32768), number(words[3], 0, 1u << 30));
	}
	choose_cpus();
	if (n == 6 && !strcmp(words[0], "rtt")) {
		s = take_sizes(words);
		return run_rtt(&s);
	}
	if ((n == 6 || n == 7) && !strcmp(words[0], "stream")) {
		s = take_sizes(words);
		if (n == 7)
			page_size = number(words[6], SMALL_PAGE, 1u << 21);
		if (s.ring % page_size || (page_size != SMALL_PAGE && page_size != 1u << 21))
			errx(2, "pages are 4096 or 2097152 bytes, and the ring is made of them");
		return run_stream(&s);
	}
	if (n == 3 && !strcmp(words[0], "faults"))
		return run_faults(number(words[1], 4096, 1u << 30), number(words[2], 1, 1u << 30));
	errx(2, "usage: native-ring [--cpus A,B] rtt SIZE RING BATCH BATCHES ROUNDS | "
		"stream SIZE RING COUNT TURNS ROUNDS [PAGE] | count KIND SIZE MESSAGES | "
		"faults RING MESSAGES");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"cpus", required_argument, NULL, 'c'}, {}};
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (o == 'c')
			take_cpus(optarg);
		else
			exit(2);
	return run(argc - optind, argv + optind);
}
