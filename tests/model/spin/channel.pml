/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Life of a channel: handshake, grant, open, revoke, confirm, quarantine; docs/verification.md.
 *
 * VM 0 connects to VM 1, twice at a time (sessions 0 and 1).  There is memory for one channel, so
 * every use of the windows is a use anew, and there are two slots.  A step is one event handler of
 * sivshm-cad or sivshmd, or one call of the module; the host may die behind each store to a table,
 * daemons and VMs at any time.  What is on the way then is lost; Released may be told twice.  The
 * relay between the guests pairs handshakes as it likes, or ends them itself.  With -DEVIL daemon
 * and kernel of VM 1 are hostile: they say anything, at any time, as often as they like.
 *
 * Checked:
 *   assertions    windows are taken only when no honest kernel maps them and no grant lets it;
 *                 granted is only who verified the other end, in one and the same handshake
 *   one_sided     a grant that is ACTIVE at one end alone does not stay so
 *   unopened      an ACTIVE grant of VM 0 that its kernel has no channel of does not stay so
 *   settled       a session that was granted ends, whatever the ends do not say
 *
 * SKIP_ and NO_ are the broken variants, tests/model/test_spin.py.
 */

#define FREE 0
#define ACTIVE 1
#define DRAINING 2
#define REVOKED 3

#ifndef DEATHS
#define DEATHS 1 /* of host, daemons and VMs, in all */
#endif
#ifndef GRANTS
#define GRANTS 2 /* in all */
#endif
#define NOBODY 2 /* a relay that ends the handshake itself, with a certificate of its own */

#ifdef EVIL
#define honest(v) ((v) == 0)
#else
#define honest(v) true
#endif

/* Arrays of four: slot and VM. */
#define at(c, v) (2 * (c) + (v))

/* grant tables: outlive the host */
byte table[4], generation[4];

/* host, in memory: struct channel_end, struct alloc, struct session */
bool present[4];
byte taken; /* slot that has the windows, plus one */
bool up = true;
bool ready[2] = true; /* Hello was said */
byte deaths, grants;

#define NONE 0
#define OFFERED 1   /* A has SH..SF */
#define FINISHING 2 /* Confirm came, B is asked */
#define GRANTED 3
byte session[2], exporter[2], slot[2];
bool opened[4];

/* kernels: generation of the channel in the slot, 0 none; does anybody map its windows? */
byte held[4];
bool mapped[4];

/* on the way: generation that daemon was told of (answer to Confirm, or Granted), or host (Released) */
byte granted[4], released[4];

/* handshakes: which end of B this end of A met, as the relay wants it; A's Confirm, 0 none */
byte met[2], confirmed[2];

#define usable(c, v) (table[at(c, v)] == ACTIVE || table[at(c, v)] == DRAINING)
#define is_open(c) (table[at(c, 0)] == ACTIVE && table[at(c, 1)] == ACTIVE)
#define any_present(c) (present[at(c, 0)] || present[at(c, 1)])
#define unused(c) (table[at(c, 0)] == FREE && table[at(c, 1)] == FREE && !any_present(c))
#define untouched(c, v) (!(honest(v) && mapped[at(c, v)]))

/* handshake_result(): binds both ends' secrets and the session id; never 0 */
#define EKM(a, b, s) (1 + (a) + 3 * (b) + 9 * (s))

#ifdef SKIP_EXPORTER
#define EXPORTERS_EQUAL(s) true
#else
#define EXPORTERS_EQUAL(s) (theirs == exporter[s]) /* check_finished(): CRYPTO_memcmp() */
#endif
#ifdef SKIP_VERIFY
#define VERIFIED(s) true
#else
#define VERIFIED(s) (met[s] != NOBODY) /* handshake-verify.c: the chain, and exactly that id */
#endif
#ifdef SKIP_GENERATION
#define THIS_USE(c, v) (released[at(c, v)] != 0)
#else
#define THIS_USE(c, v) (released[at(c, v)] == generation[at(c, v)]) /* handle_released() */
#endif

/* table_set_state(), table_activate(): the one thing that survives, and a place to die at */
inline store(entry, value) {
	if
	:: up ->
		table[entry] = value;
		if
		:: true
		:: deaths < DEATHS -> deaths++; up = false
		fi
	:: else
	fi
}

