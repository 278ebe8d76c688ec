/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* docs/channel-abi.md says what the headers say: every field's row, every number. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "client/ring-abi.h"
#include "kmod/uapi/sivshm.h"

static char text[64 * 1024];

static int load(void **state)
{
	FILE *f = fopen(CHANNEL_ABI_DOC, "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	(void)state;
	if (f)
		fclose(f);
	return n ? 0 : -1;
}

static void want(const char *needle)
{
	if (!strstr(text, needle))
		fail_msg("docs/channel-abi.md lacks: %s", needle);
}

static void want_field(const char *name, size_t offset, size_t size)
{
	char row[128];

	snprintf(row, sizeof(row), "\n| %zu | %zu | `%s` |", offset, size, name);
	want(row);
}

#define FIELD(type, field) \
	want_field(#field, offsetof(struct type, field), sizeof(((struct type *)0)->field))

static void test_info(void **state)
{
	(void)state;
	assert_int_equal(sizeof(struct sivshm_channel_info), 256);
	FIELD(sivshm_channel_info, abi);
	FIELD(sivshm_channel_info, state);
	FIELD(sivshm_channel_info, tx_ring_size);
	FIELD(sivshm_channel_info, rx_ring_size);
	FIELD(sivshm_channel_info, tx_map_size);
	FIELD(sivshm_channel_info, rx_map_size);
	FIELD(sivshm_channel_info, slot);
	FIELD(sivshm_channel_info, generation);
	FIELD(sivshm_channel_info, channel_id);
	FIELD(sivshm_channel_info, local_service);
	FIELD(sivshm_channel_info, peer_vm);
	FIELD(sivshm_channel_info, peer_service);
	FIELD(sivshm_channel_info, reserved);
}

static void test_control(void **state)
{
	(void)state;
	FIELD(sivshm_control, magic);
	FIELD(sivshm_control, closed);
	FIELD(sivshm_control, producer);
	FIELD(sivshm_control, consumer);
	FIELD(sivshm_control, want_data);
	FIELD(sivshm_control, want_space);
}

static void test_grant(void **state)
{
	(void)state;
	assert_int_equal(sizeof(struct sivshm_grant), 256);
	FIELD(sivshm_grant, state);
	FIELD(sivshm_grant, generation);
	FIELD(sivshm_grant, channel);
	FIELD(sivshm_grant, region);
	FIELD(sivshm_grant, peer);
	FIELD(sivshm_grant, local_vector);
	FIELD(sivshm_grant, peer_vector);
	FIELD(sivshm_grant, tx_offset);
	FIELD(sivshm_grant, tx_size);
	FIELD(sivshm_grant, rx_offset);
	FIELD(sivshm_grant, rx_size);
	FIELD(sivshm_grant, local_service);
	FIELD(sivshm_grant, peer_vm);
	FIELD(sivshm_grant, peer_service);
	FIELD(sivshm_grant, flags);
	FIELD(sivshm_grant, opened);
}

static void want_number(const char *format, unsigned long long n)
{
	char number[64];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(number, sizeof(number), format, n);
#pragma GCC diagnostic pop
	want(number);
}

static void test_numbers(void **state)
{
	(void)state;
	want_number("`SIVSHM_CHANNEL_GET_INFO` | 0x%llX |", SIVSHM_CHANNEL_GET_INFO);
	want_number("`SIVSHM_CHANNEL_NOTIFY` | 0x%llX |", SIVSHM_CHANNEL_NOTIFY);
	want_number("`SIVSHM_CHANNEL_WAIT` | 0x%llX |", SIVSHM_CHANNEL_WAIT);
	want_number("TX: written by you | %llu |", SIVSHM_TX_OFFSET);
	want_number("RX: written by the peer | 0x%llX |", SIVSHM_RX_OFFSET);
	want_number("0x%llx (\"SVR1\")", SIVSHM_RING_MAGIC);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_info),
		cmocka_unit_test(test_control),
		cmocka_unit_test(test_grant),
		cmocka_unit_test(test_numbers),
	};

	return cmocka_run_group_tests(tests, load, NULL);
}
