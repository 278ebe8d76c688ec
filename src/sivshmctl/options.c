/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define EVERYWHERE "jbhV"

static const struct {
	char id;
	const char *name;
	const char *arg;
	const char *help;
} descriptions[] = {
	{'j', "json", NULL, "Print JSON"},
	{'b', "bus", "ADDRESS", "D-Bus address instead of the system bus"},
	{'h', "help", NULL, "This text"},
	{'V', "version", NULL, "Version"},
	{'a', "as", "SERVICE",
	 "Own service name; needed when the policy gives the caller more than one"},
	{'c', "count", "N", "Rounds; default 10000"},
	{'e', "echo", NULL, "Send back every message instead of using stdin and stdout"},
	{'H', "host", NULL, "Speak to sivshm-cad, not to sivshmd"},
	{'k', "keep", NULL, "Go on with the next connection (without stdin)"},
	{'l', "libvirt", NULL, "Elements for a libvirt domain"},
	{'q', "quit", NULL, "Close when stdin ends instead of waiting for the peer to close"},
	{'r', "ring-size", "BYTES", "Ring each way, a power of two; K and M are understood"},
	{'R', "reason", "TEXT", "For the logs and the ends"},
	{'s', "size", "BYTES", "Length of each message; default 64"},
	{'t', "timeout", "SECONDS", "For the connection to be made; default 10"},
};

#define N_DESCRIPTIONS (sizeof(descriptions) / sizeof(*descriptions))

static int parse_number(const char *text, uint64_t *ret)
{
	uint64_t scale = 1, n;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (*end == 'K')
		scale = 1024;
	else if (*end == 'M')
		scale = 1024 * 1024;
	if (scale > 1)
		end++;
	if (errno || end == text || *end || *text == '-' || n > UINT64_MAX / 1000000 / scale)
		return -EINVAL;
	*ret = n * scale;
	return 0;
}

static int take_number(const char *name, const char *text, uint64_t scale, uint64_t *ret)
{
	uint64_t n;

	if (parse_number(text, &n) < 0 || !n) {
		fprintf(stderr, "sivshmctl: --%s %s: not a number above 0\n", name, text);
		return -EINVAL;
	}
	*ret = n * scale;
	return 0;
}

static int take(struct settings *s, int id, const char *name, const char *value)
{
	switch (id) {
	case 'j':
		s->json = true;
		return 0;
	case 'b':
		s->bus = value;
		return 0;
	case 'a':
		s->as = value;
		return 0;
	case 'e':
		s->echo = true;
		return 0;
	case 'H':
		s->host = true;
		return 0;
	case 'k':
		s->keep = true;
		return 0;
	case 'l':
		s->libvirt = true;
		return 0;
	case 'q':
		s->quit = true;
		return 0;
	case 'R':
		s->reason = value;
		return 0;
	case 'c':
		return take_number(name, value, 1, &s->count);
	case 'r':
		return take_number(name, value, 1, &s->ring_size);
	case 's':
		return take_number(name, value, 1, &s->size);
	case 't':
		return take_number(name, value, 1000000, &s->timeout_us);
	default:
		return -EINVAL;
	}
}

/* Words of the arguments that a verb's name takes: 0, 1 or 2. */
static int matches(const struct verb *v, int n, char **words)
{
	size_t first = strcspn(v->name, " ");

	if (n < 1 || strlen(words[0]) != first || strncmp(v->name, words[0], first))
		return 0;
	if (!v->name[first])
		return 1;
	return n > 1 && !strcmp(v->name + first + 1, words[1]) ? 2 : 0;
}

static const struct verb *find_verb(int n, char **words, int *ret_taken)
{
	for (size_t i = 0; i < n_verbs; i++) {
		*ret_taken = matches(&verbs[i], n, words);
		if (*ret_taken)
			return &verbs[i];
	}
	return NULL;
}

static size_t description_of(int id)
{
	size_t i = 0;

	while (i < N_DESCRIPTIONS && descriptions[i].id != id)
		i++;
	return i;
}

static bool takes(const struct verb *v, char id)
{
	return strchr(EVERYWHERE, id) || strchr(v->options, id);
}

static void print_usage(const struct verb *v)
{
	fprintf(stderr, "usage: sivshmctl %s%s%s\n", v->name, v->args[0] ? " " : "", v->args);
}

/* no_such_verb() - the first word of some is the beginning of an answer */
static int no_such_verb(const char *word)
{
	size_t length = strlen(word);
	bool found = false;

	for (size_t i = 0; i < n_verbs; i++)
		if (strncmp(verbs[i].name, word, length) == 0 && verbs[i].name[length] == ' ') {
			print_usage(&verbs[i]);
			found = true;
		}
	if (!found)
		fprintf(stderr, "sivshmctl: no such command: %s; see sivshmctl --help\n", word);
	return EXIT_USAGE;
}

