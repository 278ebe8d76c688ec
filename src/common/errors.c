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

int failure_set(struct failure *f, int code, const char *format, ...)
{
	va_list ap;

	if (f) {
		f->code = code;
		va_start(ap, format);
		vsnprintf(f->text, sizeof(f->text), format, ap);
		va_end(ap);
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

int error_from_name(const char *name)
{
	for (size_t i = 0; i < ELEMENTSOF(errors); i++)
		if (strcmp(error_name(errors[i].code), name) == 0)
			return errors[i].code;
	return ERR_FAILED;
}
