/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test.h"

#include <errno.h>

#include "opener.h"

static const uint8_t session[SESSION_ID_SIZE] = {1, 2, 3};
static struct sivshm_slot slot;
static int results[512];
static unsigned n_results, n_tries;
static int told_fd;
static struct failure told;
static unsigned n_told;

int device_open_channel(struct device *d, const struct slot_ref *ref, uid_t uid, uint64_t cgroup,
			int *ret_fd)
{
	int r = n_tries < n_results ? results[n_tries] : -EAGAIN;

	(void)d;
	assert_int_equal(ref->slot, 3);
	assert_int_equal(ref->generation, 7);
	assert_int_equal(uid, 1000);
	assert_int_equal(cgroup, 99);
	n_tries++;
	if (r >= 0)
		*ret_fd = r;
	return r < 0 ? r : 0;
}

int device_slot(struct device *d, unsigned number, struct sivshm_slot *ret)
{
	(void)d;
	assert_int_equal(number, 3);
	*ret = slot;
	return 0;
}

int device_failure(int r, struct failure *error)
{
	return failure_set(error, ERR_FAILED, "%d", r);
}

static void on_opened(int fd, const struct failure *error, void *userdata)
{
	sd_event *event = userdata;

	told_fd = fd;
	told = error ? *error : (struct failure){};
	n_told++;
	sd_event_exit(event, 0);
}

static void run(const int *list, unsigned n)
{
	struct slot_ref ref = {3, 7};
	struct opener o = {};
	sd_event *event;

	if (n > 0)
		memcpy(results, list, n * sizeof(*list));
	n_results = n;
	n_tries = n_told = 0;
	assert_true(sd_event_new(&event) >= 0);
	assert_true(opener_start(&o, event, NULL, &ref, session, 1000, 99, on_opened, event) >= 0);
	assert_int_equal(n_told, 0);
	assert_true(sd_event_loop(event) >= 0);
	assert_int_equal(n_told, 1);
	opener_stop(&o);
	sd_event_unref(event);
}

static void at_once(void **state)
{
	(void)state;
	run((int[]){42}, 1);
	assert_int_equal(told_fd, 42);
	assert_int_equal(told.code, 0);
	assert_int_equal(n_tries, 1);
}

static void after_a_while(void **state)
{
	(void)state;
	run((int[]){-EAGAIN, -EBUSY, -EAGAIN, 5}, 4);
	assert_int_equal(told_fd, 5);
	assert_int_equal(n_tries, 4);
}

static void another_session(void **state)
{
	(void)state;
	slot.channel_id[0] ^= 1;
	run((int[]){42}, 1);
	assert_int_equal(told_fd, -1);
	assert_int_equal(told.code, ERR_FAILED);
	assert_int_equal(n_tries, 0);
	slot.generation++; /* what is there now says nothing of ours: the open refuses */
	run((int[]){-ESTALE}, 1);
	assert_int_equal(n_tries, 1);
	slot.generation--;
	slot.channel_id[0] ^= 1;
}

static void never(void **state)
{
	(void)state;
	run((int[]){-ESTALE}, 1);
	assert_int_equal(told_fd, -1);
	assert_int_equal(told.code, ERR_FAILED);
	assert_int_equal(n_tries, 1);
	run(NULL, 0);
	assert_int_equal(told_fd, -1);
	assert_true(n_tries > 10 && n_tries < 500);
}

static void stopped(void **state)
{
	struct slot_ref ref = {3, 7};
	struct opener o = {};
	sd_event *event;

	(void)state;
	n_told = 0;
	assert_true(sd_event_new(&event) >= 0);
	assert_true(opener_start(&o, event, NULL, &ref, session, 1000, 99, on_opened, event) >= 0);
	opener_stop(&o);
	assert_int_equal(sd_event_run(event, 10000), 0);
	assert_int_equal(n_told, 0);
	sd_event_unref(event);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_once),	   cmocka_unit_test(after_a_while),
		cmocka_unit_test(another_session), cmocka_unit_test(never),
		cmocka_unit_test(stopped),
	};

	slot = (struct sivshm_slot){.generation = 7};
	memcpy(slot.channel_id, session, sizeof(session));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
