/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sivshmd: the guest's daemon (sivshmd(8)). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "crypto.h"
#include "log.h"
#include "manager.h"
#include "module.h"

static int check_config(const struct options *options)
{
	_cleanup_(policy_freep) struct policy *policy = NULL;
	struct conf_error error;
	int r;

	r = policy_load(options->config_root, &policy, &error);
	if (r < 0) {
		fprintf(stderr, "%s\n", error.text[0] ? error.text : strerror(-r));
		return r;
	}
	printf("%zu services\n", policy->n_services);
	return 0;
}

static int fail(const char *what, int r)
{
	log_plain(LOG_ERR, "%s: %s", what, strerror(-r));
	return r;
}

/* A module that is not there is no reason to stop: it may be loaded later, by hand. */
static int load_module(void)
{
	int r = module_load();

	if (r < 0)
		log_event(LOG_WARNING, LOG_ID_DEVICE, NULL,
			  "Kernel module sivshm cannot be loaded: %s; %s", strerror(-r),
			  module_load_advice(r));
	return r;
}

static int load_and_check_module(const struct options *options)
{
	char text[MODULE_TEXT_SIZE];
	uint32_t abi;
	int r;

	r = load_module();
	if (r < 0)
		return r;
	r = module_get_abi(options->device, &abi);
	if (r == -EBUSY)
		return 0; /* a daemon has it, and has checked */
	if (r < 0)
		return fail(options->device, r);
	if (abi != SIVSHM_ABI) {
		module_abi_text(abi, text);
		log_event(LOG_ERR, LOG_ID_DEVICE, NULL, "%s", text);
		return -EPROTONOSUPPORT;
	}
	return 0;
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *info, void *userdata)
{
	(void)s;
	(void)info;
	sd_notify(false, "STOPPING=1");
	manager_stop(userdata);
	return 0;
}

/* Signals are blocked before the first thread or source exists. */
static int handle_signals(struct manager *m)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	r = sd_event_add_signal(m->event, NULL, SIGTERM, on_signal, m);
	return r < 0 ? r : sd_event_add_signal(m->event, NULL, SIGINT, on_signal, m);
}

static int run(const struct options *options)
{
	_cleanup_(manager_freep) struct manager *m = NULL;
	int r;

	if (!crypto_context())
		return fail("OpenSSL", -ENOMEM);
	r = manager_new(options, &m);
	if (r == -CONF_UNUSABLE)
		return r;
	if (r < 0)
		return fail("Starting", r);
	if (options->load_module)
		load_module();
	r = capabilities_drop();
	if (r < 0)
		return fail("Giving up capabilities", r);
	r = handle_signals(m);
	if (r >= 0)
		r = sd_event_set_watchdog(m->event, true);
	if (r < 0)
		return fail("Event loop", r);
	r = manager_start(m);
	if (r < 0)
		return r;
	r = sd_event_loop(m->event);
	/* sd-bus ends the loop with a code of its own when the bus is gone */
	return r > 0 ? fail("Bus", -ECONNRESET) : r < 0 ? fail("Event loop", r) : 0;
}

int main(int argc, char **argv)
{
	struct options options;
	int r;

	r = options_parse(argc, argv, &options);
	if (r > 0) {
		if (options.check_config)
			r = check_config(&options);
		else if (options.only_load_module)
			r = load_and_check_module(&options);
		else
			r = run(&options);
	}
	if (r == -CONF_UNUSABLE)
		return CONF_EXIT_STATUS;
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
