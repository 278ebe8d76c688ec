/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "conf-lines.h"

#define BLANKS " \t\r\f\v"

struct conf_seen_item {
	char *name; /* owned */
	struct conf_place place;
};

static void seen_clear(struct conf_seen *seen)
{
	for (size_t i = 0; i < seen->n; i++)
		free(seen->items[i].name);
	seen->n = 0;
}

void conf_seen_done(struct conf_seen *seen)
{
	seen_clear(seen);
	free(seen->items);
	*seen = (struct conf_seen){};
}

static const struct conf_place *seen_find(const struct conf_seen *seen, const char *name)
{
	for (size_t i = 0; i < seen->n; i++)
		if (strcmp(seen->items[i].name, name) == 0)
			return &seen->items[i].place;
	return NULL;
}

static int seen_add(struct conf_seen *seen, const char *name, const struct conf_place *place)
{
	if (seen->n == seen->allocated) {
		size_t n = seen->allocated ? 2 * seen->allocated : 16;
		void *items = reallocarray(seen->items, n, sizeof(*seen->items));

		if (!items)
			return -ENOMEM;
		seen->items = items;
		seen->allocated = n;
	}
	seen->items[seen->n] = (struct conf_seen_item){.name = strdup(name), .place = *place};
	if (!seen->items[seen->n].name)
		return -ENOMEM;
	seen->n++;
	return 0;
}

void conf_parser_done(struct conf_parser *p)
{
	conf_seen_done(&p->sections);
	conf_seen_done(&p->keys);
}

/* Cuts blanks off both ends, in place. */
static char *trim(char *text)
{
	size_t length;

	text += strspn(text, BLANKS);
	length = strlen(text);
	while (length > 0 && strchr(BLANKS, text[length - 1]))
		length--;
	text[length] = '\0';
	return text;
}

/* "Allow  a/b	c/d" -> "Allow a/b c/d", in place; @text is trimmed. */
static void fold_blanks(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (!strchr(BLANKS, *from))
			*to++ = *from;
		else if (to[-1] != ' ')
			*to++ = ' ';
	}
	*to = '\0';
}

/* Refuses @name when it was seen before, else remembers it. */
static int first_time(struct conf_parser *p, struct conf_seen *seen, const char *what,
		      const char *name, const struct conf_place *place)
{
	const struct conf_place *before = seen_find(seen, name);

	if (before)
		return conf_fail(p->error, place, "%s is given twice, first at %s:%u", what,
				 before->file, before->line);
	if (seen_add(seen, name, place) < 0) {
		conf_fail(p->error, place, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

static int parse_section(struct conf_parser *p, const struct conf_place *place, char *line)
{
	size_t length = strlen(line);
	char *name = line + 1;
	int r;

	if (line[length - 1] != ']')
		return conf_fail(p->error, place, "section without closing bracket");
	line[length - 1] = '\0';
	name = trim(name);
	if (!*name || strpbrk(name, "[]"))
		return conf_fail(p->error, place, "section without a proper name");
	fold_blanks(name);
	r = first_time(p, &p->sections, "section", name, place);
	if (r < 0)
		return r;
	seen_clear(&p->keys);
	p->in_section = true;
	return p->handler->section(p->userdata, place, name, p->error);
}

static bool key_is_valid(const char *key)
{
	if (!*key)
		return false;
	for (; *key; key++)
		if (!isascii(*key) || !isalnum(*key))
			return false;
	return true;
}

static int parse_key(struct conf_parser *p, const struct conf_place *place, char *line)
{
	char *value = strchr(line, '=');
	char *key;
	int r;

	if (!value)
		return conf_fail(p->error, place, "neither [Section] nor Key=value");
	*value++ = '\0';
	key = trim(line);
	if (!key_is_valid(key))
		return conf_fail(p->error, place, "not the name of a key before '='");
	if (!p->in_section)
		return conf_fail(p->error, place, "%s= stands before any section", key);
	r = first_time(p, &p->keys, key, key, place);
	if (r < 0)
		return r;
	return p->handler->key(p->userdata, place, key, trim(value), p->error);
}

static int parse_line(struct conf_parser *p, const struct conf_place *place, char *line)
{
	line = trim(line);
	if (!*line || *line == '#' || *line == ';')
		return 0;
	return *line == '[' ? parse_section(p, place, line) : parse_key(p, place, line);
}

int conf_parse_text(struct conf_parser *p, const char *file, char *text, size_t length)
{
	struct conf_place place = {.file = file};
	char *end = text + length;
	int r = 0;

	p->in_section = false;
	while (r >= 0 && text < end) {
		char *line = text, *stop = memchr(text, '\n', (size_t)(end - text));

		if (!stop)
			stop = end;
		*stop = '\0';
		text = stop + 1;
		place.line++;
		if (strlen(line) != (size_t)(stop - line))
			return conf_fail(p->error, &place, "NUL byte");
		r = parse_line(p, &place, line);
	}
	return r;
}
