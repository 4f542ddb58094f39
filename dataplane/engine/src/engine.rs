//! The engine's state: the shard, and what the node knows beside it.

use mas_core::shard::{Shard, SkewLimits};
use mas_core::stamp::Incarnation;

use crate::boundary::{Ctx, Single};
use crate::node::Node;
use crate::refusal::Refusal;
use crate::settings::Settings;

static ENGINE: Single<Engine> = Single::new();

/// See the module.
pub(crate) struct Engine {
    /// The replicated state.
    pub(crate) shard: Shard,
    /// The node's own.
    pub(crate) node: Node,
    /// The module's arguments.
    pub(crate) settings: Settings,
    /// Space for a reply's note, kept to save an allocation a write.
    pub(crate) note: Vec<u8>,
    /// When memory was last looked at (unix ms), and whether it was beyond `maxmemory`.
    memory: (u64, bool),
}

impl Engine {
    /// A blank one, fenced.
    pub(crate) fn new(ctx: Ctx, settings: Settings) -> Self {
        Self {
            shard: Shard::new((ctx.random(), ctx.random())),
            node: Node::default(),
            settings,
            note: Vec::new(),
            memory: (0, false),
        }
    }

    /// Makes it the engine of this process.
    pub(crate) fn install(self) {
        ENGINE.set(self);
    }

    /// Bounds on others' clocks.
    pub(crate) fn skew_limits(&self) -> SkewLimits {
        SkewLimits { tolerated_ms: self.settings.max_skew_ms, hard_ms: self.settings.hard_skew_ms }
    }

    /// Refuses requests that mean another incarnation.
    pub(crate) fn check_incarnation(&self, meant: Incarnation) -> Result<(), Refusal> {
        let live = self.shard.identity().incarnation;
        if meant == live { Ok(()) } else { Err(Refusal::Incarnation(live)) }
    }

    /// The same, for an incarnation as text, of a promoted master.
    pub(crate) fn check_named(&self, incarnation: &[u8]) -> Result<(), Refusal> {
        self.node.check_promoted()?;
        self.check_incarnation(incarnation_in(incarnation)?)
    }

    /// Refuses when used memory is beyond `maxmemory`. Looks at most once a millisecond, save for large writes.
    pub(crate) fn check_memory(&mut self, ctx: Ctx, wall_ms: u64, size: usize) -> Result<(), Refusal> {
        if self.node.maxmemory == 0 {
            return Ok(());
        }
        if self.memory.0 != wall_ms || size > 1 << 16 {
            self.memory = (wall_ms, ctx.memory_used() > 1.0);
        }
        if self.memory.1 { Err(Refusal::OutOfMemory) } else { Ok(()) }
    }

    /// Refuses when used memory is beyond `maxmemory` and the headroom for merges.
    pub(crate) fn check_headroom(&self, ctx: Ctx) -> Result<(), Refusal> {
        let bound = self.node.maxmemory as f64;
        if bound > 0.0 && ctx.memory_used() * bound > bound + self.settings.merge_headroom_bytes as f64 {
            return Err(Refusal::OutOfHeadroom);
        }
        Ok(())
    }
}

/// Calls `f` with the engine; `None` when it is in use further up the stack, or not there yet.
pub(crate) fn with<R>(f: impl FnOnce(&mut Engine) -> R) -> Option<R> {
    ENGINE.with(f)
}

/// Runs a command: what `f` refuses is sent as an error.
pub(crate) fn answer(ctx: Ctx, f: impl FnOnce(&mut Engine) -> Result<(), Refusal>) {
    match with(f) {
        Some(Ok(())) => {}
        Some(Err(refusal)) => ctx.reply_error(&refusal.to_string()),
        None => ctx.reply_error("ERR the engine is busy with the command that called this one"),
    }
}

/// A number in a word.
pub(crate) fn number_in<T: std::str::FromStr>(word: &[u8], what: &str) -> Result<T, Refusal> {
    let number = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Refusal::other(format!("{what} is not a number, or out of range")))
}

/// An incarnation in a word.
pub(crate) fn incarnation_in(word: &[u8]) -> Result<Incarnation, Refusal> {
    let incarnation = std::str::from_utf8(word).ok().and_then(Incarnation::parse);
    incarnation.ok_or_else(|| Refusal::other("an incarnation is 16 hexadecimal digits"))
}
