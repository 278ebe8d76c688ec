/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pki.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool ok)
{
	if (ok)
		return;
	ERR_print_errors_fp(stderr);
	abort();
}

static void add_extension(X509 *certificate, int nid, const char *value)
{
	X509_EXTENSION *e;

	if (!value || !*value)
		return;
	e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
	must(e && X509_add_ext(certificate, e, -1));
	X509_EXTENSION_free(e);
}

static const char *value_or(const char *value, const char *otherwise)
{
	return value ? value : otherwise;
}

static EVP_PKEY *make_key(const char *curve)
{
	EVP_PKEY *key = strcmp(curve, "RSA") == 0 ? EVP_RSA_gen(2048U) : EVP_EC_gen(curve);

	must(key != NULL);
	return key;
}

static void set_validity(X509 *certificate, const struct pki_options *o)
{
	int64_t from = o->not_before ? o->not_before : PKI_NOW - 60;
	int64_t lifetime = o->lifetime ? o->lifetime : 3600;

	must(ASN1_TIME_set(X509_getm_notBefore(certificate), (time_t)from) != NULL);
	must(ASN1_TIME_set(X509_getm_notAfter(certificate), (time_t)(from + lifetime)) != NULL);
}

static void set_name(X509 *certificate, const char *name, const struct pki_pair *issuer)
{
	X509_NAME *subject = X509_get_subject_name(certificate);

	must(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name,
					-1, -1, 0) == 1);
	must(X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer->certificate)
						      : subject) == 1);
}

struct pki_pair pki_issue(const char *name, const struct pki_pair *issuer,
			  const struct pki_options *o)
{
	static long serial = 1000;
	struct pki_pair p = {.key = make_key(value_or(o->curve, "P-256")),
			     .certificate = X509_new()};

	must(p.certificate && X509_set_version(p.certificate, X509_VERSION_3) == 1);
	must(ASN1_INTEGER_set(X509_get_serialNumber(p.certificate), ++serial) == 1);
	must(X509_set_pubkey(p.certificate, p.key) == 1);
	set_name(p.certificate, name, issuer);
	set_validity(p.certificate, o);
	add_extension(p.certificate, NID_basic_constraints,
		      o->is_ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
	add_extension(p.certificate, NID_key_usage,
		      value_or(o->usage, o->is_ca ? "critical,keyCertSign,cRLSign"
						  : "critical,digitalSignature"));
	add_extension(p.certificate, NID_ext_key_usage,
		      value_or(o->extended_usage, o->is_ca ? "" : "clientAuth,serverAuth"));
	add_extension(p.certificate, NID_subject_alt_name, o->san);
	if (o->extra)
		must(X509_add_ext(p.certificate, o->extra, -1) == 1);
	must(X509_sign(p.certificate, issuer ? issuer->key : p.key, EVP_sha256()) > 0);
	return p;
}

struct pki_pair pki_ca(const char *name, const struct pki_pair *issuer)
{
	return pki_issue(name, issuer,
			 &(struct pki_options){.is_ca = true, .lifetime = 86400 * 365});
}

struct pki_pair pki_leaf(const struct pki_pair *issuer, const char *id)
{
	char san[400];

	snprintf(san, sizeof(san), "URI:%s", id);
	return pki_issue("leaf", issuer, &(struct pki_options){.san = san});
}

void pki_done(struct pki_pair *p)
{
	EVP_PKEY_free(p->key);
	X509_free(p->certificate);
	*p = (struct pki_pair){};
}

X509_STORE *pki_store(const struct pki_pair *ca)
{
	X509_STORE *store = X509_STORE_new();

	must(store && X509_STORE_add_cert(store, ca->certificate) == 1);
	return store;
}
