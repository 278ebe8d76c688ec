/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "bio-text.h"
#include "ca-internal.h"
#include "handshake-verify.h"
#include "message.h"

#define CA_FILE_MAX (256 * 1024)

struct ca *ca_free(struct ca *ca)
{
	if (!ca)
		return NULL;
	EVP_PKEY_free(ca->key);
	X509_free(ca->certificate);
	X509_free(ca->sample);
	sk_X509_pop_free(ca->chain, X509_free);
	free(ca->bundle);
	free(ca);
	return NULL;
}

/* open_file() - into memory, so that what was checked is what is used */
static int open_file(const char *path, bool private, BIO **ret, struct failure *error)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	_cleanup_(BIO_freep) BIO *bio = BIO_new(private ? BIO_s_secmem() : BIO_s_mem());
	char buffer[4096];
	size_t total = 0;
	struct stat st;
	ssize_t n;

	if (!bio)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	if (fd < 0 || fstat(fd, &st) < 0)
		return failure_set(error, ERR_FAILED, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return failure_set(error, ERR_FAILED, "%s: no regular file", path);
	if (private && (st.st_mode & 077))
		return failure_set(error, ERR_FAILED,
				   "%s: others than its owner may use it; chmod 0600 it", path);
	while ((n = read(fd, buffer, sizeof(buffer))) > 0 && (total += (size_t)n) <= CA_FILE_MAX)
		BIO_write(bio, buffer, (int)n);
	OPENSSL_cleanse(buffer, sizeof(buffer));
	if (n != 0)
		return failure_set(error, ERR_FAILED, "%s: %s", path,
				   n < 0 ? strerror(errno) : "too large");
	*ret = TAKE_PTR(bio);
	return 0;
}

static int load_key(struct ca *ca, const char *path, struct failure *error)
{
	_cleanup_(BIO_freep) BIO *bio = NULL;
	int r = open_file(path, true, &bio, error);

	if (r < 0)
		return r;
	ca->key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
	return ca->key ? 0 : crypto_fail(error, path);
}

/* read_certificates() - all of a file, in order */
static STACK_OF(X509) * read_certificates(BIO *bio)
{
	STACK_OF(X509) *stack = sk_X509_new_null();
	X509 *certificate;

	while (stack && (certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL)))
		if (!sk_X509_push(stack, certificate)) {
			X509_free(certificate);
			break;
		}
	ERR_clear_error(); /* reading always ends with "no start line" */
	return stack;
}

static int load_certificates(const char *path, STACK_OF(X509) * *ret, struct failure *error)
{
	_cleanup_(BIO_freep) BIO *bio = NULL;
	int r = open_file(path, false, &bio, error);

	if (r < 0)
		return r;
	*ret = read_certificates(bio);
	if (!*ret || sk_X509_num(*ret) == 0) {
		sk_X509_free(*ret);
		*ret = NULL;
		return failure_set(error, ERR_FAILED, "%s: no certificate in PEM", path);
	}
	return 0;
}

static int make_bundle(struct ca *ca, STACK_OF(X509) * roots, struct failure *error)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new(BIO_s_mem());

	for (int i = 0; bio && i < sk_X509_num(roots); i++)
		PEM_write_bio_X509(bio, sk_X509_value(roots, i));
	if (bio && BIO_pending(bio) >= PEM_MAX)
		return failure_set(error, ERR_FAILED, "the trust bundle is larger than %d bytes",
				   PEM_MAX);
	ca->bundle = bio_text(bio);
	return ca->bundle ? 0 : failure_set(error, ERR_NO_MEMORY, "out of memory");
}

/* does_not_verify() - names the certificate of the chain that is wrong, and where it is from */
static int does_not_verify(X509_STORE_CTX *ctx, const struct ca_files *files, struct failure *error)
{
	X509 *wrong = X509_STORE_CTX_get_current_cert(ctx);
	char subject[128] = "";

	if (wrong)
		X509_NAME_oneline(X509_get_subject_name(wrong), subject, sizeof(subject));
	return failure_set(error, ERR_FAILED,
			   "%s: the CA's certificate does not verify%s%s: %s (%s)",
			   files->certificate, files->bundle ? " by " : "", files->bundle ?: "",
			   X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)), subject);
}

