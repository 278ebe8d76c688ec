/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NUL-terminated frames over a byte stream: reading side and bounded output queue. Pure: no fds. */
#ifndef SIVSHM_FRAME_H
#define SIVSHM_FRAME_H

#include <stdbool.h>
#include <stddef.h>

#define FRAME_MAX 131072 /* with the NUL; a Hello that names all slots fits */
#define FRAME_QUEUE_MAX (1024 * 1024)

/**
 * struct frame_reader - collects bytes until a NUL
 * A frame that grows beyond FRAME_MAX is dropped up to its NUL and reported once as too long.
 */
struct frame_reader {
	char *buffer; /* grows up to FRAME_MAX, owned */
	size_t length;
	size_t allocated;
	bool discarding;
};

void frame_reader_done(struct frame_reader *r);
/** frame_reader_reset() - forget what was half read */
void frame_reader_reset(struct frame_reader *r);

/**
 * frame_reader_feed() - take bytes until one frame is complete
 * @ret_used: how many bytes of @data were taken
 * @ret_frame: the frame, NUL-terminated, valid until the next call; @ret_length without NUL
 * Returns 1: a frame; 0: all bytes taken, none complete; -EMSGSIZE: a frame was too long and was
 * dropped (call again with the rest); -ENOMEM.  Empty frames are skipped.
 */
int frame_reader_feed(struct frame_reader *r, const void *data, size_t size, size_t *ret_used,
		      const char **ret_frame, size_t *ret_length);

/** struct frame_queue - bytes to write, oldest first */
struct frame_queue {
	char *buffer; /* owned */
	size_t start, end, allocated;
};

void frame_queue_done(struct frame_queue *q);
/** frame_queue_push() - append @text and a NUL; -ENOBUFS beyond FRAME_QUEUE_MAX, -EMSGSIZE beyond FRAME_MAX */
int frame_queue_push(struct frame_queue *q, const char *text, size_t length);
/** frame_queue_peek() - bytes that wait */
size_t frame_queue_peek(const struct frame_queue *q, const void **ret);
void frame_queue_consume(struct frame_queue *q, size_t size);

#endif
