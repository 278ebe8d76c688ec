/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <time.h>

#include "bio-text.h"
#include "ca-internal.h"
#include "fixture.h"

#define ID "spiffe://test.example/vm/a/service/sensor"

static char key_file[100], certificate_file[100], other_file[100];
static struct failure why;
static struct ca *ca;

static int begin(void **state)
{
	struct ca_files files = {key_file, certificate_file, NULL};

	set_up(state);
	snprintf(key_file, sizeof(key_file), "%s/key", root);
	snprintf(certificate_file, sizeof(certificate_file), "%s/crt", root);
	snprintf(other_file, sizeof(other_file), "%s/other", root);
	assert_int_equal(ca_make(key_file, certificate_file, "test.example", &why), 0);
	assert_int_equal(ca_load(&files, &ca, &why), 0);
	return 0;
}

static int end(void **state)
{
	ca = ca_free(ca);
	return tear_down(state);
}

static EVP_PKEY *make_key(const char *kind)
{
	if (strcmp(kind, "ED25519") == 0)
		return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	if (strcmp(kind, "RSA") == 0)
		return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
	return EVP_PKEY_Q_keygen(NULL, NULL, "EC", kind);
}

/* make_csr() - one that also asks for rights it is not to get; signed by @signer */
static char *make_csr(EVP_PKEY *key, EVP_PKEY *signer)
{
	STACK_OF(X509_EXTENSION) *extensions = sk_X509_EXTENSION_new_null();
	X509_REQ *csr = X509_REQ_new();
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;

	X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(csr), "CN", MBSTRING_ASC,
				   (const unsigned char *)"root", -1, -1, 0);
	sk_X509_EXTENSION_push(extensions, X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints,
							       "critical,CA:TRUE"));
	sk_X509_EXTENSION_push(extensions, X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
							       "URI:spiffe://test.example/vm/b"));
	X509_REQ_add_extensions(csr, extensions);
	X509_REQ_set_pubkey(csr, key);
	X509_REQ_sign(csr, signer, EVP_PKEY_is_a(signer, "ED25519") ? NULL : EVP_sha256());
	PEM_write_bio_X509_REQ(bio, csr);
	text = bio_text(bio);
	sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
	X509_REQ_free(csr);
	BIO_free(bio);
	return text;
}

static int issue(const char *csr, struct issued *ret)
{
	return ca_issue(ca, csr, ID, time(NULL), 3600, ret, &why);
}

static void refuse_key(const char *kind)
{
	EVP_PKEY *key = make_key(kind);
	char *csr = make_csr(key, key);
	struct issued issued;

	assert_true(issue(csr, &issued) < 0);
	assert_int_equal(why.code, ERR_INVALID_PARAMS);
	assert_non_null(strstr(why.text, "P-256"));
	free(csr);
	EVP_PKEY_free(key);
}

static void test_csr_refusals(void **state)
{
	EVP_PKEY *key = make_key("P-256"), *other = make_key("P-256");
	char *csr = make_csr(key, other);
	struct issued issued;

	(void)state;
	assert_true(issue(csr, &issued) < 0); /* somebody else's key */
	assert_non_null(strstr(why.text, "not signed by its own key"));
	assert_true(issue("", &issued) < 0);
	assert_true(issue("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE "
			  "REQUEST-----\n",
			  &issued) < 0);
	assert_int_equal(why.code, ERR_INVALID_PARAMS);
	refuse_key("RSA");
	refuse_key("P-521");
	refuse_key("secp256k1");
	assert_int_equal(ERR_peek_error(),
			 0); /* nothing is left for the next caller to stumble over */
	free(csr);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static X509 *parse(const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);

	BIO_free(bio);
	assert_non_null(certificate);
	return certificate;
}

static void check_san(X509 *leaf)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	GENERAL_NAME *name;

	assert_non_null(names);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	name = sk_GENERAL_NAME_value(names, 0);
	assert_int_equal(name->type, GEN_URI);
	assert_int_equal(ASN1_STRING_length(name->d.ia5), strlen(ID));
	assert_memory_equal(ASN1_STRING_get0_data(name->d.ia5), ID, strlen(ID));
	GENERAL_NAMES_free(names);
}

static void check_leaf(const struct issued *issued, EVP_PKEY *key)
{
	X509 *leaf = parse(issued->pem);

	assert_int_equal(X509_verify(leaf, X509_get0_pubkey(ca->certificate)), 1);
	assert_int_equal(EVP_PKEY_eq(X509_get0_pubkey(leaf), key), 1);
	check_san(leaf);
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(leaf)), 0);
	assert_int_equal(X509_check_ca(leaf), 0);
	assert_int_equal(X509_get_key_usage(leaf), KU_DIGITAL_SIGNATURE);
	assert_int_equal(X509_get_extended_key_usage(leaf), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	assert_true(X509_cmp_time(X509_get0_notBefore(leaf), NULL) < 0);
	assert_true(X509_cmp_time(X509_get0_notAfter(leaf), NULL) > 0);
	assert_int_equal(issued->not_after - issued->not_before, 3600 + BACKDATE_SEC);
	X509_free(leaf);
}

