/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's journal: a text for people and fields for machines.  Each MESSAGE_ID names one kind
 * of event and never changes.  Where stderr is not the journal, the text alone goes to stderr.
 */
#ifndef SIVSHMD_LOG_H
#define SIVSHMD_LOG_H

#include <stdint.h>
#include <syslog.h>

#define LOG_ID_REFUSED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e301"
#define LOG_ID_CHANNEL_OPENED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e302"
#define LOG_ID_CHANNEL_CLOSED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e303"
#define LOG_ID_CHANNEL_REVOKED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e304"
#define LOG_ID_DENIED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e305"
#define LOG_ID_HOST_UP "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e306"
#define LOG_ID_HOST_DOWN "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e307"
#define LOG_ID_POLICY_LOADED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e308"
#define LOG_ID_POLICY_REFUSED "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e309"
#define LOG_ID_DEVICE "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30a"
#define LOG_ID_CERTIFICATE "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30b"
#define LOG_ID_STORM "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30c"
#define LOG_ID_LISTENING "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30d"
#define LOG_ID_PROTOCOL "5a0f1c8e8d5b4d0fb7c2c4a6d1b7e30e"

struct caller;

/** struct log_about - fields of an entry; what is not set is left out */
struct log_about {
	const char *service;
	const char *peer;
	const char *channel; /* object path */
	const char *error;   /* name, as on the bus */
	const char *steps;   /* steps_format() */
	const struct caller *caller;
};

/** log_event() - @about may be NULL */
void log_event(int priority, const char *id, const struct log_about *about, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/** log_plain() - no kind of its own */
void log_plain(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
