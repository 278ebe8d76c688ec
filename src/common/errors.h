/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one table of named errors: JSON-RPC code, D-Bus name, errno (docs/protocol.md). Pure. */
#ifndef SIVSHM_ERRORS_H
#define SIVSHM_ERRORS_H

#define SIVSHM_DBUS_ERROR_PREFIX "org.sivshm1.Error."

enum sivshm_error_code {
	ERR_FAILED = -32000,
	ERR_NOT_AUTHORIZED = -32001,
	ERR_REFUSED_BY_HOST = -32002,
	ERR_REFUSED_BY_PEER = -32003,
	ERR_NO_SUCH_PEER = -32004,
	ERR_PEER_NOT_LISTENING = -32005,
	ERR_HANDSHAKE_FAILED = -32006,
	ERR_QUOTA_EXCEEDED = -32007,
	ERR_NO_MEMORY = -32008,
	ERR_HOST_UNAVAILABLE = -32009,
	ERR_NOT_READY = -32010,
	ERR_TIMED_OUT = -32011,
	ERR_CLOSED = -32012,
	ERR_REVOKED = -32013,
	ERR_NO_SUCH_OBJECT = -32014,
	/* JSON-RPC's own */
	ERR_PARSE = -32700,
	ERR_INVALID_REQUEST = -32600,
	ERR_NO_SUCH_METHOD = -32601,
	ERR_INVALID_PARAMS = -32602,
};

#define ERROR_TEXT_SIZE 256

/** struct failure - a named error with its text, as it travels from where it happened to the caller */
struct failure {
	int code; /* enum sivshm_error_code, 0: none */
	char text[ERROR_TEXT_SIZE];
};

/** failure_set() - fill @f (may be NULL); returns the negative errno that belongs to @code */
int failure_set(struct failure *f, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/** error_text_clean() - make @text printable UTF-8 in place: it goes to JSON, D-Bus and terminals */
void error_text_clean(char *text);

/** error_name() - "RefusedByHost"; "Failed" for an unknown code; never NULL */
const char *error_name(int code);
/** error_dbus_name() - "org.sivshm1.Error.RefusedByHost", or D-Bus InvalidArgs for ERR_INVALID_PARAMS */
const char *error_dbus_name(int code);
/** error_errno() - positive errno that the library gives for @code */
int error_errno(int code);

#endif
