//! `MAS.EXEC` and `MAS.NATIVE`: a write runs natively, is captured as an effect, numbered, logged, and answered, in one
//! atomic step. `MAS.REFUSED` is what the filter makes of a native write that cannot be captured.

use bytes::Bytes;
use mas_commands::{Command, Support};
use mas_core::effect::{Change, Kind, Op, Value};
use mas_core::shard::local_entry;
use mas_core::stamp::{Hlc, Incarnation};
use mas_core::wire::EFFECT_BYTES_MAX;

use crate::boundary::{Ctx, Native, Words};
use crate::capture::{Answer, Write};
use crate::commands::control::check_ahead;
use crate::engine::{Engine, answer};
use crate::refusal::Refusal;

/// Bytes of a header: incarnation and clock.
const HEADER_BYTES: usize = 16;
/// What an effect takes beyond the words of its command, at most, for commands whose effect is made of their words.
const EFFECT_SLACK: usize = 1 << 16;

/// What a small effect takes in the outbox beyond the words of its command. (One that carries more than its words, such
/// as that of `RENAME`, may pass the outbox's bound by itself; [`EFFECT_BYTES_MAX`] bounds it.)
const ENTRY_BYTES: u64 = 96;

/// `MAS.EXEC header command args…`.
pub(crate) fn exec(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        let done = exec_words(engine, ctx, words).inspect_err(|_| engine.node.counters.refused += 1)?;
        if let Some((answer, effect)) = done {
            note(engine, &effect);
            ctx.reply_array(2);
            answer.send(ctx);
            ctx.reply_bytes(&engine.note);
        }
        Ok(())
    });
}

/// `None`: the native error was sent.
fn exec_words(engine: &mut Engine, ctx: Ctx, words: Words<'_>) -> Result<Option<(Answer, Bytes)>, Refusal> {
    if words.len() < 3 {
        return Err(Refusal::arity("MAS.EXEC header command [argument …]"));
    }
    engine.node.check_serving()?;
    let (incarnation, seen) = header(words.get(1))?;
    engine.check_incarnation(incarnation)?;
    let wall_ms = ctx.wall_ms();
    check_ahead(engine, seen, wall_ms)?;
    engine.shard.observe(seen);
    write(engine, ctx, words.skip(2), wall_ms)
}

fn header(word: &[u8]) -> Result<(Incarnation, Hlc), Refusal> {
    let bad = || Refusal::other("the header has 16 bytes: incarnation and clock, little-endian");
    let header: [u8; HEADER_BYTES] = word.try_into().map_err(|_| bad())?;
    let (incarnation, clock) = header.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| bad());
    Ok((Incarnation(number(incarnation)?), Hlc(number(clock)?)))
}

/// Fills the note: sequence number, clock, effect.
fn note(engine: &mut Engine, effect: &[u8]) {
    engine.note.clear();
    engine.note.extend_from_slice(&engine.shard.seq().to_le_bytes());
    engine.note.extend_from_slice(&engine.shard.clock().0.to_le_bytes());
    engine.note.extend_from_slice(effect);
    if engine.note.capacity() > EFFECT_SLACK && effect.len() < EFFECT_SLACK {
        engine.note.shrink_to(EFFECT_SLACK);
    }
}

/// `MAS.NATIVE command args…`.
pub(crate) fn native(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        let done = native_words(engine, ctx, words).inspect_err(|_| engine.node.counters.refused += 1)?;
        if let Some((answer, effect)) = done {
            engine.node.counters.captured_natively += u64::from(!effect.is_empty());
            answer.send(ctx);
        }
        Ok(())
    });
}

fn native_words(engine: &mut Engine, ctx: Ctx, words: Words<'_>) -> Result<Option<(Answer, Bytes)>, Refusal> {
    if words.len() < 2 {
        return Err(Refusal::arity("MAS.NATIVE command [argument …]"));
    }
    engine.node.check_serving()?;
    write(engine, ctx, words.skip(1), ctx.wall_ms())
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

/// Runs one write. `None`: the native error was sent.
fn write(
    engine: &mut Engine,
    ctx: Ctx,
    words: Words<'_>,
    wall_ms: u64,
) -> Result<Option<(Answer, Bytes)>, Refusal> {
    let size: usize = words.iter().map(|word| word.len() + 8).sum();
    let plain_set = words.len() == 3 && words.get(0).eq_ignore_ascii_case(b"SET");
    let command = if plain_set { None } else { Some(command_of(words)?) };
    check_bounds(engine, ctx, size, wall_ms, command)?;
    let effect = match command {
        None => {
            let effect = set_plain(engine, ctx, words, wall_ms);
            log(engine, ctx, &effect);
            return Ok(Some((Answer::Ok, effect)));
        }
        Some(command) => {
            let mut write = Write::begin(&mut engine.shard, ctx, words, command, wall_ms)?;
            let captured = write.capture();
            let (effect, counted) = write.finish();
            if !effect.is_empty() {
                log(engine, ctx, &effect);
            }
            let mut answer = captured?;
            if let Some(counted) = counted {
                answer = counted.settle(&engine.shard, ctx, answer);
            }
            if answer.is_error() {
                answer.send(ctx);
                return Ok(None);
            }
            (answer, effect)
        }
    };
    Ok(Some(effect))
}

fn log(engine: &mut Engine, ctx: Ctx, effect: &Bytes) {
    engine.node.counters.captured += 1;
    ctx.replicate(&local_entry(effect));
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
fn set_plain(engine: &mut Engine, ctx: Ctx, words: Words<'_>, wall_ms: u64) -> Bytes {
    let mut native = Native(ctx);
    let now = engine.shard.tick(wall_ms);
    native.set_word(words, 1, 2);
    let put = Op::Put {
        kind: Kind::Str,
        name: Bytes::new(),
        stamp: engine.shard.stamp(now),
        value: Some(Value::Bytes(Bytes::copy_from_slice(words.get(2)))),
        keep_ttl: false,
    };
    let change = Change::Key { key: Bytes::copy_from_slice(words.get(1)), ops: vec![put] };
    engine.shard.commit(now, vec![change], wall_ms, &mut native)
}