static void test_issue(void **state)
{
	static const char *const kinds[] = {"P-256", "P-384", "ED25519"};
	char last[SERIAL_SIZE] = "";

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
		EVP_PKEY *key = make_key(kinds[i]);
		char *csr = make_csr(key, key);
		struct issued issued;

		assert_int_equal(issue(csr, &issued), 0);
		check_leaf(&issued, key);
		assert_int_equal(strlen(issued.serial), 40);
		assert_string_not_equal(issued.serial, last);
		memcpy(last, issued.serial, sizeof(last));
		assert_null(strstr(strstr(issued.pem, "BEGIN") + 1,
				   "BEGIN")); /* no root along with it */
		issued_done(&issued);
		free(csr);
		EVP_PKEY_free(key);
	}
}

static void test_not_longer_than_the_ca(void **state)
{
	EVP_PKEY *key = make_key("P-256");
	char *csr = make_csr(key, key);
	struct issued issued;
	time_t now = time(NULL);

	(void)state;
	X509_gmtime_adj(X509_getm_notAfter(ca->certificate), 100);
	assert_int_equal(issue(csr, &issued), 0);
	assert_in_range(issued.not_after - now, 95, 101);
	issued_done(&issued);
	X509_gmtime_adj(X509_getm_notAfter(ca->certificate), -5);
	assert_true(issue(csr, &issued) < 0);
	assert_non_null(strstr(why.text, "expired"));
	free(csr);
	EVP_PKEY_free(key);
}

static void refuse_load(const struct ca_files *files, const char *word)
{
	struct ca *loaded = NULL;

	assert_true(ca_load(files, &loaded, &why) < 0);
	assert_null(loaded);
	if (!strstr(why.text, word))
		fail_msg("\"%s\" lacks \"%s\"", why.text, word);
}

static void write_certificates(const char *path, X509 *first, X509 *second)
{
	BIO *bio = BIO_new_file(path, "w");

	PEM_write_bio_X509(bio, first);
	if (second)
		PEM_write_bio_X509(bio, second);
	BIO_free(bio);
}

static void test_load_refusals(void **state)
{
	struct ca_files files = {key_file, certificate_file, NULL};
	FILE *f;

	(void)state;
	chmod(key_file, 0640);
	refuse_load(&files, "chmod 0600");
	chmod(key_file, 0600);
	f = fopen(other_file, "w");
	fputs("nothing of the kind\n", f);
	fclose(f);
	files.certificate = other_file;
	refuse_load(&files, "no certificate");
	files = (struct ca_files){key_file, certificate_file, other_file};
	refuse_load(&files, "no certificate");
	chmod(other_file, 0600);
	files = (struct ca_files){other_file, certificate_file, NULL};
	refuse_load(&files, "other");
	files.key = "/nowhere/key";
	refuse_load(&files, "No such file");
	files.key = root;
	refuse_load(&files, "no regular file");
	unlink(other_file);
	snprintf(other_file, sizeof(other_file), "%s/crt2", root);
	snprintf(certificate_file, sizeof(certificate_file), "%s/key2", root);
	assert_int_equal(ca_make(certificate_file, other_file, "test.example", &why), 0);
	files = (struct ca_files){key_file, other_file, NULL};
	refuse_load(&files, "belong together");
}

/* make_intermediate() - a CA below @ca, with its own key */
static X509 *make_intermediate(EVP_PKEY *key, const char *constraints)
{
	X509 *certificate = X509_new();
	char serial[SERIAL_SIZE];

	X509_set_version(certificate, X509_VERSION_3);
	random_serial(certificate, serial);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -100);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 10000);
	X509_set_pubkey(certificate, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
				   (const unsigned char *)"host", -1, -1, 0);
	X509_set_issuer_name(certificate, X509_get_subject_name(ca->certificate));
	add_extension(certificate, ca->certificate, NID_basic_constraints, constraints);
	add_extension(certificate, ca->certificate, NID_key_usage, "critical,keyCertSign");
	add_extension(certificate, ca->certificate, NID_subject_key_identifier, "hash");
	sign(certificate, ca->key);
	return certificate;
}

static void write_key(const char *path, EVP_PKEY *key)
{
	BIO *bio = BIO_new_file(path, "w");

	PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
	BIO_free(bio);
	chmod(path, 0600);
}

/* relax_root() - our own CA has pathlen 0; a fleet's root has not */
static void relax_root(void)
{
	int i = X509_get_ext_by_NID(ca->certificate, NID_basic_constraints, -1);

	X509_EXTENSION_free(X509_delete_ext(ca->certificate, i));
	add_extension(ca->certificate, ca->certificate, NID_basic_constraints, "critical,CA:TRUE");
	sign(ca->certificate, ca->key);
}

