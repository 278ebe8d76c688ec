/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "log.h"
#include "manager.h"
#include "member-internal.h"
#include "vm.h"

#define RUNTIME_NAME_SIZE 160

struct member *region_member(struct region *region, const struct vm *vm)
{
	for (size_t i = 0; i < region->n_members; i++)
		if (region->members[i].vm == vm)
			return &region->members[i];
	return NULL;
}

bool region_in_use(const struct region *region)
{
	for (size_t i = 0; i < region->n_members; i++)
		if (member_is_connected(&region->members[i]))
			return true;
	return false;
}

bool region_fits(const struct region *region, const struct region_config *config)
{
	if (region->section_size != config->section_size || region->vectors != config->vectors ||
	    region->n_members != config->n_members)
		return false;
	for (size_t i = 0; i < region->n_members; i++)
		if (strcmp(region->members[i].vm->name, config->members[i]) != 0)
			return false;
	return true;
}

/* building */

static void mute_bell_name(const struct region *region, char *ret)
{
	snprintf(ret, FDSTORE_NAME_SIZE, "d%u", region->number);
}

/* has_stranger() - a QEMU connected as a VM whose User= is another one now: it knows the memory and
 * the doorbells */
static bool has_stranger(const struct region *region)
{
	char name[FDSTORE_NAME_SIZE];
	bool found = false;

	for (size_t i = 0; i < region->n_members; i++) {
		const struct member *member = &region->members[i];
		uint32_t uid;
		int fd;

		member_stored_name(member, 'c', name);
		fd = fdstore_peek(region->manager->restored, name);
		if (fd < 0 || (tree_peer_uid(fd, &uid) >= 0 && uid == member->vm->config->uid))
			continue;
		log_warning("VM %s: its device is not of uid %u, region %s is made anew",
			    member->vm->name, member->vm->config->uid, region->name);
		found = true;
	}
	return found;
}

static bool restore_bells(struct region *region)
{
	char name[FDSTORE_NAME_SIZE];
	bool whole;

	mute_bell_name(region, name);
	region->mute_bell = fdstore_take(region->manager->restored, name);
	whole = region->mute_bell >= 0;
	for (size_t i = 0; i < region->n_members; i++)
		if (!member_restore_bells(&region->members[i]))
			whole = false;
	return whole;
}

/* Connections go too: a QEMU that rings or listens to others than ours is of no use. */
static void drop_bells(struct region *region)
{
	struct fdstore *restored = region->manager->restored;
	char name[FDSTORE_NAME_SIZE];

	if (region->mute_bell >= 0) {
		mute_bell_name(region, name);
		fdstore_remove(name);
	}
	closep(&region->mute_bell);
	for (size_t i = 0; i < region->n_members; i++) {
		struct member *member = &region->members[i];

		member_close_bells(member, true);
		member_stored_name(member, 'c', name);
		if (!fdstore_has(restored, name))
			continue;
		log_warning("VM %s: doorbells of region %s are new, its device is lost",
			    member->vm->name, region->name);
		close(fdstore_take(restored, name));
		member_forget_connection(member);
	}
}

static int open_bells(struct region *region, bool anew)
{
	char name[FDSTORE_NAME_SIZE];
	int r = 0;

	if (restore_bells(region) && !anew)
		return 0;
	drop_bells(region);
	region->mute_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (region->mute_bell < 0)
		return -errno;
	mute_bell_name(region, name);
	fdstore_put_unwatched(name, region->mute_bell);
	for (size_t i = 0; i < region->n_members && r >= 0; i++)
		r = member_open_bells(&region->members[i]);
	return r;
}

