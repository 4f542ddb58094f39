//! `MAS.IDENTITY`, `MAS.COVER`, `MAS.POSITIONS`, `MAS.STAMP`, `MAS.STATS`: what an engine says about itself.

use mas_core::effect::Kind;
use mas_core::meta::{Cell, KeyMeta};
use mas_core::stamp::Stamp;
use mas_core::wire::Writer;

use crate::boundary::{Ctx, Words};
use crate::engine::{Engine, answer};
use crate::refusal::Refusal;

/// Answers with a flat array of names and values.
fn reply_fields(ctx: Ctx, fields: &[(&str, String)]) {
    ctx.reply_array(fields.len() * 2);
    for (name, value) in fields {
        ctx.reply_bytes(name.as_bytes());
        ctx.reply_bytes(value.as_bytes());
    }
}

fn only(words: Words<'_>, usage: &str) -> Result<(), Refusal> {
    if words.len() == 1 { Ok(()) } else { Err(Refusal::arity(usage)) }
}

/// `MAS.IDENTITY`.
pub(crate) fn identity(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        only(words, "MAS.IDENTITY")?;
        reply_fields(ctx, &identity_fields(ctx, engine));
        Ok(())
    });
}

fn identity_fields(ctx: Ctx, engine: &Engine) -> Vec<(&'static str, String)> {
    let (shard, node) = (&engine.shard, &engine.node);
    let who = shard.identity();
    let mut replication = ctx
        .info(c"replication", &[c"master_link_status", c"master_repl_offset", c"slave_repl_offset"])
        .into_iter()
        .map(Option::unwrap_or_default);
    let mut next = || replication.next().unwrap_or_default();
    let (link, offset, replica_offset) = (next(), next(), next());
    let keys = ctx.keys();
    let waiting: Vec<String> =
        shard.outbox().firsts().map(|(incarnation, seq)| format!("{incarnation}:{seq}")).collect();
    vec![
        ("store", who.store.clone()),
        ("region", who.region.0.to_string()),
        ("shard", who.shard.0.to_string()),
        ("node", engine.settings.node.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("role", if node.is_replica() { "replica" } else { "master" }.to_owned()),
        ("state", node.state().name().to_owned()),
        ("paused-ms", node.paused().as_millis().to_string()),
        ("recovered", u8::from(node.recovered).to_string()),
        ("epoch", who.epoch.to_string()),
        ("incarnation", who.incarnation.to_string()),
        ("seq", shard.seq().to_string()),
        ("clock", shard.clock().0.to_string()),
        ("outbox-effects", shard.outbox().len().to_string()),
        ("outbox-bytes", shard.outbox().bytes().to_string()),
        ("outbox-first", waiting.join(",")),
        ("outbox-max-bytes", engine.settings.outbox_max_bytes.to_string()),
        ("master-link", if node.is_replica() { link } else { String::new() }),
        ("repl-offset", if node.is_replica() { replica_offset } else { offset }),
        ("keys", keys.to_string()),
        ("empty", u8::from(keys == 0 && shard.is_blank()).to_string()),
        ("previous", who.previous.to_string()),
        ("membership", shard.stability().membership().to_string()),
        ("joining", shard.joining().map(|joining| hex(&joining.encode())).unwrap_or_default()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// `MAS.COVER`.
pub(crate) fn cover(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        only(words, "MAS.COVER")?;
        let mut w = Writer::with_capacity(64);
        w.cover(&engine.shard.cover());
        ctx.reply_array(7);
        ctx.reply_bytes(&w.finish());
        ctx.reply_text(engine.shard.clock().0);
        ctx.reply_text(engine.shard.identity().incarnation);
        ctx.reply_text(engine.shard.seq());
        ctx.reply_text(engine.shard.merged_through().hlc.0);
        let ended: Vec<String> = engine.shard.ended().iter().map(ToString::to_string).collect();
        ctx.reply_text(ended.join(","));
        ctx.reply_bytes(&engine.shard.transfer().map(|t| t.encode()).unwrap_or_default());
        Ok(())
    });
}

/// `MAS.POSITIONS`.
pub(crate) fn positions(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        only(words, "MAS.POSITIONS")?;
        let positions = engine.shard.positions();
        ctx.reply_array(positions.len() * 3);
        for (region, position) in positions {
            ctx.reply_text(region.0);
            ctx.reply_text(position.offset);
            ctx.reply_text(position.record);
        }
        Ok(())
    });
}

