/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "conf.h"

#define BLANKS " \t"
#define NSS_BUFFER_SIZE 65536
/* (uid_t)-1 and its 16-bit form mean "none" to chown() and friends */
#define ID_INVALID UINT32_MAX
#define ID_INVALID_16 0xffffU

struct unit {
	const char *name;
	uint64_t factor;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Digits at the start of @text; no sign, no blanks. */
static int parse_digits(const char *text, uint64_t *ret, const char **ret_rest)
{
	uint64_t number = 0;

	if (!is_digit(*text))
		return -EINVAL;
	for (; is_digit(*text); text++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
			return -ERANGE;
	*ret = number;
	*ret_rest = text;
	return 0;
}

static int parse_with_unit(const char *text, const struct unit *units, size_t n_units,
			   uint64_t *ret)
{
	uint64_t number;
	const char *rest;
	int r;

	r = parse_digits(text, &number, &rest);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_units; i++)
		if (strcmp(units[i].name, rest) == 0)
			return __builtin_mul_overflow(number, units[i].factor, ret) ? -ERANGE : 0;
	return -EINVAL;
}

int conf_parse_size(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {
		{"", 1},
		{"K", UINT64_C(1) << 10},
		{"M", UINT64_C(1) << 20},
		{"G", UINT64_C(1) << 30},
	};

	return parse_with_unit(text, units, ELEMENTSOF(units), ret);
}

int conf_parse_time(const char *text, uint64_t *ret_usec)
{
	static const struct unit units[] = {
		{"", 1000000},
		{"us", 1},
		{"ms", 1000},
		{"s", 1000000},
		{"min", UINT64_C(60) * 1000000},
		{"h", UINT64_C(3600) * 1000000},
		{"d", UINT64_C(86400) * 1000000},
	};

	return parse_with_unit(text, units, ELEMENTSOF(units), ret_usec);
}

static int parse_hex(const char *text, uint64_t *ret)
{
	char *end;

	if (!isxdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*ret = strtoull(text, &end, 16);
	if (*end)
		return -EINVAL;
	return errno == ERANGE ? -ERANGE : 0;
}

static int parse_decimal(const char *text, uint64_t *ret)
{
	const char *rest;
	int r;

	r = parse_digits(text, ret, &rest);
	if (r < 0)
		return r;
	/* some read 010 as 8 */
	return *rest || (text[0] == '0' && text[1]) ? -EINVAL : 0;
}

int conf_parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret)
{
	bool hex = strncmp(text, "0x", 2) == 0;
	uint64_t number;
	int r;

	r = hex ? parse_hex(text + 2, &number) : parse_decimal(text, &number);
	if (r < 0)
		return r;
	if (number < min || number > max)
		return -ERANGE;
	*ret = (unsigned)number;
	return 0;
}

/* 1: a number; 0: a name; -ERANGE: a number that is no id */
static int parse_id(const char *text, uint32_t *ret)
{
	uint64_t number;
	const char *rest;
	int r;

	r = parse_digits(text, &number, &rest);
	if (r == -EINVAL || (r == 0 && *rest))
		return 0;
	if (r < 0 || number >= ID_INVALID || number == ID_INVALID_16)
		return -ERANGE;
	*ret = (uint32_t)number;
	return 1;
}

int conf_parse_user(const char *text, uint32_t *ret_uid, uint32_t *ret_gid)
{
	_cleanup_free_ char *buffer = malloc(NSS_BUFFER_SIZE);
	struct passwd entry, *found = NULL;
	uint32_t uid = 0;
	int r;

	if (!buffer)
		return -ENOMEM;
	r = parse_id(text, &uid);
	if (r < 0)
		return r;
	if (r > 0)
		getpwuid_r(uid, &entry, buffer, NSS_BUFFER_SIZE, &found);
	else if (*text)
		getpwnam_r(text, &entry, buffer, NSS_BUFFER_SIZE, &found);
	if (!found && r == 0)
		return -EINVAL;
	*ret_uid = found ? found->pw_uid : uid;
	*ret_gid = found ? found->pw_gid : uid;
	return 0;
}

int conf_parse_group(const char *text, uint32_t *ret_gid)
{
	_cleanup_free_ char *buffer = malloc(NSS_BUFFER_SIZE);
	struct group entry, *found = NULL;
	int r;

	if (!buffer)
		return -ENOMEM;
	r = parse_id(text, ret_gid);
	if (r != 0)
		return r < 0 ? r : 0;
	if (*text)
		getgrnam_r(text, &entry, buffer, NSS_BUFFER_SIZE, &found);
	if (!found)
		return -EINVAL;
	*ret_gid = found->gr_gid;
	return 0;
}

char **conf_words_free(char **words)
{
	if (words)
		for (char **w = words; *w; w++)
			free(*w);
	free(words);
	return NULL;
}

DEFINE_CLEANUP(char **, conf_words_free)

int conf_split(const char *text, char ***ret_words, size_t *ret_n)
{
	_cleanup_(conf_words_freep) char **words = NULL;
	size_t n = 0;

	/* a word and its blank take two bytes */
	words = calloc(strlen(text) / 2 + 2, sizeof(*words));
	if (!words)
		return -ENOMEM;
	for (const char *p = text + strspn(text, BLANKS); *p; p += strspn(p, BLANKS)) {
		size_t length = strcspn(p, BLANKS);

		words[n] = strndup(p, length);
		if (!words[n++])
			return -ENOMEM;
		p += length;
	}
	*ret_words = TAKE_PTR(words);
	*ret_n = n;
	return 0;
}
