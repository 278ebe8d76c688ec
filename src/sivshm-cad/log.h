/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Structured messages to the journal; lines for people on stderr when that is not the journal. */
#ifndef CAD_LOG_H
#define CAD_LOG_H

#include <syslog.h>

/* MESSAGE_ID= of what an administrator may want to find; `journalctl MESSAGE_ID=...` */
#define LOG_ID_OPENED "f9edc8c55b5d4f7a857458407ba8389c"
#define LOG_ID_CLOSED "eb1c86c5334846e59276d198d0f521ee"
#define LOG_ID_REFUSED "9e225728cceb4fd4aaa911aeb9184f19"
#define LOG_ID_ISSUED "22d66018601443c982524fd871822db3"
#define LOG_ID_REVOKED "c232f674702846699579a3f50e120264"
#define LOG_ID_CONFIG "d909c61875c04fd88a9a1bf79c9a1593"
#define LOG_ID_RESTORED "33dac081d767459198f7dac03e9d7212"

/** struct log_fields - journal fields beside MESSAGE=; NULL: not given */
struct log_fields {
	const char *id; /* MESSAGE_ID */
	const char *vm, *from, *to, *channel, *error, *serial;
};

void log_write(int priority, const struct log_fields *fields, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(...) log_write(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, NULL, __VA_ARGS__)
/* log_with(LOG_INFO, (.id = LOG_ID_X, .vm = name), "text %s", ...) */
#define LOG_UNWRAP(...) __VA_ARGS__
#define log_with(priority, fields, ...) \
	log_write(priority, &(const struct log_fields){LOG_UNWRAP fields}, __VA_ARGS__)

#endif
