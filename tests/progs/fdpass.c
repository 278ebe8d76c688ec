/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fdpass: opens a channel and hands its fd to whoever connects to a Unix socket.
 *
 *	fdpass [--bus ADDRESS] SERVICE VM/SERVICE SOCKET
 *
 * Prints {"event": "ready"} when the socket is there and {"event": "passed"} when the other side
 * has hung up; then sends one message, to show that the channel still is the holder's.  Exit 0 if
 * so.
 */
#include <err.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/sivshm.h"
#include "json-out.h"

static int open_socket(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	unlink(path);
	/* The probe is another user. */
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || chmod(path, 0666) < 0 ||
	    listen(s, 1) < 0)
		err(1, "%s", path);
	return s;
}

static void pass(int socket, int fd)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	char byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	if (sendmsg(socket, &m, 0) != 1)
		err(1, "pass");
	/* Until the other side has tried what it wants. */
	while (read(socket, &byte, 1) > 0)
		;
}

int main(int argc, char **argv)
{
	struct sivshm_options o = {.size = sizeof(o)};
	struct sivshm_channel *c;
	int s, peer, r;

	if (argc == 6 && !strcmp(argv[1], "--bus")) {
		o.bus = argv[2];
		argc -= 2;
		argv += 2;
	}
	if (argc != 4)
		errx(2, "usage: fdpass [--bus ADDRESS] SERVICE VM/SERVICE SOCKET");
	r = sivshm_connect(argv[1], argv[2], &o, &c);
	if (r < 0)
		errx(1, "%s", sivshm_last_error());
	s = open_socket(argv[3]);
	print_json(json_pack("{ss}", "event", "ready"));
	peer = accept4(s, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0)
		err(1, "accept");
	pass(peer, sivshm_get_fd(c));
	unlink(argv[3]);
	r = sivshm_send(c, "still mine", 10, 0);
	print_json(json_pack("{ss sb ss}", "event", "passed", "still_usable", r == 0, "error",
			     errno_name(r)));
	sivshm_close(c);
	return r < 0;
}
