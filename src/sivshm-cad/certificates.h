/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was issued and has not expired, with its text form (one line each).  Pure. */
#ifndef CAD_CERTIFICATES_H
#define CAD_CERTIFICATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ca.h"
#include "names.h"

#define CERTIFICATES_PER_VM 65536 /* unexpired ones; more are refused */
#define CERTIFICATE_LINE_SIZE (SERIAL_SIZE + PEER_NAME_SIZE + 64)

struct certificate {
	char serial[SERIAL_SIZE];
	struct peer_name service;
	int64_t not_before, not_after;
	bool revoked;
};

/** struct certificates - oldest first; @counts: how many of each VM that has any */
struct certificates {
	struct certificate *list;
	size_t n, allocated;
	struct certificate_count *counts;
	size_t n_counts;
};

void certificates_done(struct certificates *c);
int certificates_add(struct certificates *c, const struct certificate *new);
/** certificates_expire() - forget what has ended before @now; how many */
size_t certificates_expire(struct certificates *c, int64_t now);
/** certificates_revoke() - all of a service, or of a VM (@service NULL); how many were not yet */
size_t certificates_revoke(struct certificates *c, const char *vm, const char *service);
/** certificates_count() - of a VM; its time grows with the VMs, not with the certificates */
size_t certificates_count(const struct certificates *c, const char *vm);

/** certificate_format() - "serial name not-before not-after state\n" */
void certificate_format(const struct certificate *c, char ret[CERTIFICATE_LINE_SIZE]);
/** certificates_parse() - lines into the list; what is no such line is skipped */
int certificates_parse(struct certificates *c, const char *text);

#endif