/* channel_settle(): the windows go back when no kernel can have them any more */
inline settle(ch) {
	if
#ifdef NO_QUARANTINE
	:: taken == (ch) + 1 && !usable(ch, 0) && !usable(ch, 1) -> taken = 0
#else
	:: taken == (ch) + 1 && !any_present(ch) -> taken = 0
#endif
	:: else
	fi
}

/* revoke_end() */
inline revoke_end(ch, which) {
	if
	:: present[at(ch, which)] && usable(ch, which) -> store(at(ch, which), REVOKED)
	:: else
	fi
}

/* channel_withdraw() */
inline withdraw(ch) {
	revoke_end(ch, 0);
	revoke_end(ch, 1);
	settle(ch)
}

/* channel_end_gone(): FREE here, the other end drains */
inline end_gone(ch, gone) {
	if
	:: present[at(ch, gone)] ->
		store(at(ch, gone), REVOKED);
		store(at(ch, gone), FREE);
		present[at(ch, gone)] = false
	:: else
	fi;
	if
#ifndef NO_DRAIN
	:: table[at(ch, 1 - gone)] == ACTIVE -> store(at(ch, 1 - gone), DRAINING)
#endif
	:: else
	fi;
	settle(ch)
}

/* session_free() */
inline forget(over) {
	session[over] = NONE;
	exporter[over] = 0;
	confirmed[over] = 0;
	met[over] = 0;
	slot[over] = 0
}

/* reconcile(): what Hello of VM who does not name is gone there */
inline reconcile(ch, who, named) {
	if
	:: present[at(ch, who)] && (named) != generation[at(ch, who)] -> end_gone(ch, who)
	:: else
	fi
}

/* handle_hello(), sessions_vm_restarted() */
inline hello(vm_, named0, named1) {
	ready[vm_] = true;
	forget(0);
	forget(1);
	reconcile(0, vm_, named0);
	reconcile(1, vm_, named1)
}

/* What was told to the daemon, and what it was to tell, dies with it. */
inline silence(vm_) {
	granted[at(0, vm_)] = 0;
	granted[at(1, vm_)] = 0;
	released[at(0, vm_)] = 0;
	released[at(1, vm_)] = 0
}

/* session_connect(), on_offer(); which end of B it meets is the relay's choice */
inline offer(s) {
	session[s] = OFFERED;
	if
	:: met[s] = 0
	:: met[s] = 1
	:: met[s] = NOBODY
	fi
}

/* grant(): channel_prepare(), channel_publish(), announce_grant() */
inline grant(s, c) {
	/* alloc_take() */
	assert(untouched(0, 0) && untouched(0, 1) && untouched(1, 0) && untouched(1, 1));
	assert(!usable(0, 0) && !usable(0, 1) && !usable(1, 0) && !usable(1, 1));
	/* with one end hostile there is nothing to say about who it is */
	assert(met[s] == s || !honest(1));
	grants++;
	taken = (c) + 1;
	generation[at(c, 0)]++;
	generation[at(c, 1)]++;
	opened[at(c, 0)] = false;
	opened[at(c, 1)] = false;
	present[at(c, 0)] = true;
	store(at(c, 0), ACTIVE);
	present[at(c, 1)] = true;
	store(at(c, 1), ACTIVE);
	if
	:: up -> session[s] = GRANTED; slot[s] = c;
		granted[at(c, 0)] = generation[at(c, 0)];
		granted[at(c, 1)] = generation[at(c, 1)]
	:: else
	fi
}

/*
 * on_finished(): B's end of session s answers with its exporter, when an end of A came to it that
 * it verified; or with an error.
 */
inline finished(s) {
	if
	:: met[0] == s && session[0] != NONE -> theirs = EKM(0, s, s)
	:: met[1] == s && session[1] != NONE -> theirs = EKM(1, s, s)
#ifdef SKIP_VERIFY
	:: theirs = EKM(NOBODY, s, s)
#endif
#ifdef EVIL
	:: theirs = exporter[s] /* it has the keys of its own handshakes */
#endif
	:: theirs = 0
	fi;
	if
	:: theirs != 0 && EXPORTERS_EQUAL(s) && taken == 0 && grants < GRANTS && unused(0) -> grant(s, 0)
	:: theirs != 0 && EXPORTERS_EQUAL(s) && taken == 0 && grants < GRANTS && !unused(0) && unused(1) -> grant(s, 1)
	:: else -> forget(s)
	fi;
	theirs = 0
}

