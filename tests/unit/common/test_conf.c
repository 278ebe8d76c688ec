/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"

static char root[] = "/tmp/sivshm-conf-XXXXXX";
static struct conf_error error;

/* struct log - what the handlers were told, as "[section@file:line]" and "key=value@line;" */
struct log {
	char text[4096];
};

static void append(struct log *log, const char *text)
{
	size_t n = strlen(log->text);

	snprintf(log->text + n, sizeof(log->text) - n, "%s", text);
}

static int on_section(void *userdata, const struct conf_place *place, const char *section,
		      struct conf_error *e)
{
	char text[600];

	if (strcmp(section, "refused") == 0)
		return conf_fail(e, place, "unknown section [%s]", section);
	snprintf(text, sizeof(text), "[%s@%s:%u]", section, strrchr(place->file, '/') + 1,
		 place->line);
	append(userdata, text);
	return 0;
}

static int on_key(void *userdata, const struct conf_place *place, const char *key,
		  const char *value, struct conf_error *e)
{
	char text[600];

	if (strcmp(key, "Refused") == 0)
		return conf_fail(e, place, "unknown key %s=", key);
	snprintf(text, sizeof(text), "%s=%s@%u;", key, value, place->line);
	append(userdata, text);
	return 0;
}

static const struct conf_handler handler = {.section = on_section, .key = on_key};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int set_up(void **state)
{
	static const char *const folders[] = {"",	"/etc", "/etc/d",   "/run",
					      "/run/d", "/usr", "/usr/lib", "/usr/lib/d"};
	char path[200];

	(void)state;
	strcpy(root + strlen(root) - 6, "XXXXXX");
	assert_non_null(mkdtemp(root));
	for (size_t i = 1; i < ELEMENTSOF(folders); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	error.text[0] = '\0';
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_root(const char *path)
{
	static char full[200];

	snprintf(full, sizeof(full), "%s%s", root, path);
	return full;
}

static void put_bytes(const char *path, const char *text, size_t length)
{
	FILE *f = fopen(in_root(path), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, length, f), length);
	assert_int_equal(fclose(f), 0);
}

static void put(const char *path, const char *text)
{
	put_bytes(path, text, strlen(text));
}

static void assert_loads(const char *expected)
{
	struct log log = {};

	if (conf_load_dir(root, "d", &handler, &log, &error) < 0)
		fail_msg("%s", error.text);
	assert_string_equal(log.text, expected);
}

/* The error is @expected with the root put in front of every "/etc", "/run", "/usr". */
static void assert_error(const char *expected)
{
	struct log log = {};
	char text[CONF_ERROR_SIZE] = "";

	assert_true(conf_load_dir(root, "d", &handler, &log, &error) < 0);
	for (const char *p = error.text; *p;) {
		size_t n = strlen(text);

		if (strncmp(p, root, strlen(root)) == 0)
			p += strlen(root);
		text[n] = *p++;
	}
	assert_string_equal(text, expected);
}

static void syntax_errors(void **state)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
		{"A=1\n", "/etc/d/a.conf:1: A= stands before any section"},
		{"[a\n", "/etc/d/a.conf:1: section without closing bracket"},
		{"\n\n[\n", "/etc/d/a.conf:3: section without closing bracket"},
		{"[]\n", "/etc/d/a.conf:1: section without a proper name"},
		{"[ \t]\n", "/etc/d/a.conf:1: section without a proper name"},
		{"[a]]\n", "/etc/d/a.conf:1: section without a proper name"},
		{"[[a]\n", "/etc/d/a.conf:1: section without a proper name"},
		{"[a] # no\n", "/etc/d/a.conf:1: section without closing bracket"},
		{"[a]\nword\n", "/etc/d/a.conf:2: neither [Section] nor Key=value"},
		{"[a]\nA:1\n", "/etc/d/a.conf:2: neither [Section] nor Key=value"},
		{"[a]\n=1\n", "/etc/d/a.conf:2: not the name of a key before '='"},
		{"[a]\nA B=1\n", "/etc/d/a.conf:2: not the name of a key before '='"},
		{"[a]\n\xc3\xa4=1\n", "/etc/d/a.conf:2: not the name of a key before '='"},
		{"\xef\xbb\xbf[a]\n", "/etc/d/a.conf:1: neither [Section] nor Key=value"},
		{"[a]\nA=1\n\nA=2\n",
		 "/etc/d/a.conf:4: A is given twice, first at /etc/d/a.conf:2"},
		{"[a]\n[b]\n[a]\n",
		 "/etc/d/a.conf:3: section is given twice, first at /etc/d/a.conf:1"},
		{"[x  a/b c/d]\n[x a/b\tc/d]\n",
		 "/etc/d/a.conf:2: section is given twice, first at /etc/d/a.conf:1"},
		{"[refused]\n", "/etc/d/a.conf:1: unknown section [refused]"},
		{"[a]\nA=1\nRefused=1", "/etc/d/a.conf:3: unknown key Refused="},
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		put("/etc/d/a.conf", cases[i].text);
		assert_error(cases[i].expected);
	}
}

