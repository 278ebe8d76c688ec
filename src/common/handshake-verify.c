/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <openssl/core_names.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>

#include "handshake-verify.h"

#define BOTH_USES (XKU_SSL_CLIENT | XKU_SSL_SERVER)

/*
 * OpenSSL also reads BER, and leaves alone what comes behind.  Who reads such bytes otherwise may
 * see another name in them.
 */
static bool is_der(X509 *certificate, const GENERAL_NAMES *names)
{
	int at = X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1);
	const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(X509_get_ext(certificate, at));
	unsigned char *der = NULL;
	int size = i2d_GENERAL_NAMES(names, &der);
	bool same = size > 0 && size == ASN1_STRING_length(value) &&
		    memcmp(der, ASN1_STRING_get0_data(value), (size_t)size) == 0;

	OPENSSL_free(der);
	return same;
}

/* Exactly one name, a URI; two would let one certificate be two services. */
const char *leaf_name_check(X509 *certificate, const char *spiffe_id)
{
	int critical;
	const char *wrong = NULL;
	const GENERAL_NAME *name;
	GENERAL_NAMES *names;

	/* NULL also when the extension is there twice */
	names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
	if (!names)
		return "certificate without a single subject alternative name extension";
	name = sk_GENERAL_NAME_value(names, 0);
	if (sk_GENERAL_NAME_num(names) != 1)
		wrong = "certificate without exactly one subject alternative name";
	else if (name->type != GEN_URI)
		wrong = "subject alternative name is no URI";
	else if ((size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier) !=
			 strlen(spiffe_id) ||
		 memcmp(ASN1_STRING_get0_data(name->d.uniformResourceIdentifier), spiffe_id,
			strlen(spiffe_id)) != 0)
		wrong = "certificate is another service's";
	else if (!is_der(certificate, names))
		wrong = "subject alternative name is not in DER";
	GENERAL_NAMES_free(names);
	return wrong;
}

static const char *check_usage(X509 *certificate)
{
	uint32_t flags = X509_get_extension_flags(certificate);

	if (flags & (EXFLAG_INVALID | EXFLAG_CRITICAL))
		return "certificate with extensions that are invalid or unknown and critical";
	if (flags & EXFLAG_CA)
		return "certificate of a CA used as a service's";
	if (!(flags & EXFLAG_KUSAGE) || !(X509_get_key_usage(certificate) & KU_DIGITAL_SIGNATURE))
		return "certificate without key usage digitalSignature";
	if (!(flags & EXFLAG_XKUSAGE) ||
	    (X509_get_extended_key_usage(certificate) & BOTH_USES) != BOTH_USES)
		return "certificate without extended key usage clientAuth and serverAuth";
	return NULL;
}

static const char *check_key(X509 *certificate)
{
	const EVP_PKEY *key = X509_get0_pubkey(certificate);
	char group[32];

	if (!key || !EVP_PKEY_is_a(key, "EC") ||
	    !EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group),
					    NULL) ||
	    strcmp(group, "prime256v1") != 0)
		return "certificate's key is not on P-256";
	return NULL;
}

const char *leaf_certificate_check(X509 *certificate, const char *spiffe_id)
{
	const char *wrong = check_usage(certificate);

	if (!wrong)
		wrong = check_key(certificate);
	if (!wrong)
		wrong = leaf_name_check(certificate, spiffe_id);
	return wrong;
}
