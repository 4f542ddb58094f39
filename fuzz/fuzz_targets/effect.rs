//! Effects: what is decoded encodes and decodes to the same, and takes memory in proportion to its bytes.

#![no_main]

use bytes::Bytes;
use fuzz::bounded::bounded;
use libfuzzer_sys::fuzz_target;
use mas_core::effect::{Change, Effect, Kind, Op, Value};
use mas_core::stamp::{Incarnation, Origin, RegionId};
use mas_core::wire::{decode_effect, encode_effect, encode_plain_set, peek_effect};

const ORIGIN: Origin = Origin { region: RegionId(1), incarnation: Incarnation(1001) };

/// `SET key value` is encoded by a shorter way: to the same bytes.
fn plain_set(effect: &Effect, encoded: &[u8]) {
    let [Change::Key { key, ops }] = &effect.changes[..] else { return };
    let [Op::Put { kind: Kind::Str, name, stamp, value: Some(Value::Bytes(value)), keep_ttl: false }] =
        &ops[..]
    else {
        return;
    };
    if name.is_empty() && stamp.hlc == effect.hlc && stamp.origin == ORIGIN {
        let mut out = Vec::new();
        encode_plain_set(&mut out, effect.seq, effect.hlc, key, value);
        assert_eq!(out, encoded);
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let effect = match bounded(4096 + 512 * data.len(), || decode_effect(&bytes, ORIGIN)) {
        Ok(effect) => effect,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert_eq!(peek_effect(&bytes), Ok((effect.seq, effect.hlc)));
    let encoded = encode_effect(&effect, ORIGIN);
    assert_eq!(decode_effect(&encoded, ORIGIN).as_ref(), Ok(&effect));
    assert_eq!(encode_effect(&effect, ORIGIN), encoded);
    plain_set(&effect, &encoded);
    for cut in 0..encoded.len().min(64) {
        assert!(decode_effect(&encoded.slice(..cut), ORIGIN).is_err(), "cut after {cut} bytes");
    }
});
