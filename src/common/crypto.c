/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "crypto.h"

#include <errno.h>
#include <openssl/core_dispatch.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <string.h>

#include "cleanup.h"

static const struct part {
	int operation;
	const char *name; /* the first that the default provider gives it */
} parts[] = {
	/* TLS_AES_128_GCM_SHA256 and TLS_CHACHA20_POLY1305_SHA256 over X25519 */
	{OSSL_OP_CIPHER, "AES-128-GCM"},
	{OSSL_OP_CIPHER, "ChaCha20-Poly1305"},
	{OSSL_OP_DIGEST, "SHA2-256"},
	{OSSL_OP_MAC, "HMAC"},
	{OSSL_OP_KDF, "TLS13-KDF"},
	{OSSL_OP_KEYMGMT, "X25519"},
	{OSSL_OP_KEYEXCH, "X25519"},
	/* a service's signature */
	{OSSL_OP_KEYMGMT, "EC"},
	{OSSL_OP_SIGNATURE, "ECDSA"},
	{OSSL_OP_DECODER, "EC"},
	/* and those of an administrator's own authorities */
	{OSSL_OP_DIGEST, "SHA2-384"},
	{OSSL_OP_DIGEST, "SHA2-512"},
	{OSSL_OP_KEYMGMT, "RSA"},
	{OSSL_OP_KEYMGMT, "RSA-PSS"},
	{OSSL_OP_SIGNATURE, "RSA"},
	{OSSL_OP_DECODER, "RSA"},
	{OSSL_OP_DECODER, "RSA-PSS"},
	{OSSL_OP_KEYMGMT, "ED25519"},
	{OSSL_OP_SIGNATURE, "ED25519"},
	{OSSL_OP_DECODER, "ED25519"},
	{OSSL_OP_KEYMGMT, "ED448"},
	{OSSL_OP_SIGNATURE, "ED448"},
	{OSSL_OP_DECODER, "ED448"},
	/* by which OpenSSL tells one certificate from another; no signature may have it */
	{OSSL_OP_DIGEST, "SHA1"},
	{OSSL_OP_RAND, "CTR-DRBG"},
	{OSSL_OP_RAND, "SEED-SRC"},
};

/* One of DER, as it is in a certificate; the others read files of keys. */
#define CERTIFICATE_KEY "structure=SubjectPublicKeyInfo"

static OSSL_PROVIDER *whole; /* the default provider, whose algorithms these are */

static bool is_part(int operation, const OSSL_ALGORITHM *a)
{
	size_t length = strcspn(a->algorithm_names, ":");

	if (operation == OSSL_OP_DECODER && !strstr(a->property_definition, CERTIFICATE_KEY))
		return false;
	for (size_t i = 0; i < ELEMENTSOF(parts); i++)
		if (parts[i].operation == operation && strlen(parts[i].name) == length &&
		    memcmp(parts[i].name, a->algorithm_names, length) == 0)
			return true;
	return false;
}

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
	static OSSL_ALGORITHM few[OSSL_OP__HIGHEST + 1][ELEMENTSOF(parts) + 1];
	const OSSL_ALGORITHM *a;
	size_t n = 0;

	(void)provider;
	if (operation < 0 || operation > OSSL_OP__HIGHEST)
		return NULL;
	a = OSSL_PROVIDER_query_operation(whole, operation, no_cache);
	for (; a && a->algorithm_names && n < ELEMENTSOF(parts); a++)
		if (is_part(operation, a))
			few[operation][n++] = *a;
	few[operation][n] = (OSSL_ALGORITHM){};
	return few[operation];
}

/* Groups of TLS: those whose algorithms are there can be used. */
static int capabilities(void *provider, const char *capability, OSSL_CALLBACK *each, void *userdata)
{
	(void)provider;
	return OSSL_PROVIDER_get_capabilities(whole, capability, each, userdata);
}

static int start(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **ret,
		 void **ret_provider)
{
	static const OSSL_DISPATCH functions[] = {
		{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
		{OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
		{},
	};

	(void)handle;
	(void)in;
	*ret = functions;
	*ret_provider = OSSL_PROVIDER_get0_provider_ctx(whole); /* what its algorithms are given */
	return 1;
}

static OSSL_LIB_CTX *context_new(void)
{
	OSSL_LIB_CTX *context = OSSL_LIB_CTX_new();

	if (!whole)
		whole = OSSL_PROVIDER_load(NULL, "default");
	if (context && whole && OSSL_PROVIDER_add_builtin(context, "sivshm", start) == 1 &&
	    OSSL_PROVIDER_load(context, "sivshm"))
		return context;
	OSSL_LIB_CTX_free(context);
	ERR_clear_error();
	return NULL;
}

OSSL_LIB_CTX *crypto_context(void)
{
	static OSSL_LIB_CTX *context;

	if (!context)
		context = context_new();
	return context;
}

/* What every generator of @context takes its seed from. */
static int mix_into(OSSL_LIB_CTX *context, const void *bytes, size_t size)
{
	EVP_RAND_CTX *primary = RAND_get0_primary(context);

	return primary && EVP_RAND_reseed(primary, 0, NULL, 0, bytes, size) == 1 ? 0 : -ENOMEM;
}

int crypto_mix(const void *bytes, size_t size)
{
	OSSL_LIB_CTX *context = crypto_context();
	int r = context ? mix_into(context, bytes, size) : -ENOMEM;

	if (r >= 0)
		r = mix_into(NULL, bytes, size); /* where keys are made from, in both contexts */
	ERR_clear_error();
	return r;
}