static int open_server(struct member *member)
{
	struct manager *m = member->region->manager;
	char stored[FDSTORE_NAME_SIZE], path[RUNTIME_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r = 0;

	member_stored_name(member, 'l', stored);
	snprintf(path, sizeof(path), "vm/%s/%s.sock", member->vm->name, member->region->name);
	fd = fdstore_take(m->restored, stored);
	if (fd < 0 || !tree_keep_socket(&m->tree, path, member->vm->config->gid)) {
		closep(&fd);
		fd = -1;
		r = tree_listen(&m->tree, path, member->vm->config->gid, &fd);
		if (r < 0) {
			log_error("%s/%s: %s", m->tree.path, path, strerror(-r));
			return r;
		}
		fdstore_put(stored, fd);
	}
	r = ivshmem_server_new(m->event, fd, member->vm->config->uid, &member_ivshmem_handler,
			       member, &member->server);
	if (r >= 0)
		TAKE_FD(fd);
	return r;
}

/* readers_of() - groups of everybody but the owner, who gets its section by fd */
static size_t readers_of(struct manager *m, const struct region_config *config, const char *owner,
			 uint32_t *ret_gids)
{
	size_t n = 0;

	for (size_t i = 0; i < config->n_members; i++) {
		const struct vm_config *vm = config_find_vm(m->config, config->members[i]);

		if (vm && strcmp(vm->name, owner) != 0)
			ret_gids[n++] = vm->gid;
	}
	return n;
}

static int open_section(struct member *member, const struct region_config *config)
{
	struct region *region = member->region;
	uint32_t readers[SIVSHM_MAX_SECTIONS];
	char path[RUNTIME_NAME_SIZE];
	bool fresh;
	int r;

	snprintf(path, sizeof(path), "region/%s/%s", region->name, member->vm->name);
	r = tree_open_file(&region->manager->tree, path, region->section_size, readers,
			   readers_of(region->manager, config, member->vm->name, readers),
			   &member->section_fd, &fresh);
	if (r < 0)
		log_error("%s/%s: %s", region->manager->tree.path, path, strerror(-r));
	else if (fresh)
		r = member_write_header(member);
	return r;
}

int region_set_readers(struct region *region, const struct region_config *config)
{
	uint32_t readers[SIVSHM_MAX_SECTIONS];
	int r = 0;

	for (size_t i = 0; i < region->n_members && r >= 0; i++) {
		struct member *member = &region->members[i];

		r = tree_set_readers(
			member->section_fd, readers,
			readers_of(region->manager, config, member->vm->name, readers));
	}
	return r;
}

static int member_start(struct member *member, const struct region_config *config)
{
	int r = open_section(member, config);

	if (r >= 0)
		r = open_server(member);
	if (r >= 0)
		r = member_restore(member);
	return r;
}

static void member_init(struct member *member, struct region *region, struct vm *vm, uint32_t id)
{
	*member = (struct member){.region = region, .vm = vm, .id = id, .section_fd = -1};
	alloc_init(&member->alloc, SIVSHM_PAGE_SIZE, region->section_size);
	LIST_INIT(&member->emptying);
	for (size_t v = 0; v < ELEMENTSOF(member->bells); v++)
		member->bells[v] = -1;
}

static int region_start(struct region *region, const struct region_config *config)
{
	struct manager *m = region->manager;
	bool anew = has_stranger(region);
	char name[RUNTIME_NAME_SIZE];
	int r;

	snprintf(name, sizeof(name), "region/%s", region->name);
	if (anew)
		tree_remove_dir(&m->tree, name);
	r = tree_make_dir(&m->tree, name, 0711, 0);
	if (r >= 0)
		r = open_bells(region, anew);
	for (size_t i = 0; i < region->n_members && r >= 0; i++)
		r = member_start(&region->members[i], config);
	return r;
}

int region_new(struct manager *m, const struct region_config *config, uint32_t number,
	       struct region **ret)
{
	struct region *region =
		calloc(1, sizeof(*region) + config->n_members * sizeof(region->members[0]));
	int r;

	if (!region)
		return -ENOMEM;
	region->manager = m;
	snprintf(region->name, sizeof(region->name), "%s", config->name);
	region->number = number;
	region->section_size = config->section_size;
	region->vectors = config->vectors;
	region->mute_bell = -1;
	region->n_members = config->n_members;
	for (size_t i = 0; i < config->n_members; i++)
		member_init(&region->members[i], region, manager_find_vm(m, config->members[i]),
			    (uint32_t)i);
	r = region_start(region, config);
	if (r < 0) {
		/* while starting: what a predecessor has left in systemd's keeping is for the next
		 * try */
		region_free(region, !m->restored);
		return r;
	}
	*ret = region;
	return 0;
}

static void member_done(struct member *member, bool forget)
{
	char name[FDSTORE_NAME_SIZE], path[RUNTIME_NAME_SIZE];

	member_stop_scrubbing(member);
	member->server = ivshmem_server_free(member->server);
	member_close_bells(member, forget);
	closep(&member->section_fd);
	alloc_done(&member->alloc);
	if (!forget)
		return;
	member_stored_name(member, 'l', name);
	fdstore_remove(name);
	member_forget_connection(member);
	snprintf(path, sizeof(path), "vm/%s/%s.sock", member->vm->name, member->region->name);
	unlinkat(member->region->manager->tree.fd, path, 0);
}

void region_free(struct region *region, bool forget)
{
	char name[RUNTIME_NAME_SIZE];

	if (!region)
		return;
	for (size_t i = 0; i < region->n_members; i++)
		member_done(&region->members[i], forget);
	closep(&region->mute_bell);
	if (forget) {
		mute_bell_name(region, name);
		fdstore_remove(name);
		snprintf(name, sizeof(name), "region/%s", region->name);
		tree_remove_dir(&region->manager->tree, name);
	}
	free(region);
}
