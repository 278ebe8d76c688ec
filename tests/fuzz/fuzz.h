/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the fuzz targets share: taking an input apart, and saying what must hold. */
#ifndef SIVSHM_FUZZ_H
#define SIVSHM_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Not assert(): this is the oracle, and stays in every build. */
#define must(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,          \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/** fuzz_folder() - a folder of this process alone, made now; who runs it says where, and removes it */
static inline void fuzz_folder(char *ret, size_t size)
{
	const char *where = getenv("SIVSHM_FUZZ_DIR");

	snprintf(ret, size, "%s/XXXXXX", where ? where : "/tmp");
	must(mkdtemp(ret));
}

/** struct input - what is left of an input; past its end everything is zero */
struct input {
	const uint8_t *data;
	size_t size;
};

static inline void input_bytes(struct input *in, void *ret, size_t size)
{
	size_t n = size < in->size ? size : in->size;

	memset(ret, 0, size);
	if (n > 0)
		memcpy(ret, in->data, n);
	in->data += n;
	in->size -= n;
}

static inline uint8_t input_u8(struct input *in)
{
	uint8_t v;

	input_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint16_t input_u16(struct input *in)
{
	uint16_t v;

	input_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint32_t input_u32(struct input *in)
{
	uint32_t v;

	input_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint64_t input_u64(struct input *in)
{
	uint64_t v;

	input_bytes(in, &v, sizeof(v));
	return v;
}

/** input_part() - a part of the rest, at most @size bytes, in place */
static inline struct input input_part(struct input *in, size_t size)
{
	struct input part = {in->data, size < in->size ? size : in->size};

	in->data += part.size;
	in->size -= part.size;
	return part;
}

/** input_line() - up to the next line end, which is skipped, as a string of its own; the caller frees */
static inline char *input_line(struct input *in)
{
	const uint8_t *end = in->size ? memchr(in->data, '\n', in->size) : NULL;
	struct input line = input_part(in, end ? (size_t)(end - in->data) : in->size);
	char *text = malloc(line.size + 1);

	must(text);
	if (line.size > 0)
		memcpy(text, line.data, line.size);
	text[line.size] = '\0';
	input_part(in, 1);
	return text;
}

#endif
