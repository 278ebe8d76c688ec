/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's control ports: what the daemons of two machines say, in any order, true or not; and an
 * administrator who takes things back meanwhile.
 *
 * Input: text, one step a line. First a or b, the machine, or h, the host; then
 *	+ -	control port comes, goes
 *	> <	device comes (and gets its welcome), goes
 *	.TEXT	bytes without an end
 *	else	a frame
 *	h- NAME	revoke; h+ NAME: restore; h!: read the configuration again
 * In a frame $S stands for the session that was named last, $I for the id of the host's last
 *request, $G for the last generation, so that a story can go on.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "control.h"
#include "frame.h"
#include "host.h"
#include "revoke.h"
#include "vm.h"

#define STEPS_MAX 40
#define TOKEN_SIZE 64

struct machine {
	int control, device; /* -1: not there */
};

static struct machine machines[N_VMS] = {{-1, -1}, {-1, -1}};
static char session[TOKEN_SIZE], request[TOKEN_SIZE], generation[TOKEN_SIZE];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	host_init(NULL);
	return 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Keeps the value behind the last @key of @text. */
static void keep(const char *text, const char *key, char *ret)
{
	const char *at = text, *last = NULL;
	size_t n;

	while ((at = strstr(at, key)))
		last = at += strlen(key);
	if (!last)
		return;
	last += *last == '"';
	n = strcspn(last, "\",}");
	if (n >= TOKEN_SIZE)
		return;
	memcpy(ret, last, n);
	ret[n] = '\0';
}

/* The host speaks in whole frames, each a JSON object. */
static void listen_to(struct machine *m)
{
	static char text[FRAME_QUEUE_MAX + 1];
	size_t size = 0;
	ssize_t n;

	while (m->control >= 0 && size < sizeof(text) - 1 &&
	       (n = recv(m->control, text + size, sizeof(text) - 1 - size, MSG_DONTWAIT)) > 0)
		size += (size_t)n;
	must(size == 0 || text[size - 1] == '\0');
	text[size] = '\0';
	for (const char *p = text; p < text + size; p += strlen(p) + 1) {
		if (!*p)
			continue;
		must(p[0] == '{' && p[strlen(p) - 1] == '}');
		keep(p, "\"session\":", session);
		keep(p, "\"generation\":", generation);
		if (strstr(p, "\"method\""))
			keep(p, "\"id\":", request);
	}
}

static void say(struct machine *m, const char *text, bool whole)
{
	char frame[8192];
	size_t size = 0;

	for (; *text && size < sizeof(frame) - TOKEN_SIZE; text++) {
		const char *token = text[0] != '$'   ? NULL
				    : text[1] == 'S' ? session
				    : text[1] == 'I' ? request
				    : text[1] == 'G' ? generation
						     : NULL;

		if (!token) {
			frame[size++] = *text;
			continue;
		}
		memcpy(frame + size, token, strlen(token));
		size += strlen(token);
		text++;
	}
	if (whole)
		frame[size++] = '\0';
	if (m->control >= 0)
		(void)!send(m->control, frame, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void plug(unsigned vm)
{
	char buffer[4096];

	if (machines[vm].device >= 0)
		return;
	machines[vm].device = host_connect(vm, "demo.sock");
	host_run();
	while (recv(machines[vm].device, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
		;
}

static void machine_step(unsigned vm, const char *text)
{
	struct machine *m = &machines[vm];

	switch (text[0]) {
	case '+':
		if (m->control < 0)
			m->control = host_connect(vm, "control.sock");
		break;
	case '-':
		close_one(&m->control);
		break;
	case '>':
		plug(vm);
		break;
	case '<':
		close_one(&m->device);
		break;
	case '.':
		say(m, text + 1, false);
		break;
	default:
		say(m, text, true);
	}
}

static void host_step(const char *text)
{
	struct conf_error error;
	const char *name = text[0] && text[1] == ' ' ? text + 2 : "";

	/* the bus lets nothing else through */
	if (text[0] == '-' && (strcmp(name, "a") == 0 || strcmp(name, "b/dashboard") == 0))
		must(revoke_name(host, name, "fuzz") == 0);
	else if (text[0] == '-')
		revoke_channel(host, name, "fuzz");
	else if (text[0] == '+')
		revoke_undo(host, name);
	else if (text[0] == '!')
		must(manager_reload(host, &error) == 0);
}

/* A grant whose Opened is due outlives port and device until its timeout, or until a daemon begins
 * anew: this one. */
static void begin_anew(unsigned vm)
{
	static const char hello[] =
		"{\"id\":1,\"method\":\"Hello\",\"params\":{\"version\":1,\"nonce\":"
		"\"00112233445566778899aabbccddeeff\",\"bootId\":\"0\",\"channels\":[]},"
		"\"jsonrpc\":\"2.0\"}";
	struct machine *m = &machines[vm];

	m->control = host_connect(vm, "control.sock");
	host_run();
	say(m, hello, true);
	host_run();
	must(host->vms[vm]->control->ready);
	close_one(&m->control);
}

static void end(void)
{
	for (unsigned vm = 0; vm < N_VMS; vm++) {
		close_one(&machines[vm].control);
		close_one(&machines[vm].device);
	}
	revoke_undo(host, "a");
	revoke_undo(host, "b/dashboard");
	session[0] = request[0] = generation[0] = '\0';
	host_run();
	begin_anew(VM_A);
	begin_anew(VM_B);
	host_run();
	host_check_empty();
	certificates_done(&host->certificates); /* they would live for hours */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	for (unsigned n = 0; in.size > 0 && n < STEPS_MAX; n++) {
		char *line = input_line(&in);

		if (line[0] == 'h')
			host_step(line + 1);
		else if (line[0])
			machine_step(line[0] == 'b' ? VM_B : VM_A, line + 1);
		free(line);
		host_run();
		listen_to(&machines[VM_A]);
		listen_to(&machines[VM_B]);
		host_check();
	}
	end();
	return 0;
}