static void bytes_refused(void **state)
{
	(void)state;
	put_bytes("/etc/d/a.conf", "[a]\nA=1\0B\n", 11);
	assert_error("/etc/d/a.conf:2: NUL byte");
	put_bytes("/etc/d/a.conf", "\0", 1);
	assert_error("/etc/d/a.conf:1: NUL byte");
	put_bytes("/etc/d/a.conf", "# \0\n", 4);
	assert_error("/etc/d/a.conf:1: NUL byte");
	/* what is quoted is made printable */
	put("/etc/d/a.conf", "[refused]\n");
	assert_int_equal(
		conf_fail(&error, &(struct conf_place){.file = "f", .line = 3}, "%s", "\x1b\xff"),
		-EINVAL);
	assert_string_equal(error.text, "f:3: ??");
}

static void size_is_limited(void **state)
{
	size_t size = 1024 * 1024;
	char *text = malloc(size + 1);
	struct log log = {};

	(void)state;
	memset(text, '#', size + 1);
	put_bytes("/etc/d/a.conf", text, size + 1);
	assert_int_equal(conf_load_dir(root, "d", &handler, &log, &error), -EFBIG);
	assert_non_null(strstr(error.text, "/etc/d/a.conf: "));
	put_bytes("/etc/d/a.conf", text, size);
	assert_loads("");
	free(text);
}

static void not_regular(void **state)
{
	struct log log = {};

	(void)state;
	assert_int_equal(mkfifo(in_root("/etc/d/a.conf"), 0600), 0);
	assert_error("/etc/d/a.conf: not a regular file");
	unlink(in_root("/etc/d/a.conf"));
	assert_int_equal(mkdir(in_root("/etc/d/a.conf"), 0700), 0);
	assert_error("/etc/d/a.conf: not a regular file");
	rmdir(in_root("/etc/d/a.conf"));
	assert_int_equal(symlink("/dev/zero", in_root("/etc/d/a.conf")), 0);
	assert_error("/etc/d/a.conf: not a regular file");
	unlink(in_root("/etc/d/a.conf"));
	assert_int_equal(symlink("nowhere", in_root("/etc/d/a.conf")), 0);
	assert_error("/etc/d/a.conf: cannot open: No such file or directory");
	unlink(in_root("/etc/d/a.conf"));
	rmdir(in_root("/etc/d"));
	put("/etc/d", "");
	assert_int_equal(conf_load_dir(root, "d", &handler, &log, &error), -ENOTDIR);
}

static void unreadable(void **state)
{
	uid_t uid = geteuid();

	(void)state;
	put("/etc/d/a.conf", "[a]\n");
	assert_int_equal(chmod(in_root("/etc/d/a.conf"), 0), 0);
	/* root reads everything, so be somebody else meanwhile */
	assert_int_equal(chmod(root, 0755), 0);
	if (uid == 0)
		assert_int_equal(seteuid(65534), 0);
	assert_error("/etc/d/a.conf: cannot open: Permission denied");
	assert_int_equal(seteuid(uid), 0);
}

