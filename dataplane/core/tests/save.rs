//! A shard's state goes through its saved form and back unchanged, and damaged forms are refused. Starts no server.
#![allow(clippy::unwrap_used)] // test helpers

#[allow(dead_code, unreachable_pub)]
mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Region, Write};
use mas_core::effect::Kind;
use mas_core::keyspace::Keyspace;
use mas_core::meta::KeyMeta;
use mas_core::save::{CHUNK_BYTES, Loader};
use mas_core::shard::Shard;
use mas_core::slot::SLOTS;
use mas_core::stamp::Incarnation;
use proptest::prelude::*;

fn write() -> impl Strategy<Value = Write> {
    let k = 0u8..5;
    prop_oneof![
        6 => (k.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        2 => (k.clone(), any::<u16>(), 0u16..400).prop_map(|(k, v, t)| Write::SetEx(k, v, t)),
        2 => (k.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        2 => k.clone().prop_map(Write::Del),
        2 => (k.clone(), 0u8..3, any::<u16>()).prop_map(|(k, f, v)| Write::HSet(k, f, v)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, f, n)| Write::HIncr(k, f, n)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SAdd(k, m)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, m, s)| Write::ZIncr(k, m, s)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::ZRem(k, m)),
        2 => (k.clone(), 0u16..400).prop_map(|(k, t)| Write::Expire(k, t)),
        1 => k.prop_map(Write::Persist),
        1 => Just(Write::Flush),
    ]
}

fn save(shard: &Shard) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    shard.save(&mut |chunk| chunks.push(Bytes::copy_from_slice(chunk)));
    assert!(chunks.iter().all(|chunk| !chunk.is_empty()), "an empty chunk ends the state in a file");
    chunks
}

fn load(chunks: Vec<Bytes>) -> Shard {
    let mut loader = Loader::default();
    for chunk in chunks {
        loader.chunk(chunk).unwrap();
    }
    loader.finish().unwrap()
}

/// All that a shard knows, in an order of its own.
fn state(shard: &Shard, keys: &[Vec<u8>]) -> impl PartialEq + std::fmt::Debug + use<> {
    let table: BTreeMap<Vec<u8>, KeyMeta> =
        keys.iter().map(|key| (key.clone(), shard.table().read(key, KeyMeta::clone))).collect();
    let rich: BTreeMap<Vec<u8>, KeyMeta> =
        shard.table().rich_entries().map(|(key, meta)| (key.to_vec(), meta.clone())).collect();
    let floors: Vec<_> = (0..SLOTS).map(|slot| shard.table().slot_floor(slot)).collect();
    let outbox: Vec<_> = shard.outbox().iter().map(|(i, seq, effect)| (i, seq, effect.clone())).collect();
    let head = (shard.identity().clone(), shard.seq(), shard.clock(), shard.positions().clone());
    (head, shard.cover(), outbox, shard.outbox().bytes(), table, rich, floors, shard.table().sizes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_saved_is_loaded(
        writes in prop::collection::vec((0usize..2, write()), 0..60),
        merged in any::<bool>(),
        trims in prop::collection::vec((1u64..40, 0u64..5), 0..4),
        promoted in any::<bool>(),
    ) {
        let mut regions = [Region::new(1), Region::new(2)];
        let mut now = 10_000;
        for (r, write) in &writes {
            now += 13;
            regions[*r].write(write, now);
        }
        if merged {
            let log = regions[1].log.clone();
            // Later ones first: the cover has gaps.
            for record in log.iter().rev().step_by(2) {
                regions[0].merge(2, std::slice::from_ref(record), now);
            }
        }
        for (first, len) in trims {
            regions[0].shard.trim(Incarnation(1001), &[(first, first + len)]);
        }
        if promoted {
            regions[0].promote(2, 77, now);
        }
        let shard = &regions[0].shard;
        let keys: Vec<Vec<u8>> = (0..5).map(|k| format!("k{k}").into_bytes()).collect();
        let loaded = load(save(shard));
        prop_assert_eq!(state(shard, &keys), state(&loaded, &keys));
    }

    #[test]
    fn any_bytes_are_read_or_refused(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4)) {
        let mut loader = Loader::default();
        let head = save(&Shard::new((1, 2))).remove(0);
        loader.chunk(head).unwrap();
        for chunk in chunks {
            let _ = loader.chunk(Bytes::from(chunk));
        }
        let _ = loader.finish();
    }
}

#[test]
fn a_blank_shard_stays_blank_and_a_cut_state_is_refused() {
    let shard = load(save(&Shard::new((1, 2))));
    assert!(shard.is_blank());
    assert!(Loader::default().finish().is_err());
    assert!(Loader::default().chunk(Bytes::from_static(&[5, 0])).is_err(), "no head");
}

#[test]
fn large_keys_and_many_keys_go_in_chunks() {
    let mut region = Region::new(1);
    let mut ops = Vec::new();
    let hlc = region.shard.tick(20_000);
    for n in 0..50_000u32 {
        let name = Bytes::from(format!("a field with a long name, number {n}"));
        let stamp = region.shard.stamp(hlc);
        ops.push(mas_core::effect::Op::Put { kind: Kind::Set, name, stamp, value: None, keep_ttl: true });
    }
    let key = Bytes::from_static(b"large");
    let change = mas_core::effect::Change::Key { key: key.clone(), ops };
    region.shard.commit(hlc, vec![change], 20_000, &mut region.map);
    for n in 0..50_000u32 {
        let hlc = region.shard.tick(20_000);
        let stamp = region.shard.stamp(hlc);
        let value = Some(mas_core::effect::Value::Bytes(Bytes::from_static(b"v")));
        let op =
            mas_core::effect::Op::Put { kind: Kind::Str, name: Bytes::new(), stamp, value, keep_ttl: false };
        let change = mas_core::effect::Change::Key { key: Bytes::from(format!("key:{n}")), ops: vec![op] };
        region.shard.commit(hlc, vec![change], 20_000, &mut region.map);
    }
    let incarnation = region.origin().incarnation;
    region.shard.trim(incarnation, &[(1, 100_000)]);
    assert!(!region.map.exists(&key));
    let chunks = save(&region.shard);
    assert!(chunks.len() > 6, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() < 2 * CHUNK_BYTES));
    let keys = vec![key.to_vec(), b"key:1".to_vec(), b"key:49999".to_vec()];
    let loaded = load(chunks);
    assert_eq!(state(&region.shard, &keys), state(&loaded, &keys));
}
