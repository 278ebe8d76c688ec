/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* First start: a self-signed CA of its own. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "ca-internal.h"

#define CA_LIFETIME_SEC (10 * 365 * 24 * 3600L)

static int set_subject(X509 *certificate, const char *trust_domain)
{
	X509_NAME *name = X509_get_subject_name(certificate);
	char cn[64]; /* ub-common-name; the trust domain in full is in the URI SAN */

	snprintf(cn, sizeof(cn), "sivshm CA %s", trust_domain);
	return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1,
					  -1, 0) &&
			       X509_set_issuer_name(certificate, name)
		       ? 0
		       : -ENOMEM;
}

static int fill_certificate(X509 *certificate, EVP_PKEY *key, const char *trust_domain)
{
	char uri[TRUST_DOMAIN_SIZE + 16], serial[SERIAL_SIZE];

	snprintf(uri, sizeof(uri), "spiffe://%s", trust_domain);
	if (!X509_set_version(certificate, X509_VERSION_3) ||
	    !X509_gmtime_adj(X509_getm_notBefore(certificate), -BACKDATE_SEC) ||
	    !X509_gmtime_adj(X509_getm_notAfter(certificate), CA_LIFETIME_SEC) ||
	    !X509_set_pubkey(certificate, key) || random_serial(certificate, serial) < 0 ||
	    set_subject(certificate, trust_domain) < 0 ||
	    add_extension(certificate, certificate, NID_basic_constraints,
			  "critical,CA:TRUE,pathlen:0") < 0 ||
	    add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign") <
		    0 ||
	    add_extension(certificate, certificate, NID_subject_key_identifier, "hash") < 0 ||
	    add_uri_san(certificate, uri, false) < 0)
		return -EIO;
	return sign(certificate, key);
}

/* write_file() - all or nothing: a half-written CA would be refused at every later start */
static int write_file(const char *path, mode_t mode, BIO *content)
{
	_cleanup_free_ char *temporary = NULL;
	_cleanup_close_ int fd = -1;
	char *data;
	long n = BIO_get_mem_data(content, &data);

	if (asprintf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	unlink(temporary);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	if (write(fd, data, (size_t)n) != n || fsync(fd) < 0 || rename(temporary, path) < 0)
		return errno ? -errno : -EIO;
	return 0;
}

int ca_make(const char *key_file, const char *certificate_file, const char *trust_domain,
	    struct failure *error)
{
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
	_cleanup_(X509_freep) X509 *certificate = X509_new();
	_cleanup_(BIO_freep) BIO *key_pem = BIO_new(BIO_s_secmem());
	_cleanup_(BIO_freep) BIO *certificate_pem = BIO_new(BIO_s_mem());
	int r;

	if (!key || !certificate || !key_pem || !certificate_pem ||
	    fill_certificate(certificate, key, trust_domain) < 0 ||
	    !PEM_write_bio_PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL) ||
	    !PEM_write_bio_X509(certificate_pem, certificate))
		return crypto_fail(error, "making the CA");
	/* key first: a certificate without key is an error at the next start, a key alone is made
	 * anew */
	r = write_file(key_file, 0600, key_pem);
	if (r >= 0)
		r = write_file(certificate_file, 0644, certificate_pem);
	if (r < 0)
		return failure_set(error, ERR_FAILED, "%s: %s", key_file, strerror(-r));
	return 0;
}
