/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define SD_JOURNAL_SUPPRESS_LOCATION /* a build path says nothing to an administrator */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

#include "log.h"

#define MESSAGE_SIZE 1024
#define FIELD_SIZE 320

/* stderr_is_journal() - systemd says by $JOURNAL_STREAM which stream it connected */
static bool stderr_is_journal(void)
{
	static int known = -1;
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (known >= 0)
		return known;
	known = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(2, &st) == 0 &&
		st.st_dev == device && st.st_ino == inode;
	return known;
}

/* Texts may come from a guest: nothing in them moves the cursor or begins a line of its own. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

static void send_to_journal(int priority, const struct log_fields *f, const char *message)
{
	const struct {
		const char *name, *value;
	} rows[] = {
		{"MESSAGE_ID", f->id},		{"SIVSHM_VM", f->vm},
		{"SIVSHM_FROM", f->from},	{"SIVSHM_TO", f->to},
		{"SIVSHM_CHANNEL", f->channel}, {"SIVSHM_ERROR", f->error},
		{"SIVSHM_SERIAL", f->serial},
	};
	char fields[sizeof(rows) / sizeof(rows[0]) + 1][FIELD_SIZE], text[MESSAGE_SIZE + 16];
	struct iovec iov[sizeof(rows) / sizeof(rows[0]) + 2];
	int n = 0;

	snprintf(text, sizeof(text), "MESSAGE=%s", message);
	iov[n++] = (struct iovec){text, strlen(text)};
	snprintf(fields[0], FIELD_SIZE, "PRIORITY=%d", priority);
	iov[n++] = (struct iovec){fields[0], strlen(fields[0])};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!rows[i].value)
			continue;
		snprintf(fields[i + 1], FIELD_SIZE, "%s=%s", rows[i].name, rows[i].value);
		iov[n++] = (struct iovec){fields[i + 1], strlen(fields[i + 1])};
	}
	sd_journal_sendv(iov, n);
}

void log_write(int priority, const struct log_fields *fields, const char *format, ...)
{
	static const struct log_fields none;
	char message[MESSAGE_SIZE];
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	make_printable(message);
	if (stderr_is_journal())
		send_to_journal(priority, fields ? fields : &none, message);
	else
		fprintf(stderr, "sivshm-cad: %s%s\n",
			priority <= LOG_ERR	  ? "error: "
			: priority == LOG_WARNING ? "warning: "
						  : "",
			message);
}
