/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "client/error.h"
#include "client/sivshm.h"

static _Thread_local char buffer[768];
static _Thread_local const char *last = "no error";

static const struct {
	int r;
	const char *text;
} channel_texts[] = {
	{-EAGAIN, "nothing to receive, or no room to send, right now"},
	{-ETIMEDOUT, "the timeout passed"},
	{-EINTR, "a signal arrived while the call slept"},
	{-EPIPE, "the peer has closed the channel, or its VM is gone"},
	{-ENOLINK,
	 "the channel was revoked; the journal of sivshmd and of the host's sivshm-cad say why"},
	{-EPROTO, "the peer broke the rules of the ring; close the channel, it is of no more use"},
	{-EPERM,
	 "this process is not the holder of the channel: it is bound to the user and the unit "
	 "that asked sivshmd for it"},
	{-EMSGSIZE, "the message does not fit; see sivshm_max_message() and the ring size"},
	{-EBUSY, "the channel is in use already: it can be attached once"},
	{-EINVAL, "wrong argument"},
	{-ENOMEM, "out of memory"},
};

int error_set(int r, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(buffer, sizeof(buffer), format, ap);
	va_end(ap);
	last = buffer;
	return r;
}

int error_literal(int r, const char *text)
{
	last = text;
	return r;
}

int error_channel(int r)
{
	for (size_t i = 0; i < sizeof(channel_texts) / sizeof(*channel_texts); i++)
		if (channel_texts[i].r == r)
			return error_literal(r, channel_texts[i].text);
	return error_set(r, "channel: %s", strerrordesc_np(-r) ?: "unknown error");
}

const char *sivshm_last_error(void)
{
	return last;
}
