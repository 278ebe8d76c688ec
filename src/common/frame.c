/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

#define FIRST_ALLOCATION 1024

/* Make room for @needed bytes by doubling, never beyond @max.  @needed <= @max. */
static int grow(char **buffer, size_t *allocated, size_t needed, size_t max)
{
	size_t size = *allocated ? *allocated : FIRST_ALLOCATION;
	char *p;

	if (needed <= *allocated)
		return 0;
	while (size < needed)
		size *= 2;
	if (size > max)
		size = max;
	p = realloc(*buffer, size);
	if (!p)
		return -ENOMEM;
	*buffer = p;
	*allocated = size;
	return 0;
}

void frame_reader_done(struct frame_reader *r)
{
	free(r->buffer);
	*r = (struct frame_reader){};
}

void frame_reader_reset(struct frame_reader *r)
{
	r->length = 0;
	r->discarding = false;
}

/* Bytes of a frame that has not ended yet.  Too many: it is dropped up to its NUL. */
static int reader_append(struct frame_reader *r, const char *data, size_t size)
{
	int s;

	if (r->discarding || size == 0)
		return 0;
	if (size > FRAME_MAX - 1 - r->length) {
		r->length = 0;
		r->discarding = true;
		return 0;
	}
	s = grow(&r->buffer, &r->allocated, r->length + size + 1, FRAME_MAX);
	if (s < 0)
		return s;
	memcpy(r->buffer + r->length, data, size);
	r->length += size;
	return 0;
}

/* The NUL was seen: 1 a frame, 0 an empty one, -EMSGSIZE the end of one that was too long. */
static int reader_end(struct frame_reader *r, const char **ret_frame, size_t *ret_length)
{
	size_t length = r->length;
	bool too_long = r->discarding;

	frame_reader_reset(r);
	if (too_long)
		return -EMSGSIZE;
	if (length == 0)
		return 0;
	r->buffer[length] = '\0';
	*ret_frame = r->buffer;
	*ret_length = length;
	return 1;
}

int frame_reader_feed(struct frame_reader *r, const void *data, size_t size, size_t *ret_used,
		      const char **ret_frame, size_t *ret_length)
{
	const char *begin = data, *p = begin, *end = begin + size;
	int s = 0;

	while (s == 0 && p < end) {
		const char *nul = memchr(p, '\0', (size_t)(end - p));
		const char *stop = nul ? nul : end;

		s = reader_append(r, p, (size_t)(stop - p));
		if (s < 0)
			break;
		p = stop;
		if (nul) {
			p++;
			s = reader_end(r, ret_frame, ret_length);
		}
	}
	*ret_used = (size_t)(p - begin);
	return s;
}

void frame_queue_done(struct frame_queue *q)
{
	free(q->buffer);
	*q = (struct frame_queue){};
}

int frame_queue_push(struct frame_queue *q, const char *text, size_t length)
{
	size_t waiting = q->end - q->start;
	int r;

	if (length > FRAME_MAX - 1)
		return -EMSGSIZE;
	if (waiting + length + 1 > FRAME_QUEUE_MAX)
		return -ENOBUFS;
	if (q->start > 0 && q->end + length + 1 > q->allocated) {
		memmove(q->buffer, q->buffer + q->start, waiting);
		q->start = 0;
		q->end = waiting;
	}
	r = grow(&q->buffer, &q->allocated, q->end + length + 1, FRAME_QUEUE_MAX);
	if (r < 0)
		return r;
	if (length > 0)
		memcpy(q->buffer + q->end, text, length);
	q->buffer[q->end + length] = '\0';
	q->end += length + 1;
	return 0;
}

size_t frame_queue_peek(const struct frame_queue *q, const void **ret)
{
	*ret = q->buffer ? q->buffer + q->start : NULL;
	return q->end - q->start;
}

void frame_queue_consume(struct frame_queue *q, size_t size)
{
	q->start += size;
	if (q->start == q->end)
		q->start = q->end = 0;
}
