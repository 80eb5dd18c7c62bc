/* SPDX-License-Identifier: Apache-2.0 */
/* How connections end. DESIGN.md says how to read this, tools/check-model runs it. A step (a
 * statement, or an atomic one) is one call of the kernel's, or one access to what threads share. */
#define TCP 0
#define VSOCK 1
#define other(s) (1 - (s))

/* What the code must have: -DWITHOUT=one of these leaves it out. */
mtype = { RECORD_FIRST, RECORD_LOOK, LOOK, HANGUP, NOTE_FIRST, PROBE, WATCHING, LAST_LOOK,
	ENDED_FIRST, LOOK_AHEAD, ROOM_ERROR, OWN_TROUBLE, CLOCK, TCP_EPIPE, ALL_ERRORS, DELIVERY, LIST_LOCK };
#define has(guard) (WITHOUT != guard)

mtype = { RESET, DIED, BROKEN }; /* errors: ECONNRESET; others of a peer that has died; EPIPE */

#define RUNNING 1 /* deadline: 10 s run, are over, both sockets are reset or about to be; or 0 */
#define PASSED 2
#define ABORTED 3

#define OUTSIDE 3 /* failure: from outside, as by idle time; or the side + 1, or 0 */
byte failure, deadline;
bool write_closed[2], ended[2], locked, unlisted, closed;

mtype = { RECV, ROOM, WATCH, ALL, DONE }; /* where a thread waits, by what it reads from */
mtype at[2];

/* Our sockets: pieces to read, and to send until the peer's kernel has them (vsock: until it
 * reads); the error that is told once; whether the peer has ended its writing, has closed both
 * ways; TCP_CLOSE; what we have shut down. */
byte in[2], out[2], err[2];
bool fin[2], gone[2], dead[2], rshut[2], wshut[2];

/* For the checks: pieces sent; who has read nothing for 10 s, whose failure must be told, who has
 * failed before its end, whose doing may end it all; 60 s after `gone`. */
byte sent[2];
bool slow[2], failed[2], cut[2], hurt[2], stopped, late;

#define hup(s) (dead[s] || wshut[s] && (fin[s] || rshut[s]))
#define readable(s) (in[s] > 0 || fin[s] || err[s] || dead[s] || rshut[s])
#define unwritable(s) (wshut[s] || (s == TCP -> err[s] || dead[s] : gone[s]))
#define room(s) (out[s] == 0 || unwritable(s) || deadline >= PASSED)
#define gave_up(s) (s == VSOCK && gone[s] && !write_closed[s])
#define trouble(s) (deadline == 0 && err[s] && has(ROOM_ERROR))
#define last(s) (ended[other(s)] || deadline >= PASSED)
#define news(s) (has(WATCHING) && (err[s] || hup(s) && !write_closed[s] || \
	has(PROBE) && gave_up(s) && (PAIRED || late)))
#define awake(s) (last(s) || news(s) || hup(s) && has(WATCHING))
#define delivered(s) (s == VSOCK || out[s] == 0 || dead[s] || !has(DELIVERY))
#define settled (deadline >= PASSED || delivered(TCP) && delivered(VSOCK))

#define idle(s) (at[s] == RECV && !readable(s) || at[s] == WATCH && !awake(s) || \
	at[s] == ROOM && !room(other(s)) && !trouble(s) || at[s] == ALL && !settled || at[s] == DONE)
#define all_idle (!locked && idle(TCP) && idle(VSOCK) && !(at[TCP] == DONE && at[VSOCK] == DONE))
#define sixty (!PAIRED && gave_up(VSOCK) && delivered(TCP) && !late)
#define acts(s) (!dead[s] && !closed && !(s == VSOCK && (rshut[s] || gone[s])))
#define keeps(s) (out[s] > 0 && !dead[s] && !gone[s])
#define owed(s) (!slow[s] && !hurt[s] && !gone[s]) /* it gets all that the other side sent */
#define reached(n, what) assert(REACH != n || !(what))

inline fail(s, error) {
	failed[s] = !stopped && (failed[s] || !(fin[s] && wshut[s]));
	hurt[s] = true; err[s] = error; out[s] = 0; dead[s] = s == TCP
}

