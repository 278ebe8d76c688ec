/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs: the command table; help, completion and argument checks come from it. */
#ifndef SIVSHMCTL_VERBS_H
#define SIVSHMCTL_VERBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes */
#define EXIT_USAGE 2
#define EXIT_REFUSED 3 /* by a policy, or for lack of rights */
#define EXIT_DOWN 4    /* the daemon is not there, or has no connection to the host */

/**
 * struct settings - what the options say
 * @n_args, @args: what follows the verb
 */
struct settings {
	bool json;
	bool host;
	bool echo;
	bool keep;
	bool libvirt;
	bool quit;
	const char *bus;
	const char *as;
	const char *reason;
	uint64_t ring_size;
	uint64_t count;
	uint64_t size;
	uint64_t timeout_us;
	int n_args;
	char **args;
};

/**
 * struct verb
 * @name:    one word or two
 * @options: short names of the options it takes, besides those that all take
 * @group:   heading in the help
 * @run:     returns an exit code, having said on stderr what failed
 */
struct verb {
	const char *name;
	const char *args;
	const char *help;
	const char *options;
	const char *group;
	int min_args;
	int max_args;
	int (*run)(const struct settings *s);
};

extern const struct verb verbs[];
extern const size_t n_verbs;

int verb_status(const struct settings *s);
int verb_list(const struct settings *s);
int verb_listeners(const struct settings *s);
int verb_explain(const struct settings *s);
int verb_reload(const struct settings *s);
int verb_connect(const struct settings *s);
int verb_listen(const struct settings *s);
int verb_ping(const struct settings *s);

int verb_vms(const struct settings *s);
int verb_regions(const struct settings *s);
int verb_channels(const struct settings *s);
int verb_certificates(const struct settings *s);
int verb_policy_explain(const struct settings *s);
int verb_qemu_args(const struct settings *s);
int verb_revoke_channel(const struct settings *s);
int verb_revoke_service(const struct settings *s);
int verb_revoke_vm(const struct settings *s);
int verb_restore(const struct settings *s);

#endif
