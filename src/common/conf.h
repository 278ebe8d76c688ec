/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ini files with drop-ins (docs/config.md): finds the files by precedence, hands over each assignment
 * with its place.  What sections and keys mean is the caller's. */
#ifndef SIVSHM_CONF_H
#define SIVSHM_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONF_ERROR_SIZE 512

/*
 * A daemon that cannot start with its configuration returns this to main() and ends with that (the
 * EX_CONFIG of sysexits.h): its unit then does not start it again, since that would change nothing.
 */
#define CONF_UNUSABLE EUCLEAN
#define CONF_EXIT_STATUS 78

/** struct conf_error - "file:line: what is wrong", for people */
struct conf_error {
	char text[CONF_ERROR_SIZE];
};

/** struct conf_place - where a section or key stands; @file lives as long as the load call */
struct conf_place {
	const char *file;
	unsigned line;
};

/** conf_fail() - fills @error with the place and the text; returns -EINVAL */
int conf_fail(struct conf_error *error, const struct conf_place *place, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * struct conf_handler - what conf_load_*() calls, in file and line order
 * @section: a new section begins (text between the brackets, blanks folded)
 * @key:     an assignment in the current section
 * Both return 0, or conf_fail().
 */
struct conf_handler {
	int (*section)(void *userdata, const struct conf_place *place, const char *section,
		       struct conf_error *error);
	int (*key)(void *userdata, const struct conf_place *place, const char *key, const char *value,
		   struct conf_error *error);
};

/**
 * conf_load_dir() - every *.conf of {/usr/lib,/run,/etc}/@name (e.g. "sivshm-ca/vm.d") below @root ("" normally)
 * No folder at all is no error.  Duplicate keys in a section and duplicate sections, also across
 * files, are refused here.
 */
int conf_load_dir(const char *root, const char *name, const struct conf_handler *handler,
		  void *userdata, struct conf_error *error);
/** conf_load_file() - the first of {/etc,/run,/usr/lib}/@name; absent is no error */
int conf_load_file(const char *root, const char *name, const struct conf_handler *handler,
		   void *userdata, struct conf_error *error);

/* Values; 0 or -EINVAL/-ERANGE */
int conf_parse_size(const char *text, uint64_t *ret);
int conf_parse_time(const char *text, uint64_t *ret_usec);
int conf_parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret);
/** conf_parse_user() - name or number; looks the name up; @ret_gid: primary group or = uid */
int conf_parse_user(const char *text, uint32_t *ret_uid, uint32_t *ret_gid);
int conf_parse_group(const char *text, uint32_t *ret_gid);
/** conf_split() - words of a list; the caller frees with conf_words_free() */
int conf_split(const char *text, char ***ret_words, size_t *ret_n);
char **conf_words_free(char **words);

#endif
