/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ask: one question to a daemon, and its answer printed.  Both return an exit code. */
#ifndef SIVSHMCTL_ASK_H
#define SIVSHMCTL_ASK_H

#include "call.h"
#include "output.h"

/** ask_rows() - @method takes nothing and answers with rows; @nothing is printed where there is none */
int ask_rows(const struct settings *s, const struct daemon *d, const char *method,
	     const struct column *columns, size_t n, const char *nothing);
/** ask_verdict() - @method takes two names and answers with (bs) */
int ask_verdict(const struct settings *s, const struct daemon *d, const char *method,
		const char *one, const char *other);

#endif
