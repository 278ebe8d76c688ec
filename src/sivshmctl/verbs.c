/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verbs.h"

#define GUEST "In a guest"
#define HOST "On the host"

const struct verb verbs[] = {
	{"status", "", "This VM, its connection to the host, sections and certificates", "", GUEST,
	 0, 0, verb_status},
	{"list", "", "Channels of this VM", "", GUEST, 0, 0, verb_list},
	{"listeners", "", "Services of this VM that can be connected to", "", GUEST, 0, 0,
	 verb_listeners},
	{"connect", "VM/SERVICE", "Join a service; stdin is sent, what comes is written to stdout",
	 "arqt", GUEST, 1, 1, verb_connect},
	{"listen", "SERVICE", "Be a service for one connection; stdin and stdout as with connect",
	 "ekrq", GUEST, 1, 1, verb_listen},
	{"ping", "VM/SERVICE", "Round-trip times to a service that echoes (listen --echo)", "acsrt",
	 GUEST, 1, 1, verb_ping},
	{"explain", "SERVICE [VM/SERVICE]",
	 "May I act as SERVICE towards a peer (without one: listen), and why", "", GUEST, 1, 2,
	 verb_explain},
	{"reload", "", "Read the policy again (with --host: the host's configuration)", "H", GUEST,
	 0, 0, verb_reload},

	{"vms", "", "Virtual machines", "", HOST, 0, 0, verb_vms},
	{"regions", "", "Regions, their members and memory", "", HOST, 0, 0, verb_regions},
	{"channels", "", "Channels between services", "", HOST, 0, 0, verb_channels},
	{"certificates", "", "Certificates that have not expired", "", HOST, 0, 0,
	 verb_certificates},
	{"revoke channel", "ID", "Take one channel away from both ends", "R", HOST, 1, 1,
	 verb_revoke_channel},
	{"revoke service", "VM/SERVICE", "Close its channels and refuse it until restore", "R",
	 HOST, 1, 1, verb_revoke_service},
	{"revoke vm", "VM", "The same for every service of a VM", "R", HOST, 1, 1, verb_revoke_vm},
	{"restore", "VM[/SERVICE]", "Undo revoke service or revoke vm", "", HOST, 1, 1,
	 verb_restore},
	{"policy explain", "FROM TO", "May FROM (VM/SERVICE) connect to TO, and which rule says so",
	 "", HOST, 2, 2, verb_policy_explain},
	{"qemu-args", "VM", "What to add to the VM's QEMU command line", "l", HOST, 1, 1,
	 verb_qemu_args},
};

const size_t n_verbs = sizeof(verbs) / sizeof(*verbs);
