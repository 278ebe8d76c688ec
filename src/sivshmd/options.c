/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "sivshm.h"

#define PORT "/dev/virtio-ports/org.sivshm.control.0"

enum {
	OPT_PORT = 0x100,
	OPT_DEVICE,
	OPT_BUS,
	OPT_ROOT,
	OPT_NO_MODULE,
	OPT_LOAD,
	OPT_CHECK,
	OPT_VERSION
};

static const struct option table[] = {
	{"port", required_argument, NULL, OPT_PORT},
	{"device", required_argument, NULL, OPT_DEVICE},
	{"bus", required_argument, NULL, OPT_BUS},
	{"config-root", required_argument, NULL, OPT_ROOT},
	{"no-module", no_argument, NULL, OPT_NO_MODULE},
	{"load-module", no_argument, NULL, OPT_LOAD},
	{"check-config", no_argument, NULL, OPT_CHECK},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, OPT_VERSION},
	{},
};

static void help(void)
{
	printf("sivshmd [OPTION...]\n"
	       "Secure shared-memory channels between virtual machines: the daemon of a guest.\n\n"
	       "  --port=PATH         control port to the host, or a Unix socket\n"
	       "                      (default " PORT ")\n"
	       "  --device=PATH       device of the kernel module (default " SIVSHM_DEVICE ")\n"
	       "  --bus=ADDRESS       D-Bus address (default: the system bus)\n"
	       "  --config-root=DIR   read DIR/etc/sivshm and so on\n"
	       "  --no-module         do not load the kernel module\n"
	       "  --load-module       load the kernel module, check its ABI, exit\n"
	       "  --check-config      read the policy, say what is wrong with it, exit\n"
	       "  -h, --help          this text\n"
	       "  --version           version\n");
}

static int take(int option, struct options *o)
{
	switch (option) {
	case OPT_PORT:
		o->port = optarg;
		return 1;
	case OPT_DEVICE:
		o->device = optarg;
		return 1;
	case OPT_BUS:
		o->bus = optarg;
		return 1;
	case OPT_ROOT:
		o->config_root = optarg;
		return 1;
	case OPT_NO_MODULE:
		o->load_module = false;
		return 1;
	case OPT_LOAD:
		o->only_load_module = true;
		return 1;
	case OPT_CHECK:
		o->check_config = true;
		return 1;
	case OPT_VERSION:
		puts("sivshmd " SIVSHM_VERSION);
		return 0;
	case 'h':
		help();
		return 0;
	default:
		return -EINVAL;
	}
}

int options_parse(int argc, char **argv, struct options *ret)
{
	int option, r;

	*ret = (struct options){
		.port = PORT,
		.device = SIVSHM_DEVICE,
		.config_root = "",
		.load_module = true,
	};
	while ((option = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		r = take(option, ret);
		if (r <= 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "%s: '%s' is no option\n", argv[0], argv[optind]);
		return -EINVAL;
	}
	return 1;
}
