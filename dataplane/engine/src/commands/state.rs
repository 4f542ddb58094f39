//! `MAS.STATE`: a piece of this shard's state, for a region that lacks it ([`mas_core::transfer`]).

use bytes::Bytes;
use mas_core::record::{Body, Record};
use mas_core::transfer::PieceBounds;
use mas_core::wire::Writer;

use crate::boundary::{Ctx, Native, Words};
use crate::engine::answer;
use crate::refusal::Refusal;

/// `MAS.STATE inc record`: the record is the request, as it was published.
pub(crate) fn state(ctx: Ctx, words: Words<'_>) {
    answer(ctx, |engine| {
        if words.len() != 3 {
            return Err(Refusal::arity("MAS.STATE incarnation record"));
        }
        engine.check_named(words.get(1))?;
        let record = Record::decode(Bytes::copy_from_slice(words.get(2)));
        let Ok(Record { body: Body::Want(want), .. }) = record else {
            return Err(Refusal::other("the record is no request for state"));
        };
        let (next, piece) = engine.shard.export(&want, PieceBounds::DEFAULT, &mut Native(ctx));
        let mut w = Writer::with_capacity(64);
        next.write(&mut w);
        ctx.reply_array(2);
        ctx.reply_bytes(&w.finish());
        ctx.reply_bytes(&piece);
        Ok(())
    });
}
