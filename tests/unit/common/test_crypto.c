/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <openssl/core_names.h>
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "cleanup.h"
#include "crypto.h"

/* The certificate of @key, as it comes from a peer.  @digest NULL: @signer has its own. */
static int certificate_of(EVP_PKEY *key, EVP_PKEY *signer, const EVP_MD *digest,
			  unsigned char **ret)
{
	X509 *x = X509_new();
	int size;

	assert_int_equal(X509_set_pubkey(x, key), 1);
	assert_int_equal(X509_set_version(x, X509_VERSION_3), 1);
	assert_non_null(X509_gmtime_adj(X509_getm_notBefore(x), 0));
	assert_non_null(X509_gmtime_adj(X509_getm_notAfter(x), 60));
	assert_true(X509_sign(x, signer, digest) > 0);
	size = i2d_X509(x, ret);
	assert_true(size > 0);
	X509_free(x);
	return size;
}

static X509 *read_in(OSSL_LIB_CTX *context, const unsigned char *der, int size)
{
	X509 *x = X509_new_ex(context, NULL);

	assert_non_null(d2i_X509(&x, &der, size));
	return x;
}

static EVP_PKEY *key_of(const char *type)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	EVP_PKEY *key = NULL;

	assert_int_equal(EVP_PKEY_keygen_init(ctx), 1);
	if (!strcmp(type, "EC"))
		assert_int_equal(EVP_PKEY_CTX_set_group_name(ctx, "P-384"), 1);
	assert_int_equal(EVP_PKEY_generate(ctx, &key), 1);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

static void verify(const char *type, const EVP_MD *digest)
{
	EVP_PKEY *key = key_of(type), *other = key_of(type);
	unsigned char *der = NULL;
	int size = certificate_of(key, key, digest, &der);
	X509 *x = read_in(crypto_context(), der, size);

	if (X509_verify(x, X509_get0_pubkey(x)) != 1)
		fail_msg("%s: the signature does not verify", type);
	assert_true(X509_verify(x, other) != 1);
	ERR_clear_error();
	X509_free(x);
	OPENSSL_free(der);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

/* Whatever an administrator's CA may have. */
static void signatures(void **state)
{
	static const char *const types[] = {"EC", "RSA", "RSA-PSS"};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(types); i++) {
		verify(types[i], EVP_sha256());
		verify(types[i], EVP_sha384());
		verify(types[i], EVP_sha512());
	}
	verify("ED25519", NULL);
	verify("ED448", NULL);
}

/* Keys that sign nothing here: OpenSSL as it is knows them. */
static void other_keys(void **state)
{
	static const char *const types[] = {"X25519", "X448"};
	EVP_PKEY *signer = EVP_EC_gen("P-256");

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(types); i++) {
		EVP_PKEY *key = key_of(types[i]);
		unsigned char *der = NULL;
		int size = certificate_of(key, signer, EVP_sha256(), &der);
		X509 *whole = read_in(NULL, der, size), *x = read_in(crypto_context(), der, size);

		assert_non_null(X509_get0_pubkey(whole));
		assert_null(X509_get0_pubkey(x));
		ERR_clear_error();
		X509_free(whole);
		X509_free(x);
		OPENSSL_free(der);
		EVP_PKEY_free(key);
	}
	EVP_PKEY_free(signer);
}

static void count(OSSL_DECODER *decoder, void *userdata)
{
	(void)decoder;
	++*(unsigned *)userdata;
}

/* Nor files of keys, which peers do not send: one decoder for each type of key there is. */
static void few_decoders(void **state)
{
	OSSL_DECODER *known = OSSL_DECODER_fetch(NULL, "EC", "structure=PrivateKeyInfo");
	unsigned n = 0;

	(void)state;
	assert_non_null(known);
	OSSL_DECODER_free(known);
	assert_null(OSSL_DECODER_fetch(crypto_context(), "EC", "structure=PrivateKeyInfo"));
	OSSL_DECODER_do_all_provided(crypto_context(), count, &n);
	assert_int_equal(n, 5);
	ERR_clear_error();
}

