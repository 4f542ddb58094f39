//! `MAS.OUTBOX`, `MAS.TRIM`, `MAS.CLAIM`: effects on their way to the region's stream, and who looks after what.

use crate::boundary::{Ctx, Words};
use crate::engine::{answer, incarnation_in, number_in};
use crate::refusal::Refusal;

/// Most bytes that one sweep hands out.
const SWEEP_BYTES_MAX: usize = 16 << 20;
/// Longest name of a duty, bytes.
const DUTY_MAX: usize = 64;

/// `MAS.OUTBOX inc proxy min-age-ms max-bytes claim-ms`.
pub(crate) fn outbox(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 6 {
            return Err(Refusal::arity("MAS.OUTBOX incarnation proxy min-age-ms max-bytes claim-ms"));
        }
        engine.check_named(words.get(1))?;
        let proxy = number_in(words.get(2), "the proxy")?;
        let min_age_ms = number_in(words.get(3), "the age")?;
        let max_bytes: usize = number_in(words.get(4), "the size")?;
        let claim_ms = number_in(words.get(5), "the time")?;
        let now_ms = ctx.wall_ms();
        let max_bytes = max_bytes.min(SWEEP_BYTES_MAX);
        let taken = engine.shard.outbox_mut().sweep(proxy, now_ms, min_age_ms, max_bytes, claim_ms);
        ctx.reply_array(taken.len() * 3);
        for (incarnation, seq, effect) in taken {
            ctx.reply_text(incarnation);
            ctx.reply_text(seq);
            ctx.reply_bytes(&effect);
        }
        Ok(())
    });
}

/// `MAS.TRIM inc origin-inc first last [first last …]`.
pub(crate) fn trim(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() < 5 || words.len().is_multiple_of(2) {
            return Err(Refusal::arity("MAS.TRIM incarnation origin-incarnation first last [first last …]"));
        }
        engine.check_named(words.get(1))?;
        let origin = incarnation_in(words.get(2))?;
        let mut ranges = Vec::with_capacity(words.len() / 2);
        for at in (3..words.len()).step_by(2) {
            let first: u64 = number_in(words.get(at), "a sequence number")?;
            let last: u64 = number_in(words.get(at + 1), "a sequence number")?;
            if first > last {
                return Err(Refusal::other("a range ends before it begins"));
            }
            ranges.push((first, last));
        }
        let (released, entry) = engine.shard.trim(origin, &ranges);
        if released > 0 {
            ctx.replicate(&entry);
        }
        ctx.reply_integer(released as i64);
        Ok(())
    });
}

/// `MAS.CLAIM inc duty proxy ttl-ms`.
pub(crate) fn claim(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 5 {
            return Err(Refusal::arity("MAS.CLAIM incarnation duty proxy ttl-ms"));
        }
        engine.check_named(words.get(1))?;
        let duty = words.get(2);
        if duty.is_empty() || duty.len() > DUTY_MAX {
            return Err(Refusal::other("a duty's name has 1 to 64 bytes"));
        }
        let proxy = number_in(words.get(3), "the proxy")?;
        let ttl_ms = number_in(words.get(4), "the time")?;
        let (held, holder) = engine.node.claim(duty, proxy, ttl_ms, ctx.wall_ms());
        ctx.reply_array(2);
        ctx.reply_integer(i64::from(held));
        ctx.reply_text(holder);
        Ok(())
    });
}
