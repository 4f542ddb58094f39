//! Strings that are set or edited: `SET` and its relatives, `APPEND`, `SETRANGE`, `SETBIT`, `BITFIELD`.

use bytes::Bytes;
use mas_commands::{Command, Effect};
use mas_core::effect::{Kind, Op, Value};
use mas_core::stamp::Stamp;

use super::Write;
use crate::boundary::{Reply, ReplyKind, Words};

/// Options of `SET`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SetOptions {
    conditional: bool,
    get: bool,
    keep_ttl: bool,
    expires: bool,
}

impl SetOptions {
    fn parse(words: Words<'_>) -> Self {
        let mut options = Self::default();
        for word in words.skip(3).iter() {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            options.conditional |= is("NX") || is("XX");
            options.get |= is("GET");
            options.keep_ttl |= is("KEEPTTL");
            options.expires |= is("EX") || is("PX") || is("EXAT") || is("PXAT");
        }
        options
    }
}

/// Whether the command sets whole strings, whatever was there, and clears their time-to-live: then nobody need know
/// whether an old life had expired.
pub(super) fn only_sets(command: &Command, words: Words<'_>) -> bool {
    match command.name {
        "SET" => {
            let options = SetOptions::parse(words);
            !(options.conditional || options.get || options.keep_ttl)
        }
        "MSET" | "SETEX" | "PSETEX" => true,
        _ => command.effect == Effect::Flush,
    }
}

fn put(stamp: Stamp, value: Bytes, keep_ttl: bool) -> Op {
    Op::Put { kind: Kind::Str, name: Bytes::new(), stamp, value: Some(Value::Bytes(value)), keep_ttl }
}

/// `SET`, `SETNX`, `SETEX`, `PSETEX`, `GETSET`, `MSET`, `MSETNX`.
pub(super) fn set(w: &mut Write<'_>) -> Reply {
    match w.command.name {
        "MSET" | "MSETNX" => {
            let reply = w.run();
            if !reply.is_error() && reply.integer() != Some(0) {
                for at in (1..w.words.len()).step_by(2) {
                    let value = put(w.stamp, Bytes::copy_from_slice(w.arg(at + 1)), false);
                    w.record(w.arg(at), vec![value]);
                }
            }
            reply
        }
        "SETEX" | "PSETEX" => {
            let reply = w.run();
            if !reply.is_error() {
                record_set(w, w.arg(3), false, true);
            }
            reply
        }
        "SETNX" => {
            let reply = w.run();
            if reply.integer() == Some(1) {
                record_set(w, w.arg(2), false, false);
            }
            reply
        }
        "GETSET" => {
            let reply = w.run();
            if !reply.is_error() {
                record_set(w, w.arg(2), false, false);
            }
            reply
        }
        _ => set_with_options(w),
    }
}

fn set_with_options(w: &mut Write<'_>) -> Reply {
    let options = SetOptions::parse(w.words);
    // With GET the reply is the old value, whether or not the new one was set.
    let wants_absent = w.words.skip(3).iter().any(|word| word.eq_ignore_ascii_case(b"NX"));
    let reply = w.run();
    let was_set = match (options.conditional, options.get) {
        (_, _) if reply.is_error() => false,
        (false, _) => true,
        (true, false) => !reply.is_null(),
        (true, true) => reply.is_null() == wants_absent,
    };
    if was_set {
        record_set(w, w.arg(2), options.keep_ttl, options.expires);
    }
    reply
}

/// Records that the string at word 1 was set. A time-to-live is read back; one in the past removed the key.
fn record_set(w: &mut Write<'_>, value: &[u8], keep_ttl: bool, expires: bool) {
    let key = w.arg(1);
    let mut ops = vec![put(w.stamp, Bytes::copy_from_slice(value), keep_ttl)];
    if expires {
        if let Some(at_ms) = w.native.expiry(key) {
            let stamp = w.later();
            ops.push(Op::Expire { stamp, life: stamp, at_ms: Some(at_ms) });
        } else if !w.exists(key) {
            ops = vec![Op::Floor(w.stamp)];
        }
    }
    w.record(key, ops);
}

/// `APPEND`, `SETRANGE`, `SETBIT`, `BITFIELD`: the value is read back whole.
pub(super) fn edit(w: &mut Write<'_>) -> Reply {
    let key = w.arg(1);
    let changes = match w.command.name {
        "SETRANGE" => !w.arg(3).is_empty(),
        "BITFIELD" => bitfield_writes(w.words),
        _ => true,
    };
    let reply = w.run();
    if !reply.is_error()
        && changes
        && !(w.command.name == "BITFIELD" && nothing_written(&reply))
        && let Some(value) = w.native.string(key)
    {
        let value = put(w.stamp, value, true);
        w.record(key, vec![value]);
    }
    reply
}

fn bitfield_writes(words: Words<'_>) -> bool {
    words.skip(2).iter().any(|word| word.eq_ignore_ascii_case(b"SET") || word.eq_ignore_ascii_case(b"INCRBY"))
}

/// With `OVERFLOW FAIL` an operation that would overflow answers null.
fn nothing_written(reply: &Reply) -> bool {
    reply.kind() == ReplyKind::Many && reply.leaves().iter().all(|leaf| *leaf == crate::boundary::Leaf::Null)
}
