//! Capture: a write command runs natively, and what it changed becomes operations. What is needed from before (whether a
//! key was there, which members will go) is read before it runs.

mod counters;
mod keys;
mod members;
mod size;
mod state;
mod strings;

use bytes::Bytes;
use mas_commands::{Command, Effect};
use mas_core::effect::{Change, Op};
use mas_core::shard::Shard;
use mas_core::stamp::{Hlc, Stamp};

pub(crate) use counters::Counted;

use crate::boundary::{Ctx, KeyType, Native, Reply, Rights, Words};
use crate::refusal::Refusal;

/// What the client is answered.
pub(crate) enum Answer {
    /// What the native command answered.
    Native(Reply),
    /// An integer.
    Integer(i64),
    /// `OK`.
    Ok,
}

impl Answer {
    /// Whether it is an error.
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Native(reply) if reply.is_error())
    }

    /// Sends it.
    pub(crate) fn send(&self, ctx: Ctx) {
        match self {
            Self::Native(reply) => ctx.reply_with(reply),
            Self::Integer(value) => ctx.reply_integer(*value),
            Self::Ok => ctx.reply_ok(),
        }
    }
}

/// A write under way.
pub(crate) struct Write<'a> {
    shard: &'a mut Shard,
    ctx: Ctx,
    native: Native,
    words: Words<'a>,
    command: &'static Command,
    rights: Rights,
    wall_ms: u64,
    /// Stamp of what the command changed.
    stamp: Stamp,
    /// The latest reading that the effect carries.
    latest: Hlc,
    changes: Vec<Change>,
    counted: Option<Counted>,
}

impl<'a> Write<'a> {
    /// Ticks the clock and opens the keys that will be written. Changes nothing natively but keys that have expired.
    pub(crate) fn begin(
        shard: &'a mut Shard,
        ctx: Ctx,
        words: Words<'a>,
        command: &'static Command,
        rights: Rights,
        wall_ms: u64,
    ) -> Result<Self, Refusal> {
        let written = command.written_keys(&words).map_err(|why| Refusal::other(why.to_string()))?;
        size::check(Native(ctx), command, words)?;
        let latest = shard.tick(wall_ms);
        let stamp = shard.stamp(latest);
        let mut native = Native(ctx);
        let mut changes = Vec::new();
        if !strings::only_sets(command, words) {
            for at in written {
                let key = words.get(at);
                if let Some(kill) = shard.open_key(key, latest, &mut native) {
                    changes.push(Change::Key { key: Bytes::copy_from_slice(key), ops: vec![kill] });
                }
            }
        }
        Ok(Self {
            shard,
            ctx,
            native,
            words,
            command,
            rights,
            wall_ms,
            stamp,
            latest,
            changes,
            counted: None,
        })
    }

    /// Runs the command and records what it changed.
    pub(crate) fn capture(&mut self) -> Result<Answer, Refusal> {
        let reply = match self.command.effect {
            Effect::StringSet => strings::set(self),
            Effect::StringEdit => strings::edit(self),
            Effect::Count | Effect::HashCount | Effect::ZCount => return counters::count(self),
            Effect::Delete => keys::delete(self),
            Effect::Expire => keys::expire(self),
            Effect::Rewrite => return keys::rewrite(self),
            Effect::Rename => keys::rename(self),
            Effect::Flush => keys::flush(self),
            Effect::HashSet => members::hash_set(self),
            Effect::HashDelete => members::hash_delete(self),
            Effect::SetAdd => members::set_add(self),
            Effect::SetRemove => members::set_remove(self),
            Effect::SetPop => members::set_pop(self),
            Effect::SetMove => members::set_move(self),
            Effect::ZAdd => return members::z_add(self),
            Effect::GeoAdd => members::geo_add(self),
            Effect::ZRemove => members::z_remove(self),
            Effect::ZPop => members::z_pop(self),
            Effect::ZRemoveRange => members::z_remove_range(self),
            Effect::None => return Err(Refusal::other("not a write")),
        };
        Ok(Answer::Native(reply))
    }

    /// Commits what was recorded. The effect is empty when nothing changed.
    pub(crate) fn finish(self) -> (Bytes, Option<Counted>) {
        if self.changes.is_empty() {
            return (Bytes::new(), None);
        }
        let mut native = self.native;
        (self.shard.commit(self.latest, self.changes, self.wall_ms, &mut native), self.counted)
    }

    fn arg(&self, i: usize) -> &'a [u8] {
        self.words.get(i)
    }

    fn exists(&self, key: &[u8]) -> bool {
        self.native.kind(key) != KeyType::None
    }

    /// Runs the command as the client wrote it.
    fn run(&self) -> Reply {
        self.ctx.run(self.command.name, self.words, self.rights)
    }

    /// A stamp after all that were given out for this write.
    fn later(&mut self) -> Stamp {
        self.latest = self.shard.tick(self.wall_ms);
        self.shard.stamp(self.latest)
    }

    /// Records operations on a key.
    fn record(&mut self, key: &[u8], ops: Vec<Op>) {
        if !ops.is_empty() {
            self.changes.push(Change::Key { key: Bytes::copy_from_slice(key), ops });
        }
    }

    /// Records that the key is gone.
    fn record_floor(&mut self, key: &[u8]) {
        let floor = Op::Floor(self.stamp);
        self.record(key, vec![floor]);
    }
}
