//! `MAS.COLLECT`: forgets tombstones that are causally stable, and folds what sealed incarnations counted.

use std::collections::BTreeSet;

use mas_core::shard::local_entry;
use mas_core::slot::SLOTS;
use mas_core::stamp::RegionId;

use crate::boundary::{Ctx, Native, Words};
use crate::engine::{answer, number_in};
use crate::refusal::Refusal;

/// Most keys that one call looks at: an engine does nothing else meanwhile.
const KEYS_MAX: u64 = 100_000;

/// `MAS.COLLECT inc slot keys membership region [region …]`.
pub(crate) fn collect(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() < 6 {
            return Err(Refusal::arity("MAS.COLLECT incarnation slot keys membership region [region …]"));
        }
        engine.check_named(words.get(1))?;
        let slot: u16 = number_in(words.get(2), "the slot")?;
        let keys: u64 = number_in(words.get(3), "the number of keys")?;
        let membership: u64 = number_in(words.get(4), "the epoch of the membership")?;
        let mut members = BTreeSet::new();
        for at in 5..words.len() {
            members.insert(RegionId(number_in(words.get(at), "a region")?));
        }
        if let Some(entry) = engine.shard.set_members(membership, members).map_err(Refusal::Membership)? {
            ctx.replicate(&entry);
        }
        let done = engine.shard.collect(slot, keys.clamp(1, KEYS_MAX), ctx.wall_ms());
        if !done.entry.is_empty() {
            ctx.replicate(&done.entry);
        }
        let end = if done.next_slot == 0 { SLOTS } else { done.next_slot };
        if engine.shard.outbox().bytes() < engine.settings.outbox_max_bytes / 2 {
            for effect in engine.shard.fold(slot, end, ctx.wall_ms(), &mut Native(ctx)) {
                ctx.replicate(&local_entry(&effect));
            }
        }
        ctx.reply_array(5);
        ctx.reply_text(done.dropped);
        ctx.reply_text(done.held);
        ctx.reply_text(done.next_slot);
        ctx.reply_text(done.stable.hlc.0);
        ctx.reply_text(done.stable.held_by.map_or(0, |origin| origin.region.0));
        Ok(())
    });
}
