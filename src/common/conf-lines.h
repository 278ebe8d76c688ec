/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of one ini file, line by line, for conf.c.
 *
 * Own code: libeconf 0.5.1 (Debian 12) gives no line numbers and drops empty and repeated sections
 * and keys silently; inih 55 as Debian builds it does not report sections, cuts lines at 200 bytes
 * and takes what follows a blank as a continuation.
 */
#ifndef SIVSHM_CONF_LINES_H
#define SIVSHM_CONF_LINES_H

#include "conf.h"

/** struct conf_seen - sections and keys so far, with their places, to refuse what comes twice */
struct conf_seen {
	struct conf_seen_item *items; /* owned */
	size_t n, allocated;
};

void conf_seen_done(struct conf_seen *seen);

/** struct conf_parser - one load call; @sections goes on through all its files */
struct conf_parser {
	const struct conf_handler *handler;
	void *userdata;
	struct conf_error *error;
	struct conf_seen sections;
	struct conf_seen keys; /* of the current section */
	bool in_section;
};

void conf_parser_done(struct conf_parser *p);
/** conf_parse_text() - @text is modified; @length without the NUL that has to follow */
int conf_parse_text(struct conf_parser *p, const char *file, char *text, size_t length);

#endif
