//! What the table says about one command.

use crate::keys::KeySpec;

/// One record of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Upper case. A subcommand is written `CLIENT|ID`.
    pub name: &'static str,
    /// Where it stands in [`crate::all`]; small, dense, for counters.
    pub index: u16,
    /// Number of words including the name; negative: at least that many. As Redis counts.
    pub arity: i16,
    /// What Redis says about it.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: KeySpec,
    /// Where the keys are that it may change; [`KeySpec::None`] for reads.
    pub written: KeySpec,
    /// How the engine captures what it changed.
    pub effect: Effect,
    /// How the proxy serves it.
    pub routing: Routing,
    /// Whether it is served at all.
    pub support: Support,
    /// Options that are refused though the command is served, each with the reason.
    pub refused_options: &'static [(&'static str, &'static str)],
    /// Options that take the place of a value are looked for from this word on.
    pub options_from: u8,
    /// Whether it only holds subcommands.
    pub container: bool,
    /// Group in the documentation: `string`, `hash`, …
    pub group: &'static str,
    /// The version of Redis that first had it; empty for our own.
    pub since: &'static str,
}

impl Command {
    /// Whether it may change data, and so has to go through `MAS.EXEC`.
    pub fn is_write(&self) -> bool {
        self.effect != Effect::None
    }

    /// Whether `count` words, the name included, fit its arity.
    pub fn arity_fits(&self, count: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= arity } else { count == arity }
    }

    /// Whether it takes pairs of key and value, of which none may be half: `MSET`, `MSETNX`. Its arity does not say so.
    pub fn takes_pairs(&self) -> bool {
        matches!(self.keys, KeySpec::Range { last: -1, step: 2, .. })
    }
}

/// How the engine turns what a write changed into an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Changes nothing.
    None,
    /// The values of the written strings, read back; time to live as the command left it.
    StringSet,
    /// An edit of a string that keeps its time to live.
    StringEdit,
    /// An increment of a counter.
    Count,
    /// Whole keys are deleted.
    Delete,
    /// Only the time to live changes (or the key dies at once).
    Expire,
    /// Fields of a hash are written.
    HashSet,
    /// Fields of a hash are deleted.
    HashDelete,
    /// A field of a hash is incremented.
    HashCount,
    /// Members are added to a set.
    SetAdd,
    /// Members named by the command are removed from a set.
    SetRemove,
    /// Members picked by Redis are removed from a set.
    SetPop,
    /// A member goes from one set to another.
    SetMove,
    /// Members of a sorted set get scores (`INCR` makes it an increment).
    ZAdd,
    /// Members named by the command are removed from a sorted set.
    ZRemove,
    /// A score is incremented.
    ZCount,
    /// Members picked by Redis are removed from a sorted set.
    ZPop,
    /// Members of a sorted set within a range are removed.
    ZRemoveRange,
    /// Members of a sorted set get positions as scores.
    GeoAdd,
    /// The written key is replaced whole, by whatever type the result has.
    Rewrite,
    /// A key moves to another name.
    Rename,
    /// All keys are deleted.
    Flush,
}

/// How the proxy serves a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Routing {
    /// To the shard of its keys, which must all be in one slot.
    Slot,
    /// One part a shard; the integer replies are added up.
    SplitSum,
    /// One part a shard; the values are put back in the order of the keys.
    SplitValues,
    /// One part a shard, of key and value pairs; `OK` when all are.
    SplitPairs,
    /// To every shard; the integer replies are added up.
    FanOutSum,
    /// To every shard; the arrays are joined.
    FanOutJoin,
    /// To every shard; `OK` when all are.
    FanOutOk,
    /// To every shard; one of the replies that are not null.
    FanOutPick,
    /// One shard after the other; the cursor says which.
    Scan,
    /// Answered by the proxy itself.
    Proxy,
    /// Not served.
    Refused,
}

/// Whether a command is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is.
    Yes,
    /// It is not, and this is why, in words that end a sentence.
    No(&'static str),
}

/// What Redis says about a command, as a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The names, in the order of the bits, as `COMMAND INFO` writes them.
    pub const NAMES: &'static [&'static str] = &[
        "write",
        "readonly",
        "denyoom",
        "admin",
        "pubsub",
        "noscript",
        "blocking",
        "loading",
        "stale",
        "skip_monitor",
        "skip_slowlog",
        "asking",
        "fast",
        "no_auth",
        "no_mandatory_keys",
        "no_async_loading",
        "no_multi",
        "movablekeys",
        "allow_busy",
    ];

    /// Whether the flag of that name is set; false for unknown names.
    pub fn has(self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, n)| *n)
    }
}
