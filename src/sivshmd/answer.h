/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The answer to Connect and Accept: fd, object, identity. */
#ifndef SIVSHMD_ANSWER_H
#define SIVSHMD_ANSWER_H

#include <systemd/sd-bus.h>

#include "channel.h"
#include "steps.h"

/** struct answer - all borrowed; the bus library makes its own copy of @fd and closes it when sent
 */
struct answer {
	int fd;
	const struct channel *channel;
	const char *certificate; /* of the peer, PEM */
	const struct steps *steps;
	uint64_t handshake_usec;
};

int answer_send(sd_bus_message *call, const struct answer *a);

#endif
