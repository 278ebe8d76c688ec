/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "errors.h"

/* First entry: what an unknown code or name is taken for.  Errnos: src/client/sivshm.h. */
static const struct {
	int code;
	int number;
	const char *dbus_name;
} errors[] = {
#define NAMED(code, number, name)                           \
	{                                                   \
		code, number, SIVSHM_DBUS_ERROR_PREFIX name \
	}
	NAMED(ERR_FAILED, EIO, "Failed"),
	NAMED(ERR_NOT_AUTHORIZED, EACCES, "NotAuthorized"),
	NAMED(ERR_REFUSED_BY_HOST, EACCES, "RefusedByHost"),
	NAMED(ERR_REFUSED_BY_PEER, EACCES, "RefusedByPeer"),
	NAMED(ERR_NO_SUCH_PEER, ENOENT, "NoSuchPeer"),
	NAMED(ERR_PEER_NOT_LISTENING, ECONNREFUSED, "PeerNotListening"),
	NAMED(ERR_HANDSHAKE_FAILED, EKEYREJECTED, "HandshakeFailed"),
	NAMED(ERR_QUOTA_EXCEEDED, EDQUOT, "QuotaExceeded"),
	NAMED(ERR_NO_MEMORY, ENOSPC, "NoMemory"),
	NAMED(ERR_HOST_UNAVAILABLE, EHOSTDOWN, "HostUnavailable"),
	NAMED(ERR_NOT_READY, ENODEV, "NotReady"),
	NAMED(ERR_TIMED_OUT, ETIMEDOUT, "TimedOut"),
	NAMED(ERR_CLOSED, EPIPE, "Closed"),
	NAMED(ERR_REVOKED, ENOLINK, "Revoked"),
	NAMED(ERR_NO_SUCH_OBJECT, ENXIO, "NoSuchObject"),
	/* JSON-RPC's own: on the bus a caller's wrong argument is D-Bus's own error, and what one
	 * daemon did wrong to the other is none of the caller's business. */
	NAMED(ERR_PARSE, EPROTO, "Failed"),
	NAMED(ERR_INVALID_REQUEST, EPROTO, "Failed"),
	NAMED(ERR_NO_SUCH_METHOD, EPROTO, "Failed"),
	{ERR_INVALID_PARAMS, EINVAL, "org.freedesktop.DBus.Error.InvalidArgs"},
#undef NAMED
};

static size_t error_index(int code)
{
	for (size_t i = 0; i < ELEMENTSOF(errors); i++)
		if (errors[i].code == code)
			return i;
	return 0;
}

/* Length of the UTF-8 sequence at @s, 0 if it is none.  Strict enough for D-Bus and JSON. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (n == 0 || s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Parts of a text come from a peer or a file, or were cut in the middle of a character. */
void error_text_clean(char *text)
{
	unsigned char *p = (unsigned char *)text;

	while (*p) {
		size_t n = utf8_length(p);

		if (n == 0 || *p < 0x20 || *p == 0x7f) {
			*p = '?';
			n = 1;
		}
		p += n;
	}
}

int failure_set(struct failure *f, int code, const char *format, ...)
{
	va_list ap;

	if (f) {
		f->code = code;
		va_start(ap, format);
		vsnprintf(f->text, sizeof(f->text), format, ap);
		va_end(ap);
		error_text_clean(f->text);
	}
	return -error_errno(code);
}

const char *error_dbus_name(int code)
{
	return errors[error_index(code)].dbus_name;
}

const char *error_name(int code)
{
	return strrchr(error_dbus_name(code), '.') + 1;
}

int error_errno(int code)
{
	return errors[error_index(code)].number;
}