static void nothing_else(void **state)
{
	static const char *const ciphers[] = {"AES-256-GCM", "AES-128-CBC", "DES-EDE3-CBC"};
	OSSL_LIB_CTX *c = crypto_context();
	OSSL_PROVIDER *provider;
	int no_cache;

	(void)state;
	assert_non_null(c);
	assert_ptr_equal(c, crypto_context());
	for (size_t i = 0; i < ELEMENTSOF(ciphers); i++) {
		EVP_CIPHER *known = EVP_CIPHER_fetch(NULL, ciphers[i], NULL);

		assert_non_null(known);
		assert_null(EVP_CIPHER_fetch(c, ciphers[i], NULL));
		EVP_CIPHER_free(known);
	}
	assert_null(EVP_MD_fetch(c, "MD5", NULL));
	assert_null(EVP_KDF_fetch(c, "PBKDF2", NULL));
	assert_int_equal(OSSL_PROVIDER_available(c, "default"), 0);
	/* nor what a later OpenSSL may ask for */
	provider = OSSL_PROVIDER_try_load(c, "sivshm", 1);
	assert_non_null(provider);
	assert_null(OSSL_PROVIDER_query_operation(provider, 1000, &no_cache));
	assert_null(OSSL_PROVIDER_query_operation(provider, -1, &no_cache));
	OSSL_PROVIDER_unload(provider);
	ERR_clear_error();
}

/* Both that docs/protocol.md has. */
static void suites(void **state)
{
	static const char *const names[] = {"TLS_AES_128_GCM_SHA256",
					    "TLS_CHACHA20_POLY1305_SHA256"};
	SSL_CTX *context = SSL_CTX_new_ex(crypto_context(), NULL, TLS_method());

	(void)state;
	assert_non_null(context);
	assert_int_equal(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION), 1);
	for (size_t i = 0; i < ELEMENTSOF(names); i++) {
		SSL *ssl;
		STACK_OF(SSL_CIPHER) * usable;

		assert_int_equal(SSL_CTX_set_ciphersuites(context, names[i]), 1);
		ssl = SSL_new(context);
		usable = SSL_get1_supported_ciphers(ssl);
		assert_int_equal(sk_SSL_CIPHER_num(usable), 1);
		assert_string_equal(SSL_CIPHER_get_name(sk_SSL_CIPHER_value(usable, 0)), names[i]);
		sk_SSL_CIPHER_free(usable);
		SSL_free(ssl);
	}
	SSL_CTX_free(context);
}

static unsigned reseeds(OSSL_LIB_CTX *context)
{
	unsigned n = 0;
	OSSL_PARAM wanted[] = {OSSL_PARAM_uint(OSSL_DRBG_PARAM_RESEED_COUNTER, &n), OSSL_PARAM_END};

	assert_int_equal(EVP_RAND_CTX_get_params(RAND_get0_primary(context), wanted), 1);
	return n;
}

static void mixed(void **state)
{
	OSSL_LIB_CTX *contexts[] = {NULL, crypto_context()};
	EVP_RAND *source = EVP_RAND_fetch(crypto_context(), "SEED-SRC", NULL);
	unsigned before[ELEMENTSOF(contexts)];

	(void)state;
	/* the seed of one comes from where that of the other does */
	assert_non_null(source);
	EVP_RAND_free(source);
	for (size_t i = 0; i < ELEMENTSOF(contexts); i++)
		before[i] = reseeds(contexts[i]);
	assert_int_equal(crypto_mix("0123456789abcdef0123456789abcdef", 32), 0);
	for (size_t i = 0; i < ELEMENTSOF(contexts); i++)
		assert_int_equal(reseeds(contexts[i]), before[i] + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signatures),	cmocka_unit_test(other_keys),
		cmocka_unit_test(few_decoders), cmocka_unit_test(nothing_else),
		cmocka_unit_test(suites),	cmocka_unit_test(mixed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
