/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "fdstore.h"
#include "log.h"

struct fdstore {
	char **names; /* NULL-terminated; an entry that was taken is "" */
	int n;
};

int fdstore_open(struct fdstore **ret)
{
	struct fdstore *store = calloc(1, sizeof(*store));

	if (!store)
		return -ENOMEM;
	store->n = sd_listen_fds_with_names(true, &store->names);
	if (store->n < 0) {
		int r = store->n;

		free(store);
		return r;
	}
	*ret = store;
	return 0;
}

static int find(const struct fdstore *store, const char *name)
{
	for (int i = 0; store && i < store->n; i++)
		if (strcmp(store->names[i], name) == 0)
			return i;
	return -1;
}

bool fdstore_has(const struct fdstore *store, const char *name)
{
	return find(store, name) >= 0;
}

int fdstore_peek(const struct fdstore *store, const char *name)
{
	int i = find(store, name);

	return i < 0 ? -1 : SD_LISTEN_FDS_START + i;
}

int fdstore_take(struct fdstore *store, const char *name)
{
	int i = find(store, name);

	if (i < 0)
		return -1;
	store->names[i][0] = '\0';
	return SD_LISTEN_FDS_START + i;
}

struct fdstore *fdstore_close(struct fdstore *store, bool forget)
{
	if (!store)
		return NULL;
	for (int i = 0; i < store->n; i++) {
		if (store->names[i][0] != '\0') {
			if (forget)
				fdstore_remove(store->names[i]);
			close(SD_LISTEN_FDS_START + i);
		}
		free(store->names[i]);
	}
	free(store->names);
	free(store);
	return NULL;
}

static void put(const char *name, int fd, const char *more)
{
	char state[FDSTORE_NAME_SIZE + 32];
	int r;

	snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s%s", name, more);
	r = sd_pid_notify_with_fds(0, 0, state, &fd, 1);
	if (r < 0)
		log_warning("keeping %s in the fd store: %s", name, strerror(-r));
}

void fdstore_put(const char *name, int fd)
{
	put(name, fd, "");
}

void fdstore_put_unwatched(const char *name, int fd)
{
	put(name, fd, "\nFDPOLL=0");
}

void fdstore_remove(const char *name)
{
	sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}
