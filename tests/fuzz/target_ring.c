/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring's sender and receiver against a peer that owns its memory and changes any word of it at
 * any moment, also between two loads (hostile_load.h).
 *
 * Both windows are mapped as channel.c maps them: control page, ring, the same ring again, and then
 * nothing; the peer's read-only.  Input: operations, one byte each with their arguments.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "client/ring.h"

#define TX_SIZE 4096
#define RX_SIZE 8192
#define GUARD 4096
#define MAX_ARMED 8
#define MAX_OPERATIONS 256

struct window {
	int fd;
	uint8_t *map; /* as the ring sees it */
	uint8_t *raw; /* as its owner does, ring once */
	size_t size;  /* of the ring */
};

/* struct armed - a store of the peer that happens before the load number @when */
struct armed {
	unsigned when;
	struct input store;
};

static struct window tx, rx;
static struct ring ring;
static struct armed armed[MAX_ARMED];
static unsigned n_loads, n_armed;
static uint8_t sent[TX_SIZE]; /* what the own ring has to hold where it is in use */

static void *map(void *at, size_t size, int prot, int fd, off_t offset)
{
	void *p = mmap(at, size, prot, MAP_SHARED | (at ? MAP_FIXED : 0), fd, offset);

	must(p != MAP_FAILED);
	return p;
}

