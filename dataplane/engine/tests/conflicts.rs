//! Conflicting writes in several regions at once, merged in different orders and more than once: all end the same.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::{Engine, Shown, Value, random};
use mas_core::effect::{Change, Effect};
use mas_core::wire::decode_effect;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Delivers what each region has issued to each other one, in an order of its own, some of it twice.
fn exchange(engines: &mut [Engine], effects: &[Vec<Bytes>], rng: &mut StdRng) {
    for to in 0..engines.len() {
        let mut records: Vec<(u16, Bytes)> = Vec::new();
        for from in (0..engines.len()).filter(|from| *from != to) {
            for effect in &effects[from] {
                let record = engines[from].record(vec![effect.clone()]);
                records.push((engines[from].region, record.clone()));
                if rng.random_range(0..4) == 0 {
                    records.push((engines[from].region, record));
                }
            }
        }
        records.shuffle(rng);
        for (region, record) in records {
            let merged = engines[to].merge(region, &[record]);
            assert!(matches!(merged, Value::Many(_)), "{merged:?}");
        }
    }
}

/// The keys that differ, with what was done to them since they were last flushed.
fn differences(dumps: &[BTreeMap<Vec<u8>, Shown>], history: &[(usize, String, Effect)]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let keys: BTreeSet<&Vec<u8>> = dumps.iter().flat_map(|dump| dump.keys()).collect();
    for key in keys {
        let shown: Vec<_> = dumps.iter().map(|dump| dump.get(key)).collect();
        if shown.iter().all(|other| *other == shown[0]) {
            continue;
        }
        let from = history.iter().rposition(|(_, line, _)| line.contains("FLUSHALL")).unwrap_or(0);
        for (round, line, effect) in &history[from..] {
            for change in &effect.changes {
                match change {
                    Change::Key { key: changed, ops } if changed == key => {
                        let _ = writeln!(out, "round {round} {line}: {ops:?}");
                    }
                    Change::Key { .. } => {}
                    Change::Slots { floor, .. } => {
                        let _ = writeln!(out, "round {round} {line}: all {floor:?}");
                    }
                }
            }
        }
        let _ = writeln!(out, "{:?} is {shown:?}", String::from_utf8_lossy(key));
    }
    out
}

#[test]
fn regions_end_the_same_whatever_the_order() {
    let seed = random::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut engines = [Engine::serving(1), Engine::serving(2), Engine::serving(3)];
    let mut replica = Engine::start(2, &[]);
    replica.follow(&mut engines[1]);
    let mut history: Vec<(usize, String, Effect)> = Vec::new();
    for round in 0..150 {
        let mut effects = vec![Vec::new(); engines.len()];
        for _ in 0..rng.random_range(3..25) {
            let at = rng.random_range(0..engines.len());
            let line = random::line(&mut rng);
            engines[at].exec(&line);
            // Also what a refused command leaves: it may have found the key expired.
            for bytes in engines[at].take_outbox() {
                let effect = decode_effect(&bytes, engines[at].origin()).unwrap();
                history.push((round, format!("{}: {line}", at + 1), effect));
                effects[at].push(bytes);
            }
        }
        exchange(&mut engines, &effects, &mut rng);
        let dumps: Vec<_> = engines.iter_mut().map(Engine::dump).collect();
        for other in &dumps[1..] {
            assert!(dumps[0] == *other, "seed {seed}\n{}", differences(&dumps, &history));
        }
    }
    replica.catch_up(&mut engines[1]);
    assert_eq!(engines[1].dump(), replica.dump(), "seed {seed}");
    assert_eq!(engines[1].state(), replica.state(), "seed {seed}");
}

/// Both regions run a line at once and exchange it; returns what both show then.
fn at_once(a: &mut Engine, b: &mut Engine, lines: (&str, &str)) {
    let (done_a, done_b) = (a.exec(lines.0), b.exec(lines.1));
    let (record_a, record_b) = (a.record(vec![done_a.effect]), b.record(vec![done_b.effect]));
    a.merge(2, &[record_b]);
    b.merge(1, &[record_a]);
    assert_eq!(a.dump(), b.dump(), "{lines:?}");
}

