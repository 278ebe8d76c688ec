/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A private dbus-daemon, a service that asks who its caller is, callers with different uids, and a
 * polkit that says what the test wants.  All connections are on one loop, so anything that waited
 * for an answer inside a callback would hang.  Needs root, to have callers that are not.
 */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus-util.h"

#define SKIPPED 77
#define SERVICE "org.example.Service"
#define ACTION "org.example.act"
#define STRANGER 65534U /* nobody: dbus-daemon disconnects users that it cannot look up */

static char folder[] = "/tmp/sivshm-bus-XXXXXX";
static char address[100];
static pid_t daemon_pid;

struct fixture {
	sd_event *event;
	sd_bus *service, *polkit, *caller;
	struct bus_access *access;
	/* seen by the service */
	size_t n_allowed;
	struct bus_sender sender;
	int verdict; /* what the service's callback returns */
	/* seen and done by polkit */
	size_t n_polkit;
	char subject[64], action[64];
	uint32_t flags;
	bool grants, is_silent;
	/* seen by the caller */
	size_t n_replies;
	char error[100];
};

static int on_known(sd_bus_message *m, const struct bus_sender *sender, void *userdata,
		    sd_bus_error *error)
{
	struct fixture *f = userdata;

	f->n_allowed++;
	f->sender = *sender;
	if (f->verdict < 0)
		return bus_error_set_failure(error, &(struct failure){ERR_REVOKED, "gone"});
	return sd_bus_reply_method_return(m, NULL);
}

static int on_method(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct fixture *f = userdata;

	(void)error;
	if (sd_bus_message_is_method_call(m, SERVICE, "Identify"))
		return bus_access_identify(f->access, m, on_known, f);
	if (sd_bus_message_is_method_call(m, SERVICE, "Authorize"))
		return bus_access_authorize(f->access, m, ACTION, on_known, f);
	return 0;
}

static int on_polkit_call(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct fixture *f = userdata;
	const char *kind, *key, *name, *action, *cancel;

	(void)error;
	if (!sd_bus_message_is_method_call(m, NULL, "CheckAuthorization"))
		return 0;
	f->n_polkit++;
	assert_true(sd_bus_message_read(m, "(sa{sv})sa{ss}us", &kind, 1, &key, "s", &name, &action,
					0, &f->flags, &cancel) > 0);
	assert_string_equal(kind, "system-bus-name");
	assert_string_equal(key, "name");
	snprintf(f->subject, sizeof(f->subject), "%s", name);
	snprintf(f->action, sizeof(f->action), "%s", action);
	if (f->is_silent)
		return 1;
	return sd_bus_reply_method_return(m, "(bba{ss})", f->grants, false, 0);
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct fixture *f = userdata;
	const sd_bus_error *e = sd_bus_message_get_error(m);

	(void)error;
	f->n_replies++;
	snprintf(f->error, sizeof(f->error), "%s", e ? e->name : "");
	return 0;
}

/* A bus that everybody may use, as the system bus is. */
static int start_bus(void **state)
{
	char path[200], option[220];
	struct stat st;
	FILE *conf;

	(void)state;
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chmod(folder, 0755), 0);
	snprintf(address, sizeof(address), "unix:path=%s/bus", folder);
	snprintf(path, sizeof(path), "%s/conf", folder);
	snprintf(option, sizeof(option), "--config-file=%s", path);
	conf = fopen(path, "w");
	assert_non_null(conf);
	fprintf(conf,
		"<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context=\"default\">"
		"<allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>"
		"<allow receive_sender=\"*\"/></policy></busconfig>",
		address);
	assert_int_equal(fclose(conf), 0);
	daemon_pid = fork();
	if (daemon_pid == 0) {
		execlp("dbus-daemon", "dbus-daemon", "--nofork", "--nopidfile", option, NULL);
		_exit(127);
	}
	snprintf(path, sizeof(path), "%s/bus", folder);
	for (int i = 0; i < 500 && stat(path, &st) < 0; i++)
		usleep(10000);
	return 0;
}