static void test_intermediate(void **state)
{
	EVP_PKEY *key = make_key("P-384"), *leaf_key = make_key("P-256");
	char *csr = make_csr(leaf_key, leaf_key), bundle[100], key2[100], chain[100];
	struct ca_files files = {key2, chain, NULL};
	struct ca *host = NULL;
	struct issued issued;
	X509 *intermediate;

	(void)state;
	snprintf(bundle, sizeof(bundle), "%s/bundle", root);
	snprintf(key2, sizeof(key2), "%s/key2", root);
	snprintf(chain, sizeof(chain), "%s/chain", root);
	relax_root();
	intermediate = make_intermediate(key, "critical,CA:TRUE");
	write_certificates(bundle, ca->certificate, NULL);
	write_certificates(chain, intermediate, NULL);
	write_key(key2, key);
	refuse_load(&files, "BundleFile");
	files.bundle = bundle;
	assert_int_equal(ca_load(&files, &host, &why), 0);
	assert_int_equal(ca_issue(host, csr, ID, time(NULL), 3600, &issued, &why), 0);
	assert_non_null(
		strstr(strstr(issued.pem, "BEGIN") + 1, "BEGIN")); /* leaf and intermediate */
	issued_done(&issued);
	X509_free(intermediate);
	intermediate = make_intermediate(key, "critical,CA:FALSE");
	write_certificates(chain, intermediate, NULL);
	refuse_load(&files, "not that of a CA");
	X509_free(intermediate);
	ca_free(host);
	EVP_PKEY_free(key);
	EVP_PKEY_free(leaf_key);
	free(csr);
}

/* load_intermediate() - one that @ca has signed, and @more was added to: NULL, or why not */
static const char *load_intermediate(const char *kind, const char *constraints, int nid,
				     const char *more)
{
	EVP_PKEY *key = strcmp(kind, "RSA1024") == 0
				? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)1024)
				: make_key(kind);
	X509 *intermediate = make_intermediate(key, constraints);
	struct ca_files files = {other_file, certificate_file, key_file};
	struct ca *host = NULL;
	int r;

	if (nid)
		add_extension(intermediate, ca->certificate, nid, more);
	sign(intermediate, ca->key);
	write_key(other_file, key);
	write_certificates(certificate_file, intermediate, NULL);
	write_certificates(key_file, ca->certificate, NULL);
	r = ca_load(&files, &host, &why);
	ca_free(host);
	X509_free(intermediate);
	EVP_PKEY_free(key);
	return r < 0 ? why.text : NULL;
}

#define assert_contains(text, word) assert_non_null(strstr((text) ?: "nothing", word))

/* What an authority above forbids is said at the start, not by every handshake. */
static void test_forbidden_from_above(void **state)
{
	const char *may = "critical,CA:TRUE";

	(void)state;
	assert_contains(load_intermediate("P-256", may, 0, NULL), "path length constraint");
	relax_root();
	assert_null(load_intermediate("P-256", may, 0, NULL));
	assert_null(load_intermediate("RSA", "critical,CA:TRUE,pathlen:0", NID_ext_key_usage,
				      "serverAuth,clientAuth"));
	assert_contains(load_intermediate("P-256", may, NID_ext_key_usage, "emailProtection"),
			"purpose");
	assert_contains(load_intermediate("P-256", may, NID_ext_key_usage, "serverAuth"),
			"purpose");
	assert_contains(load_intermediate("RSA1024", may, 0, NULL), "too weak");
}

/* The bundle may be the intermediate alone: then no other host's services are trusted. */
static void test_intermediate_as_bundle(void **state)
{
	struct ca_files files = {other_file, certificate_file, certificate_file};
	struct ca *host = NULL;

	(void)state;
	relax_root();
	assert_null(load_intermediate("P-256", "critical,CA:TRUE", 0, NULL));
	assert_int_equal(ca_load(&files, &host, &why), 0);
	ca_free(host);
}

static void test_foreign_bundle(void **state)
{
	struct ca_files files = {key_file, certificate_file, other_file};
	char key2[100];

	(void)state;
	snprintf(key2, sizeof(key2), "%s/key2", root);
	assert_int_equal(ca_make(key2, other_file, "other.example", &why), 0);
	refuse_load(&files, "does not verify");
}

#define CA_CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CA_CASE(test_csr_refusals),
		CA_CASE(test_load_refusals),
		CA_CASE(test_foreign_bundle),
		CA_CASE(test_not_longer_than_the_ca),
		CA_CASE(test_forbidden_from_above),
		CA_CASE(test_intermediate_as_bundle),
		CA_CASE(test_issue),
		CA_CASE(test_intermediate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
