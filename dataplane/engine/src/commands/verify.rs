//! `MAS.SAMPLE`, `MAS.ELEMENTS`, `MAS.SHIP`, `MAS.REPAIR`: keys looked at element by element, and repaired
//! ([`mas_core::elements`], [`mas_core::reship`]).

use bytes::Bytes;
use mas_core::effect::Kind;
use mas_core::elements::{LookBounds, is_sampled};
use mas_core::keyspace::Keyspace;
use mas_core::reship::Which;
use mas_core::stamp::Hlc;

use crate::boundary::{Ctx, KeyType, Native, Words};
use crate::engine::{answer, number_in};
use crate::refusal::Refusal;

use super::report::type_name;

/// Keys that one call of `MAS.SAMPLE` looks at.
const SCAN: usize = 2000;

/// `MAS.SAMPLE seed first percent [cursor]`.
pub(crate) fn sample(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |_| {
        if !(4..=5).contains(&words.len()) {
            return Err(Refusal::arity("MAS.SAMPLE seed first percent [cursor]"));
        }
        let (seed, first, percent) = (
            number_in(words.get(1), "the seed")?,
            number_in(words.get(2), "the first percent")?,
            number_in(words.get(3), "the percentage")?,
        );
        let at = if words.len() == 5 { words.get(4) } else { b"" };
        if !at.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::other("the cursor is none that was given"));
        }
        let (next, mut keys) = Keyspace::scan(&mut Native(ctx), at, SCAN);
        keys.retain(|key| is_sampled(key, seed, first, percent));
        ctx.reply_array(1 + keys.len());
        ctx.reply_bytes(&next);
        keys.iter().for_each(|key| ctx.reply_bytes(key));
        Ok(())
    });
}

/// `MAS.ELEMENTS key [after]`.
pub(crate) fn elements(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if !(2..=3).contains(&words.len()) {
            return Err(Refusal::arity("MAS.ELEMENTS key [after]"));
        }
        let key = words.get(1);
        let after = (words.len() == 3).then(|| words.get(2));
        let (shard, mut native) = (&engine.shard, Native(ctx));
        let found = shard.elements(key, after, LookBounds::DEFAULT, &mut native);
        ctx.reply_array(10 + found.elements.len() * 8);
        ctx.reply_text(shard.merged_through().hlc.0);
        ctx.reply_text(shard.table().collected().0);
        ctx.reply_text(u8::from(found.more));
        ctx.reply_text(type_of(native.kind(key), found.head.kind));
        ctx.reply_text(native.elements(key));
        ctx.reply_text(native.expiry(key).map_or(-1, u64::cast_signed));
        ctx.reply_text(format_args!("{:016x}", found.head.digest));
        ctx.reply_text(found.head.at_ms.map_or(-1, u64::cast_signed));
        ctx.reply_text(found.head.latest.0);
        ctx.reply_text(found.head.rank.0);
        for element in found.elements {
            let (hash, size) = element.shown.unzip();
            ctx.reply_bytes(&element.name);
            ctx.reply_text(format_args!("{:016x}", element.digest));
            ctx.reply_text(element.latest.hlc.0);
            ctx.reply_text(element.latest.origin.region.0);
            ctx.reply_text(element.latest.origin.incarnation);
            ctx.reply_bytes(hash.map(|hash| format!("{hash:016x}")).unwrap_or_default().as_bytes());
            ctx.reply_text(size.unwrap_or(0));
            ctx.reply_text(u8::from(element.fits));
        }
        Ok(())
    });
}

/// The type that the metadata is of; without any, the one that is shown.
fn type_of(shown: KeyType, known: Option<Kind>) -> &'static str {
    match (shown, known) {
        (_, Some(kind)) | (KeyType::Of(kind), None) => type_name(kind),
        (KeyType::Other, None) => "other",
        (KeyType::None, None) => "none",
    }
}

/// `MAS.SHIP inc until key [AFTER name | ONLY name …]`.
pub(crate) fn ship(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        let usage = || Refusal::arity("MAS.SHIP incarnation until key [AFTER name | ONLY name …]");
        if words.len() < 4 {
            return Err(usage());
        }
        engine.check_named(words.get(1))?;
        let until = Hlc(number_in(words.get(2), "the clock")?);
        let names: Vec<&[u8]> = (5..words.len()).map(|at| words.get(at)).collect();
        let which = match (words.len(), &names[..]) {
            (4, _) => Which::After(None),
            (_, [name]) if words.get(4).eq_ignore_ascii_case(b"AFTER") => Which::After(Some(name)),
            (_, names) if words.get(4).eq_ignore_ascii_case(b"ONLY") => Which::Only(names),
            _ => return Err(usage()),
        };
        let (next, piece) = engine.shard.reship(words.get(3), which, until, &mut Native(ctx));
        ctx.reply_array(if next.is_some() { 2 } else { 1 });
        ctx.reply_bytes(&piece);
        if let Some(next) = next {
            ctx.reply_bytes(&next);
        }
        Ok(())
    });
}

/// `MAS.REPAIR inc piece`.
pub(crate) fn repair(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 3 {
            return Err(Refusal::arity("MAS.REPAIR incarnation piece"));
        }
        engine.check_named(words.get(1))?;
        engine.check_headroom(ctx)?;
        let piece = Bytes::copy_from_slice(words.get(2));
        let done = engine.shard.take_reshipped(&piece, &mut Native(ctx));
        let done = done.map_err(|why| Refusal::Repair(why.to_string()))?;
        ctx.replicate(&done.entry);
        ctx.reply_array(2);
        ctx.reply_integer(done.applied as i64);
        ctx.reply_integer(done.overruled as i64);
        Ok(())
    });
}
