/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "channel.h"
#include "log.h"
#include "manager.h"
#include "region.h"
#include "vm.h"

#define RUNTIME_NAME_SIZE 160

struct member *region_member(struct region *region, const struct vm *vm)
{
	for (size_t i = 0; i < region->n_members; i++)
		if (region->members[i].vm == vm)
			return &region->members[i];
	return NULL;
}

bool member_is_connected(const struct member *member)
{
	return member->server && ivshmem_server_is_connected(member->server);
}

bool member_is_ready(const struct member *member)
{
	return member_is_connected(member) && !member->reset;
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

void member_ring(struct member *member)
{
	static const uint64_t one = 1;

	/* EAGAIN: it is ringing already */
	if (member_is_connected(member) && write(member->bells[0], &one, sizeof(one)) < 0 &&
	    errno != EAGAIN)
		log_warning("ringing VM %s: %s", member->vm->name, strerror(errno));
}

/* section memory */

static void emptying_free(struct emptying *e)
{
	LIST_REMOVE(e, entry);
	scrub_cancel(e->scrub);
	free(e);
}

static void on_emptied(int r, void *userdata)
{
	struct emptying *e = userdata;

	e->scrub = NULL;
	if (r < 0)
		log_warning("section of VM %s: %s", e->member->vm->name, strerror(-r));
	alloc_give(&e->member->alloc, e->offset);
	emptying_free(e);
}

void member_give_window(struct member *member, uint64_t offset, uint64_t size)
{
	struct emptying *e = calloc(1, sizeof(*e));
	int r;

	if (!e) { /* it is zeroed when it is granted; only its memory is not given back yet */
		alloc_give(&member->alloc, offset);
		return;
	}
	e->member = member;
	e->offset = offset;
	LIST_INSERT_HEAD(&member->emptying, e, entry);
	alloc_quarantine(&member->alloc, offset);
	r = scrub_start(member->region->manager->event, member->section_fd, offset, size,
			SCRUB_EMPTY, on_emptied, e, &e->scrub);
	if (r != 0)
		on_emptied(r < 0 ? r : 0, e);
}

/* write_header() - nothing of the VM's last life is left here; say what the section is */
static int write_header(struct member *member)
{
	const struct sivshm_section_header header = {
		.magic = htole64(SIVSHM_SECTION_MAGIC),
		.abi = htole32(SIVSHM_TABLE_ABI),
		.size = htole64(member->region->section_size),
	};

	return pwrite(member->section_fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header)
		       ? 0
		       : -EIO;
}

/* ivshmem */

static void connection_name(const struct member *member, char prefix, char *ret)
{
	snprintf(ret, FDSTORE_NAME_SIZE, "%c%u.%u", prefix, member->region->number, member->id);
}

/* introduce() - tell @to how to ring @about: one message for each vector */
static void introduce(struct member *to, struct member *about)
{
	for (unsigned v = 0; v < to->region->vectors; v++) {
		bool foreign_zero = v == 0 && to != about;

		ivshmem_server_send(to->server, about->id,
				    foreign_zero ? to->region->mute_bell : about->bells[v]);
	}
}

static void welcome(struct member *member)
{
	struct region *region = member->region;

	ivshmem_server_send(member->server, IVSHMEM_PROTOCOL_VERSION, -1);
	ivshmem_server_send(member->server, member->id, -1);
	ivshmem_server_send(member->server, -1, member->section_fd);
	for (size_t i = 0; i < region->n_members; i++)
		if (&region->members[i] != member && member_is_ready(&region->members[i]))
			introduce(member, &region->members[i]);
	introduce(member, member);
}

static void on_clean(int r, void *userdata)
{
	struct member *member = userdata;
	struct region *region = member->region;
	char name[FDSTORE_NAME_SIZE];

	member->reset = NULL;
	if (r >= 0)
		r = write_header(member);
	if (r < 0)
		log_error("section of VM %s in region %s: %s", member->vm->name, region->name,
			  strerror(-r));
	welcome(member);
	/* not before: a connection without its welcome is of no use to a successor */
	connection_name(member, 'c', name);
	fdstore_put(name, ivshmem_server_fd(member->server));
	for (size_t i = 0; i < region->n_members; i++)
		if (&region->members[i] != member && member_is_ready(&region->members[i]))
			introduce(&region->members[i], member);
}

static void on_connected(void *userdata)
{
	struct member *member = userdata;
	struct region *region = member->region;
	int r;

	log_info("VM %s: device of region %s connected", member->vm->name, region->name);
	r = scrub_start(region->manager->event, member->section_fd, 0, region->section_size,
			SCRUB_EMPTY, on_clean, member, &member->reset);
	if (r != 0)
		on_clean(r < 0 ? r : 0, member);
}

/* announce_gone() - to every other member: its id without an fd */
static void announce_gone(struct member *member)
{
	struct region *region = member->region;

	for (size_t i = 0; i < region->n_members; i++)
		if (&region->members[i] != member && member_is_ready(&region->members[i]))
			ivshmem_server_send(region->members[i].server, member->id, -1);
}

static void on_gone(void *userdata)
{
	struct member *member = userdata;
	char name[FDSTORE_NAME_SIZE];

	log_info("VM %s: device of region %s is gone", member->vm->name, member->region->name);
	member->reset = scrub_cancel(member->reset);
	connection_name(member, 'c', name);
	fdstore_remove(name);
	announce_gone(member);
	channels_member_gone(member);
	vm_refresh_layout(member->vm);
}

static const struct ivshmem_handler member_handler = {on_connected, on_gone};

void region_announce_restored(struct region *region)
{
	for (size_t i = 0; i < region->n_members; i++)
		if (!member_is_connected(&region->members[i]))
			announce_gone(&region->members[i]);
}

/* building */

static int open_bell(struct manager *m, const char *name, int *ret)
{
	*ret = fdstore_take(m->restored, name);
	if (*ret >= 0)
		return 0;
	*ret = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*ret < 0)
		return -errno;
	fdstore_put(name, *ret);
	return 0;
}

