//! Bounds on effects, before a command runs: what cannot be sent to other regions at once is not begun.

use mas_commands::{Command, Effect};
use mas_core::wire::EFFECT_BYTES_MAX;

use crate::boundary::{Native, Words};
use crate::refusal::Refusal;

/// What small encodings (integers as text, stamps) may add.
const SLACK: u64 = 1 << 16;
/// How much larger a dumped value may be once it is restored.
const RESTORE_FACTOR: u64 = 8;

/// Refuses a command whose effect could be too large. The bound is the memory that the keys take whose values the
/// effect carries: in memory each element takes more than in an effect.
pub(super) fn check(native: Native, command: &Command, words: Words<'_>) -> Result<(), Refusal> {
    let bound = match command.effect {
        Effect::Rename | Effect::Rewrite if command.name == "RESTORE" => {
            words.get(3).len() as u64 * RESTORE_FACTOR
        }
        Effect::Rename => native.memory(words.get(1)),
        Effect::Rewrite | Effect::SetPop | Effect::ZPop | Effect::ZRemoveRange => {
            let keys = command.keys(&words).map_err(|why| Refusal::other(why.to_string()))?;
            keys.map(|at| native.memory(words.get(at))).fold(0, u64::saturating_add)
        }
        // An empty text stretches nothing, however far off it is set.
        Effect::StringEdit if command.name == "SETRANGE" && words.get(3).is_empty() => return Ok(()),
        Effect::StringEdit => {
            let now = native.string_length(words.get(1));
            now.saturating_add(reach(command.name, words))
        }
        _ => return Ok(()),
    };
    if bound > EFFECT_BYTES_MAX as u64 - SLACK {
        return Err(Refusal::other(format!(
            "the write is too large: up to {bound} bytes, at most {EFFECT_BYTES_MAX} can be sent to other regions at once"
        )));
    }
    Ok(())
}

/// How far from its end or beginning an edit may stretch a string, bytes.
fn reach(name: &str, words: Words<'_>) -> u64 {
    let number =
        |word: &[u8]| std::str::from_utf8(word).ok().and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    match name {
        "SETRANGE" => number(words.get(2)).saturating_add(words.get(3).len() as u64),
        "SETBIT" => number(words.get(2)) / 8,
        "BITFIELD" => {
            // An offset is a number of bits, or with '#' of integers of up to 64 bits. Reading stretches nothing.
            let mut rest = words.skip(2).iter();
            let mut furthest = 0;
            while let Some(word) = rest.next() {
                if word.eq_ignore_ascii_case(b"SET") || word.eq_ignore_ascii_case(b"INCRBY") {
                    let stretch = match rest.nth(1) {
                        Some([b'#', count @ ..]) => number(count).saturating_mul(8),
                        offset => offset.map_or(0, number) / 8,
                    };
                    furthest = furthest.max(stretch);
                }
            }
            furthest
        }
        _ => words.get(2).len() as u64,
    }
}
