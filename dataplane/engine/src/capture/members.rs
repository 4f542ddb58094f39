//! Fields of hashes, members of sets and sorted sets: one operation for each that changed.

use bytes::Bytes;
use mas_core::effect::{Kind, Op, Value};

use super::{Answer, Write, counters};
use crate::boundary::{Leaf, Reply};
use crate::refusal::Refusal;

impl Write<'_> {
    fn member(&self, kind: Kind, name: &[u8], value: Option<Value>) -> Op {
        Op::Put { kind, name: Bytes::copy_from_slice(name), stamp: self.stamp, value, keep_ttl: true }
    }

    fn record_removed<'n>(&mut self, key: &[u8], kind: Kind, names: impl IntoIterator<Item = &'n [u8]>) {
        let ops = names.into_iter().map(|name| self.member(kind, name, None)).collect();
        self.record(key, ops);
    }

    /// For each word from `from` on, whether it is a member of the set at word 1.
    fn in_set(&self, from: usize) -> Vec<bool> {
        let mut args = vec![self.arg(1)];
        args.extend(self.words.skip(from).iter());
        let reply = self.ctx.call("SMISMEMBER", &args);
        if reply.is_error() {
            return vec![false; self.words.len().saturating_sub(from)];
        }
        reply.leaves().iter().map(|leaf| *leaf == Leaf::Integer(1)).collect()
    }
}

/// `HSET`, `HMSET`, `HSETNX`: a write of the same value is a write.
pub(super) fn hash_set(w: &mut Write<'_>) -> Reply {
    let reply = w.run();
    if reply.is_error() || (w.command.name == "HSETNX" && reply.integer() != Some(1)) {
        return reply;
    }
    let value = |at: usize| Some(Value::Bytes(Bytes::copy_from_slice(w.arg(at + 1))));
    let ops = (2..w.words.len()).step_by(2).map(|at| w.member(Kind::Hash, w.arg(at), value(at))).collect();
    w.record(w.arg(1), ops);
    reply
}

/// `HDEL`.
pub(super) fn hash_delete(w: &mut Write<'_>) -> Reply {
    let key = w.arg(1);
    let present: Vec<&[u8]> =
        w.words.skip(2).iter().filter(|field| w.native.hash_field(key, field).is_some()).collect();
    let reply = w.run();
    if !reply.is_error() {
        w.record_removed(key, Kind::Hash, present);
    }
    reply
}

/// `SADD`: the members that were not there.
pub(super) fn set_add(w: &mut Write<'_>) -> Reply {
    let before = if w.words.len() > 3 { w.in_set(2) } else { vec![false] };
    let reply = w.run();
    if reply.integer().is_some_and(|added| added > 0) {
        let new = w.words.skip(2).iter().zip(before).filter(|(_, was)| !was);
        let ops = new.map(|(member, _)| w.member(Kind::Set, member, Some(Value::Member))).collect();
        w.record(w.arg(1), ops);
    }
    reply
}

/// `SREM`: the members that were there.
pub(super) fn set_remove(w: &mut Write<'_>) -> Reply {
    let before = if w.words.len() > 3 { w.in_set(2) } else { vec![true] };
    let reply = w.run();
    if reply.integer().is_some_and(|removed| removed > 0) {
        let gone: Vec<&[u8]> =
            w.words.skip(2).iter().zip(before).filter(|(_, was)| *was).map(|(member, _)| member).collect();
        w.record_removed(w.arg(1), Kind::Set, gone);
    }
    reply
}

/// `SPOP`: the members that Redis picked.
pub(super) fn set_pop(w: &mut Write<'_>) -> Reply {
    let reply = w.run();
    if !reply.is_error() {
        let leaves = reply.leaves();
        w.record_removed(w.arg(1), Kind::Set, leaves.iter().filter_map(Leaf::bytes));
    }
    reply
}

/// `SMOVE`.
pub(super) fn set_move(w: &mut Write<'_>) -> Reply {
    let (from, to, member) = (w.arg(1), w.arg(2), w.arg(3));
    let reply = w.run();
    if reply.integer() == Some(1) && from != to {
        w.record_removed(from, Kind::Set, [member]);
        let added = w.member(Kind::Set, member, Some(Value::Member));
        w.record(to, vec![added]);
    }
    reply
}

/// Options of `ZADD`.
#[derive(Clone, Copy, Debug, Default)]
struct ZAddOptions {
    /// Where the pairs of score and member begin.
    from: usize,
    increments: bool,
    /// Redis refuses the command for them.
    conflict: bool,
}

