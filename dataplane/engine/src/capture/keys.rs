//! Whole keys: deleted, expired, renamed, written whole by a result, flushed.

use mas_core::effect::{Change, Op};
use mas_core::slot::SLOTS;

use super::state::{NotMerged, values_of};
use super::{Answer, Write};
use crate::boundary::Reply;
use crate::refusal::Refusal;

/// `DEL`, `UNLINK`, `GETDEL`: a floor for each key that was there.
pub(super) fn delete(w: &mut Write<'_>) -> Reply {
    let keys: Vec<&[u8]> = w.words.skip(1).iter().filter(|key| w.exists(key)).collect();
    let reply = w.run();
    if !reply.is_error() {
        for key in keys {
            w.record_floor(key);
        }
    }
    reply
}

/// `EXPIRE` and its relatives, `PERSIST`, `GETEX`.
pub(super) fn expire(w: &mut Write<'_>) -> Reply {
    let key = w.arg(1);
    let before = w.exists(key).then(|| w.native.expiry(key));
    let reply = w.run();
    let Some(before) = before else { return reply };
    if reply.is_error() {
        return reply;
    }
    if !w.exists(key) {
        // Its time was in the past.
        w.record_floor(key);
        return reply;
    }
    let after = w.native.expiry(key);
    if after != before || reply.integer() == Some(1) {
        let stamp = w.stamp;
        let ops = w.shard.expire_ops(key, stamp, after, &mut w.native);
        w.record(key, ops);
    }
    reply
}

/// Records that `key` was written whole: nothing of before is left, then everything that is there now, later. `existed`:
/// the key was there before.
fn record_whole(w: &mut Write<'_>, key: &[u8], existed: bool) -> Result<(), NotMerged> {
    let floor = Op::Floor(w.stamp);
    let stamp = w.later();
    let values = values_of(w.ctx, key, stamp)?;
    if values.is_empty() && !existed {
        return Ok(());
    }
    let mut ops = vec![floor];
    let expiry = w.native.expiry(key).filter(|_| !values.is_empty());
    ops.extend(values);
    if let Some(at_ms) = expiry {
        let stamp = w.later();
        ops.push(Op::Expire { stamp, life: stamp, at_ms: Some(at_ms) });
    }
    w.record(key, ops);
    Ok(())
}

/// `RENAME`, `RENAMENX`.
pub(super) fn rename(w: &mut Write<'_>) -> Reply {
    let (from, to) = (w.arg(1), w.arg(2));
    let reply = w.run();
    if reply.is_error() || reply.integer() == Some(0) || from == to {
        return reply;
    }
    w.record_floor(from);
    // A key of a type that is not merged cannot have come into being here.
    let _ = record_whole(w, to, true);
    reply
}

/// Commands that store a result: `SINTERSTORE`, `ZRANGESTORE`, `BITOP`, `COPY`, `RESTORE` …
pub(super) fn rewrite(w: &mut Write<'_>) -> Result<Answer, Refusal> {
    let mut written = w.command.written_keys(&w.words).map_err(|why| Refusal::other(why.to_string()))?;
    let Some(at) = written.next() else { return Ok(Answer::Native(w.run())) };
    let key = w.arg(at);
    let existed = w.exists(key);
    if w.command.name == "RESTORE" && !is_merged_dump(w.arg(3)) {
        return Err(Refusal::other(
            "'restore' of this type is not supported by a multi-active store: it is not merged yet",
        ));
    }
    let reply = w.run();
    if reply.is_error() || (w.command.name == "COPY" && reply.integer() == Some(0)) {
        return Ok(Answer::Native(reply));
    }
    if record_whole(w, key, existed).is_err() {
        w.ctx.call("DEL", &[key]);
        if existed {
            w.record_floor(key);
        }
        return Err(Refusal::other("the result is of a type that is not merged: the key was removed"));
    }
    Ok(Answer::Native(reply))
}

/// Types in RDB files that are lists, streams, values of modules, or hashes whose fields have times to live.
/// Source: Redis, rdb.h, `RDB_TYPE_*`.
const UNMERGED_DUMPS: [u8; 14] = [1, 6, 7, 10, 14, 15, 18, 19, 21, 22, 23, 24, 25, 26];

fn is_merged_dump(payload: &[u8]) -> bool {
    // What is no dump at all is left to the server, which says so.
    payload.first().is_none_or(|kind| !UNMERGED_DUMPS.contains(kind))
}

/// `FLUSHALL`, `FLUSHDB`: a floor for every slot. There is one database, and `FLUSHALL` would also save an RDB file in the
/// middle of this step.
pub(super) fn flush(w: &mut Write<'_>) -> Reply {
    let reply = w.ctx.run("FLUSHDB", w.words, w.rights);
    if !reply.is_error() {
        w.changes.push(Change::Slots { first: 0, last: SLOTS - 1, floor: w.stamp });
    }
    reply
}
