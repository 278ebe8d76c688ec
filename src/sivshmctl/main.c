/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <locale.h>
#include <signal.h>
#include <string.h>

#include "options.h"

int main(int argc, char **argv)
{
	struct settings s = {.count = 10000, .size = 64};
	const struct verb *v;
	int r;

	setlocale(LC_ALL, "");
	/* A reader of ours that goes away is an error of write(), not our end. */
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1 && !strcmp(argv[1], "--complete"))
		return options_complete(argc - 2, argv + 2);
	r = options_parse(argc, argv, &s, &v);
	return r >= 0 ? r : v->run(&s);
}
