//! What native commands, those that do not come through `MAS.EXEC`, may do: the rules of the command filter.
//!
//! On a replica and while loading everything passes (it comes from the master or from disk), save for the engine commands
//! that only a master serves. On a master supported writes are captured, and all other writes are refused: nothing
//! changes unseen. The engine's own inner commands pass.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use mas_commands::{Args, Command, Effect, Support};

use crate::boundary::Filtered;

/// What the filter does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Loading: everything passes.
    Loading,
    /// A replica: everything passes but what only a master serves.
    Replica,
    /// A master that is fenced or recovering: writes are refused.
    Closed,
    /// A serving master.
    Serving,
}

static GATE: AtomicU8 = AtomicU8::new(Gate::Loading as u8);
static OWN_CALL: AtomicBool = AtomicBool::new(false);

/// Sets what the filter does.
pub(crate) fn set(gate: Gate) {
    GATE.store(gate as u8, Relaxed);
}

/// Calls `f`, during which the filter lets everything pass.
pub(crate) fn own_call<R>(f: impl FnOnce() -> R) -> R {
    let outer = OWN_CALL.swap(true, Relaxed);
    let result = f();
    OWN_CALL.store(outer, Relaxed);
    result
}

/// What the filter does now; `None` when everything passes.
pub(crate) fn open() -> Option<Gate> {
    if OWN_CALL.load(Relaxed) {
        return None;
    }
    match GATE.load(Relaxed) {
        1 => Some(Gate::Replica),
        2 => Some(Gate::Closed),
        3 => Some(Gate::Serving),
        _ => None,
    }
}

/// Commands that go by in great numbers and never write.
pub(crate) fn is_harmless(name: &[u8]) -> bool {
    match name.len() {
        3 => name.eq_ignore_ascii_case(b"GET"),
        4 => name.eq_ignore_ascii_case(b"MGET") || name.eq_ignore_ascii_case(b"HGET"),
        8 => name.eq_ignore_ascii_case(b"MAS.EXEC") && GATE.load(Relaxed) != Gate::Replica as u8,
        _ => false,
    }
}

/// Engine commands that only a master serves. (The server itself would answer `READONLY`.)
const MASTER_ONLY: [&[u8]; 10] =
    [b"EXEC", b"MERGE", b"TRIM", b"OUTBOX", b"CLAIM", b"PROMOTE", b"JOIN", b"JOINED", b"SERVE", b"REPAIR"];

/// Decides about one command.
pub(crate) fn judge<A: Args + ?Sized>(gate: Gate, words: &A) -> Filtered {
    let name = words.arg(0);
    if let Some(own) = name.get(..4).filter(|p| p.eq_ignore_ascii_case(b"MAS.")).map(|_| &name[4..]) {
        let master_only = MASTER_ONLY.iter().any(|only| own.eq_ignore_ascii_case(only));
        return if gate == Gate::Replica && master_only {
            Filtered::Refuse("MASREPLICA this engine is a replica: ask the shard's master".into())
        } else {
            Filtered::Pass
        };
    }
    if gate == Gate::Replica {
        return Filtered::Pass;
    }
    let Some(command) = mas_commands::resolve(words) else { return judge_unknown(name) };
    if is_debug_write(command, words) {
        return refuse(command.name, "it changes data unseen");
    }
    if !command.flags.has("write") {
        return Filtered::Pass;
    }
    if let Support::No(why) = command.support {
        return refuse(command.name, why);
    }
    if let Some((option, why)) = command.refused_option(words) {
        return refuse(&format!("{} {option}", command.name), why);
    }
    if !writes(command, words) {
        return Filtered::Pass;
    }
    if gate == Gate::Closed {
        return Filtered::Refuse(
            "MASFENCED this engine does not serve (yet): ask the other members of the shard".into(),
        );
    }
    Filtered::Capture
}

/// Whether this request may change something.
fn writes<A: Args + ?Sized>(command: &Command, words: &A) -> bool {
    command.effect == Effect::Flush
        || command.is_write() && command.written_keys(words).is_ok_and(|mut keys| keys.next().is_some())
}

fn is_debug_write<A: Args + ?Sized>(command: &Command, words: &A) -> bool {
    command.name.starts_with("DEBUG") && words.count() > 1 && words.arg(1).eq_ignore_ascii_case(b"POPULATE")
}

/// A command that the table does not know: what a later server, or another module, brings along.
fn judge_unknown(name: &[u8]) -> Filtered {
    if name.eq_ignore_ascii_case(b"DEBUG") || !crate::unknown::may_write(name) {
        return Filtered::Pass;
    }
    refuse(&String::from_utf8_lossy(name), "it is not known to this version")
}

fn refuse(what: &str, why: &str) -> Filtered {
    Filtered::Refuse(format!("ERR '{}' is not supported by a multi-active store: {why}", what.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(gate: Gate, words: &str) -> Filtered {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        judge(gate, &words[..])
    }

    #[test]
    fn a_serving_master_captures_what_it_can_and_refuses_the_rest() {
        for words in ["SET a 1", "incr a", "FLUSHALL", "RENAME a b", "GEORADIUS a 1 2 3 km STORE b"] {
            assert_eq!(judged(Gate::Serving, words), Filtered::Capture, "{words}");
        }
        for words in
            ["GET a", "SORT a", "PING", "EVAL x 0", "GEORADIUS a 1 2 3 km", "MULTI", "MAS.EXEC h SET a b"]
        {
            assert_eq!(judged(Gate::Serving, words), Filtered::Pass, "{words}");
        }
        for words in
            ["LPUSH a 1", "XADD a * b c", "SORT a STORE b", "SWAPDB 0 1", "MOVE a 1", "DEBUG POPULATE 10"]
        {
            assert!(matches!(judged(Gate::Serving, words), Filtered::Refuse(_)), "{words}");
        }
    }

    #[test]
    fn a_closed_master_refuses_writes_and_a_replica_what_only_masters_serve() {
        assert!(
            matches!(judged(Gate::Closed, "SET a 1"), Filtered::Refuse(why) if why.starts_with("MASFENCED"))
        );
        assert_eq!(judged(Gate::Closed, "GET a"), Filtered::Pass);
        assert_eq!(judged(Gate::Replica, "SET a 1"), Filtered::Pass, "from the master's stream");
        assert_eq!(judged(Gate::Replica, "MAS.APPLY x"), Filtered::Pass);
        assert!(
            matches!(judged(Gate::Replica, "mas.exec x"), Filtered::Refuse(why) if why.starts_with("MASREPLICA"))
        );
    }
}