static int check(const struct verb *v, const struct settings *s, const char *used)
{
	for (; *used; used++)
		if (!takes(v, *used)) {
			fprintf(stderr, "sivshmctl: --%s means nothing to \"%s\"\n",
				descriptions[description_of(*used)].name, v->name);
			return EXIT_USAGE;
		}
	if (s->n_args < v->min_args || s->n_args > v->max_args) {
		print_usage(v);
		return EXIT_USAGE;
	}
	return -1;
}

static int choose(int n, char **words, struct settings *s, const char *used,
		  const struct verb **ret)
{
	int taken;

	if (n == 0) {
		fprintf(stderr, "sivshmctl: no command given; see sivshmctl --help\n");
		return EXIT_USAGE;
	}
	*ret = find_verb(n, words, &taken);
	if (!*ret)
		return no_such_verb(words[0]);
	s->n_args = n - taken;
	s->args = words + taken;
	return check(*ret, s, used);
}

static void fill(struct option *longs, char *shorts)
{
	for (size_t i = 0; i < N_DESCRIPTIONS; i++) {
		longs[i] = (struct option){descriptions[i].name,
					   descriptions[i].arg ? required_argument : no_argument,
					   NULL, descriptions[i].id};
		*shorts++ = descriptions[i].id;
		if (descriptions[i].arg)
			*shorts++ = ':';
	}
	*shorts = 0;
}

int options_parse(int argc, char **argv, struct settings *s, const struct verb **ret_verb)
{
	struct option longs[N_DESCRIPTIONS + 1] = {};
	char shorts[2 * N_DESCRIPTIONS + 1], used[64] = "";
	size_t n_used = 0;
	int id;

	fill(longs, shorts);
	while ((id = getopt_long(argc, argv, shorts, longs, NULL)) >= 0) {
		if (id == 'h') {
			options_help();
			return EXIT_SUCCESS;
		}
		if (id == 'V') {
			puts("sivshmctl " SIVSHM_VERSION);
			return EXIT_SUCCESS;
		}
		if (id == '?' || take(s, id, descriptions[description_of(id)].name, optarg) < 0)
			return EXIT_USAGE;
		if (n_used + 1 < sizeof(used))
			used[n_used++] = (char)id;
	}
	return choose(argc - optind, argv + optind, s, used, ret_verb);
}

static void help_verb(const struct verb *v)
{
	char left[64];

	snprintf(left, sizeof(left), "%s %s", v->name, v->args);
	printf("  %-30s %s\n", left, v->help);
	for (const char *o = v->options; *o; o++) {
		size_t i = description_of(*o);

		snprintf(left, sizeof(left), "-%c, --%s%s%s", *o, descriptions[i].name,
			 descriptions[i].arg ? " " : "", descriptions[i].arg ?: "");
		printf("    %-28s   %s\n", left, descriptions[i].help);
	}
}

void options_help(void)
{
	const char *group = "";

	puts("sivshmctl [OPTIONS] COMMAND ...\n\nAuthenticated shared-memory channels between "
	     "services of virtual machines.");
	for (size_t i = 0; i < n_verbs; i++) {
		if (strcmp(group, verbs[i].group))
			printf("\n%s:\n", verbs[i].group);
		group = verbs[i].group;
		help_verb(&verbs[i]);
	}
	puts("\nEverywhere:");
	for (const char *o = EVERYWHERE; *o; o++) {
		size_t i = description_of(*o);

		printf("  -%c, --%s%s%-*s %s\n", *o, descriptions[i].name,
		       descriptions[i].arg ? " " : "",
		       24 - (int)strlen(descriptions[i].name) - !!descriptions[i].arg,
		       descriptions[i].arg ?: "", descriptions[i].help);
	}
	puts("\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 the daemon is not "
	     "there.");
}

int options_complete(int n, char **words)
{
	const struct verb *v;
	int taken;

	if (n < 1 || strcmp(words[0], "options")) {
		for (size_t i = 0; i < n_verbs; i++)
			puts(verbs[i].name);
		return EXIT_SUCCESS;
	}
	v = find_verb(n - 1, words + 1, &taken);
	for (size_t i = 0; i < N_DESCRIPTIONS; i++)
		if (v ? takes(v, descriptions[i].id)
		      : strchr(EVERYWHERE, descriptions[i].id) != NULL)
			printf("--%s\n", descriptions[i].name);
	return EXIT_SUCCESS;
}