proctype peer(bit s) {
end:	do
	:: atomic { acts(s) && !fin[s] && sent[s] < (s == TCP -> TCP_SENDS : VSOCK_SENDS) ->
		sent[s]++; in[s]++ }
	:: atomic { acts(s) && !fin[s] -> fin[s] = true } /* half-closes */
	:: atomic { acts(s) && out[s] > 0 && !gone[s] -> out[s]-- } /* reads */
	:: atomic { acts(s) && s == TCP -> /* resets; after its end that is EPIPE */
		fail(s, (fin[s] && !wshut[s] -> BROKEN : RESET)) }
	:: atomic { acts(s) && s == TCP && !gone[s] && !STOP -> fail(s, DIED) }
	:: atomic { acts(s) && s == TCP && !gone[s] -> fin[s] = true; gone[s] = true } /* closes */
	:: atomic { acts(s) && s == VSOCK -> cut[s] = !fin[s]; /* its machine dies */
		fail(s, RESET); in[s] = 0; fin[s] = true; gone[s] = true }
	:: atomic { acts(s) && s == VSOCK -> /* closes, gives up, is killed. The known limit: */
		/* this can't be told from a clean end once the other side has ended, too. */
		failed[s] = PAIRED && !wshut[s] && !fin[other(s)] && !stopped;
		cut[s] = failed[s] && !fin[s]; hurt[s] = hurt[s] || !wshut[s];
		out[s] = 0; fin[s] = true; gone[s] = true }
	od
}

/* 10 s, or 60, pass when no thread of ours can go on. Who has not read until then reads slowly, or
 * not at all. What threads may wait for without end is peers in order. */
proctype time() {
end:	do
	:: atomic { all_idle && deadline == RUNNING ->
		deadline = PASSED; slow[TCP] = slow[TCP] || keeps(TCP);
		slow[VSOCK] = slow[VSOCK] || keeps(VSOCK) }
	:: atomic { all_idle && deadline == 0 && sixty -> late = true }
#ifndef NP /* the search for cycles */
	:: atomic { all_idle && deadline != RUNNING && !sixty -> reached(9, true);
		/* What a peer that gave up has sent may wait for room without end. */
		assert(deadline == 0 && !failed[TCP] && !late);
		assert(!failed[VSOCK] || at[VSOCK] == ROOM && !err[VSOCK]) }
#endif
	od
}

inline record(s, whose) {
	atomic {
		if :: failure == 0 -> failure = whose; assert(whose == OUTSIDE || hurt[s])
		:: else fi }
}

#define start_clock() deadline = (deadline == 0 -> RUNNING : deadline)

inline stream_reset(s) {
	atomic { assert(!closed && (s == TCP || !owed(TCP) || in[VSOCK] == 0));
		if :: s == TCP -> /* connect(2) to AF_UNSPEC */
			assert((!owed(TCP) || out[TCP] == 0) && (!owed(VSOCK) || in[TCP] == 0));
			dead[TCP] = true; err[TCP] = RESET; in[TCP] = 0; out[TCP] = 0
		:: s == TCP && (at[TCP] == RECV || at[VSOCK] == ROOM) ->
			rshut[TCP] = true /* EBUSY: the reset comes with close(2) */
		:: s == VSOCK -> rshut[VSOCK] = true; wshut[VSOCK] = true fi }
}

inline reset_both() /* the client first, which may be either */ {
	if :: stream_reset(TCP); stream_reset(VSOCK)
	:: stream_reset(VSOCK); stream_reset(TCP) fi
}

inline relay_fail() {
	if :: atomic { deadline != ABORTED -> deadline = ABORTED }; reset_both()
	:: else fi
}

inline hidden_error(s) /* leaves an error, or 0 */ {
	atomic { assert(!closed); hung = hup(s); error = err[s] }; /* poll(2) */
	if :: atomic { error != 0 -> error = err[s]; err[s] = 0 } /* SO_ERROR */
	:: else fi;
	if :: atomic { error == 0 && hung && !write_closed[s] && has(HANGUP) -> error = RESET }
	:: atomic { error == 0 && !(hung && !write_closed[s]) && s == VSOCK &&
		(gone[s] || wshut[s]) && has(PROBE) }; /* send(2) of nothing */
		if :: atomic { !write_closed[s] && (PAIRED || late) -> error = BROKEN }
		:: else fi
	:: else fi
}

inline look(s) {
	hidden_error(s);
	if :: error != 0; record(s, s + 1)
	:: else fi
}

