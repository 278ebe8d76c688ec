/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "channel.h"
#include "control.h"
#include "grant.h"
#include "log.h"
#include "manager-bus.h"
#include "region.h"
#include "revoke.h"
#include "session-internal.h"
#include "vm.h"

#define FIRST_UID 61001
#define TURNS_MAX 10000

static const char *const vm_names[N_VMS] = {"a", "b"};
static char root[128], runtime[160], state[160];
static struct options options = {
	.config_root = root, .runtime_dir = runtime, .state_dir = state, .allow_non_tmpfs = true};
static unsigned fds_at_start;
struct manager *host;

static const struct {
	const char *name, *text;
} files[] = {
	{"ca.conf", "[CA]\nTrustDomain=fuzz.example\n[Limits]\nHandshakeTimeout=60s\n"
		    "CertificatesPerMinute=10000\nSessionsPerVM=8\nListenersPerVM=4\n"},
	{"vm.d/a.conf", "[VM a]\nUser=61001\nServices=sensor camera\nChannels=8\n"},
	{"vm.d/b.conf", "[VM b]\nUser=61002\nServices=dashboard\nChannels=8\n"},
	{"region.d/demo.conf", "[Region demo]\nMembers=a b\nSectionSize=1M\nVectors=4\n"},
	{"policy.d/demo.conf", "[Allow a/sensor b/dashboard]\nChannels=4\nMaxRingSize=64K\n"
			       "[Allow b/dashboard a/camera]\n"},
};

/* Instead of log.c: every text is made, so that a wrong argument is seen, and nobody reads it. */
void log_write(int priority, const struct log_fields *fields, const char *format, ...)
{
	char text[1024];
	va_list ap;

	(void)priority, (void)fields;
	va_start(ap, format);
	must(vsnprintf(text, sizeof(text), format, ap) >= 0);
	va_end(ap);
}

/* Instead of libsystemd's: a hundred connections a second would be all that is tried. */
int sd_event_source_set_ratelimit(sd_event_source *s, uint64_t interval_usec, unsigned burst)
{
	(void)s, (void)interval_usec, (void)burst;
	return 0;
}

static void put(const char *name, const char *text)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/etc/sivshm-ca/%s", root, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void make_root(void)
{
	static const char *const folders[] = {"", "/etc/sivshm-ca", "/vm.d", "/region.d",
					      "/policy.d"};
	char path[200];

	fuzz_folder(root, sizeof(root));
	must(chmod(root, 0711) == 0);
	snprintf(runtime, sizeof(runtime), "%s/run", root);
	snprintf(state, sizeof(state), "%s/state", root);
	snprintf(path, sizeof(path), "%s/etc", root);
	must(mkdir(state, 0700) == 0 && mkdir(path, 0700) == 0);
	for (size_t i = 1; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s%s%s", root, i == 1 ? "" : "/etc/sivshm-ca",
			 folders[i]);
		must(mkdir(path, 0700) == 0);
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		put(files[i].name, files[i].text);
}

/* Sockets, doorbells and sections; libFuzzer has files and pipes of its own. */
static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	const struct dirent *entry;
	unsigned n = 0;

	must(d);
	while ((entry = readdir(d))) {
		char target[128] = "";

		if (readlinkat(dirfd(d), entry->d_name, target, sizeof(target) - 1) > 0)
			n += strstr(target, "socket:") || strstr(target, "[eventfd]") ||
			     strstr(target, root);
	}
	closedir(d);
	return n;
}

void host_init(const char *bus)
{
	sd_event *event;

	make_root();
	options.bus_address = bus;
	must(sd_event_new(&event) >= 0);
	must(manager_new(&options, event, &host) == 0);
	if (bus)
		must(manager_bus_start(host, NULL) == 0);
	fds_at_start = 0;
}

void host_run(void)
{
	unsigned turns = 0;

	while (sd_event_run(host->event, 0) > 0)
		must(turns++ < TURNS_MAX); /* it comes to rest by itself */
}

