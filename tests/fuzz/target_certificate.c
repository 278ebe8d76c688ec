/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A peer's certificate: extensions as the input has them, signed by the CA that is trusted, shown
 * in a handshake that is right in all else.  The CA of a fleet may sign for others too, and other
 * things than sivshm-cad does.
 *
 * Input: extensions, each by kind, critical or not, length, value (DER).
 */
#include <openssl/err.h>

#include "handshake-verify.h"
#include "peer.h"

#define EXTENSIONS_MAX 8

static const int kinds[] = {NID_subject_alt_name,	 NID_key_usage,
			    NID_ext_key_usage,		 NID_basic_constraints,
			    NID_name_constraints,	 NID_netscape_comment,
			    NID_subject_key_identifier,	 NID_authority_key_identifier,
			    NID_certificate_policies,	 NID_policy_constraints,
			    NID_crl_distribution_points, NID_inhibit_any_policy,
			    NID_issuer_alt_name,	 NID_sinfo_access};

static EVP_PKEY *keys[3];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	peer_init();
	keys[0] = EVP_EC_gen("P-256");
	keys[1] = EVP_EC_gen("P-384");
	keys[2] = EVP_RSA_gen(2048U);
	must(keys[0] && keys[1] && keys[2]);
	return 0;
}

static void add_extension(X509 *certificate, struct input *in)
{
	uint8_t kind = input_u8(in), critical = input_u8(in);
	struct input value = input_part(in, input_u8(in));
	ASN1_OCTET_STRING *octets = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e;

	must(octets && ASN1_OCTET_STRING_set(octets, value.data, (int)value.size) == 1);
	e = X509_EXTENSION_create_by_NID(NULL, kinds[kind % (sizeof(kinds) / sizeof(kinds[0]))],
					 critical & 1, octets);
	must(e && X509_add_ext(certificate, e, -1) == 1);
	X509_EXTENSION_free(e);
	ASN1_OCTET_STRING_free(octets);
}

static X509 *make(struct input *in, EVP_PKEY *key)
{
	X509 *c = X509_new();

	must(c && X509_set_version(c, X509_VERSION_3) == 1);
	must(ASN1_INTEGER_set(X509_get_serialNumber(c), 7) == 1);
	must(X509_set_pubkey(c, key) == 1);
	must(ASN1_TIME_set(X509_getm_notBefore(c), (time_t)PKI_NOW - 60) != NULL);
	must(ASN1_TIME_set(X509_getm_notAfter(c), (time_t)PKI_NOW + 3600) != NULL);
	must(X509_set_issuer_name(c, X509_get_subject_name(peer_ca.certificate)) == 1);
	for (unsigned n = 0; in->size > 0 && n < EXTENSIONS_MAX; n++)
		add_extension(c, in);
	must(X509_sign(c, peer_ca.key, EVP_sha256()) > 0);
	return c;
}

/* Said in other words: the one extension that names it is SEQUENCE { [6] "spiffe://..." }, byte for
 * byte. */
static bool names_b_alone(X509 *c)
{
	static const char der[] = "\x30\x30\x86\x2e" ID_B;
	int at = X509_get_ext_by_NID(c, NID_subject_alt_name, -1);
	const ASN1_OCTET_STRING *value;

	must(sizeof(der) - 1 == 0x30 + 2);
	if (at < 0 || X509_get_ext_by_NID(c, NID_subject_alt_name, at) >= 0)
		return false;
	value = X509_EXTENSION_get_data(X509_get_ext(c, at));
	return ASN1_STRING_length(value) == sizeof(der) - 1 &&
	       memcmp(ASN1_STRING_get0_data(value), der, sizeof(der) - 1) == 0;
}

static void show(X509 *certificate, EVP_PKEY *key, const char *wrong)
{
	struct pki_pair pair = {key, certificate};
	struct handshake *ours = peer_ours(true);
	struct flight hello, flight, last;
	struct failure error;
	SSL *peer;
	int r;

	must(handshake_start(ours, &hello, NULL) == 0);
	peer = peer_with(false, 0, &pair);
	flight = peer_talk(peer, &hello, 0);
	r = handshake_step(ours, &flight, &last, &error);
	if (r < 0) {
		must(!last.data);
		peer_check_failed(ours, r, &error);
	} else {
		must(!wrong && key == keys[0] && names_b_alone(certificate));
		must(X509_get_extended_key_usage(certificate) & XKU_SSL_CLIENT);
		must(X509_get_extended_key_usage(certificate) & XKU_SSL_SERVER);
		must(X509_get_key_usage(certificate) & KU_DIGITAL_SIGNATURE);
		must(X509_check_ca(certificate) != 1);
	}
	flight_done(&hello);
	flight_done(&flight);
	flight_done(&last);
	handshake_free(ours);
	SSL_free(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t which = input_u8(&in);
	EVP_PKEY *key = keys[which < 240 ? 0 : which % 3];
	X509 *certificate;
	const char *wrong;

	peer_restart();
	certificate = make(&in, key);
	wrong = leaf_certificate_check(certificate, ID_B);
	must(wrong || names_b_alone(certificate));
	if (!wrong || which % 8 == 1) /* a handshake takes long: some of the refused are enough */
		show(certificate, key, wrong);
	ERR_clear_error();
	X509_free(certificate);
	return 0;
}
