//! `MAS.MERGE`: effects from a region's stream, and where reading goes on, in one atomic step. `MAS.APPLY`: how the steps
//! of a master reach its replicas and AOF.

use bytes::Bytes;
use mas_core::shard::{MergeError, Position};
use mas_core::stamp::RegionId;

use crate::boundary::{Ctx, Native, Words};
use crate::engine::{answer, number_in};
use crate::refusal::Refusal;

/// `MAS.MERGE inc region expected-offset expected-record offset record body…`.
pub(crate) fn merge(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() < 7 {
            return Err(Refusal::arity(
                "MAS.MERGE incarnation region expected-offset expected-record offset record body…",
            ));
        }
        engine.check_named(words.get(1))?;
        engine.node.check_running()?;
        let region = RegionId(number_in(words.get(2), "the region")?);
        let expected = position_in(words.get(3), words.get(4))?;
        let to = position_in(words.get(5), words.get(6))?
            .ok_or_else(|| Refusal::other("a position to go to is needed"))?;
        let records: Vec<Bytes> = words.skip(7).iter().map(Bytes::copy_from_slice).collect();
        if !records.is_empty() {
            engine.check_headroom(ctx)?;
        }
        let limits = engine.skew_limits();
        let merged =
            engine.shard.merge(region, expected, to, &records, ctx.wall_ms(), limits, &mut Native(ctx));
        if let Err(MergeError::Held { ahead_ms }) = merged {
            engine.node.hold(region, ahead_ms);
        }
        let merged = merged?;
        engine.node.release(region);
        ctx.replicate(&merged.entry);
        ctx.reply_array(5);
        for count in [merged.merged, merged.duplicates, merged.overruled, merged.adopted, merged.refused] {
            ctx.reply_integer(count as i64);
        }
        Ok(())
    });
}

/// An offset and a record's id; `-1 0` is none.
fn position_in(offset: &[u8], record: &[u8]) -> Result<Option<Position>, Refusal> {
    if offset == b"-1" {
        return Ok(None);
    }
    let offset = number_in(offset, "the offset")?;
    Ok(Some(Position { offset, record: number_in(record, "the record's id")? }))
}

/// `MAS.APPLY entry`.
pub(crate) fn apply(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 2 {
            return Err(Refusal::arity("MAS.APPLY entry"));
        }
        if !ctx.is_replayed() {
            return Err(Refusal::other(
                "MAS.APPLY is how a master speaks to its replicas and its AOF: not for clients",
            ));
        }
        let entry = Bytes::copy_from_slice(words.get(1));
        if let Err(why) = engine.shard.apply(entry, ctx.wall_ms(), &mut Native(ctx)) {
            ctx.warn(&format!(
                "mas_engine {}: a step of the master cannot be applied: {why}",
                engine.settings.node
            ));
            engine.node.damaged = Some(why.to_string());
        }
        ctx.replicate_verbatim();
        ctx.reply_ok();
        Ok(())
    });
}
