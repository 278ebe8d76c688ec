/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"

struct refusal {
	const char *file, *text, *word, *place;
};

static const struct refusal refusals[] = {
	/* unknown things, things twice */
	{"ca.conf", "[Ca]\n", "unknown section [Ca]", "ca.conf:1"},
	{"ca.conf", "[CA]\n\nColour=red\n", "Colour", "ca.conf:3"},
	{"ca.conf", "[Limits]\nTrustDomain=x\n", "TrustDomain", "ca.conf:2"},
	{"ca.conf", "[CA]\nTrustDomain=x.example\nTrustDomain=y.example\n", "TrustDomain",
	 "ca.conf:3"},
	{"vm.d/x.conf", "[vm x]\n", "[vm x]", "x.conf:1"},
	{"vm.d/x.conf", "[VM x]\nUser=1\n[VM x]\nUser=2\n", "given twice", "x.conf:3"},
	{"vm.d/z.conf", "[VM a]\nUser=1\n", "given twice", "z.conf:1"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nMembers=a b\n", "Members", "x.conf:3"},
	{"region.d/x.conf", "[VM x]\n", "[VM x]", "x.conf:1"},
	{"policy.d/x.conf", "[Deny a/sensor b/dashboard]\n", "Deny", "x.conf:1"},
	/* values */
	{"ca.conf", "[CA]\nTrustDomain=No Such\n", "TrustDomain", "ca.conf:2"},
	{"ca.conf", "[CA]\nCertificateLifetime=30s\n", "1min", "ca.conf:2"},
	{"ca.conf", "[CA]\nCertificateLifetime=25h\n", "24h", "ca.conf:2"},
	{"ca.conf", "[CA]\nKeyFile=ca.key\n", "absolute", "ca.conf:2"},
	{"ca.conf", "[CA]\nKeyFile=/ca.key\n", "go together", "ca.conf"},
	{"ca.conf", "[CA]\nBundleFile=/ca.crt\n", "needs", "ca.conf"},
	{"ca.conf", "[Limits]\nHandshakeTimeout=61s\n", "60s", "ca.conf:2"},
	{"ca.conf", "[Limits]\nSessionsPerVM=0\n", "SessionsPerVM", "ca.conf:2"},
	{"vm.d/x.conf", "[VM X]\nUser=1\n", "not a name", "x.conf:1"},
	{"vm.d/x.conf", "[VM x]\n", "User= is missing", "x.conf:1"},
	{"vm.d/x.conf", "[VM x]\nUser=nobody-of-that-name\n", "User", "x.conf:2"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nServices=A\n", "Services", "x.conf:3"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nServices=s s\n", "each once", "x.conf:3"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nChannels=0\n", "Channels", "x.conf:3"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nChannels=2033\n", "2032", "x.conf:3"},
	{"vm.d/x.conf", "[VM x]\nUser=1\nPciSlot=31\n", "PciSlot", "x.conf:3"},
	{"region.d/x.conf", "[Region control]\nMembers=a b\n", "not a name", "x.conf:1"},
	{"region.d/x.conf", "[Region x]\n", "Members= is missing", "x.conf:1"},
	{"region.d/x.conf", "[Region x]\nMembers=a\n", "two VMs", "x.conf:1"},
	{"region.d/x.conf", "[Region x]\nMembers=a a\n", "each once", "x.conf:2"},
	{"region.d/x.conf", "[Region x]\nMembers=a nobody\n", "no VM nobody", "x.conf:1"},
	{"region.d/x.conf", "[Region x]\nMembers=a b\nSectionSize=512K\n", "1M", "x.conf:3"},
	{"region.d/x.conf", "[Region x]\nMembers=a b\nSectionSize=3M\n", "power of two",
	 "x.conf:3"},
	{"region.d/x.conf", "[Region x]\nMembers=a b\nSectionSize=128G\n", "64G", "x.conf:3"},
	{"region.d/x.conf", "[Region x]\nMembers=a b\nVectors=1\n", "Vectors", "x.conf:3"},
	{"region.d/x.conf", "[Region x]\nMembers=a b\nVectors=65\n", "64", "x.conf:3"},
	{"policy.d/x.conf", "[Allow a/sensor]\n", "two names", "x.conf:1"},
	{"policy.d/x.conf", "[Allow sensor dashboard]\n", "vm/service", "x.conf:1"},
	{"policy.d/x.conf", "[Allow a/sensor nobody/x]\n", "no VM nobody", "x.conf:1"},
	{"policy.d/x.conf", "[Allow a/other b/dashboard]\n", "a/other", "x.conf:1"},
	{"policy.d/x.conf", "[Allow b/dashboard a/sensor]\nMaxRingSize=5000\n", "MaxRingSize",
	 "x.conf:2"},
	{"policy.d/x.conf", "[Allow b/dashboard a/sensor]\nChannels=-1\n", "Channels", "x.conf:2"},
};

static void test_refusals(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
		put_example();
		put(refusals[i].file, refusals[i].text);
		refuse(refusals[i].word, refusals[i].place);
		tear_down(state);
		set_up(state);
	}
}

static void test_too_many_slots(void **state)
{
	(void)state;
	put_example();
	put("vm.d/a.conf", "[VM a]\nUser=61001\nServices=sensor\nPciSlot=26\n");
	refuse("VM a", "a.conf:1"); /* table and five sections need 26 to 31 */
	put("vm.d/a.conf", "[VM a]\nUser=61001\nServices=sensor\nPciSlot=25\n");
	config_free(load());
}

static void test_empty(void **state)
{
	struct config *config = load();

	(void)state;
	assert_string_equal(config->ca.trust_domain, "sivshm.local");
	assert_int_equal(config->ca.lifetime_usec, 3600 * 1000000ULL);
	assert_int_equal(config->limits.handshake_timeout_usec, 10000000);
	assert_int_equal(config->limits.sessions_per_vm, 64);
	assert_int_equal(config->n_vms + config->n_regions + config->n_rules, 0);
	config_free(config);
}

static void test_example(void **state)
{
	const struct region_config *region;
	const struct vm_config *vm;
	struct config *config;
	struct peer_name from, to;

	(void)state;
	put_example();
	config = load();
	vm = config_find_vm(config, "a");
	assert_int_equal(vm->uid, 61001);
	assert_int_equal(vm->gid, 61001);
	assert_int_equal(vm->channels, 256);
	assert_int_equal(vm->pci_slot, 0x10);
	assert_true(vm_config_has_service(vm, "camera"));
	assert_false(vm_config_has_service(vm, "dashboard"));
	vm = config_find_vm(config, "b");
	assert_int_equal(vm->gid, 7);
	assert_int_equal(vm->channels, 8);
	region = config_find_region(config, "demo");
	assert_int_equal(region->section_size, 4 << 20);
	assert_int_equal(region_config_member(region, "b"), 0);
	assert_int_equal(region_config_member(region, "a"), 1);
	assert_int_equal(region_config_member(region, "c"), -1);
	assert_int_equal(config_find_region(config, "all")->vectors, 8);
	assert_string_equal(config->regions[0].name, "all"); /* by name, not by file */
	peer_name_parse("a/sensor", &from);
	peer_name_parse("b/dashboard", &to);
	assert_int_equal(config_find_rule(config, &from, &to)->channels, 3);
	assert_int_equal(config_find_rule(config, &from, &to)->max_ring_size, 65536);
	assert_null(config_find_rule(config, &to, &from));
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_refusals),
		CASE(test_too_many_slots),
		CASE(test_empty),
		CASE(test_example),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
