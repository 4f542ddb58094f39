//! `MAS.EXEC` and `MAS.NATIVE`: a write runs natively, is captured as an effect, numbered, logged, and answered, in one
//! atomic step. `MAS.REFUSED` is what the filter makes of a native write that cannot be captured.

use mas_commands::{Command, Support};
use mas_core::shard::LOCAL_ENTRY;
use mas_core::stamp::{Hlc, Incarnation};
use mas_core::wire::EFFECT_BYTES_MAX;

use crate::boundary::{Ctx, Native, Rights, Words};
use crate::capture::{Answer, Write};
use crate::commands::control::check_ahead;
use crate::engine::{Engine, answer};
use crate::refusal::Refusal;

/// Bytes of a header (incarnation and clock), and of the head of a note (sequence number and clock).
const HEADER_BYTES: usize = 16;
/// A note's space is kept for the next one up to this size, bytes.
const NOTE_KEPT: usize = 1 << 16;
/// What an effect takes beyond the words of its command, at most, for commands whose effect is made of their words.
const EFFECT_SLACK: usize = 1 << 16;

/// What a small effect takes in the outbox beyond the words of its command. (One that carries more than its words, such
/// as that of `RENAME`, may pass the outbox's bound by itself; [`EFFECT_BYTES_MAX`] bounds it.)
const ENTRY_BYTES: u64 = 96;

/// `MAS.EXEC header command args…`.
pub(crate) fn exec(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        let done = exec_words(engine, ctx, words).inspect_err(|_| engine.node.counters.refused += 1)?;
        if let Some(answer) = done {
            fill_note(engine);
            ctx.reply_array(2);
            answer.send(ctx);
            ctx.reply_bytes(&engine.note);
            if engine.note.capacity() > NOTE_KEPT {
                engine.note = Vec::new();
            }
        }
        Ok(())
    });
}

/// `None`: the native error was sent.
fn exec_words(engine: &mut Engine, ctx: Ctx, words: Words<'_>) -> Result<Option<Answer>, Refusal> {
    if words.len() < 3 {
        return Err(Refusal::arity("MAS.EXEC header command [argument …]"));
    }
    engine.node.check_serving()?;
    let (incarnation, seen) = header(words.get(1))?;
    engine.check_incarnation(incarnation)?;
    let wall_ms = ctx.wall_ms();
    check_ahead(engine, seen, wall_ms)?;
    engine.shard.observe(seen);
    write(engine, ctx, words.skip(2), Rights::Engine, wall_ms)
}

fn header(word: &[u8]) -> Result<(Incarnation, Hlc), Refusal> {
    let bad = || Refusal::other("the header has 16 bytes: incarnation and clock, little-endian");
    let header: [u8; HEADER_BYTES] = word.try_into().map_err(|_| bad())?;
    let (incarnation, clock) = header.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| bad());
    Ok((Incarnation(number(incarnation)?), Hlc(number(clock)?)))
}

/// Fills the head of the note; the effect is there.
fn fill_note(engine: &mut Engine) {
    let (seq, clock) = (engine.shard.seq(), engine.shard.clock());
    engine.note[..8].copy_from_slice(&seq.to_le_bytes());
    engine.note[8..HEADER_BYTES].copy_from_slice(&clock.0.to_le_bytes());
}

/// `MAS.NATIVE command args…`.
pub(crate) fn native(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        let before = engine.shard.seq();
        let done = native_words(engine, ctx, words);
        // A command that failed may have left an effect all the same: the end of an old life.
        engine.node.counters.captured_natively += engine.shard.seq() - before;
        if let Some(answer) = done.inspect_err(|_| engine.node.counters.refused += 1)? {
            answer.send(ctx);
        }
        Ok(())
    });
}

fn native_words(engine: &mut Engine, ctx: Ctx, words: Words<'_>) -> Result<Option<Answer>, Refusal> {
    if words.len() < 2 {
        return Err(Refusal::arity("MAS.NATIVE command [argument …]"));
    }
    engine.node.check_serving()?;
    write(engine, ctx, words.skip(1), Rights::User, ctx.wall_ms())
}

/// `MAS.REFUSED why`.
pub(crate) fn refused(ctx: Ctx, words: Words<'_>) {
    crate::engine::with(|engine| engine.node.counters.refused += 1);
    ctx.reply_error(&String::from_utf8_lossy(words.get(1)));
}

