/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sivshm-cad: the host's half of sivshm.  See sivshm-cad(8). */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "log.h"
#include "manager-bus.h"
#include "manager.h"

#define RETRY_SEC 2

enum {
	OPTION_BUS = 256,
	OPTION_CONFIG_ROOT,
	OPTION_RUNTIME_DIR,
	OPTION_STATE_DIR,
	OPTION_ALLOW_NON_TMPFS,
	OPTION_CHECK_CONFIG,
	OPTION_HELP,
	OPTION_VERSION,
};

static const struct {
	struct option option;
	const char *argument, *help;
} rows[] = {
	{{"bus", required_argument, NULL, OPTION_BUS},
	 "=ADDRESS",
	 "bus to use instead of the system bus"},
	{{"config-root", required_argument, NULL, OPTION_CONFIG_ROOT},
	 "=DIR",
	 "read DIR/etc/sivshm-ca and so on"},
	{{"runtime-dir", required_argument, NULL, OPTION_RUNTIME_DIR},
	 "=DIR",
	 "sockets and memory; default: $RUNTIME_DIRECTORY, " DEFAULT_RUNTIME_DIR},
	{{"state-dir", required_argument, NULL, OPTION_STATE_DIR},
	 "=DIR",
	 "CA and revocations; default: $STATE_DIRECTORY, " DEFAULT_STATE_DIR},
	{{"allow-non-tmpfs", no_argument, NULL, OPTION_ALLOW_NON_TMPFS},
	 "",
	 "for tests: sections on any file system"},
	{{"check-config", no_argument, NULL, OPTION_CHECK_CONFIG},
	 "",
	 "say whether the configuration is right, and exit"},
	{{"help", no_argument, NULL, OPTION_HELP}, "", "this text"},
	{{"version", no_argument, NULL, OPTION_VERSION}, "", "version"},
};

static int print_help(void)
{
	printf("Usage: sivshm-cad [OPTION]...\nThe host's part of sivshm: certificate authority, "
	       "ivshmem "
	       "server, grants.\n\n");
	for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
		char text[64];

		snprintf(text, sizeof(text), "--%s%s", rows[i].option.name, rows[i].argument);
		printf("  %-22s %s\n", text, rows[i].help);
	}
	return 0;
}

/* parse() - 1: run; else the process ends with 0 or a negative errno */
static int parse(int argc, char **argv, struct options *o)
{
	struct option options[ELEMENTSOF(rows) + 1] = {};
	int c;

	for (size_t i = 0; i < ELEMENTSOF(rows); i++)
		options[i] = rows[i].option;
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case OPTION_BUS:
			o->bus_address = optarg;
			break;
		case OPTION_CONFIG_ROOT:
			o->config_root = optarg;
			break;
		case OPTION_RUNTIME_DIR:
			o->runtime_dir = optarg;
			break;
		case OPTION_STATE_DIR:
			o->state_dir = optarg;
			break;
		case OPTION_ALLOW_NON_TMPFS:
			o->allow_non_tmpfs = true;
			break;
		case OPTION_CHECK_CONFIG:
			o->check_config = true;
			break;
		case OPTION_HELP:
			return print_help();
		case OPTION_VERSION:
			printf("sivshm-cad %s\n", SIVSHM_VERSION);
			return 0;
		default:
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sivshm-cad: '%s' is no option\n", argv[optind]);
		return -EINVAL;
	}
	return 1;
}

static const char *from_environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

static int check_config(const struct options *o)
{
	_cleanup_(config_freep) struct config *config = NULL;
	struct conf_error error = {};
	int r = config_load(o->config_root, &config, &error);

	if (r < 0)
		fprintf(stderr, "%s\n", error.text[0] ? error.text : strerror(-r));
	else
		printf("%zu VMs, %zu regions, %zu rules\n", config->n_vms, config->n_regions,
		       config->n_rules);
	return r;
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata)
{
	struct conf_error error = {};

	(void)source, (void)si;
	sd_notify(0, "RELOADING=1");
	manager_reload(userdata, &error); /* logs by itself; the old configuration stays on error */
	sd_notify(0, "READY=1");
	return 0;
}

static void on_ready(struct manager *m)
{
	sd_notifyf(0, "READY=1\nSTATUS=%zu VMs, %zu regions", m->n_vms, m->n_regions);
}

static int block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

static int run(const struct options *options)
{
	_cleanup_(sd_event_unrefp) sd_event *event = NULL;
	_cleanup_(manager_freep) struct manager *manager = NULL;
	int r = block_signals();

	if (r >= 0)
		r = sd_event_new(&event);
	if (r >= 0)
		r = sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL);
	if (r >= 0)
		r = sd_event_add_signal(event, NULL, SIGINT, NULL, NULL);
	if (r >= 0)
		r = sd_event_set_watchdog(event, true);
	if (r >= 0)
		r = manager_new(options, event, &manager);
	if (r >= 0)
		r = sd_event_add_signal(event, NULL, SIGHUP, on_reload, manager);
	if (r >= 0)
		r = manager_bus_start(manager, on_ready);
	if (r >= 0)
		r = sd_event_loop(event);
	if (r < 0 && r != -CONF_UNUSABLE && r != -STATE_UNUSABLE)
		log_error("ending: %s", strerror(-r));
	sd_notify(0, "STOPPING=1");
	return r;
}

/*
 * end_unusable() - the unit stays down, but not while systemd holds connections of running machines
 * for us: it would close them, and QEMU cannot connect again.  Then, and when it may come right by
 * itself, the next try comes soon, but not so soon that the journal is full of them.
 */
static int end_unusable(int r, bool has_machines)
{
	if (r == -CONF_UNUSABLE && !has_machines)
		return CONF_EXIT_STATUS;
	sleep(RETRY_SEC);
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct options options = {.config_root = ""};
	bool has_machines = sd_listen_fds(false) > 0;
	int r;

	umask(0077);
	options.runtime_dir = from_environment("RUNTIME_DIRECTORY", DEFAULT_RUNTIME_DIR);
	options.state_dir = from_environment("STATE_DIRECTORY", DEFAULT_STATE_DIR);
	r = parse(argc, argv, &options);
	if (r > 0)
		r = options.check_config ? check_config(&options) : run(&options);
	if (r == -CONF_UNUSABLE || r == -STATE_UNUSABLE)
		return end_unusable(r, has_machines);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
