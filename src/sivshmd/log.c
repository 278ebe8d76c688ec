/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <systemd/sd-journal.h>

#include "caller.h"

#define TEXT_SIZE 1024
#define FIELDS_MAX 16
#define FIELD_SIZE 512

/* $JOURNAL_STREAM names the journal's socket; anything else on stderr is a terminal, file or pipe.
 */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

struct entry {
	char text[FIELDS_MAX][FIELD_SIZE];
	struct iovec iov[FIELDS_MAX + 1];
	int n;
};

__attribute__((format(printf, 2, 3))) static void add(struct entry *e, const char *format, ...)
{
	va_list ap;
	int n;

	if (e->n >= FIELDS_MAX)
		return;
	va_start(ap, format);
	n = vsnprintf(e->text[e->n], FIELD_SIZE, format, ap);
	va_end(ap);
	if (n < 0)
		return;
	e->iov[e->n].iov_base = e->text[e->n];
	e->iov[e->n].iov_len = n < FIELD_SIZE ? (size_t)n : FIELD_SIZE - 1;
	e->n++;
}

static void add_about(struct entry *e, const struct log_about *about)
{
	if (about->service)
		add(e, "SIVSHM_SERVICE=%s", about->service);
	if (about->peer)
		add(e, "SIVSHM_PEER=%s", about->peer);
	if (about->channel)
		add(e, "SIVSHM_CHANNEL=%s", about->channel);
	if (about->error)
		add(e, "SIVSHM_ERROR=%s", about->error);
	if (about->steps)
		add(e, "SIVSHM_STEPS=%s", about->steps);
	if (!about->caller)
		return;
	add(e, "SIVSHM_UID=%u", about->caller->uid);
	add(e, "SIVSHM_PID=%d", about->caller->pid);
	add(e, "SIVSHM_CGROUP=%llu", (unsigned long long)about->caller->cgroup);
	add(e, "SIVSHM_UNIT=%s", about->caller->unit);
}

static void send_entry(int priority, const char *id, const struct log_about *about, char *message)
{
	struct entry e;

	e.n = 0;
	add(&e, "PRIORITY=%d", priority);
	add(&e, "SYSLOG_IDENTIFIER=sivshmd");
	if (id)
		add(&e, "MESSAGE_ID=%s", id);
	if (about)
		add_about(&e, about);
	e.iov[e.n] = (struct iovec){message, strlen(message)};
	sd_journal_sendv(e.iov, e.n + 1);
}

/* Texts hold what clients and peers have sent: one line, whatever they do. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

__attribute__((format(printf, 4, 0))) static void
log_va(int priority, const char *id, const struct log_about *about, const char *format, va_list ap)
{
	static int journal = -1;
	char message[TEXT_SIZE] = "MESSAGE=";
	char *text = message + strlen("MESSAGE=");

	if (journal < 0)
		journal = stderr_is_journal();
	if (vsnprintf(text, sizeof(message) - strlen("MESSAGE="), format, ap) < 0)
		return;
	make_printable(text);
	if (journal)
		send_entry(priority, id, about, message);
	else
		fprintf(stderr, "%s\n", text);
}

void log_event(int priority, const char *id, const struct log_about *about, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	log_va(priority, id, about, format, ap);
	va_end(ap);
}

void log_plain(int priority, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	log_va(priority, NULL, NULL, format, ap);
	va_end(ap);
}
