/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options: the option table, its parser, and the help made of both tables. */
#ifndef SIVSHMCTL_OPTIONS_H
#define SIVSHMCTL_OPTIONS_H

#include "verbs.h"

/* -1: go on with @ret_verb; else exit with what it returns */
int options_parse(int argc, char **argv, struct settings *s, const struct verb **ret_verb);
void options_help(void);
/* For shell completion: "verbs", or "options VERB...", one word a line. */
int options_complete(int n, char **words);

#endif
