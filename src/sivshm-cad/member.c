/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A member's section memory, doorbell and ivshmem connection. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bell.h"
#include "channel.h"
#include "log.h"
#include "manager.h"
#include "member-internal.h"
#include "vm.h"

bool member_is_connected(const struct member *member)
{
	return member->server && ivshmem_server_is_connected(member->server);
}

bool member_is_ready(const struct member *member)
{
	return member_is_connected(member) && member->welcomed;
}

void member_ring(struct member *member)
{
	int r = member_is_ready(member) ? bell_ring(member->bells[0]) : 0;

	if (r < 0)
		log_warning("ringing VM %s: %s", member->vm->name, strerror(-r));
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

void member_stop_scrubbing(struct member *member)
{
	while (!LIST_EMPTY(&member->emptying))
		emptying_free(LIST_FIRST(&member->emptying));
	member->reset = scrub_cancel(member->reset);
}

/* repair_section() - a QEMU that was taken over may have cut the file, let it grow, or asked for
 * O_APPEND, by which our own writes would miss their place */
static int repair_section(struct member *member)
{
	if (fcntl(member->section_fd, F_SETFL, 0) < 0 ||
	    ftruncate(member->section_fd, (off_t)member->region->section_size) < 0)
		return -errno;
	return 0;
}

/* member_write_header() - nothing of the VM's last life is left here; say what the section is */
int member_write_header(struct member *member)
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

void member_stored_name(const struct member *member, char prefix, char *ret)
{
	snprintf(ret, FDSTORE_NAME_SIZE, "%c%u.%u", prefix, member->region->number, member->id);
}

/* eventfds */

static void bell_name(const struct member *member, size_t vector, char *ret)
{
	snprintf(ret, FDSTORE_NAME_SIZE, "e%u.%u.%zu", member->region->number, member->id, vector);
}

void member_close_bells(struct member *member, bool forget)
{
	char name[FDSTORE_NAME_SIZE];

	for (size_t v = 0; v < member->region->vectors; v++) {
		bell_name(member, v, name);
		if (forget && member->bells[v] >= 0)
			fdstore_remove(name);
		closep(&member->bells[v]);
		member->bells[v] = -1;
	}
}

int member_open_bells(struct member *member)
{
	char name[FDSTORE_NAME_SIZE];

	for (size_t v = 0; v < member->region->vectors; v++) {
		member->bells[v] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (member->bells[v] < 0)
			return -errno;
		bell_name(member, v, name);
		fdstore_put_unwatched(name, member->bells[v]);
	}
	return 0;
}

bool member_restore_bells(struct member *member)
{
	char name[FDSTORE_NAME_SIZE];
	bool whole = true;

	for (size_t v = 0; v < member->region->vectors; v++) {
		bell_name(member, v, name);
		member->bells[v] = fdstore_take(member->region->manager->restored, name);
		whole = whole && member->bells[v] >= 0;
	}
	return whole;
}

int member_restore(struct member *member)
{
	char name[FDSTORE_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	member_stored_name(member, 'c', name);
	fd = fdstore_take(member->region->manager->restored, name);
	if (fd < 0)
		return 0;
	r = ivshmem_server_adopt(member->server, fd);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	member->welcomed = true;
	return 0;
}

void member_forget_connection(const struct member *member)
{
	char name[FDSTORE_NAME_SIZE];

	member_stored_name(member, 'c', name);
	fdstore_remove(name);
}

/* connection */

/* introduce() - tell @to how to ring @about: one message for each vector */
static void introduce(struct member *to, struct member *about)
{
	for (unsigned v = 0; v < to->region->vectors; v++) {
		bool foreign_zero = v == 0 && to != about;

		ivshmem_server_send(to->server, about->id,
				    foreign_zero ? to->region->mute_bell : about->bells[v]);
	}
}

/*
 * welcome() - all that this QEMU is ever told.  Every member is introduced, whether its VM runs or
 * not, and nobody is told when one comes or goes: QEMU, to which a peer's id came back after its
 * end was announced, writes the new eventfds into the memory that it freed for the old ones.
 */
static void welcome(struct member *member)
{
	struct region *region = member->region;

	ivshmem_server_send(member->server, IVSHMEM_PROTOCOL_VERSION, -1);
	ivshmem_server_send(member->server, member->id, -1);
	ivshmem_server_send(member->server, -1, member->section_fd);
	for (size_t i = 0; i < region->n_members; i++)
		if (&region->members[i] != member)
			introduce(member, &region->members[i]);
	introduce(member, member);
	member->welcomed = true;
}

/* on_told() - only now: a successor takes the whole welcome for said */
static void on_told(void *userdata)
{
	struct member *member = userdata;
	char name[FDSTORE_NAME_SIZE];

	member_stored_name(member, 'c', name);
	fdstore_put(name, ivshmem_server_fd(member->server));
}

static void on_clean(int r, void *userdata)
{
	struct member *member = userdata;
	struct region *region = member->region;

	member->reset = NULL;
	if (r >= 0)
		r = repair_section(member);
	if (r >= 0)
		r = member_write_header(member);
	if (r < 0) {
		log_error("VM %s: device of region %s: %s", member->vm->name, region->name,
			  strerror(-r));
		ivshmem_server_close(member->server);
		return;
	}
	welcome(member);
}

static void on_connected(void *userdata)
{
	struct member *member = userdata;
	struct region *region = member->region;
	int r;

	if (vm_may_log_connection(member->vm))
		log_info("VM %s: device of region %s connected", member->vm->name, region->name);
	r = scrub_start(region->manager->event, member->section_fd, 0, region->section_size,
			SCRUB_EMPTY, on_clean, member, &member->reset);
	if (r != 0)
		on_clean(r < 0 ? r : 0, member);
}

static void on_gone(void *userdata)
{
	struct member *member = userdata;

	if (vm_may_log_connection(member->vm))
		log_info("VM %s: device of region %s is gone", member->vm->name,
			 member->region->name);
	member->reset = scrub_cancel(member->reset);
	member->welcomed = false;
	member_forget_connection(member);
	channels_member_gone(member);
	vm_refresh_layout(member->vm);
}

const struct ivshmem_handler member_ivshmem_handler = {on_connected, on_told, on_gone};