static int stop_bus(void **state)
{
	char path[200];

	(void)state;
	kill(daemon_pid, SIGTERM);
	waitpid(daemon_pid, NULL, 0);
	snprintf(path, sizeof(path), "%s/conf", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/bus", folder);
	unlink(path);
	return rmdir(folder);
}

static sd_bus *connect_as(sd_event *event, uid_t uid, const char *name)
{
	const char *unique;
	sd_bus *bus = NULL;

	assert_int_equal(seteuid(uid), 0);
	assert_int_equal(bus_open(event, address, &bus), 0);
	assert_true(sd_bus_get_unique_name(bus, &unique) >= 0); /* waits until it is connected */
	assert_int_equal(seteuid(0), 0);
	if (name)
		assert_true(sd_bus_request_name(bus, name, 0) >= 0);
	return bus;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_true(sd_event_new(&f->event) >= 0);
	f->service = connect_as(f->event, 0, SERVICE);
	f->caller = connect_as(f->event, STRANGER, NULL);
	assert_int_equal(bus_access_new(f->service, &f->access), 0);
	assert_true(sd_bus_add_object(f->service, NULL, "/", on_method, f) >= 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	bus_access_free(f->access);
	sd_bus_flush_close_unref(f->service);
	sd_bus_flush_close_unref(f->caller);
	sd_bus_flush_close_unref(f->polkit);
	sd_event_unref(f->event);
	free(f);
	return 0;
}

static void start_polkit(struct fixture *f)
{
	f->polkit = connect_as(f->event, 0, "org.freedesktop.PolicyKit1");
	assert_true(sd_bus_add_object(f->polkit, NULL, "/org/freedesktop/PolicyKit1/Authority",
				      on_polkit_call, f) >= 0);
}

static void send_call(struct fixture *f, const char *method, bool interactive)
{
	sd_bus_message *m = NULL;

	assert_true(sd_bus_message_new_method_call(f->caller, &m, SERVICE, "/", SERVICE, method) >=
		    0);
	sd_bus_message_set_allow_interactive_authorization(m, interactive);
	assert_true(sd_bus_call_async(f->caller, NULL, m, on_reply, f, 0) >= 0);
	sd_bus_message_unref(m);
}

static void run_until_replies(struct fixture *f, size_t n)
{
	for (int i = 0; i < 2000 && f->n_replies < n; i++)
		sd_event_run(f->event, 5000);
	assert_int_equal(f->n_replies, n);
}

static void call(struct fixture *f, const char *method)
{
	size_t before = f->n_replies;

	send_call(f, method, false);
	run_until_replies(f, before + 1);
}

static void no_polkit_no_stranger(void **state)
{
	struct fixture *f = *state;

	call(f, "Authorize");
	assert_string_equal(f->error, SD_BUS_ERROR_ACCESS_DENIED);
	assert_int_equal(f->n_allowed, 0);
}

static void polkit_denies(void **state)
{
	struct fixture *f = *state;
	const char *unique;

	start_polkit(f);
	call(f, "Authorize");
	assert_string_equal(f->error, SD_BUS_ERROR_ACCESS_DENIED);
	assert_int_equal(f->n_allowed, 0);
	assert_int_equal(f->n_polkit, 1);
	assert_int_equal(f->flags, 0);
	assert_string_equal(f->action, ACTION);
	sd_bus_get_unique_name(f->caller, &unique);
	assert_string_equal(f->subject, unique);
}

/* polkit that hangs holds up its own caller alone, and only so many calls of one caller. */
static void quota_of_one_caller(void **state)
{
	struct fixture *f = *state;
	sd_bus *stranger = f->caller;

	start_polkit(f);
	f->is_silent = true;
	for (int i = 0; i < BUS_ACCESS_MAX_PER_SENDER + 3; i++)
		send_call(f, "Authorize", false);
	run_until_replies(f, 3);
	assert_string_equal(f->error, SD_BUS_ERROR_LIMITS_EXCEEDED);
	assert_int_equal(f->n_allowed, 0);
	f->caller = connect_as(f->event, 0, NULL);
	call(f, "Authorize");
	assert_string_equal(f->error, "");
	assert_int_equal(f->n_allowed, 1);
	sd_bus_flush_close_unref(stranger);
	/* tear_down frees the questions under way */
}

/* Strangers that fill what polkit may have to answer keep each other out, and not root. */
static void quota_of_polkit(void **state)
{
	const size_t n_strangers = BUS_ACCESS_MAX_POLKIT / BUS_ACCESS_MAX_PER_SENDER + 1;
	sd_bus *strangers[BUS_ACCESS_MAX_POLKIT];
	struct fixture *f = *state;

	start_polkit(f);
	f->is_silent = true;
	for (size_t i = 0; i < n_strangers; i++) {
		strangers[i] = f->caller;
		for (int j = 0; j < BUS_ACCESS_MAX_PER_SENDER; j++)
			send_call(f, "Authorize", false);
		f->caller = connect_as(f->event, i + 1 < n_strangers ? STRANGER : 0, NULL);
	}
	run_until_replies(f, n_strangers * BUS_ACCESS_MAX_PER_SENDER - BUS_ACCESS_MAX_POLKIT);
	assert_string_equal(f->error, SD_BUS_ERROR_LIMITS_EXCEEDED);
	for (int i = 0; i < 2000 && f->n_polkit < BUS_ACCESS_MAX_POLKIT; i++)
		sd_event_run(f->event, 5000);
	assert_int_equal(f->n_polkit, BUS_ACCESS_MAX_POLKIT);
	assert_int_equal(f->n_allowed, 0);
	call(f, "Authorize");
	assert_string_equal(f->error, "");
	assert_int_equal(f->n_allowed, 1);
	for (size_t i = 0; i < n_strangers; i++)
		sd_bus_flush_close_unref(strangers[i]);
}

static void caller_is_gone(void **state)
{
	struct fixture *f = *state;

	start_polkit(f);
	f->grants = true;
	send_call(f, "Authorize", false);
	sd_bus_flush(f->caller);
	f->caller = sd_bus_flush_close_unref(f->caller);
	for (int i = 0; i < 40; i++)
		sd_event_run(f->event, 5000);
	assert_int_equal(f->n_replies, 0);
}

static void error_of_the_callback(void **state)
{
	struct fixture *f = *state;

	f->verdict = -1;
	call(f, "Identify");
	assert_string_equal(f->error, "org.sivshm1.Error.Revoked");
	assert_int_equal(f->n_allowed, 1);
}

static void bad_address(void **state)
{
	struct fixture *f = *state;
	sd_bus *bus = NULL;

	assert_true(bus_open(f->event, "nonsense", &bus) < 0);
	assert_true(bus_open(f->event, "unix:path=/nonexistent/bus", &bus) < 0);
	assert_null(bus);
}

static void polkit_grants(void **state)
{
	struct fixture *f = *state;

	start_polkit(f);
	f->grants = true;
	send_call(f, "Authorize", true);
	run_until_replies(f, 1);
	assert_string_equal(f->error, "");
	assert_int_equal(f->flags, 1);
	assert_int_equal(f->n_allowed, 1);
	assert_int_equal(f->sender.uid, STRANGER);
}

static void root_needs_no_polkit(void **state)
{
	struct fixture *f = *state;

	start_polkit(f);
	sd_bus_flush_close_unref(f->caller);
	f->caller = connect_as(f->event, 0, NULL);
	call(f, "Authorize");
	assert_string_equal(f->error, "");
	assert_int_equal(f->sender.uid, 0);
	assert_int_equal(f->n_polkit, 0);
}

static void identifies(void **state)
{
	struct fixture *f = *state;

	call(f, "Identify");
	assert_string_equal(f->error, "");
	assert_int_equal(f->sender.uid, STRANGER);
	assert_int_equal(f->sender.pid, getpid());
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bad_address),	   TEST(no_polkit_no_stranger), TEST(polkit_denies),
		TEST(quota_of_one_caller), TEST(caller_is_gone),	TEST(error_of_the_callback),
		TEST(quota_of_polkit),	   TEST(polkit_grants),		TEST(root_needs_no_polkit),
		TEST(identifies),
	};

	if (geteuid() != 0 || system("command -v dbus-daemon >/dev/null") != 0) {
		puts("skipped: needs root and dbus-daemon");
		return SKIPPED;
	}
	return cmocka_run_group_tests_name("bus-access", tests, start_bus, stop_bus);
}