static void window_make(struct window *w, size_t size, int prot)
{
	size_t whole = SIVSHM_CONTROL_SIZE + 2 * size;

	w->size = size;
	w->fd = memfd_create("window", MFD_CLOEXEC);
	must(w->fd >= 0 && ftruncate(w->fd, (off_t)(SIVSHM_CONTROL_SIZE + size)) == 0);
	w->raw = map(NULL, SIVSHM_CONTROL_SIZE + size, PROT_READ | PROT_WRITE, w->fd, 0);
	w->map = mmap(NULL, whole + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(w->map != MAP_FAILED);
	w->map += GUARD;
	map(w->map, SIVSHM_CONTROL_SIZE + size, prot, w->fd, 0);
	map(w->map + SIVSHM_CONTROL_SIZE + size, size, prot, w->fd, SIVSHM_CONTROL_SIZE);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	window_make(&tx, TX_SIZE, PROT_READ | PROT_WRITE);
	window_make(&rx, RX_SIZE, PROT_READ);
	return 0;
}

/* the peer */

/* An index near the one that the ring has, or any; a multiple of eight or not. */
static uint64_t hostile_index(struct input *in, uint64_t now)
{
	uint8_t how = input_u8(in);

	if (how < 96)
		return now + 8ull * how;
	if (how < 192)
		return now + 8ull * input_u16(in);
	if (how < 224)
		return now - input_u16(in);
	return input_u64(in);
}

/* A record's header somewhere, mostly where the ring looks next. */
static void hostile_record(struct input *in)
{
	uint8_t how = input_u8(in);
	uint64_t at = how & 1 ? ring.rx.consumer : 8ull * input_u16(in);
	uint64_t header = how & 2 ? input_u64(in) : input_u16(in);

	header = htole64(header);
	memcpy(rx.raw + SIVSHM_CONTROL_SIZE + (at & (RX_SIZE - 1) & ~7ull), &header,
	       sizeof(header));
}

static void hostile_store(struct input *in)
{
	struct sivshm_control *c = (void *)rx.raw;

	switch (input_u8(in) % 8) {
	case 0:
		c->magic = htole32(input_u8(in) & 1 ? SIVSHM_RING_MAGIC : input_u32(in));
		break;
	case 1:
		c->closed = htole32(input_u8(in));
		break;
	case 2:
	case 3:
		c->producer = htole64(hostile_index(in, ring.rx.producer));
		break;
	case 4:
		c->consumer = htole64(hostile_index(in, ring.tx.consumer));
		break;
	case 5:
		c->want_data = htole64(hostile_index(in, ring.tx.producer));
		break;
	case 6:
		c->want_space = htole64(hostile_index(in, ring.rx.consumer));
		break;
	default:
		hostile_record(in);
	}
}

void hostile_moment(void)
{
	n_loads++;
	for (unsigned i = 0; i < n_armed; i++)
		if (armed[i].when == n_loads)
			hostile_store(&armed[i].store);
}

static void arm(struct input *in)
{
	unsigned when = n_loads + 1 + input_u8(in) % 8;
	struct input store = input_part(in, 12);

	armed[n_armed++ % MAX_ARMED] = (struct armed){when, store};
	if (n_armed > MAX_ARMED)
		n_armed = MAX_ARMED;
}

/* our side */

/* What was sent and not taken yet is still what was sent. */
static void check_sent(void)
{
	for (uint64_t at = ring.tx.consumer; at != ring.tx.producer; at += 8)
		must(memcmp(sent + (at & (TX_SIZE - 1)), ring.tx.data + (at & (TX_SIZE - 1)), 8) ==
		     0);
}

static void check(void)
{
	const struct sivshm_control *own = (const void *)tx.raw;

	must(ring.tx.producer - ring.tx.consumer <= TX_SIZE);
	must(ring.rx.producer - ring.rx.consumer <= RX_SIZE);
	must(ring.tx.producer % 8 == 0 && ring.tx.consumer % 8 == 0);
	must(ring.rx.producer % 8 == 0 && ring.rx.consumer % 8 == 0);
	must(ring.rx.shown <= ring.rx.producer - ring.rx.consumer);
	must(le64toh(own->producer) == ring.tx.producer);
	must(le64toh(own->consumer) == ring.rx.consumer);
	must(ring.tx.size == TX_SIZE && ring.rx.size == RX_SIZE);
}

static void reserve_and_commit(struct input *in)
{
	uint64_t size = input_u16(in), less = input_u8(in);
	uint64_t old = ring.tx.producer, record;
	uint8_t *p = NULL;
	int r;

	r = ring_reserve(&ring.tx, size, (void **)&p);
	must(r == 0 || r == -EMSGSIZE || r == -EAGAIN || r == -EPIPE || r == -EPROTO);
	must((r == -EMSGSIZE) == (size > TX_SIZE - 8));
	if (r < 0)
		return;
	must(p == ring.tx.data + (old & (TX_SIZE - 1)) + 8);
	must(ring_record_size(size) <= TX_SIZE - (old - ring.tx.consumer));
	memset(p, (int)(old >> 3 | 1), size); /* all of it, whatever is committed */
	check_sent();
	if (less == 255)
		return; /* changed its mind */
	must(ring_commit(&ring.tx, size + 1) == -EINVAL);
	size -= less < size ? less : size;
	r = ring_commit(&ring.tx, size);
	must(r == 0 || r == 1);
	record = ring_record_size(size);
	must(ring_sent(&ring.tx) == old + record);
	for (uint64_t i = 0; i < record; i++)
		sent[(old + i) & (TX_SIZE - 1)] = ring.tx.data[(old & (TX_SIZE - 1)) + i];
	must(ring_commit(&ring.tx, 0) == -EINVAL); /* once only */
}

static void peek_and_release(struct input *in)
{
	const uint8_t *p = NULL;
	uint64_t old = ring.rx.consumer;
	uint32_t length = 0;
	int r;

	r = ring_peek(&ring.rx, (const void **)&p, &length);
	must(r == 0 || r == -EAGAIN || r == -EPIPE || r == -EPROTO);
	if (r == 0) {
		uint8_t *copy = malloc(length + 1u);

		must(p == ring.rx.data + (old & (RX_SIZE - 1)) + 8);
		must(length <= RX_SIZE - 8);
		must(ring_record_size(length) <= ring.rx.producer - old);
		must(copy);
		memcpy(copy, p, length); /* beyond the window there is nothing */
		free(copy);
	}
	if (input_u8(in) & 1)
		return;
	r = ring_release(&ring.rx);
	must(r == 0 || r == 1 || r == -EINVAL);
	must(r < 0 ? ring.rx.consumer == old : ring.rx.consumer > old);
}

static void wait_for_data(void)
{
	int r;

	(void)ring_data_moved(&ring.rx); /* a hint; the look below does not rely on it */
	ring_want_data(&ring.rx);
	ring_announce();
	r = ring_readable(&ring.rx);
	must(r == 0 || r == -EAGAIN || r == -EPROTO);
}

static void wait_for_space(void)
{
	int r;

	(void)ring_space_moved(&ring.tx);
	ring_want_space(&ring.tx);
	ring_announce();
	r = ring_writable(&ring.tx);
	must(r == 0 || r == -EAGAIN || r == -EPROTO);
}

static void operate(struct input *in)
{
	switch (input_u8(in) % 8) {
	case 0:
		hostile_store(in);
		break;
	case 1:
	case 2:
		arm(in);
		break;
	case 3:
		reserve_and_commit(in);
		break;
	case 4:
		peek_and_release(in);
		break;
	case 5:
		wait_for_data();
		break;
	case 6:
		wait_for_space();
		break;
	default:
		ring_close(&ring, input_u8(in) & 3);
	}
}

static void begin(void)
{
	struct sivshm_control *peer = (void *)rx.raw;

	memset(tx.raw, 0, SIVSHM_CONTROL_SIZE + TX_SIZE);
	memset(rx.raw, 0, SIVSHM_CONTROL_SIZE + RX_SIZE);
	memset(sent, 0, sizeof(sent));
	n_armed = n_loads = 0;
	must(ring_init(&ring, tx.map, TX_SIZE + 1, rx.map, RX_SIZE) == -EINVAL);
	must(ring_init(&ring, tx.map, TX_SIZE, rx.map, RX_SIZE) == 0);
	must(ring_attach(&ring) == 0 && ring_attach(&ring) == -EBUSY);
	peer->magic = htole32(SIVSHM_RING_MAGIC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	begin();
	for (unsigned n = 0; in.size > 0 && n < MAX_OPERATIONS; n++) {
		operate(&in);
		check();
	}
	return 0;
}