/* As src/common/handshake.c and sivshmd verify: what is in the bundle is trusted, root or not. */
static void verify_like_peers(X509_STORE_CTX *ctx, STACK_OF(X509) * roots, int purpose)
{
	X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);

	X509_STORE_CTX_set0_trusted_stack(ctx, roots);
	X509_STORE_CTX_set_purpose(ctx, purpose);
	X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
	X509_VERIFY_PARAM_set_auth_level(param, CHAIN_SECURITY_LEVEL);
	X509_VERIFY_PARAM_set_depth(param, CHAIN_DEPTH_MAX);
}

static int verify_leaf(X509 *leaf, STACK_OF(X509) * chain, STACK_OF(X509) * roots, int purpose,
		       const struct ca_files *files, struct failure *error)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509_STORE *store = X509_STORE_new();
	int r = 0;

	if (!ctx || !store || !X509_STORE_CTX_init(ctx, store, leaf, chain)) {
		r = failure_set(error, ERR_NO_MEMORY, "out of memory");
		goto out;
	}
	verify_like_peers(ctx, roots, purpose);
	if (X509_verify_cert(ctx) != 1)
		r = does_not_verify(ctx, files, error);
out:
	ERR_clear_error();
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	return r;
}

/* check_chain() - would a verifier who trusts @roots accept what this CA signs?  Only a trial
 * tells: authorities above may have forbidden it in many ways. */
static int check_chain(struct ca *ca, STACK_OF(X509) * roots, const struct ca_files *files,
		       struct failure *error)
{
	STACK_OF(X509) *chain = sk_X509_dup(ca->chain); /* owns none of them */
	int r;

	ca->sample = sample_leaf(ca, time(NULL));
	if (!ca->sample || !chain || !sk_X509_unshift(chain, ca->certificate)) {
		sk_X509_free(chain);
		return crypto_fail(error, files->key);
	}
	r = verify_leaf(ca->sample, chain, roots, X509_PURPOSE_SSL_SERVER, files, error);
	if (r >= 0)
		r = verify_leaf(ca->sample, chain, roots, X509_PURPOSE_SSL_CLIENT, files, error);
	sk_X509_free(chain);
	return r;
}

static int check_certificate(struct ca *ca, const struct ca_files *files, struct failure *error)
{
	if (X509_check_private_key(ca->certificate, ca->key) != 1) {
		ERR_clear_error();
		return failure_set(error, ERR_FAILED,
				   "%s and the first certificate of %s do not belong together",
				   files->key, files->certificate);
	}
	if (X509_check_ca(ca->certificate) != 1 ||
	    !(X509_get_key_usage(ca->certificate) & KU_KEY_CERT_SIGN))
		return failure_set(error, ERR_FAILED,
				   "%s: the first certificate is not that of a CA that may sign "
				   "(CA:TRUE, keyCertSign)",
				   files->certificate);
	return 0;
}

/* load_bundle() - trusted roots; without a file the CA itself, which has to be self-signed then */
static int load_bundle(struct ca *ca, const struct ca_files *files, STACK_OF(X509) * *ret,
		       struct failure *error)
{
	if (files->bundle)
		return load_certificates(files->bundle, ret, error);
	if (X509_self_signed(ca->certificate, 1) != 1) {
		ERR_clear_error();
		return failure_set(error, ERR_FAILED,
				   "%s: the CA is an intermediate: BundleFile= or the credential "
				   "ca.bundle has to be its root",
				   files->certificate);
	}
	*ret = sk_X509_new_null();
	if (!*ret || !X509_up_ref(ca->certificate) || !sk_X509_push(*ret, ca->certificate))
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	return 0;
}

int ca_load(const struct ca_files *files, struct ca **ret, struct failure *error)
{
	_cleanup_(ca_freep) struct ca *ca = calloc(1, sizeof(*ca));
	STACK_OF(X509) *roots = NULL;
	int r;

	if (!ca)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	r = load_key(ca, files->key, error);
	if (r >= 0)
		r = load_certificates(files->certificate, &ca->chain, error);
	if (r < 0)
		return r;
	ca->certificate = sk_X509_shift(ca->chain);
	r = check_certificate(ca, files, error);
	if (r >= 0)
		r = load_bundle(ca, files, &roots, error);
	if (r >= 0)
		r = check_chain(ca, roots, files, error);
	if (r >= 0)
		r = make_bundle(ca, roots, error);
	sk_X509_pop_free(roots, X509_free);
	if (r >= 0)
		*ret = TAKE_PTR(ca);
	return r;
}