static void twice_across_files(void **state)
{
	(void)state;
	put("/usr/lib/d/a.conf", "\n[VM x]\nA=1\n");
	put("/etc/d/b.conf", "[VM y]\nA=1\n[VM x]\n");
	assert_error("/etc/d/b.conf:3: section is given twice, first at /usr/lib/d/a.conf:2");
}

static void section_ends_with_file(void **state)
{
	(void)state;
	put("/etc/d/a.conf", "[a]\n");
	put("/etc/d/b.conf", "A=1\n");
	assert_error("/etc/d/b.conf:1: A= stands before any section");
}

static void nothing_there(void **state)
{
	struct log log = {};

	(void)state;
	assert_loads("");
	assert_int_equal(conf_load_dir(root, "none", &handler, &log, &error), 0);
	assert_int_equal(conf_load_file(root, "none.conf", &handler, &log, &error), 0);
	assert_int_equal(conf_load_file(root, "none/none.conf", &handler, &log, &error), 0);
	assert_string_equal(log.text, "");
}

static void syntax(void **state)
{
	(void)state;
	put("/etc/d/a.conf",
	    "# c\n; c\n  # c\n\n[  VM \t x ]\r\n  Key =  a = b # c ; d  \r\nEmpty=\n"
	    "[b]\nKey=1");
	assert_loads("[VM x@a.conf:5]Key=a = b # c ; d@6;Empty=@7;[b@a.conf:8]Key=1@9;");
}

static void precedence(void **state)
{
	(void)state;
	put("/usr/lib/d/10.conf", "[usr10]\n");
	put("/usr/lib/d/20.conf", "[usr20]\n");
	put("/usr/lib/d/30.conf", "[usr30]\n");
	put("/usr/lib/d/50.conf", "[usr50]\n");
	put("/run/d/20.conf", "[run20]\n");
	put("/run/d/30.conf", "[run30]\n");
	put("/run/d/05.conf", "[run05]\n");
	put("/etc/d/30.conf", "[etc30]\n");
	put("/etc/d/40.conf", "[etc40]\n");
	assert_int_equal(symlink("/dev/null", in_root("/run/d/50.conf")), 0);
	put("/etc/d/.hidden.conf", "[refused]\n");
	put("/etc/d/x.conf~", "[refused]\n");
	put("/etc/d/x.txt", "[refused]\n");
	put("/etc/d/.conf", "[refused]\n");
	assert_loads("[run05@05.conf:1][usr10@10.conf:1][run20@20.conf:1][etc30@30.conf:1]"
		     "[etc40@40.conf:1]");
}

static void one_file(void **state)
{
	struct log log = {};

	(void)state;
	put("/usr/lib/d/x.conf", "[usr]\n");
	assert_int_equal(conf_load_file(root, "d/x.conf", &handler, &log, &error), 0);
	put("/run/d/x.conf", "[run]\n");
	assert_int_equal(conf_load_file(root, "d/x.conf", &handler, &log, &error), 0);
	put("/etc/d/x.conf", "[etc]\n");
	assert_int_equal(conf_load_file(root, "d/x.conf", &handler, &log, &error), 0);
	assert_string_equal(log.text, "[usr@x.conf:1][run@x.conf:1][etc@x.conf:1]");
	unlink(in_root("/etc/d/x.conf"));
	assert_int_equal(symlink("/dev/null", in_root("/etc/d/x.conf")), 0);
	assert_int_equal(conf_load_file(root, "d/x.conf", &handler, &log, &error), 0);
	assert_string_equal(log.text, "[usr@x.conf:1][run@x.conf:1][etc@x.conf:1]");
	unlink(in_root("/etc/d/x.conf"));
	assert_int_equal(symlink("nowhere", in_root("/etc/d/x.conf")), 0);
	assert_int_equal(conf_load_file(root, "d/x.conf", &handler, &log, &error), -ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(syntax_errors),
		TEST(bytes_refused),
		TEST(size_is_limited),
		TEST(not_regular),
		TEST(unreadable),
		TEST(twice_across_files),
		TEST(section_ends_with_file),
		TEST(nothing_there),
		TEST(syntax),
		TEST(precedence),
		TEST(one_file),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