inline handle_released(c, v) {
	if
	:: present[at(c, v)] && THIS_USE(c, v) -> end_gone(c, v)
	:: else
	fi;
	if
	:: released[at(c, v)] = 0
	:: true /* once more */
	fi
}

/* Fairness makes each process move that can for ever: who need not says so. */
#define IDLE (deaths <= DEATHS) /* always */

#define ANY (up && ready[0] && ready[1])

/* sivshm-cad: requests */
active proctype host() {
	byte theirs;

end:	do
	:: atomic { ANY && session[0] == NONE -> offer(0) }
	:: atomic { ANY && session[1] == NONE && session[0] != NONE -> offer(1) }
	/* session_confirm(), ask_finish() */
	:: atomic { up && session[0] == OFFERED && confirmed[0] -> exporter[0] = confirmed[0]; session[0] = FINISHING }
	:: atomic { up && session[1] == OFFERED && confirmed[1] -> exporter[1] = confirmed[1]; session[1] = FINISHING }
	:: atomic { up && session[0] == FINISHING -> finished(0) }
	:: atomic { up && session[1] == FINISHING -> finished(1) }
	/* session_fail(), for any reason */
	:: atomic { up && (session[0] == OFFERED || session[0] == FINISHING) -> forget(0) }
	:: atomic { up && (session[1] == OFFERED || session[1] == FINISHING) -> forget(1) }
	od
}

/* handle_released(), one process for each so that each is served */
proctype take_released(byte v) {
end:	do
	:: atomic { up && ready[v] && released[at(0, v)] -> handle_released(0, v) }
	:: atomic { up && ready[v] && released[at(1, v)] -> handle_released(1, v) }
	od
}

#define both_opened(c) (opened[at(c, 0)] && opened[at(c, 1)])

proctype timer(byte s) {
end:	do
	/* session_opened() */
	:: atomic { up && session[s] == GRANTED && both_opened(slot[s]) -> forget(s) }
#ifndef NO_TIMEOUT
	/* on_timeout(), withdraw_grant(); session_cancel() does the same */
	:: atomic {
		up && session[s] == GRANTED && !both_opened(slot[s]) ->
		if
		:: is_open(slot[s]) -> withdraw(slot[s])
		:: else
		fi;
		forget(s)
	   }
#endif
	od
}

/* on_drained() */
proctype drain_timer(byte c) {
end:	do
	:: atomic { up && (table[at(c, 0)] == DRAINING || table[at(c, 1)] == DRAINING) -> withdraw(c) }
	od
}

/* revoke.c, for policy or by the administrator; SIGKILL */
active proctype trouble() {
end:	do
	:: atomic { up && is_open(0) -> withdraw(0) }
	:: atomic { up && is_open(1) -> withdraw(1) }
	:: atomic { up && deaths < DEATHS -> deaths++; up = false }
	:: IDLE
	od
}

inline rebuild(c) {
	present[at(c, 0)] = table[at(c, 0)] != FREE;
	present[at(c, 1)] = table[at(c, 1)] != FREE;
	if
	:: any_present(c) -> taken = (c) + 1
	:: else
	fi
}

/* revive(): goes on when it is whole, drains when it was draining, else it is withdrawn */
inline revive(c) {
	if
#ifndef NO_REVIVE
	:: any_present(c) && !is_open(c) && table[at(c, 0)] != DRAINING && table[at(c, 1)] != DRAINING -> withdraw(c)
#endif
	:: else
	fi
}

/* the next sivshm-cad: channels_rebuild(); sessions and listeners are gone; Reset asks for Hello */
active proctype restart() {
end:	do
	:: atomic {
		!up -> up = true;
		forget(0);
		forget(1);
		ready[0] = false;
		ready[1] = false;
		silence(0);
		silence(1);
		taken = 0;
		rebuild(0);
		rebuild(1);
		revive(0);
		revive(1)
	   }
	od
}

/* A's end: handshake_step(), send_confirm() */
active proctype connecting() {
end:	do
	:: atomic { session[0] == OFFERED && !confirmed[0] && VERIFIED(0) -> confirmed[0] = EKM(0, met[0], 0) }
	:: atomic { session[1] == OFFERED && !confirmed[1] && VERIFIED(1) -> confirmed[1] = EKM(1, met[1], 1) }
	od
}

