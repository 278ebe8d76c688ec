/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "ca-internal.h"

int crypto_fail(struct failure *error, const char *what)
{
	unsigned long e = ERR_peek_last_error();
	const char *reason = e ? ERR_reason_error_string(e) : NULL;

	ERR_clear_error();
	return failure_set(error, ERR_FAILED, "%s: %s", what, reason ? reason : "failed");
}

int random_serial(X509 *certificate, char ret_hex[SERIAL_SIZE])
{
	uint8_t bytes[20];
	BIGNUM *number;
	int ok;

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return -EIO;
	bytes[0] = (bytes[0] & 0x7f) | 0x40; /* positive, and of one length */
	number = BN_bin2bn(bytes, sizeof(bytes), NULL);
	ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
	BN_free(number);
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", bytes[i]);
	return ok ? 0 : -ENOMEM;
}

int add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX ctx;
	int ok;

	X509V3_set_ctx(&ctx, issuer, certificate, NULL, NULL, 0);
	X509V3_set_ctx_nodb(&ctx);
	extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = extension && X509_add_ext(certificate, extension, -1);
	X509_EXTENSION_free(extension);
	return ok ? 0 : -EINVAL;
}

int add_uri_san(X509 *certificate, const char *uri, bool critical)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *text = ASN1_IA5STRING_new();
	int r = -ENOMEM;

	if (!names || !name || !text || !ASN1_STRING_set(text, uri, (int)strlen(uri)))
		goto out;
	GENERAL_NAME_set0_value(name, GEN_URI, text);
	text = NULL;
	if (!sk_GENERAL_NAME_push(names, name))
		goto out;
	name = NULL;
	if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, critical,
			      X509V3_ADD_DEFAULT) == 1)
		r = 0;
out:
	ASN1_IA5STRING_free(text);
	GENERAL_NAME_free(name);
	GENERAL_NAMES_free(names);
	return r;
}

int sign(X509 *certificate, EVP_PKEY *key)
{
	const EVP_MD *digest = EVP_sha256();

	if (EVP_PKEY_is_a(key, "ED25519") || EVP_PKEY_is_a(key, "ED448"))
		digest = NULL;
	else if (EVP_PKEY_get_bits(key) == 384)
		digest = EVP_sha384();
	return X509_sign(certificate, key, digest) > 0 ? 0 : -EIO;
}
