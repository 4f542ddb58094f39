//! `MAS.PROMOTE`, `MAS.JOIN`, `MAS.JOINED`, `MAS.SERVE`, `MAS.FENCE`: who is master, of which region, and whether it serves.

use mas_core::shard::Identity;
use mas_core::stamp::{Hlc, Incarnation, RegionId, ShardId};

use crate::boundary::{Ctx, Words};
use crate::engine::{Engine, answer, incarnation_in, number_in};
use crate::node::State;
use crate::refusal::Refusal;

/// Longest name of a store, bytes.
const STORE_MAX: usize = 255;

/// `MAS.PROMOTE epoch store region shard`.
pub(crate) fn promote(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 5 {
            return Err(Refusal::arity("MAS.PROMOTE epoch store region shard"));
        }
        let epoch = number_in(words.get(1), "the epoch")?;
        let store = String::from_utf8(words.get(2).to_vec())
            .map_err(|_| Refusal::other("the store's id is not UTF-8"))?;
        let region = RegionId(number_in(words.get(3), "the region")?);
        let shard = ShardId(number_in(words.get(4), "the shard")?);
        check_promotion(engine, epoch, &store, region)?;
        let known = engine.shard.identity();
        if known.incarnation != Incarnation::NONE
            && (known.store.as_str(), known.region, known.shard) != (&store, region, shard)
        {
            return Err(Refusal::other(format!(
                "this engine holds shard {} of region {} of store '{}', not what the promotion names",
                known.shard.0, known.region.0, known.store
            )));
        }
        let incarnation = new_incarnation(ctx);
        let to = Identity { store, region, shard, epoch, incarnation, previous: Incarnation::NONE };
        let entry = engine.shard.promote(to, ctx.wall_ms());
        engine.node.promoted();
        ctx.replicate(&entry);
        ctx.reply_text(incarnation);
        Ok(())
    });
}

/// `MAS.JOIN ticket epoch store region shard from-region from-incarnation from-seq`.
pub(crate) fn join(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 9 {
            return Err(Refusal::arity(
                "MAS.JOIN ticket epoch store region shard from-region from-incarnation from-seq",
            ));
        }
        let ticket: u64 = number_in(words.get(1), "the ticket")?;
        let epoch = number_in(words.get(2), "the epoch")?;
        let store = String::from_utf8(words.get(3).to_vec())
            .map_err(|_| Refusal::other("the store's id is not UTF-8"))?;
        let region = RegionId(number_in(words.get(4), "the region")?);
        let shard = ShardId(number_in(words.get(5), "the shard")?);
        let from = RegionId(number_in(words.get(6), "the source's region")?);
        let incarnation = incarnation_in(words.get(7))?;
        let at_least: u64 = number_in(words.get(8), "the source's number")?;
        check_promotion(engine, epoch, &store, region)?;
        // A full sync may have begun again since whoever asks had looked: then this is not the copy that was meant.
        let known = engine.shard.identity();
        let meant = (known.store.as_str(), known.region, known.shard, known.incarnation)
            == (&store, from, shard, incarnation);
        if !meant || engine.shard.seq() < at_least || region == from {
            return Err(Refusal::other(format!(
                "this engine holds number {} of incarnation {} of shard {} of region {} of store '{}', not the copy that was meant",
                engine.shard.seq(),
                known.incarnation,
                known.shard.0,
                known.region.0,
                known.store
            )));
        }
        let incarnation = new_incarnation(ctx);
        let to = Identity { store, region, shard, epoch, incarnation, previous: Incarnation::NONE };
        let entry = engine.shard.join(to, ticket, ctx.wall_ms());
        engine.node.promoted();
        ctx.replicate(&entry);
        ctx.reply_text(incarnation);
        Ok(())
    });
}

/// `MAS.JOINED inc`.
pub(crate) fn joined(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 2 {
            return Err(Refusal::arity("MAS.JOINED incarnation"));
        }
        engine.check_named(words.get(1))?;
        if let Some(entry) = engine.shard.joined() {
            ctx.replicate(&entry);
        }
        ctx.reply_ok();
        Ok(())
    });
}

/// A random one.
fn new_incarnation(ctx: Ctx) -> Incarnation {
    loop {
        let random = Incarnation(ctx.random());
        if random != Incarnation::NONE {
            return random;
        }
    }
}

fn check_promotion(engine: &Engine, epoch: u64, store: &str, region: RegionId) -> Result<(), Refusal> {
    if engine.node.is_replica() {
        return Err(Refusal::Replica);
    }
    if engine.node.state() != State::Fenced {
        return Err(Refusal::other("this engine is promoted already: send MAS.FENCE first"));
    }
    engine.node.check_fit()?;
    if let Some(why) = &engine.node.damaged {
        return Err(Refusal::other(format!("this copy is damaged and must be synchronized anew: {why}")));
    }
    if store.is_empty() || store.len() > STORE_MAX || region == RegionId(0) {
        return Err(Refusal::other("a store's id has 1 to 255 bytes, and a region's id is not 0"));
    }
    let known = engine.shard.identity();
    if epoch <= known.epoch {
        return Err(Refusal::Epoch(known.epoch));
    }
    Ok(())
}

/// `MAS.SERVE inc full|degraded hlc`.
pub(crate) fn serve(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 4 {
            return Err(Refusal::arity("MAS.SERVE incarnation full|degraded clock"));
        }
        engine.check_named(words.get(1))?;
        let full = match words.get(2) {
            b"full" => true,
            b"degraded" => false,
            _ => return Err(Refusal::other("say 'full' or 'degraded'")),
        };
        let at_least = Hlc(number_in(words.get(3), "the clock")?);
        let wall_ms = ctx.wall_ms();
        check_ahead(engine, at_least, wall_ms)?;
        engine.node.check_fit()?;
        if engine.shard.joining().is_some() {
            return Err(Refusal::Joining);
        }
        engine.node.serve(full)?;
        engine.shard.observe(at_least);
        if !full {
            engine.shard.observe(Hlc::from_millis(wall_ms.saturating_add(engine.settings.max_skew_ms)));
        }
        ctx.reply_ok();
        Ok(())
    });
}

/// Refuses a clock beyond the hard limit: one bad clock must not poison all.
pub(crate) fn check_ahead(engine: &Engine, clock: Hlc, wall_ms: u64) -> Result<(), Refusal> {
    let ahead_ms = clock.millis().saturating_sub(wall_ms);
    if ahead_ms > engine.settings.hard_skew_ms {
        return Err(Refusal::Skew(format!(
            "the clock that was sent along is {ahead_ms} ms ahead of this one"
        )));
    }
    Ok(())
}

/// `MAS.FENCE`.
pub(crate) fn fence(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 1 {
            return Err(Refusal::arity("MAS.FENCE"));
        }
        engine.node.fence();
        ctx.reply_ok();
        Ok(())
    });
}