static int open_bells(struct member *member)
{
	struct region *region = member->region;
	char name[FDSTORE_NAME_SIZE];
	int r = 0;

	for (unsigned v = 0; v < region->vectors && r >= 0; v++) {
		snprintf(name, sizeof(name), "e%u.%u.%u", region->number, member->id, v);
		r = open_bell(region->manager, name, &member->bells[v]);
	}
	return r;
}

static int open_server(struct member *member)
{
	struct manager *m = member->region->manager;
	char stored[FDSTORE_NAME_SIZE], path[RUNTIME_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r = 0;

	connection_name(member, 'l', stored);
	snprintf(path, sizeof(path), "vm/%s/%s.sock", member->vm->name, member->region->name);
	fd = fdstore_take(m->restored, stored);
	if (fd < 0 || !tree_has_socket(&m->tree, path)) {
		closep(&fd);
		fd = -1;
		r = tree_listen(&m->tree, path, member->vm->config->gid, &fd);
		if (r < 0) {
			log_error("%s/%s: %s", m->tree.path, path, strerror(-r));
			return r;
		}
		fdstore_put(stored, fd);
	}
	r = ivshmem_server_new(m->event, fd, member->vm->config->uid, &member_handler, member,
			       &member->server);
	if (r >= 0)
		TAKE_FD(fd);
	return r;
}

static int adopt_connection(struct member *member)
{
	char stored[FDSTORE_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	connection_name(member, 'c', stored);
	fd = fdstore_take(member->region->manager->restored, stored);
	if (fd < 0)
		return 0;
	r = ivshmem_server_adopt(member->server, fd);
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
		r = write_header(member);
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
		r = open_bells(member);
	if (r >= 0)
		r = open_server(member);
	if (r >= 0)
		r = adopt_connection(member);
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
	char name[RUNTIME_NAME_SIZE];
	int r;

	snprintf(name, sizeof(name), "region/%s", region->name);
	r = tree_make_dir(&m->tree, name, 0711, 0);
	snprintf(name, sizeof(name), "d%u", region->number);
	if (r >= 0)
		r = open_bell(m, name, &region->mute_bell);
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
		region_free(region, true);
		return r;
	}
	*ret = region;
	return 0;
}

static void member_done(struct member *member, bool forget)
{
	char name[FDSTORE_NAME_SIZE], path[RUNTIME_NAME_SIZE];

	while (!LIST_EMPTY(&member->emptying))
		emptying_free(LIST_FIRST(&member->emptying));
	member->reset = scrub_cancel(member->reset);
	member->server = ivshmem_server_free(member->server);
	for (size_t v = 0; v < ELEMENTSOF(member->bells); v++) {
		if (forget && member->bells[v] >= 0) {
			snprintf(name, sizeof(name), "e%u.%u.%zu", member->region->number,
				 member->id, v);
			fdstore_remove(name);
		}
		closep(&member->bells[v]);
	}
	closep(&member->section_fd);
	alloc_done(&member->alloc);
	if (!forget)
		return;
	connection_name(member, 'l', name);
	fdstore_remove(name);
	connection_name(member, 'c', name);
	fdstore_remove(name);
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
		snprintf(name, sizeof(name), "d%u", region->number);
		fdstore_remove(name);
		snprintf(name, sizeof(name), "region/%s", region->name);
		tree_remove_dir(&region->manager->tree, name);
	}
	free(region);
}