fn z_add_options(w: &Write<'_>) -> ZAddOptions {
    const NAMES: [&str; 6] = ["NX", "XX", "GT", "LT", "CH", "INCR"];
    let mut given = [false; NAMES.len()];
    let known = |at: usize| NAMES.iter().position(|name| w.arg(at).eq_ignore_ascii_case(name.as_bytes()));
    let mut from = 2;
    while from < w.words.len()
        && let Some(option) = known(from)
    {
        given[option] = true;
        from += 1;
    }
    let [nx, xx, gt, lt, _, increments] = given;
    ZAddOptions { from, increments, conflict: nx && (xx || gt || lt) || gt && lt }
}

/// `ZADD`: the members whose score changed. With `INCR` it is an increment.
pub(super) fn z_add(w: &mut Write<'_>) -> Result<Answer, Refusal> {
    let ZAddOptions { from, increments, conflict } = z_add_options(w);
    if conflict {
        return Ok(Answer::Native(w.run()));
    }
    if increments && w.words.len() == from + 2 {
        let delta = counters::score(w.arg(from))?;
        let member = w.arg(from + 1);
        return counters::z_increment(w, delta, member);
    }
    let members: Vec<&[u8]> = (from + 1..w.words.len()).step_by(2).map(|at| w.arg(at)).collect();
    Ok(Answer::Native(with_scores(w, &members)))
}

/// `GEOADD`: positions are scores.
pub(super) fn geo_add(w: &mut Write<'_>) -> Reply {
    let is_option = |word: &[u8]| ["NX", "XX", "CH"].iter().any(|o| word.eq_ignore_ascii_case(o.as_bytes()));
    let from = (2..w.words.len()).find(|&at| !is_option(w.arg(at))).unwrap_or(w.words.len());
    let members: Vec<&[u8]> = (from + 2..w.words.len()).step_by(3).map(|at| w.arg(at)).collect();
    with_scores(w, &members)
}

/// Runs the command, and records for each of `members` the score that it has now, if that is another one.
fn with_scores(w: &mut Write<'_>, members: &[&[u8]]) -> Reply {
    let key = w.arg(1);
    let native = w.native;
    let bits = |member: &[u8]| native.score(key, member).map(f64::to_bits);
    let before: Vec<Option<u64>> = members.iter().map(|member| bits(member)).collect();
    let reply = w.run();
    if !reply.is_error() {
        let changed = members.iter().zip(before).filter_map(|(member, before)| {
            let score = native.score(key, member)?;
            (before != Some(score.to_bits())).then(|| w.member(Kind::Zset, member, Some(Value::Score(score))))
        });
        let ops = changed.collect();
        w.record(key, ops);
    }
    reply
}

/// `ZREM`: the members that were there.
pub(super) fn z_remove(w: &mut Write<'_>) -> Reply {
    let key = w.arg(1);
    let present: Vec<&[u8]> =
        w.words.skip(2).iter().filter(|member| w.native.score(key, member).is_some()).collect();
    let reply = w.run();
    if !reply.is_error() {
        w.record_removed(key, Kind::Zset, present);
    }
    reply
}

/// `ZPOPMIN`, `ZPOPMAX`, `ZMPOP`: members and scores take turns in the reply; `ZMPOP` names the key first.
pub(super) fn z_pop(w: &mut Write<'_>) -> Reply {
    let reply = w.run();
    if reply.is_error() {
        return reply;
    }
    let leaves = reply.leaves();
    let (key, popped) = match leaves.split_first() {
        Some((Leaf::Bytes(key), rest)) if w.command.name == "ZMPOP" => (key.clone(), rest),
        Some((Leaf::Bytes(_), _)) => (w.arg(1).to_vec(), &leaves[..]),
        _ => return reply,
    };
    w.record_removed(&key, Kind::Zset, popped.iter().step_by(2).filter_map(Leaf::bytes));
    reply
}

/// `ZREMRANGEBYSCORE`, `ZREMRANGEBYRANK`, `ZREMRANGEBYLEX`: the range is read before it goes.
pub(super) fn z_remove_range(w: &mut Write<'_>) -> Reply {
    let read = match w.command.name {
        "ZREMRANGEBYSCORE" => "ZRANGEBYSCORE",
        "ZREMRANGEBYLEX" => "ZRANGEBYLEX",
        _ => "ZRANGE",
    };
    let range = w.ctx.call(read, &[w.arg(1), w.arg(2), w.arg(3)]);
    let members = if range.is_error() { Vec::new() } else { range.leaves() };
    let reply = w.run();
    if !reply.is_error() {
        w.record_removed(w.arg(1), Kind::Zset, members.iter().filter_map(Leaf::bytes));
    }
    reply
}
