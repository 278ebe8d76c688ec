/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "manager.h"
#include "state.h"

#define STATE_FILE_MAX (64 * 1024 * 1024)

static char *state_path(const struct manager *m, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", m->options->state_dir, name) < 0 ? NULL : path;
}

/* read_file() - NULL and errno; the caller frees */
static char *read_file(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t used = 0;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	if (st.st_size > STATE_FILE_MAX) {
		errno = EFBIG;
		return NULL;
	}
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	while (used < (size_t)st.st_size &&
	       (n = read(fd, text + used, (size_t)st.st_size - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	return TAKE_PTR(text);
}

/* replace_file() - the old content or the new, never a part */
static int replace_file(const struct manager *m, const char *name, const char *text, bool sync)
{
	_cleanup_free_ char *path = state_path(m, name), *temporary = NULL;
	_cleanup_close_ int fd = -1;
	size_t n = strlen(text);

	if (!path || asprintf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, text, n) != (ssize_t)n)
		return errno ? -errno : -ENOSPC;
	if ((sync && fsync(fd) < 0) || rename(temporary, path) < 0)
		return -errno;
	return 0;
}

int state_save_revoked(struct manager *m)
{
	_cleanup_free_ char *text = revocations_format(&m->revoked);

	return text ? replace_file(m, "revoked", text, true) : -ENOMEM;
}

static int load_revoked(struct manager *m, struct failure *error)
{
	_cleanup_free_ char *path = state_path(m, "revoked"), *text = path ? read_file(path) : NULL;

	if (!text && errno != ENOENT)
		return failure_set(error, ERR_FAILED, "%s: %s", path, strerror(errno));
	if (text && revocations_parse(text, &m->revoked) < 0)
		return failure_set(error, ERR_FAILED, "%s: not what was written there; look at it",
				   path);
	return 0;
}

/* rewrite_issued() - without what has expired; then open for appending */
static int rewrite_issued(struct manager *m)
{
	_cleanup_free_ char *path = state_path(m, "issued"), *text = NULL;
	char line[CERTIFICATE_LINE_SIZE];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	int r;

	if (!f || !path)
		return -ENOMEM;
	for (size_t i = 0; i < m->certificates.n; i++) {
		certificate_format(&m->certificates.list[i], line);
		fputs(line, f);
	}
	if (fclose(f) != 0)
		return -ENOMEM;
	r = replace_file(m, "issued", text, false);
	if (r < 0)
		return r;
	closep(&m->issued_fd);
	m->issued_fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	return m->issued_fd < 0 ? -errno : 0;
}

void state_append_issued(struct manager *m, const struct certificate *certificate)
{
	char line[CERTIFICATE_LINE_SIZE];

	certificate_format(certificate, line);
	if (write(m->issued_fd, line, strlen(line)) != (ssize_t)strlen(line))
		log_warning("%s/issued: %s", m->options->state_dir, strerror(errno));
}

void state_save_issued(struct manager *m)
{
	int r = rewrite_issued(m);

	if (r < 0)
		log_warning("%s/issued: %s", m->options->state_dir, strerror(-r));
}

void state_expire(struct manager *m)
{
	if (certificates_expire(&m->certificates, (int64_t)(manager_realtime_usec() / 1000000)) > 0)
		state_save_issued(m);
}

static int load_issued(struct manager *m, struct failure *error)
{
	_cleanup_free_ char *path = state_path(m, "issued"), *text = path ? read_file(path) : NULL;
	int r;

	if (text && certificates_parse(&m->certificates, text) < 0)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	certificates_expire(&m->certificates, (int64_t)(manager_realtime_usec() / 1000000));
	r = rewrite_issued(m);
	return r < 0 ? failure_set(error, ERR_FAILED, "%s: %s", path, strerror(-r)) : 0;
}

/* given_ca() - from the configuration, or as systemd credentials; false: we make our own */
static bool given_ca(const struct manager *m, struct ca_files *ret, char **buffers)
{
	const char *credentials = getenv("CREDENTIALS_DIRECTORY");

	if (m->config->ca.key_file) {
		*ret = (struct ca_files){m->config->ca.key_file, m->config->ca.certificate_file,
					 m->config->ca.bundle_file};
		return true;
	}
	if (!credentials || asprintf(&buffers[0], "%s/ca.key", credentials) < 0 ||
	    asprintf(&buffers[1], "%s/ca.crt", credentials) < 0 ||
	    asprintf(&buffers[2], "%s/ca.bundle", credentials) < 0)
		return false;
	/* one without the other is a mistake, not the wish for a CA of our own */
	if (access(buffers[0], F_OK) < 0 && access(buffers[1], F_OK) < 0)
		return false;
	*ret = (struct ca_files){buffers[0], buffers[1],
				 access(buffers[2], F_OK) == 0 ? buffers[2] : NULL};
	return true;
}

static int own_ca(struct manager *m, struct ca_files *ret, char **buffers, struct failure *error)
{
	buffers[3] = state_path(m, "ca.key");
	buffers[4] = state_path(m, "ca.crt");
	if (!buffers[3] || !buffers[4])
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	*ret = (struct ca_files){buffers[3], buffers[4], NULL};
	if (access(buffers[4], F_OK) == 0)
		return 0;
	log_info("making a certificate authority in %s", m->options->state_dir);
	return ca_make(buffers[3], buffers[4], m->config->ca.trust_domain, error);
}

static int load_ca(struct manager *m, struct failure *error)
{
	char *buffers[5] = {};
	struct ca_files files;
	int r = 0;

	if (!given_ca(m, &files, buffers))
		r = own_ca(m, &files, buffers, error);
	if (r >= 0)
		r = ca_load(&files, &m->ca, error);
	for (size_t i = 0; i < ELEMENTSOF(buffers); i++)
		free(buffers[i]);
	return r;
}

int state_load(struct manager *m, struct failure *error)
{
	int r;

	if (mkdir(m->options->state_dir, 0700) < 0 && errno != EEXIST)
		return failure_set(error, ERR_FAILED, "%s: %s", m->options->state_dir,
				   strerror(errno));
	r = load_ca(m, error);
	if (r >= 0)
		r = load_revoked(m, error);
	if (r >= 0)
		r = load_issued(m, error);
	return r;
}
