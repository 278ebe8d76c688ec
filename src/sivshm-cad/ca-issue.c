/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

#include "bio-text.h"
#include "ca-internal.h"
#include "csr.h"
#include "message.h"

void issued_done(struct issued *issued)
{
	free(issued->pem);
	*issued = (struct issued){};
}

/* end_of_life() - of the leaf: never beyond the CA's own */
static int64_t end_of_life(const struct ca *ca, int64_t now, uint64_t lifetime_sec)
{
	ASN1_TIME *wanted = ASN1_TIME_set(NULL, (time_t)(now + (int64_t)lifetime_sec));
	const ASN1_TIME *last = X509_get0_notAfter(ca->certificate);
	int days = 0, seconds = 0;

	if (wanted && ASN1_TIME_diff(&days, &seconds, wanted, last) && (days < 0 || seconds < 0))
		lifetime_sec = (uint64_t)((int64_t)lifetime_sec + days * 86400LL + seconds);
	ASN1_TIME_free(wanted);
	return now + (int64_t)lifetime_sec;
}

/* make_extensions() - those that all leaves have */
static int make_extensions(const struct ca *ca, X509 *leaf)
{
	if (add_extension(leaf, ca->certificate, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
	    add_extension(leaf, ca->certificate, NID_key_usage, "critical,digitalSignature") < 0 ||
	    add_extension(leaf, ca->certificate, NID_ext_key_usage, "serverAuth,clientAuth") < 0 ||
	    add_extension(leaf, ca->certificate, NID_authority_key_identifier, "keyid") < 0)
		return -EIO;
	return 0;
}

/* copy_extensions() - the same, without reading OpenSSL's syntax again */
static int copy_extensions(const struct ca *ca, X509 *leaf)
{
	for (int i = 0; i < X509_get_ext_count(ca->sample); i++)
		if (!X509_add_ext(leaf, X509_get_ext(ca->sample, i), -1))
			return -ENOMEM;
	return 0;
}

/* fill_leaf() - all but extensions, key and name */
static int fill_leaf(const struct ca *ca, X509 *leaf, struct issued *issued)
{
	if (!X509_set_version(leaf, X509_VERSION_3) || random_serial(leaf, issued->serial) < 0 ||
	    !X509_set_issuer_name(leaf, X509_get_subject_name(ca->certificate)) ||
	    !ASN1_TIME_set(X509_getm_notBefore(leaf), (time_t)issued->not_before) ||
	    !ASN1_TIME_set(X509_getm_notAfter(leaf), (time_t)issued->not_after))
		return -EIO;
	return 0;
}

X509 *sample_leaf(const struct ca *ca, int64_t now)
{
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
	_cleanup_(X509_freep) X509 *leaf = X509_new();
	struct issued issued = {.not_before = now - BACKDATE_SEC, .not_after = now + BACKDATE_SEC};

	if (!key || !leaf || fill_leaf(ca, leaf, &issued) < 0 || make_extensions(ca, leaf) < 0 ||
	    !X509_set_pubkey(leaf, key) || sign(leaf, ca->key) < 0)
		return NULL;
	return TAKE_PTR(leaf);
}

static char *chain_to_pem(const struct ca *ca, X509 *leaf)
{
	_cleanup_(BIO_freep) BIO *bio = BIO_new(BIO_s_mem());

	if (!bio || !PEM_write_bio_X509(bio, leaf))
		return NULL;
	if (X509_self_signed(ca->certificate, 0) != 1)
		PEM_write_bio_X509(bio, ca->certificate);
	for (int i = 0; i < sk_X509_num(ca->chain); i++)
		PEM_write_bio_X509(bio, sk_X509_value(ca->chain, i));
	return BIO_pending(bio) < PEM_MAX ? bio_text(bio) : NULL;
}

int ca_issue(const struct ca *ca, const char *csr, const char *spiffe_id, int64_t now,
	     uint64_t lifetime_sec, struct issued *ret, struct failure *error)
{
	_cleanup_(csr_freep) struct csr *request = NULL;
	_cleanup_(X509_freep) X509 *leaf = X509_new();
	struct issued issued = {.not_before = now - BACKDATE_SEC};
	int r = csr_read(csr, X509_get0_pubkey(ca->sample), &request, error);

	if (r < 0)
		return r;
	issued.not_after = end_of_life(ca, now, lifetime_sec);
	if (issued.not_after <= now)
		return failure_set(error, ERR_FAILED, "the CA's certificate has expired");
	/* the name is critical, for the subject is empty (RFC 5280) */
	if (!leaf || fill_leaf(ca, leaf, &issued) < 0 || copy_extensions(ca, leaf) < 0 ||
	    csr_copy_key(request, leaf) < 0 || add_uri_san(leaf, spiffe_id, true) < 0 ||
	    sign(leaf, ca->key) < 0)
		return crypto_fail(error, "making the certificate");
	issued.pem = chain_to_pem(ca, leaf);
	if (!issued.pem)
		return failure_set(error, ERR_NO_MEMORY, "out of memory");
	*ret = issued;
	return 0;
}