/// `MAS.STATS`.
pub(crate) fn stats(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        only(words, "MAS.STATS")?;
        let (stats, counters, sizes) =
            (engine.shard.stats, engine.node.counters, engine.shard.table().sizes());
        let fields: Vec<(&str, String)> = [
            ("merged", stats.merged),
            ("duplicates", stats.duplicates),
            ("overruled", stats.overruled),
            ("collected", stats.collected),
            ("skewed", stats.skewed),
            ("late", stats.late),
            ("adopted", stats.adopted),
            ("refused-state", stats.refused),
            ("reshipped", stats.reshipped),
            ("missing", stats.missing),
            ("held", counters.held),
            ("captured", counters.captured),
            ("captured-natively", counters.captured_natively),
            ("refused", counters.refused),
            ("plain-keys", sizes.plain),
            ("rich-keys", sizes.rich),
            ("tombstones", sizes.tombstones),
            ("outbox-effects", engine.shard.outbox().len()),
            ("outbox-bytes", engine.shard.outbox().bytes()),
            ("damaged", u64::from(engine.node.damaged.is_some())),
        ]
        .into_iter()
        .map(|(name, value)| (name, value.to_string()))
        .collect();
        reply_fields(ctx, &fields);
        Ok(())
    });
}

/// `MAS.STAMP key [field]`.
pub(crate) fn stamp(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if !(2..=3).contains(&words.len()) {
            return Err(Refusal::arity("MAS.STAMP key [field]"));
        }
        let field = (words.len() == 3).then(|| words.get(2));
        let wall_ms = ctx.wall_ms();
        let (kind, stamp, state) =
            engine.shard.table().read(words.get(1), |meta| stamp_of(meta, field, wall_ms));
        let fields = [
            ("type", kind.map_or("none", type_name).to_owned()),
            ("region", stamp.origin.region.0.to_string()),
            ("incarnation", stamp.origin.incarnation.to_string()),
            ("hlc", stamp.hlc.0.to_string()),
            ("at", stamp.hlc.millis().to_string()),
            ("state", state.to_owned()),
        ];
        reply_fields(ctx, &fields);
        Ok(())
    });
}

pub(super) fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Str => "string",
        Kind::Hash => "hash",
        Kind::Set => "set",
        Kind::Zset => "zset",
    }
}

/// The latest stamp of a key, or of one of its fields, and what it says.
fn stamp_of(meta: &KeyMeta, field: Option<&[u8]>, wall_ms: u64) -> (Option<Kind>, Stamp, &'static str) {
    let death = meta.death();
    let latest = |cell: &Cell| {
        let totals = cell.counter.iter().flat_map(|c| c.totals.iter());
        totals.map(|t| Stamp::new(t.latest, t.started.origin)).fold(cell.base, Stamp::max)
    };
    let kind = meta.cells.kind();
    let (stamp, live) = match field {
        Some(name) => {
            meta.cells.get(name).map_or((Stamp::ZERO, false), |cell| (latest(cell), cell.is_live(death)))
        }
        None => {
            (meta.cells.iter().map(|(_, cell)| latest(cell)).fold(Stamp::ZERO, Stamp::max), meta.is_live())
        }
    };
    let stamp = if live { stamp } else { stamp.max(death) };
    let expired = meta.ttl.at_ms().is_some_and(|at| at <= wall_ms);
    let state = match (live && !expired, stamp.is_zero()) {
        (true, _) => "live",
        (false, false) => "tombstone",
        (false, true) => "none",
    };
    (kind, stamp, state)
}