proctype direction(bit from, to) {
	byte error;
	bool held, hung, over; /* over: the opposite direction has ended */

copy_run:
	at[from] = RECV;
	atomic { readable(from) -> assert(!closed); at[from] = 0; /* recv(2), splice(2) */
		if :: in[from] > 0 && !(from == VSOCK && rshut[from]) -> in[from]--; held = true
		:: in[from] == 0 && err[from] && (from == VSOCK || !fin[from]) ->
			error = err[from]; err[from] = 0; goto read_failed
		:: (from == TCP -> in[from] == 0 && (fin[from] || !err[from]) :
			in[from] == 0 || rshut[from]) -> /* vsock may keep an error back */
			goto read_failed fi };
deliver: /* the look at deadline may be older than what send(2) finds */
	atomic { assert(!closed);
		if :: deadline >= PASSED -> goto overdue
		:: unwritable(to) -> error = (to == TCP && err[to] -> err[to] : BROKEN);
			err[to] = (to == TCP -> 0 : err[to]); goto write_failed
		:: !unwritable(to) && out[to] == 0 -> out[to]++; held = false; goto copy_run
		:: !room(to) -> at[from] = ROOM fi };
	if /* wait_for_room() */
	:: atomic { room(to) -> at[from] = 0 }
	:: atomic { !room(to) && trouble(from) -> at[from] = 0; start_clock() } fi;
	goto deliver;
overdue:
	atomic { assert(!held || !owed(to)); held = false;
		error = (has(OWN_TROUBLE) -> err[from] : RESET); err[from] = 0 }; /* SO_ERROR */
	if :: error != 0; record(from, from + 1)
	:: else fi;
	goto watch;

write_failed: /* run_direction() from here on */
	atomic { assert(!held || !owed(to)); held = false };
	record(to, to + 1);
	if :: atomic { has(CLOCK) && (has(ALL_ERRORS) || error != DIED) &&
		(error != BROKEN || to == TCP && has(TCP_EPIPE)) -> start_clock(); goto watch }
	:: atomic { error == DIED && !has(ALL_ERRORS) -> goto finish }
	:: atomic { else -> goto watch } fi;
read_failed: /* or an end-of-file */
	if :: atomic { error == 0 && has(LOOK) -> over = ended[to] }; look(from);
		atomic { hung = false; over = (has(ENDED_FIRST) -> over : ended[to]) }
	:: error != 0; record(from, from + 1)
	:: else fi;
	if :: atomic { error != 0 -> goto finish }
	:: atomic { error == 0 && (failure == 0 || !has(RECORD_LOOK)) }; /* pass_on_eof() */
		if :: atomic { PAIRED && to == VSOCK && gone[to] && has(LOOK_AHEAD) }
		:: else;
			write_closed[to] = write_closed[to] || has(NOTE_FIRST);
			atomic { assert(!closed); /* shutdown(2); ENOTCONN needs no action */
				assert(dead[to] || wshut[to] || fin[from] && in[from] == 0 && !cut[from]);
				wshut[to] = wshut[to] || !dead[to] };
			write_closed[to] = true fi
	:: else fi;
watch:
	atomic { error = 0; ended[from] = true; at[from] = WATCH };
	do
	:: atomic { over || last(from) && !has(LAST_LOOK) -> break }
	:: atomic { !over && awake(from) && (!last(from) || has(LAST_LOOK)) ->
		over = last(from); at[from] = 0 };
		look(from);
		atomic { over = over || hung || error; hung = false; error = 0;
			at[from] = (over -> 0 : WATCH) }
	od;
finish: /* end_both() */
	atomic { error = 0; over = false; ended[from] = true; at[from] = 0 };
	if :: atomic { failure != 0 -> start_clock(); at[from] = ALL };
		atomic { settled -> at[from] = 0 };
		relay_fail()
	:: else fi;
	at[from] = DONE
}

proctype outside() /* the main thread's relay_fail(); from then on nobody is owed but an end */ {
end:	atomic { STOP && !locked && !unlisted -> locked = true; stopped = true;
		hurt[TCP] = true; hurt[VSOCK] = true; slow[TCP] = true; slow[VSOCK] = true;
		failed[TCP] = false; failed[VSOCK] = false };
	if :: has(RECORD_FIRST); record(TCP, OUTSIDE); relay_fail()
	:: else; reset_both(); record(TCP, OUTSIDE); deadline = ABORTED fi;
	locked = false
}

init {
	atomic { run peer(TCP); run peer(VSOCK); run direction(TCP, VSOCK); run direction(VSOCK, TCP);
		run time(); run outside() };
	at[TCP] == DONE && at[VSOCK] == DONE;
	atomic { !locked || !has(LIST_LOCK) -> unlisted = true };
	atomic { closed = true; /* close(2): with a failure it resets TCP */
		assert(failure != 0 || !failed[TCP] && !failed[VSOCK]);
		assert(failure == 0 || deadline == ABORTED && (hurt[TCP] || hurt[VSOCK]));
		assert(failure != 0 || fin[TCP] && fin[VSOCK] && wshut[TCP] && wshut[VSOCK]);
		assert((!owed(TCP) || in[VSOCK] == 0 && (out[TCP] == 0 || failure == 0)) &&
			(!owed(VSOCK) || in[TCP] == 0));
		reached(1, failure == 0 && sent[TCP] + sent[VSOCK] == 4 && owed(TCP) && owed(VSOCK));
		reached(2, failure == TCP + 1 && sent[TCP] == 2 && owed(VSOCK));
		reached(3, failure == VSOCK + 1 && cut[VSOCK] && sent[VSOCK] == 2 && owed(TCP));
		reached(5, failure == VSOCK + 1 && slow[TCP] && !hurt[TCP]);
		reached(6, failure == VSOCK + 1 && late);
		reached(4, failure == OUTSIDE); reached(7, rshut[TCP] && !dead[TCP]);
		reached(8, failure == 0 && hurt[VSOCK] && PAIRED) }
}
