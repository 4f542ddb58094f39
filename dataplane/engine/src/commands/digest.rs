//! `MAS.DIGEST`, `MAS.KEYS`: what this copy holds, in short, to be compared with other copies ([`mas_core::digest`]).

use bytes::Bytes;
use mas_core::slot::SLOTS;
use mas_core::transfer::Cursor;
use mas_core::wire::{Reader, Writer};

use crate::boundary::{Ctx, Native, Words};
use crate::engine::{answer, number_in};
use crate::refusal::Refusal;

/// Most keys with metadata that one call looks at: an engine does nothing else meanwhile.
const KEYS_MAX: u64 = 20_000;
/// Keys of all slots that one call of `MAS.KEYS` looks at.
const SCAN: usize = 2000;

fn slot_in(word: &[u8]) -> Result<u16, Refusal> {
    let slot = number_in(word, "a slot")?;
    if slot < SLOTS { Ok(slot) } else { Err(Refusal::other("a slot is out of range")) }
}

/// `MAS.DIGEST first last beyond-ms`.
pub(crate) fn digest(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 4 {
            return Err(Refusal::arity("MAS.DIGEST first-slot last-slot beyond-ms"));
        }
        let (first, last) = (slot_in(words.get(1))?, slot_in(words.get(2))?);
        let beyond_ms = number_in(words.get(3), "the time")?;
        let (shard, table) = (&engine.shard, engine.shard.table());
        let end = table.slots_with(first, KEYS_MAX).min(last.saturating_add(1));
        let digests: Vec<u8> =
            (first..end).flat_map(|slot| table.digest(slot, beyond_ms).to_le_bytes()).collect();
        let mut w = Writer::with_capacity(64);
        w.cover(&shard.cover());
        ctx.reply_array(6);
        ctx.reply_bytes(&w.finish());
        ctx.reply_text(shard.clock().0);
        ctx.reply_text(shard.identity().incarnation);
        ctx.reply_text(shard.merged_through().hlc.0);
        ctx.reply_text(table.expired().0);
        ctx.reply_bytes(&digests);
        Ok(())
    });
}

/// Slots that one walk of `MAS.KEYS` may look for.
const SLOTS_MAX: usize = 4096;

/// `slot[,slot …]`, in order.
fn slots_in(word: &[u8]) -> Result<Vec<u16>, Refusal> {
    let mut slots = word.split(|byte| *byte == b',').map(slot_in).collect::<Result<Vec<_>, _>>()?;
    slots.sort_unstable();
    if slots.len() > SLOTS_MAX {
        return Err(Refusal::other(format!("more than {SLOTS_MAX} slots at once")));
    }
    Ok(slots)
}

/// `MAS.KEYS slots beyond-ms [cursor]`.
pub(crate) fn keys(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if !(3..=4).contains(&words.len()) {
            return Err(Refusal::arity("MAS.KEYS slot[,slot …] beyond-ms [cursor]"));
        }
        let slots = slots_in(words.get(1))?;
        let beyond_ms = number_in(words.get(2), "the time")?;
        let at = match words.len() {
            3 => Cursor::START,
            _ => cursor_in(words.get(3))?,
        };
        let shard = &engine.shard;
        let (next, keys) = shard.key_digests(&slots, beyond_ms, &at, SCAN, &mut Native(ctx));
        let mut w = Writer::with_capacity(64);
        if next != Cursor::Done {
            next.write(&mut w);
        }
        ctx.reply_array(3 + keys.len() * 3);
        ctx.reply_bytes(&w.finish());
        ctx.reply_text(shard.merged_through().hlc.0);
        ctx.reply_text(shard.table().collected().0);
        for found in keys {
            ctx.reply_bytes(&found.key);
            ctx.reply_text(format_args!("{:016x}", found.digest));
            ctx.reply_text(found.latest.0);
        }
        Ok(())
    });
}

fn cursor_in(word: &[u8]) -> Result<Cursor, Refusal> {
    let mut r = Reader::new(Bytes::copy_from_slice(word));
    let cursor = Cursor::read(&mut r).and_then(|cursor| r.end("cursor").map(|()| cursor));
    let known = cursor.ok().filter(|cursor| match cursor {
        Cursor::Values(at) => at.iter().all(u8::is_ascii_digit),
        Cursor::Named { .. } | Cursor::Done => true,
    });
    known.ok_or_else(|| Refusal::other("the cursor is none that was given"))
}
