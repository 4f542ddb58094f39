//! The codec: what is written reads back, and arbitrary bytes are read or refused, never worse. Starts no server.

use bytes::Bytes;
use mas_core::amount::{Amount, Decimal};
use mas_core::cover::{Cover, SeqSet};
use mas_core::effect::{Change, Effect, Kind, Op, Value};
use mas_core::record::{Body, Heartbeat, Record};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId, Stamp};
use mas_core::wire::{Reader, Writer, decode_effect, encode_effect, peek_effect};
use proptest::prelude::*;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn origin() -> impl Strategy<Value = Origin> {
    (1u16..5, any::<u64>()).prop_map(|(r, i)| Origin { region: RegionId(r), incarnation: Incarnation(i) })
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), origin()).prop_map(|(hlc, origin)| Stamp::new(Hlc(hlc), origin))
}

fn score() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("NaN is no score", |s| !s.is_nan())
}

fn put() -> impl Strategy<Value = Op> {
    let value = prop_oneof![
        bytes(50).prop_map(|b| (Kind::Str, Some(Value::Bytes(b)))),
        bytes(50).prop_map(|b| (Kind::Hash, Some(Value::Bytes(b)))),
        Just((Kind::Set, Some(Value::Member))),
        score().prop_map(|s| (Kind::Zset, Some(Value::Score(s)))),
        prop_oneof![Just(Kind::Str), Just(Kind::Hash), Just(Kind::Set), Just(Kind::Zset)]
            .prop_map(|k| (k, None)),
    ];
    (value, bytes(20), stamp(), any::<bool>()).prop_map(|((kind, value), name, stamp, keep_ttl)| Op::Put {
        kind,
        name,
        stamp,
        value,
        keep_ttl,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let amount = prop_oneof![
        (any::<i128>(), any::<bool>()).prop_map(|(units, float)| Amount::Decimal(Decimal { units, float })),
        score().prop_map(Amount::Score),
    ];
    prop_oneof![
        stamp().prop_map(Op::Floor),
        put(),
        (amount, bytes(20), stamp(), any::<u64>(), any::<bool>()).prop_map(
            |(amount, name, started, latest, hash)| {
                let kind = match amount {
                    Amount::Score(_) => Kind::Zset,
                    Amount::Decimal(_) if hash => Kind::Hash,
                    Amount::Decimal(_) => Kind::Str,
                };
                Op::Count { kind, name, started, latest: Hlc(latest), amount }
            }
        ),
        (stamp(), stamp(), any::<Option<u64>>()).prop_map(|(stamp, life, at_ms)| Op::Expire {
            stamp,
            life,
            at_ms
        }),
        (stamp(), stamp(), any::<u64>(), any::<u64>()).prop_map(|(life, register, until_ms, at)| Op::Kill {
            life,
            register,
            until_ms,
            at: Hlc(at)
        }),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    let change = prop_oneof![
        4 => (bytes(20), prop::collection::vec(op(), 0..6)).prop_map(|(key, ops)| Change::Key { key, ops }),
        1 => (0u16..100, 100u16..16384, stamp()).prop_map(|(first, last, floor)| Change::Slots { first, last, floor }),
    ];
    (1u64.., any::<u64>(), prop::collection::vec(change, 0..5)).prop_map(|(seq, hlc, changes)| Effect {
        seq,
        hlc: Hlc(hlc),
        changes,
    })
}

fn cover() -> impl Strategy<Value = Cover> {
    let runs = prop::collection::vec((1u64..1000, 0u64..50), 1..10);
    prop::collection::vec((origin(), runs), 0..5).prop_map(|origins| {
        let mut cover = Cover::default();
        for (origin, runs) in origins {
            let mut set = SeqSet::default();
            for (first, len) in runs {
                set.insert_run(first, first + len).expect("few runs");
            }
            cover.set(origin, set);
        }
        cover
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        prop::collection::vec(bytes(60), 0..5).prop_map(Body::Effects),
        (any::<u64>(), 0u32..5, 5u32..9, bytes(60)).prop_map(|(seq, index, count, bytes)| Body::Part {
            seq,
            index,
            count,
            bytes
        }),
        (any::<u64>(), any::<u64>(), any::<u64>(), cover()).prop_map(|(epoch, clock, issued, cover)| {
            Body::Heartbeat(Heartbeat { epoch, clock: Hlc(clock), issued, stable: Hlc(clock / 2), cover })
        }),
        any::<u64>().prop_map(Body::Nonce),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn effects_read_back(effect in effect(), origin in origin()) {
        let encoded = encode_effect(&effect, origin);
        prop_assert_eq!(peek_effect(&encoded), Ok((effect.seq, effect.hlc)));
        prop_assert_eq!(decode_effect(&encoded, origin), Ok(effect));
    }

    #[test]
    fn plain_sets_are_encoded_as_all_effects_are(
        seq in 1u64..,
        hlc in any::<u64>(),
        origin in origin(),
        key in bytes(300),
        value in bytes(300),
    ) {
        let stamp = Stamp::new(Hlc(hlc), origin);
        let op = Op::Put {
            kind: Kind::Str,
            name: Bytes::new(),
            stamp,
            value: Some(Value::Bytes(value.clone())),
            keep_ttl: false,
        };
        let effect = Effect { seq, hlc: Hlc(hlc), changes: vec![Change::Key { key: key.clone(), ops: vec![op] }] };
        let mut plain = Vec::new();
        mas_core::wire::encode_plain_set(&mut plain, seq, Hlc(hlc), &key, &value);
        prop_assert_eq!(&encode_effect(&effect, origin)[..], &plain[..]);
    }

    #[test]
    fn cut_effects_are_refused(effect in effect(), origin in origin(), cut in any::<prop::sample::Index>()) {
        let encoded = encode_effect(&effect, origin);
        prop_assert!(decode_effect(&encoded.slice(..cut.index(encoded.len())), origin).is_err());
    }

    #[test]
    fn records_read_back(id in any::<u64>(), shard in any::<u16>(), origin in origin(), body in body()) {
        let record = Record { id, shard: ShardId(shard), origin, body };
        let encoded = record.encode();
        prop_assert_eq!(Record::peek_id(&encoded), Some(id));
        prop_assert_eq!(Record::decode(encoded), Ok(record));
    }

    #[test]
    fn covers_read_back(cover in cover()) {
        let mut w = Writer::default();
        w.cover(&cover);
        let mut r = Reader::new(w.finish());
        prop_assert_eq!(r.cover(), Ok(cover));
        prop_assert_eq!(r.remaining(), 0);
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in bytes(300), origin in origin()) {
        let _ = decode_effect(&bytes, origin);
        let _ = Record::decode(bytes.clone());
        let _ = Reader::new(bytes).cover();
    }

    #[test]
    fn damaged_records_are_read_or_refused(body in body(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let record = Record { id: 1, shard: ShardId(0), origin: Origin::default(), body };
        let mut encoded = record.encode().to_vec();
        let at = at.index(encoded.len());
        encoded[at] = byte;
        if let Ok(Record { body: Body::Effects(effects), .. }) = Record::decode(Bytes::from(encoded)) {
            for effect in effects {
                let _ = decode_effect(&effect, Origin::default());
            }
        }
    }
}
