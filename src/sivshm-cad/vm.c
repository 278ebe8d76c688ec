/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "control.h"
#include "log.h"
#include "manager.h"
#include "session.h"
#include "vm.h"

#define PATH_SIZE 80

static void grants_path(const struct vm *vm, char *ret)
{
	snprintf(ret, PATH_SIZE, "vm/%s/grants", vm->name);
}

static void unmap_table(struct vm *vm)
{
	if (vm->table.header)
		munmap(vm->table.header, vm->table.size);
	vm->table = (struct table){};
}

static int map_file(int fd, size_t size, void **ret)
{
	*ret = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return *ret == MAP_FAILED ? -errno : 0;
}

/* attach_table() - that of a predecessor: a VM may be running by it */
static int attach_table(struct vm *vm)
{
	_cleanup_close_ int fd = -1;
	char path[PATH_SIZE];
	uint64_t size;
	void *memory;
	int r;

	grants_path(vm, path);
	r = tree_open_existing(&vm->manager->tree, path, &fd, &size);
	if (r < 0 || size < SIVSHM_TABLE_HEADER_SIZE || size > SIVSHM_MAX_TABLE_SIZE)
		return 0; /* none, or none of ours: made anew when the layout is known */
	r = map_file(fd, size, &memory);
	if (r < 0)
		return r;
	if (table_attach(&vm->table, memory, size, vm->name) < 0)
		munmap(memory, size);
	return 0;
}

/* write_table() - in place if the size allows, so that a QEMU that just opened the file sees it */
static int write_table(struct vm *vm, const struct layout *layout, const uint32_t *numbers)
{
	size_t size = table_size(vm->config->channels);
	_cleanup_close_ int fd = -1;
	char path[PATH_SIZE];
	void *memory;
	bool fresh;
	int r;

	grants_path(vm, path);
	r = tree_open_file(&vm->manager->tree, path, size, &vm->config->gid, 1, &fd, &fresh);
	/* memory that is not there is an error here, and would be the end of this process later */
	if (r >= 0 && fallocate(fd, 0, 0, (off_t)size) < 0)
		r = -errno;
	if (r >= 0)
		r = map_file(fd, size, &memory);
	if (r < 0)
		return r;
	unmap_table(vm);
	table_format(&vm->table, memory, size, vm->name, vm->config->channels, layout, numbers);
	return 0;
}

void vm_refresh_layout(struct vm *vm)
{
	uint32_t numbers[SIVSHM_MAX_SECTIONS];
	struct layout layout;
	int r;

	if (vm_in_use(vm))
		return;
	layout_make(vm->manager->config, vm->config, &layout);
	for (size_t i = 0; i < layout.n; i++) {
		struct region *region =
			manager_find_region(vm->manager, layout.entries[i].region->name);

		numbers[i] = region ? region->number : 0;
	}
	if (vm->table.header &&
	    table_same_layout(&vm->table, vm->config->channels, &layout, numbers))
		return;
	r = write_table(vm, &layout, numbers);
	if (r < 0)
		log_error("grant table of VM %s: %s", vm->name, strerror(-r));
}

static int check_section(const struct vm *vm, const struct table_section *s,
			 struct conf_error *error)
{
	const struct region_config *region =
		config_find_region(vm->manager->config, s->region_name);
	const struct conf_place place = {region ? region->place.file : vm->config->place.file,
					 region ? region->place.line : vm->config->place.line};

	if (region && s->size == region->section_size && s->vectors == region->vectors &&
	    region_config_member(region, vm->name) == (int)s->member)
		return 0;
	return conf_fail(error, &place,
			 "VM %s runs with region %s as it was: Members=, SectionSize= and Vectors= "
			 "can change when it is shut down",
			 vm->name, s->region_name);
}

int vm_check_restored(const struct vm *vm, struct conf_error *error)
{
	int r = 0;

	for (size_t i = 0; vm->table.header && i < table_n_sections(&vm->table) && r >= 0; i++) {
		char name[FDSTORE_NAME_SIZE];
		struct table_section s;

		table_section(&vm->table, i, &s);
		snprintf(name, sizeof(name), "c%u.%u", s.region, s.member);
		if (s.own && fdstore_has(vm->manager->restored, name))
			r = check_section(vm, &s, error);
	}
	return r;
}

bool vm_may_log_connection(struct vm *vm)
{
	return ratelimit_take(&vm->connections, manager_now(vm->manager), 10 * 1000000ULL, 20);
}

uint32_t vm_region_number(const struct vm *vm, const char *name)
{
	for (size_t i = 0; vm->table.header && i < table_n_sections(&vm->table); i++) {
		struct table_section s;

		table_section(&vm->table, i, &s);
		if (strcmp(s.region_name, name) == 0)
			return s.region;
	}
	return 0;
}

uint32_t vm_last_region_number(const struct vm *vm)
{
	uint32_t last = 0;

	for (size_t i = 0; vm->table.header && i < table_n_sections(&vm->table); i++) {
		struct table_section s;

		table_section(&vm->table, i, &s);
		if (s.region > last)
			last = s.region;
	}
	return last;
}

struct member *vm_member(struct vm *vm, size_t i)
{
	for (size_t j = 0; j < vm->manager->n_regions; j++) {
		struct member *member = region_member(vm->manager->regions[j], vm);

		if (member && i-- == 0)
			return member;
	}
	return NULL;
}

bool vm_in_use(struct vm *vm)
{
	struct member *member;

	for (size_t i = 0; (member = vm_member(vm, i)); i++)
		if (member_is_connected(member))
			return true;
	return false;
}

int vm_new(struct manager *m, const struct vm_config *config, struct vm **ret)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	char path[PATH_SIZE];
	int r;

	if (!vm)
		return -ENOMEM;
	vm->manager = m;
	vm->config = config;
	snprintf(vm->name, sizeof(vm->name), "%s", config->name);
	snprintf(path, sizeof(path), "vm/%s", vm->name);
	r = tree_make_dir(&m->tree, path, 0750, config->gid);
	if (r >= 0)
		r = attach_table(vm);
	if (r >= 0)
		r = control_new(vm, &vm->control);
	if (r < 0) {
		log_error("%s/%s: %s", m->tree.path, path, strerror(-r));
		vm_free(vm, false);
		return r;
	}
	*ret = vm;
	return 0;
}

void vm_free(struct vm *vm, bool forget)
{
	char path[PATH_SIZE];

	if (!vm)
		return;
	if (vm->control)
		sessions_vm_restarted(vm); /* they point here */
	control_free(vm->control, forget);
	unmap_table(vm);
	if (forget) {
		snprintf(path, sizeof(path), "vm/%s", vm->name);
		tree_remove_dir(&vm->manager->tree, path);
	}
	free(vm);
}
