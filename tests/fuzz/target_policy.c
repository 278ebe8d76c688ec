/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's policy, from files to verdicts.
 *
 * Input: text; a line "= NAME" begins the file NAME of policy.d.
 */
#include "files.h"
#include "policy.h"

static const char *const names[] = {"policy.d/a.conf", "policy.d/b.conf", NULL};
static const char *const folders[] = {"sivshm", "sivshm/policy.d", NULL};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	files_init(folders, names, "sivshm");
	return 0;
}

static bool is_among(const struct policy_peers *peers, const struct peer_name *name)
{
	for (size_t i = 0; i < peers->n; i++)
		if (peer_name_equal(&peers->items[i].name, name))
			return true;
	return false;
}

static void ask(const struct policy *p, const struct policy_service *s, enum policy_act act,
		const struct peer_name *peer)
{
	struct policy_question q = {.act = act,
				    .service = s->name,
				    .uid = s->uid,
				    .unit = s->unit,
				    .peer = peer,
				    .ring_size = 4096};
	struct policy_verdict v = {};

	policy_decide(p, &q, &v);
	must(v.text[0] && memchr(v.text, '\0', sizeof(v.text)));
	if (!v.allowed)
		return;
	must(v.service == s && s->max_ring >= 4096);
	must(act != POLICY_CONNECT || is_among(&s->connect, peer));
	must(act != POLICY_ACCEPT || is_among(&s->accept, peer));
	q.uid++;
	policy_decide(p, &q, &v);
	must(!v.allowed); /* a name belongs to one uid */
	q.uid--;
	q.unit = "other.service";
	policy_decide(p, &q, &v);
	must(v.allowed == (!s->unit[0] || strcmp(s->unit, q.unit) == 0));
}

static void check_service(const struct policy *p, const struct policy_service *s)
{
	static const struct peer_name stranger = {"a", "stranger"};

	must(service_name_is_valid(s->name) && policy_find(p, s->name) == s);
	must(s->channels >= 1 && s->channels <= POLICY_MAX_CHANNELS);
	must(ring_size_is_valid(s->max_ring) && s->line.file && s->line.line > 0);
	ask(p, s, POLICY_BE, NULL);
	ask(p, s, POLICY_LISTEN, NULL);
	ask(p, s, POLICY_CONNECT, &stranger);
	ask(p, s, POLICY_ACCEPT, &stranger);
	for (size_t i = 0; i < s->connect.n; i++)
		ask(p, s, POLICY_CONNECT, &s->connect.items[i].name);
	for (size_t i = 0; i < s->accept.n; i++)
		ask(p, s, POLICY_ACCEPT, &s->accept.items[i].name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct policy *policy = NULL;
	struct conf_error error = {};
	int r;

	files_write(&in);
	r = policy_load(files_root, &policy, &error);
	must(r <= 0 && (r == 0 || error.text[0]));
	if (r == 0) {
		must(policy);
		for (size_t i = 0; i < policy->n_services; i++)
			check_service(policy, &policy->services[i]);
		policy_free(policy);
	}
	return 0;
}
