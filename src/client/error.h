/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Error: what sivshm_last_error() says; one text per thread. */
#ifndef SIVSHM_ERROR_H
#define SIVSHM_ERROR_H

/* All of them return @r, so that a failing path is one line. */
int error_set(int r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* @text must be a literal: nothing is copied, cheap enough for -EAGAIN in a polling loop. */
int error_literal(int r, const char *text);
/* The usual text of a data path error. */
int error_channel(int r);

#endif
