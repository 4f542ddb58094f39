//! The whole state of a native key as operations, for keys that a command wrote whole.

use bytes::Bytes;
use mas_core::effect::{Kind, Op, Value};
use mas_core::stamp::Stamp;

use crate::boundary::{Ctx, KeyType, Leaf, Native};

/// Why a key's state cannot be sent to other regions.
pub(super) struct NotMerged;

/// All of a key's values, each with this stamp. Empty when the key is not there.
pub(super) fn values_of(ctx: Ctx, key: &[u8], stamp: Stamp) -> Result<Vec<Op>, NotMerged> {
    let put =
        |kind, name, value| Op::Put { kind, name, stamp, value: Some(value), keep_ttl: kind != Kind::Str };
    let native = Native(ctx);
    let kind = match native.kind(key) {
        KeyType::None => return Ok(Vec::new()),
        KeyType::Of(kind) => kind,
        KeyType::Other => return Err(NotMerged),
    };
    let elements = |command: &str, args: &[&[u8]]| {
        let leaves = ctx.call(command, args).leaves();
        leaves
            .into_iter()
            .map(|leaf| if let Leaf::Bytes(bytes) = leaf { Bytes::from(bytes) } else { Bytes::new() })
    };
    Ok(match kind {
        Kind::Str => {
            native.string(key).map(|v| put(kind, Bytes::new(), Value::Bytes(v))).into_iter().collect()
        }
        Kind::Set => elements("SMEMBERS", &[key]).map(|member| put(kind, member, Value::Member)).collect(),
        Kind::Hash => {
            let all: Vec<Bytes> = elements("HGETALL", &[key]).collect();
            all.chunks_exact(2).map(|p| put(kind, p[0].clone(), Value::Bytes(p[1].clone()))).collect()
        }
        Kind::Zset => {
            let all: Vec<Bytes> = elements("ZRANGE", &[key, b"0", b"-1", b"WITHSCORES"]).collect();
            let score =
                |text: &Bytes| std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(0.0);
            all.chunks_exact(2).map(|p| put(kind, p[0].clone(), Value::Score(score(&p[1])))).collect()
        }
    })
}
