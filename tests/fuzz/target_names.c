/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names, SPIFFE ids and the values of configuration keys: each line of the input through all of
 * them. */
#include <errno.h>

#include "fuzz.h"
#include "conf.h"
#include "errors.h"
#include "message.h"
#include "names.h"

static void check_name(bool valid, const char *name, size_t size)
{
	if (!valid)
		return;
	must(name[0] && strlen(name) < size);
	for (const char *p = name; *p; p++)
		must((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || strchr("._-", *p));
}

static void try_names(const char *text)
{
	check_name(vm_name_is_valid(text), text, SIVSHM_VM_NAME_SIZE);
	check_name(region_name_is_valid(text), text, SIVSHM_REGION_NAME_SIZE);
	check_name(service_name_is_valid(text), text, SIVSHM_SERVICE_NAME_SIZE);
	check_name(trust_domain_is_valid(text), text, TRUST_DOMAIN_SIZE);
}

static void try_peer(const char *text)
{
	char again[PEER_NAME_SIZE];
	struct peer_name name;

	if (peer_name_parse(text, &name) < 0)
		return;
	must(vm_name_is_valid(name.vm) && service_name_is_valid(name.service));
	peer_name_format(&name, again);
	must(strcmp(again, text) == 0 && peer_name_equal(&name, &name));
}

/* Exactly one id for each name: no alias of another service gets through. */
static void try_spiffe_id(const char *text)
{
	char trust_domain[TRUST_DOMAIN_SIZE], again[SPIFFE_ID_SIZE];
	struct peer_name name;

	if (spiffe_id_parse(text, trust_domain, &name) < 0)
		return;
	must(trust_domain_is_valid(trust_domain));
	must(vm_name_is_valid(name.vm) && service_name_is_valid(name.service));
	spiffe_id_format(trust_domain, &name, again);
	must(strcmp(again, text) == 0);
}

static void try_numbers(const char *text)
{
	uint64_t number;
	unsigned small;
	int r;

	r = conf_parse_size(text, &number);
	must(r == 0 || r == -EINVAL || r == -ERANGE);
	must(r < 0 || (text[0] >= '0' && text[0] <= '9'));
	r = conf_parse_time(text, &number);
	must(r == 0 || r == -EINVAL || r == -ERANGE);
	r = conf_parse_unsigned(text, 3, 4000, &small);
	must(r == 0 || r == -EINVAL || r == -ERANGE);
	must(r < 0 || (small >= 3 && small <= 4000));
}

static void try_ids(const char *text)
{
	uint32_t uid, gid;

	if (conf_parse_user(text, &uid, &gid) >= 0)
		must(uid != UINT32_MAX && uid != 0xffff);
	if (conf_parse_group(text, &gid) >= 0)
		must(gid != UINT32_MAX && gid != 0xffff);
}

static void try_words(const char *text)
{
	char **words;
	size_t n, total = 0;

	must(conf_split(text, &words, &n) == 0);
	for (size_t i = 0; i < n; i++) {
		must(words[i][0] && !strpbrk(words[i], " \t"));
		total += strlen(words[i]);
	}
	must(!words[n] && total <= strlen(text));
	conf_words_free(words);
}

static void try_hex(const char *text)
{
	uint8_t data[SESSION_ID_SIZE];
	char again[2 * SESSION_ID_SIZE + 1];

	if (hex_decode(text, data, sizeof(data)) < 0)
		return;
	hex_encode(data, sizeof(data), again);
	must(strcmp(text, again) == 0);
}

/* What goes to JSON, the bus and terminals is UTF-8 without control characters, and cleaning it
 * once is enough. */
static void try_failure(const char *text)
{
	struct failure f, again;
	json_t *string;

	failure_set(&f, ERR_FAILED, "%s", text);
	for (const char *p = f.text; *p; p++)
		must((unsigned char)*p >= 0x20 && *p != 0x7f);
	failure_set(&again, ERR_FAILED, "%s", f.text);
	must(strcmp(f.text, again.text) == 0);
	string = json_string(f.text);
	must(string);
	json_decref(string);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	while (in.size > 0) {
		char *text = input_line(&in);

		try_names(text);
		try_peer(text);
		try_spiffe_id(text);
		try_numbers(text);
		try_ids(text);
		try_words(text);
		try_hex(text);
		try_failure(text);
		free(text);
	}
	return 0;
}