/* take_grant(), accept_granted(): opener.c, sivshm_channel_open(), Opened; or channel_never_opened() */
inline take_grant(c, v) {
	if
	:: usable(c, v) && generation[at(c, v)] == granted[at(c, v)] && held[at(c, v)] == 0 ->
		held[at(c, v)] = granted[at(c, v)];
		mapped[at(c, v)] = true;
		opened[at(c, v)] = true
	:: else ->
		if
		:: held[at(c, v)] != granted[at(c, v)] -> released[at(c, v)] = granted[at(c, v)]
		:: else
		fi
	fi;
	granted[at(c, v)] = 0
}

proctype opener(byte v) {
end:	do
	:: atomic { granted[at(0, v)] -> take_grant(0, v) }
	:: atomic { granted[at(1, v)] -> take_grant(1, v) }
	od
}

/* one slot of a kernel */
proctype kernel(byte c; byte v) {
end:	do
	/* follow(): the table says so, the daemon is not asked */
	:: atomic {
		mapped[at(c, v)] && (!usable(c, v) || generation[at(c, v)] != held[at(c, v)]) -> mapped[at(c, v)] = false
	   }
	/* the holder closes; SIVSHM_EVENT_RELEASED, sivshm_channel_forget(), Released */
	:: atomic {
		held[at(c, v)] -> mapped[at(c, v)] = false; released[at(c, v)] = held[at(c, v)]; held[at(c, v)] = 0
	   }
	:: IDLE
	od
}

/* sivshmd of VM v is asked for Hello: it names what the kernel has */
proctype daemon(byte v) {
end:	do
	:: atomic { up && !ready[v] -> hello(v, held[at(0, v)], held[at(1, v)]) }
	od
}

inline member_gone(c, v) {
	held[at(c, v)] = 0;
	mapped[at(c, v)] = false;
	if
	:: any_present(c) -> revoke_end(c, 1 - v); end_gone(c, v)
	:: else
	fi
}

/* QEMU of VM v ends: channels_member_gone(), sessions_vm_lost() */
proctype power(byte v) {
end:	do
	:: atomic {
		up && deaths < DEATHS -> deaths++;
		silence(v);
		forget(0);
		forget(1);
		member_gone(0, v);
		member_gone(1, v)
	   }
	/* sivshmd dies, and the next one says Hello */
	:: atomic { up && deaths < DEATHS -> deaths++; silence(v); hello(v, held[at(0, v)], held[at(1, v)]) }
	:: IDLE
	od
}

/* VM 1 when it is hostile */
proctype evil() {
end:	do
	:: atomic { up -> released[at(0, 1)] = generation[at(0, 1)] }
	:: atomic { up -> released[at(1, 1)] = generation[at(1, 1)] }
	:: atomic { up -> released[at(0, 1)] = 1 }
	:: atomic { up -> opened[at(0, 1)] = true }
	:: atomic { up -> opened[at(1, 1)] = true }
	/* session_cancel() */
	:: atomic { up && session[0] == GRANTED && is_open(slot[0]) -> withdraw(slot[0]); forget(0) }
	:: atomic { up && session[0] != NONE && session[0] != GRANTED -> forget(0) }
	:: IDLE
	/* Hello, with any list */
	:: atomic { up -> hello(1, 0, 0) }
	:: atomic { up -> hello(1, generation[at(0, 1)], generation[at(1, 1)]) }
	od
}

#ifdef REACH
/* Not empty: a second channel comes about, with both ends mapped. */
active proctype witness() {
	assert(!(grants == 2 && mapped[0] && mapped[1]) && !(grants == 2 && mapped[2] && mapped[3]))
}
#endif

init {
	atomic {
		run take_released(0);
		run take_released(1);
		run timer(0);
		run timer(1);
		run drain_timer(0);
		run drain_timer(1);
		run opener(0);
		run kernel(0, 0);
		run kernel(1, 0);
		run daemon(0);
		run power(0);
#ifdef EVIL
		run evil()
#else
		run opener(1);
		run kernel(0, 1);
		run kernel(1, 1);
		run daemon(1);
		run power(1)
#endif
	}
}

#define alone ((table[0] == ACTIVE && table[1] != ACTIVE) || (table[1] == ACTIVE && table[0] != ACTIVE))
#define unheld (table[0] == ACTIVE && held[0] != generation[0])

ltl one_sided { [] (alone -> <> !alone) }
ltl unopened { [] (unheld -> <> !unheld) }
ltl settled { [] (session[0] == GRANTED -> <> (session[0] != GRANTED)) }