/* Whoever opens the socket is known by the user that this thread has now. */
int host_connect(unsigned vm, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	must(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/vm/%s/%s", runtime, vm_names[vm],
		 name);
	must(setegid(FIRST_UID + vm) == 0 && seteuid(FIRST_UID + vm) == 0);
	r = connect(fd, (struct sockaddr *)&address, sizeof(address));
	must(seteuid(0) == 0 && setegid(0) == 0);
	if (r == 0)
		return fd;
	close(fd);
	return -1;
}

/* what has to hold */

/* The module of that VM takes what the host wrote, and no two windows share a byte. */
static void check_table(const struct vm *vm)
{
	struct sivshm_terms terms[8];
	struct sivshm_layout layout;
	size_t n = 0;

	must(vm->table.header);
	must(sivshm_layout_check(vm->table.header, vm->table.size, &layout) == 0);
	must(layout.n_slots == 8);
	for (uint32_t slot = 0; slot < layout.n_slots; slot++) {
		const struct sivshm_grant *g =
			(const void *)((const uint8_t *)vm->table.header +
				       SIVSHM_TABLE_HEADER_SIZE + slot * SIVSHM_GRANT_SIZE);

		if (table_state(&vm->table, slot) == SIVSHM_GRANT_FREE)
			continue;
		must(sivshm_grant_check(g, &layout, &terms[n]) == 0);
		for (size_t i = 0; i < n; i++) {
			const struct sivshm_window *a = &terms[i].tx, *b = &terms[n].tx;

			must(a->offset + SIVSHM_PAGE_SIZE + a->ring <= b->offset ||
			     b->offset + SIVSHM_PAGE_SIZE + b->ring <= a->offset);
		}
		n++;
	}
}

/* A channel that is ACTIVE is so at both ends, under one id, and each maps what the other has. */
static void check_channel(const struct channel *c)
{
	struct grant g[N_ENDS];

	if (!channel_is_open(c))
		return;
	for (unsigned end = 0; end < N_ENDS; end++) {
		const struct channel_end *e = &c->ends[end];

		must(e->present && member_is_connected(e->member));
		table_read(&e->member->vm->table, e->slot, &g[end]);
		must(g[end].state == SIVSHM_GRANT_ACTIVE && g[end].generation == e->generation);
		must(memcmp(g[end].channel, c->id, sizeof(c->id)) == 0);
	}
	must(g[0].tx_offset == g[1].rx_offset && g[0].rx_offset == g[1].tx_offset);
	must(g[0].tx_size == g[1].rx_size && g[0].rx_size == g[1].tx_size);
	must(g[0].local_vector == g[1].peer_vector && g[0].peer_vector == g[1].local_vector);
}

void host_check(void)
{
	const struct channel *c;
	const struct session *s;
	unsigned sessions = 0;

	for (size_t i = 0; i < host->n_vms; i++)
		check_table(host->vms[i]);
	TAILQ_FOREACH(c, &host->channels, entry)
		check_channel(c);
	TAILQ_FOREACH(s, &host->sessions, entry)
		sessions++;
	must(sessions <= 2 * 8);
	for (size_t i = 0; i < host->n_vms; i++)
		must(host->vms[i]->control->n_listeners <= 4);
}

void host_undo_revocations(void)
{
	static const char *const names[] = {"a", "b", "a/sensor", "a/camera", "b/dashboard"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		revoke_undo(host, names[i]);
}

void host_check_empty(void)
{
	const struct region *region = host->regions[0];
	uint64_t granted, quarantined;

	must(TAILQ_EMPTY(&host->sessions) && TAILQ_EMPTY(&host->channels));
	for (size_t i = 0; i < host->n_vms; i++) {
		const struct vm *vm = host->vms[i];

		must(vm->n_sessions == 0 && vm->relay_bytes == 0 && vm->sent_bytes == 0);
		must(!vm->control->link && vm->control->n_listeners == 0);
		for (uint32_t slot = 0; slot < vm->table.n_slots; slot++)
			must(table_state(&vm->table, slot) == SIVSHM_GRANT_FREE);
	}
	for (size_t i = 0; i < region->n_members; i++) {
		alloc_totals(&region->members[i].alloc, &granted, &quarantined);
		must(granted == 0 && quarantined == 0);
		must(!member_is_connected(&region->members[i]));
	}
	if (!fds_at_start)
		fds_at_start = count_fds();
	must(count_fds() == fds_at_start);
}