/// The command, if it is one that may be executed here.
fn command_of(words: Words<'_>) -> Result<&'static Command, Refusal> {
    let name = || String::from_utf8_lossy(words.get(0)).to_lowercase();
    let Some(command) = mas_commands::resolve(&words) else {
        return Err(Refusal::other(format!("unknown command '{}'", name())));
    };
    let unsupported = |what: &str, why: &str| {
        Refusal::other(format!("'{what}' is not supported by a multi-active store: {why}"))
    };
    if let Support::No(why) = command.support {
        return Err(unsupported(&name(), why));
    }
    if !command.is_write() {
        return Err(Refusal::other(format!("'{}' is not a write: send it to the server as it is", name())));
    }
    if !command.arity_fits(words.len()) {
        return Err(Refusal::other(format!("wrong number of arguments for '{}' command", name())));
    }
    if let Some((option, why)) = command.refused_option(&words) {
        return Err(unsupported(&format!("{} {option}", name()), why));
    }
    Ok(command)
}

/// Runs one write and leaves its effect in the engine's note, behind the head. `None`: the native error was sent.
fn write(
    engine: &mut Engine,
    ctx: Ctx,
    words: Words<'_>,
    rights: Rights,
    wall_ms: u64,
) -> Result<Option<Answer>, Refusal> {
    let size: usize = words.iter().map(|word| word.len() + 8).sum();
    engine.note.clear();
    engine.note.resize(HEADER_BYTES, 0);
    if rights == Rights::Engine && words.len() == 3 && words.get(0).eq_ignore_ascii_case(b"SET") {
        check_bounds(engine, ctx, size, wall_ms, None)?;
        set_plain(engine, ctx, words, wall_ms);
        log(engine, ctx);
        return Ok(Some(Answer::Ok));
    }
    let command = command_of(words)?;
    check_bounds(engine, ctx, size, wall_ms, Some(command))?;
    let mut write = Write::begin(&mut engine.shard, ctx, words, command, rights, wall_ms)?;
    let captured = write.capture();
    let (effect, counted) = write.finish();
    if !effect.is_empty() {
        engine.note.extend_from_slice(&effect);
        log(engine, ctx);
    }
    let mut answer = captured?;
    if let Some(counted) = counted {
        answer = counted.settle(&engine.shard, ctx, answer);
    }
    if answer.is_error() {
        answer.send(ctx);
        return Ok(None);
    }
    Ok(Some(answer))
}

/// Sends the effect in the note to replicas and AOF. The byte before it is the head's last, which is filled later.
fn log(engine: &mut Engine, ctx: Ctx) {
    engine.node.counters.captured += 1;
    engine.note[HEADER_BYTES - 1] = LOCAL_ENTRY;
    ctx.replicate(&engine.note[HEADER_BYTES - 1..]);
}

fn check_bounds(
    engine: &mut Engine,
    ctx: Ctx,
    size: usize,
    wall_ms: u64,
    command: Option<&Command>,
) -> Result<(), Refusal> {
    if ctx.database() != 0 {
        return Err(Refusal::other("a multi-active store has one database, number 0: SELECT 0"));
    }
    if command.is_none_or(|c| c.flags.has("denyoom")) {
        engine.check_memory(ctx, wall_ms, size)?;
    }
    let (waiting, bound) = (engine.shard.outbox().bytes(), engine.settings.outbox_max_bytes);
    if waiting.saturating_add(size as u64 + ENTRY_BYTES) > bound {
        return Err(Refusal::OutboxFull(waiting, bound));
    }
    if size > EFFECT_BYTES_MAX - EFFECT_SLACK {
        return Err(Refusal::other(format!(
            "the write is too large: {size} bytes, at most {EFFECT_BYTES_MAX} can be sent to other regions at once"
        )));
    }
    let own = engine.shard.identity().region;
    engine.node.check_clock(engine.shard.positions().keys().copied().filter(|r| *r != own))
}

/// `SET key value`, most writes of most stores, without the detours that other commands need.
fn set_plain(engine: &mut Engine, ctx: Ctx, words: Words<'_>, wall_ms: u64) {
    let mut native = Native(ctx);
    let now = engine.shard.tick(wall_ms);
    native.set_word(words, 1, 2);
    let (key, value) = (words.get(1), words.get(2));
    engine.shard.commit_plain_set(now, key, value, wall_ms, &mut native, &mut engine.note);
}
