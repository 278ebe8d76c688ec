/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages of one handshake and of the channel that comes of it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "message-part.h"

void flight_done(struct flight *f)
{
	free(f->data);
	*f = (struct flight){};
}

/* Connect and Incoming */

int msg_connect_decode(json_t *body, struct msg_connect *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_connect m = {};

	read_service(&f, "from", m.from);
	read_peer(&f, "to", &m.to);
	read_ring_size(&f, &m.ring_size);
	read_flight(&f, &m.flight);
	if (field_end(&f) < 0)
		flight_done(&m.flight);
	else
		*ret = m;
	return f.r;
}

json_t *msg_connect_encode(const struct msg_connect *m)
{
	struct field_writer w = field_new();

	field_put(&w, "from", json_string(m->from));
	write_peer(&w, "to", &m->to);
	write_integer(&w, "ringSize", m->ring_size);
	write_flight(&w, &m->flight);
	return field_finish(&w);
}

int msg_incoming_decode(json_t *body, struct msg_incoming *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_incoming m = {};

	read_session(&f, m.session);
	read_peer(&f, "from", &m.from);
	read_service(&f, "to", m.to);
	read_ring_size(&f, &m.ring_size);
	read_flight(&f, &m.flight);
	if (field_end(&f) < 0)
		flight_done(&m.flight);
	else
		*ret = m;
	return f.r;
}

json_t *msg_incoming_encode(const struct msg_incoming *m)
{
	struct field_writer w = field_new();

	write_session(&w, m->session);
	write_peer(&w, "from", &m->from);
	field_put(&w, "to", json_string(m->to));
	write_integer(&w, "ringSize", m->ring_size);
	write_flight(&w, &m->flight);
	return field_finish(&w);
}

/* Their results; params of Finish */

int msg_flight_decode(json_t *body, bool with_session, struct msg_flight *ret,
		      struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_flight m = {};

	if (with_session)
		read_session(&f, m.session);
	read_flight(&f, &m.flight);
	if (field_end(&f) < 0)
		flight_done(&m.flight);
	else
		*ret = m;
	return f.r;
}

json_t *msg_flight_encode(const struct msg_flight *m, bool with_session)
{
	struct field_writer w = field_new();

	if (with_session)
		write_session(&w, m->session);
	write_flight(&w, &m->flight);
	return field_finish(&w);
}

/* Confirm, and the result of Finish */

int msg_confirm_decode(json_t *body, struct msg_confirm *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_confirm m = {};

	read_session(&f, m.session);
	read_flight(&f, &m.flight);
	read_spiffe_id(&f, "peer", m.peer);
	field_binary_exact(&f, "exporter", m.exporter, sizeof(m.exporter));
	if (field_end(&f) < 0)
		flight_done(&m.flight);
	else
		*ret = m;
	return f.r;
}

json_t *msg_confirm_encode(const struct msg_confirm *m)
{
	struct field_writer w = field_new();

	write_session(&w, m->session);
	write_flight(&w, &m->flight);
	field_put(&w, "peer", json_string(m->peer));
	field_put_binary(&w, "exporter", m->exporter, sizeof(m->exporter));
	return field_finish(&w);
}

int msg_finished_decode(json_t *body, struct msg_finished *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_finished m = {};

	read_spiffe_id(&f, "peer", m.peer);
	field_binary_exact(&f, "exporter", m.exporter, sizeof(m.exporter));
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_finished_encode(const struct msg_finished *m)
{
	struct field_writer w = field_new();

	field_put(&w, "peer", json_string(m->peer));
	field_put_binary(&w, "exporter", m->exporter, sizeof(m->exporter));
	return field_finish(&w);
}

/* Cancel */

int msg_session_decode(json_t *body, struct msg_session *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_session m = {};

	read_session(&f, m.session);
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_session_encode(const struct msg_session *m)
{
	struct field_writer w = field_new();

	write_session(&w, m->session);
	return field_finish(&w);
}

/* Granted, Opened */

int msg_granted_decode(json_t *body, struct msg_granted *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_granted m = {};

	read_session(&f, m.session);
	read_slot_ref(&f, &m.ref);
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_granted_encode(const struct msg_granted *m)
{
	struct field_writer w = field_new();

	write_session(&w, m->session);
	write_slot_ref(&w, &m->ref);
	return field_finish(&w);
}

/* Abort */

static int failure_decode(json_t *body, struct failure *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	int64_t code = 0;
	char text[ERROR_TEXT_SIZE];

	field_integer(&f, "code", INT_MIN, -1, &code);
	field_text(&f, "message", text, sizeof(text));
	if (field_end(&f) >= 0)
		failure_set(ret, (int)code, "%s", text);
	return f.r;
}

static json_t *failure_encode(const struct failure *failure)
{
	struct field_writer w = field_new();

	field_put(&w, "code", json_integer(failure->code));
	field_put(&w, "message", json_string(failure->text));
	return field_finish(&w);
}

int msg_abort_decode(json_t *body, struct msg_abort *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_abort m = {};
	json_t *failure;

	read_session(&f, m.session);
	failure = field_get(&f, "error");
	if (failure)
		f.r = failure_decode(failure, &m.error, error);
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_abort_encode(const struct msg_abort *m)
{
	struct field_writer w = field_new();

	write_session(&w, m->session);
	field_put(&w, "error", failure_encode(&m->error));
	return field_finish(&w);
}

/* Revoked */

int msg_revoked_decode(json_t *body, struct msg_revoked *ret, struct failure *error)
{
	struct field_reader f = field_begin(body, error);
	struct msg_revoked m = {};

	read_slot_ref(&f, &m.ref);
	field_text(&f, "reason", m.reason, sizeof(m.reason));
	if (field_end(&f) >= 0)
		*ret = m;
	return f.r;
}

json_t *msg_revoked_encode(const struct msg_revoked *m)
{
	struct field_writer w = field_new();

	write_slot_ref(&w, &m->ref);
	field_put(&w, "reason", json_string(m->reason));
	return field_finish(&w);
}