#[test]
fn increments_add_up_and_sets_do_not_swap() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    for _ in 0..200 {
        at_once(&mut a, &mut b, ("INCR n", "INCRBY n 2"));
        at_once(&mut a, &mut b, ("SET s left", "SET s right"));
        at_once(&mut a, &mut b, ("HINCRBYFLOAT h f 0.1", "HINCRBYFLOAT h f 0.2"));
        at_once(&mut a, &mut b, ("ZINCRBY z 1 m", "ZADD z INCR 1.5 m"));
        at_once(&mut a, &mut b, ("HSET u f 1", "DEL u"));
        at_once(&mut a, &mut b, ("SADD t m", "SREM t m"));
        at_once(&mut a, &mut b, ("SET x 1", "HSET x f 1"));
        at_once(&mut a, &mut b, ("SET e v PX 100000", "SET e v2"));
        at_once(&mut a, &mut b, ("EXPIRE e 1000", "EXPIRE e 2000"));
    }
    assert_eq!(a.run("GET n"), Value::Bulk(b"600".to_vec()));
    assert_eq!(a.run("HGET h f"), Value::Bulk(b"60".to_vec()));
    assert_eq!(a.run("ZSCORE z m"), Value::Bulk(b"500".to_vec()));
}

#[test]
fn a_counter_keeps_its_sum_through_set_and_delete() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    at_once(&mut a, &mut b, ("INCRBY n 10", "INCRBY n 100"));
    assert_eq!(a.run("GET n"), Value::Bulk(b"110".to_vec()));
    a.exec("SET n 5");
    let done = a.outbox();
    b.merge(1, &done);
    assert_eq!(b.run("GET n"), Value::Bulk(b"5".to_vec()));
    at_once(&mut a, &mut b, ("INCR n", "INCR n"));
    assert_eq!(b.run("GET n"), Value::Bulk(b"7".to_vec()));
    at_once(&mut a, &mut b, ("DEL n", "SET q 1"));
    assert_eq!(b.run("GET n"), Value::Null);
    // A total that saturates says so to the next writer.
    at_once(&mut a, &mut b, ("INCRBY big 9223372036854775807", "INCRBY big 9223372036854775807"));
    assert_eq!(b.run("GET big"), Value::Bulk(b"9223372036854775807".to_vec()));
    assert!(b.exec("INCR big").reply.is_error());
    assert_eq!(b.exec("DECR big").reply, Value::Integer(i64::MAX), "the exact sum is still beyond");
}

#[test]
fn a_key_that_expired_begins_anew_everywhere() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    let set = a.exec("HSET h old 1");
    let expire = a.exec("PEXPIRE h 30");
    let records = [a.record(vec![set.effect, expire.effect])];
    b.merge(1, &records);
    common::wait_for("the key to expire", || (a.run("EXISTS h") == Value::Integer(0)).then_some(()));
    let again = a.exec("HSET h new 1");
    assert_eq!(again.reply, Value::Integer(1));
    let record = a.record(vec![again.effect]);
    b.merge(1, &[record]);
    assert_eq!(a.dump(), b.dump());
    assert_eq!(
        b.run("HGETALL h"),
        Value::Many(vec![Value::Bulk(b"new".to_vec()), Value::Bulk(b"1".to_vec())])
    );
    // A renewal that arrives after the expiry brings the value back.
    let set = a.exec("SET s v PX 60");
    let record = a.record(vec![set.effect]);
    b.merge(1, &[record]);
    let renewed = a.exec("EXPIRE s 1000");
    common::wait_for("the key to expire in b", || (b.run("EXISTS s") == Value::Integer(0)).then_some(()));
    let record = a.record(vec![renewed.effect]);
    b.merge(1, &[record]);
    assert_eq!(b.run("GET s"), Value::Bulk(b"v".to_vec()));
    assert_eq!(a.dump(), b.dump());
}
