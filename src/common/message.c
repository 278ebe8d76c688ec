/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages between one daemon and the host; message-session.c has those of a handshake.  Members in
 * the order of the tables in docs/protocol.md. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "message-part.h"

/* { slot, generation } and {} */

int slot_ref_decode(json_t *body, struct slot_ref *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct slot_ref ref = {};

	read_slot_ref(&f, &ref);
	if (field_end(&f) >= 0)
		*ret = ref;
	return f.r;
}

json_t *slot_ref_encode(const struct slot_ref *ref)
{
	struct field_writer w = field_new();

	write_slot_ref(&w, ref);
	return field_finish(&w);
}

int msg_empty_decode(json_t *body, struct failure *error)
{
	struct field_reader f = field_begin(body, error);

	return field_end(&f);
}

/* Hello */

static bool boot_id_is_valid(const char *id)
{
	return *id && strspn(id, "0123456789abcdef-") == strlen(id);
}

static void read_channels(struct field_reader *f, struct msg_hello *m)
{
	json_t *array = field_get(f, "channels");
	size_t n = json_array_size(array);

	if (!array)
		return;
	if (!json_is_array(array) || n > SIVSHM_MAX_SLOTS)
		return field_fail(f, "channels", "no array of the right size");
	m->channels = calloc(n + 1, sizeof(*m->channels));
	if (!m->channels) {
		failure_set(f->error, ERR_FAILED, "out of memory");
		f->r = -ENOMEM;
		return;
	}
	for (size_t i = 0; i < n && f->r >= 0; i++)
		f->r = slot_ref_decode(json_array_get(array, i), &m->channels[i], f->error);
	m->n_channels = n;
}

int msg_hello_decode(json_t *body, struct msg_hello *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_hello m = {};

	read_version(&f, &m.version);
	field_hex(&f, "nonce", m.nonce, sizeof(m.nonce));
	field_name(&f, "bootId", boot_id_is_valid, m.boot_id, sizeof(m.boot_id));
	read_channels(&f, &m);
	if (field_end(&f) < 0)
		msg_hello_done(&m);
	else
		*ret = m;
	return f.r;
}

json_t *msg_hello_encode(const struct msg_hello *m)
{
	struct field_writer w = field_new();
	json_t *channels = json_array();

	write_integer(&w, "version", m->version);
	field_put_hex(&w, "nonce", m->nonce, sizeof(m->nonce));
	field_put(&w, "bootId", json_string(m->boot_id));
	for (size_t i = 0; i < m->n_channels; i++)
		if (json_array_append_new(channels, slot_ref_encode(&m->channels[i])) < 0)
			w.failed = true;
	field_put(&w, "channels", channels);
	return field_finish(&w);
}

void msg_hello_done(struct msg_hello *m)
{
	free(m->channels);
	*m = (struct msg_hello){};
}

/* Welcome: the result of Hello */

int msg_welcome_decode(json_t *body, struct msg_welcome *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_welcome m = {};
	int64_t max_frame;

	read_version(&f, &m.version);
	field_hex(&f, "nonce", m.nonce, sizeof(m.nonce));
	field_name(&f, "vm", vm_name_is_valid, m.vm, sizeof(m.vm));
	field_name(&f, "trustDomain", trust_domain_is_valid, m.trust_domain,
		   sizeof(m.trust_domain));
	read_time(&f, "timeUSec", &m.time_usec);
	field_binary_exact(&f, "random", m.random, sizeof(m.random));
	field_pem(&f, "trustBundle", PEM_MAX - 1, &m.trust_bundle);
	/* what version 1 fixes; a host that takes less does not speak it */
	field_integer(&f, "maxFrame", FRAME_MAX, INT_MAX, &max_frame);
	if (field_end(&f) < 0)
		msg_welcome_done(&m);
	else
		*ret = m;
	return f.r;
}

json_t *msg_welcome_encode(const struct msg_welcome *m)
{
	struct field_writer w = field_new();

	write_integer(&w, "version", m->version);
	field_put_hex(&w, "nonce", m->nonce, sizeof(m->nonce));
	field_put(&w, "vm", json_string(m->vm));
	field_put(&w, "trustDomain", json_string(m->trust_domain));
	write_integer(&w, "timeUSec", m->time_usec);
	field_put_binary(&w, "random", m->random, sizeof(m->random));
	field_put(&w, "trustBundle", json_string(m->trust_bundle));
	write_integer(&w, "maxFrame", FRAME_MAX);
	return field_finish(&w);
}

void msg_welcome_done(struct msg_welcome *m)
{
	free(m->trust_bundle);
	*m = (struct msg_welcome){};
}

/* IssueCertificate */

int msg_issue_decode(json_t *body, struct msg_issue *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_issue m = {};

	read_service(&f, "service", m.service);
	field_pem(&f, "csr", PEM_MAX - 1, &m.csr);
	if (field_end(&f) < 0)
		msg_issue_done(&m);
	else
		*ret = m;
	return f.r;
}

json_t *msg_issue_encode(const struct msg_issue *m)
{
	struct field_writer w = field_new();

	field_put(&w, "service", json_string(m->service));
	field_put(&w, "csr", json_string(m->csr));
	return field_finish(&w);
}

void msg_issue_done(struct msg_issue *m)
{
	free(m->csr);
	*m = (struct msg_issue){};
}

int msg_issued_decode(json_t *body, struct msg_issued *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_issued m = {};

	field_pem(&f, "certificate", PEM_MAX - 1, &m.certificate);
	read_time(&f, "notAfter", &m.not_after);
	if (field_end(&f) < 0)
		msg_issued_done(&m);
	else
		*ret = m;
	return f.r;
}

json_t *msg_issued_encode(const struct msg_issued *m)
{
	struct field_writer w = field_new();

	field_put(&w, "certificate", json_string(m->certificate));
	write_integer(&w, "notAfter", m->not_after);
	return field_finish(&w);
}

void msg_issued_done(struct msg_issued *m)
{
	free(m->certificate);
	*m = (struct msg_issued){};
}

/* Listen, Unlisten, CertificateRevoked */

int msg_service_decode(json_t *body, struct msg_service *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_service m = {};

	read_service(&f, "service", m.service);
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_service_encode(const struct msg_service *m)
{
	struct field_writer w = field_new();

	field_put(&w, "service", json_string(m->service));
	return field_finish(&w);
}
