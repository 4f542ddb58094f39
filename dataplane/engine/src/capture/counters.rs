//! Counters: `INCR` and its relatives on strings, hash fields and scores. Regions' increments add up, so the exact sum is
//! kept beside the value; where Redis' own arithmetic comes to another result, the exact one is shown.

use bytes::Bytes;
use mas_core::amount::{Amount, Decimal, is_redis_integer};
use mas_core::effect::{Kind, Value};
use mas_core::keyspace::Keyspace;
use mas_core::merge;
use mas_core::shard::{Counting, Shard};

use super::{Answer, Write};
use crate::boundary::{Ctx, KeyType, Native, Reply};
use crate::refusal::Refusal;

/// A cell that was counted, to be compared with the exact sum once that is committed.
pub(crate) struct Counted {
    key: Vec<u8>,
    kind: Kind,
    name: Vec<u8>,
}

/// What a counter command asks for.
struct Increment<'a> {
    kind: Kind,
    name: &'a [u8],
    delta: Amount,
    float: bool,
}

fn integer(word: &[u8], negative: bool) -> Result<Amount, Refusal> {
    if !is_redis_integer(word) {
        return Err(Refusal::other("value is not an integer or out of range"));
    }
    let Some(Decimal { units, .. }) = Decimal::parse(word) else {
        return Err(Refusal::other("value is not an integer or out of range"));
    };
    Ok(Amount::Decimal(Decimal { units: if negative { -units } else { units }, float: false }))
}

fn decimal(word: &[u8]) -> Result<Amount, Refusal> {
    let parsed = Decimal::parse(word).ok_or_else(|| Refusal::other("value is not a valid float"))?;
    Ok(Amount::Decimal(Decimal { float: true, ..parsed }))
}

/// A score, as Redis reads it.
pub(super) fn score(word: &[u8]) -> Result<f64, Refusal> {
    let parsed = std::str::from_utf8(word).ok().and_then(|text| text.parse::<f64>().ok());
    parsed.filter(|s| !s.is_nan()).ok_or_else(|| Refusal::other("value is not a valid float"))
}

/// `INCR`, `DECR`, `INCRBY`, `DECRBY`, `INCRBYFLOAT`, `HINCRBY`, `HINCRBYFLOAT`, `ZINCRBY`. Where several things are wrong,
/// the error is the one that Redis finds first: `INCRBYFLOAT` looks at the key before its number, all others after it.
pub(super) fn count(w: &mut Write<'_>) -> Result<Answer, Refusal> {
    if w.command.name == "INCRBYFLOAT" && is_of_other_type(w, Kind::Str) {
        return Ok(Answer::Native(w.run()));
    }
    let string = |delta, float| Increment { kind: Kind::Str, name: b"", delta, float };
    let hash = |delta, float| Increment { kind: Kind::Hash, name: w.arg(2), delta, float };
    let increment = match w.command.name {
        "INCR" => string(integer(b"1", false)?, false),
        "DECR" => string(integer(b"1", true)?, false),
        "INCRBY" => string(integer(w.arg(2), false)?, false),
        "DECRBY" => string(integer(w.arg(2), true)?, false),
        "INCRBYFLOAT" => string(decimal(w.arg(2))?, true),
        "HINCRBY" => hash(integer(w.arg(3), false)?, false),
        "HINCRBYFLOAT" => hash(decimal(w.arg(3))?, true),
        _ => Increment {
            kind: Kind::Zset,
            name: w.arg(3),
            delta: Amount::Score(score(w.arg(2))?),
            float: true,
        },
    };
    add(w, &increment)
}

/// `ZADD key INCR score member`, options before `INCR` included.
pub(super) fn z_increment(w: &mut Write<'_>, delta: f64, member: &[u8]) -> Result<Answer, Refusal> {
    add(w, &Increment { kind: Kind::Zset, name: member, delta: Amount::Score(delta), float: true })
}

/// Then Redis refuses the command in its own words.
fn is_of_other_type(w: &Write<'_>, kind: Kind) -> bool {
    match w.native.kind(w.arg(1)) {
        KeyType::Of(found) => found != kind,
        KeyType::Other => true,
        KeyType::None => false,
    }
}

fn add(w: &mut Write<'_>, increment: &Increment<'_>) -> Result<Answer, Refusal> {
    let key = w.arg(1);
    let Increment { kind, name, .. } = *increment;
    if is_of_other_type(w, kind) {
        return Ok(Answer::Native(w.run()));
    }
    let counting = w.shard.prepare_count(key, kind, name, &mut w.native);
    let captured = add_prepared(w, increment, counting);
    if w.counted.is_none() {
        w.shard.abandon_count(key, name);
    }
    captured
}

fn add_prepared(w: &mut Write<'_>, increment: &Increment<'_>, counting: Counting) -> Result<Answer, Refusal> {
    let key = w.arg(1);
    let Increment { kind, name, delta, float } = *increment;
    if float && kind != Kind::Zset && counting.total.is_none() {
        // Redis reads some numbers that cannot be added up exactly (1e300, hexadecimal): those are not begun.
        let shown = w.native.read(key, kind, name);
        if shown.is_some_and(|value| merge::number_in(&value).is_none()) {
            let hash = kind == Kind::Hash;
            return Err(Refusal::other(if hash {
                "hash value is not a float"
            } else {
                "value is not a valid float"
            }));
        }
    }
    let Some(op) = w.shard.count_op(counting, kind, Bytes::copy_from_slice(name), delta, w.latest) else {
        return Err(Refusal::other("increment or decrement would overflow"));
    };
    let reply = w.run();
    if !reply.is_error() && !reply.is_null() {
        w.record(key, vec![op]);
        w.counted = Some(Counted { key: key.to_vec(), kind, name: name.to_vec() });
    }
    Ok(Answer::Native(reply))
}

impl Counted {
    /// Shows the exact sum where Redis came to another result, and answers with it.
    pub(crate) fn settle(&self, shard: &Shard, ctx: Ctx, answer: Answer) -> Answer {
        let Some(exact) = shard.counted_value(&self.key, &self.name) else { return answer };
        let Answer::Native(reply) = &answer else { return answer };
        match exact {
            Amount::Decimal(number) => {
                let text = number.format();
                if shown_as(reply, text.as_bytes()) { answer } else { self.show(ctx, reply, &text) }
            }
            Amount::Score(score)
                if reply.double().is_some_and(|shown| shown.to_bits() == score.to_bits()) =>
            {
                answer
            }
            Amount::Score(score) => {
                Native(ctx).write(&self.key, Kind::Zset, &self.name, &Value::Score(score));
                Answer::Native(ctx.run_with("ZSCORE", &[&self.key, &self.name]))
            }
        }
    }

    fn show(&self, ctx: Ctx, reply: &Reply, text: &str) -> Answer {
        if self.kind == Kind::Str {
            ctx.call("SET", &[&self.key, text.as_bytes(), b"KEEPTTL"]);
        } else {
            ctx.call("HSET", &[&self.key, &self.name, text.as_bytes()]);
        }
        match (reply.integer(), text.parse()) {
            (Some(_), Ok(value)) => Answer::Integer(value),
            _ if self.kind == Kind::Str => Answer::Native(ctx.run_with("GET", &[&self.key])),
            _ => Answer::Native(ctx.run_with("HGET", &[&self.key, &self.name])),
        }
    }
}

/// Whether a native reply says the same.
fn shown_as(reply: &Reply, text: &[u8]) -> bool {
    match reply.integer() {
        Some(value) => value.to_string().as_bytes() == text,
        None => reply.bytes() == Some(text),
    }
}
