/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The runtime tree: who may enter, read and connect where.  All paths but the root's are relative
 * to it. */
#ifndef CAD_TREE_H
#define CAD_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** struct tree - @path has no slash at its end; both owned */
struct tree {
	char *path;
	int fd;
};

/** tree_open() - make the root if need be; -EXDEV: not on tmpfs, and @any_fs is false */
int tree_open(const char *path, bool any_fs, struct tree *ret);
void tree_close(struct tree *tree);

/** tree_make_dir() - mode and group are set, also when it is there */
int tree_make_dir(const struct tree *tree, const char *name, unsigned mode, uint32_t gid);
/** tree_remove_dir() - with the files in it; not deeper */
void tree_remove_dir(const struct tree *tree, const char *name);

/** tree_sweep() - remove what @keep does not want from folder @name, folders one level down included */
void tree_sweep(const struct tree *tree, const char *name,
		bool (*keep)(const char *entry, void *userdata), void *userdata);

/** tree_listen() - a stream socket that @gid may connect to */
int tree_listen(const struct tree *tree, const char *name, uint32_t gid, int *ret_fd);
/** tree_keep_socket() - is there one, made earlier?  Then it is @gid's from now on */
bool tree_keep_socket(const struct tree *tree, const char *name, uint32_t gid);
/** tree_peer_uid() - who connected; -errno */
int tree_peer_uid(int fd, uint32_t *ret_uid);

/**
 * tree_open_file() - a file of exactly @size that the groups @readers may read, nobody else
 * @ret_fresh: it is new (made, or replaced because its size differed: who has the old one mapped
 * keeps that)
 */
int tree_open_file(const struct tree *tree, const char *name, uint64_t size,
		   const uint32_t *readers, size_t n_readers, int *ret_fd, bool *ret_fresh);

/** tree_open_existing() - whatever its size; -ENOENT */
int tree_open_existing(const struct tree *tree, const char *name, int *ret_fd, uint64_t *ret_size);
/** tree_set_readers() - of an open file: exactly these groups */
int tree_set_readers(int fd, const uint32_t *readers, size_t n_readers);

#endif
