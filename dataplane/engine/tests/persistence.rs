//! What an engine knows lives through crashes, rewrites of the AOF, RDB files, full and partial resyncs, promotions.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Engine, Value, random, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SYNCED: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn write_some(engine: &mut Engine, seed: u64, count: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..count {
        let line = random::line(&mut rng);
        let done = engine.exec(&line);
        if !done.effect.is_empty() && rng.random_range(0..3) == 0 {
            let (inc, seq) = (engine.incarnation(), done.seq.to_string());
            assert_eq!(engine.call(&["MAS.TRIM", &inc, &inc, &seq, &seq]), Value::Integer(1));
        }
    }
}

/// Some of another region's effects, with gaps, and a position.
fn merge_some(engine: &mut Engine, other: &mut Engine, seed: u64) {
    write_some(other, seed, 60);
    for (at, record) in other.outbox().iter().enumerate() {
        engine.merge(other.region, std::slice::from_ref(record));
        assert!(at < 3);
    }
}

fn wait_for_rewrite(engine: &mut Engine) {
    let info = |engine: &mut Engine, field: &str| {
        let info = engine.run("INFO persistence").text();
        info.lines().find_map(|l| l.strip_prefix(&format!("{field}:")).map(|v| v.trim().to_owned())).unwrap()
    };
    wait_for("the AOF's rewrite", || {
        (info(engine, "aof_rewrite_in_progress") == "0" && info(engine, "aof_rewrite_scheduled") == "0")
            .then_some(())
    });
    assert_eq!(info(engine, "aof_last_bgrewrite_status"), "ok");
}

#[test]
fn a_crash_loses_nothing_that_was_synced() {
    let seed = random::seed() >> 1;
    let mut a = Engine::serving_with(1, SYNCED);
    let mut b = Engine::serving(2);
    for round in 0..3 {
        write_some(&mut a, seed + round, 150);
        merge_some(&mut a, &mut b, seed + 100 + round);
        if round == 1 {
            assert!(!a.run("BGREWRITEAOF").is_error());
            write_some(&mut a, seed + 50, 50);
            wait_for_rewrite(&mut a);
        }
        let before = (a.dump(), a.state(), a.identity("incarnation"));
        a.crash();
        assert_eq!(before.0, a.dump(), "seed {seed} round {round}");
        assert_eq!(before.1, a.state(), "seed {seed} round {round}");
        assert_eq!((a.incarnation(), a.identity("state")), (before.2.clone(), "fenced".into()));
        a.promote(2 + round);
        a.serve();
        assert_eq!(a.identity("previous"), before.2);
        // What was in the outbox is still there, under the old name.
        assert!(before.1.contains(&Value::Simple(format!("outbox-effects {}", a.stat("outbox-effects")))));
    }
}

#[test]
fn what_is_reloaded_is_the_same() {
    let mut a = Engine::serving_with(1, SYNCED);
    let mut b = Engine::serving(2);
    write_some(&mut a, 5, 200);
    merge_some(&mut a, &mut b, 6);
    let before = (a.dump(), a.state());
    for how in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
        assert_eq!(a.run(how), Value::Simple("OK".into()));
        assert_eq!(before.0, a.dump(), "{how}");
        assert_eq!(before.1, a.state(), "{how}");
        assert_eq!(a.identity("state"), "serving", "the same process, the same incarnation");
    }
    assert!(!a.run("BGREWRITEAOF").is_error());
    wait_for_rewrite(&mut a);
    a.crash();
    assert_eq!((before.0, before.1), (a.dump(), a.state()));
}

#[test]
fn replicas_get_all_by_full_and_by_partial_resync() {
    for diskless in ["yes", "no"] {
        let mut a = Engine::serving_with(1, &["--repl-diskless-sync", diskless]);
        let mut b = Engine::serving(2);
        write_some(&mut a, 11, 150);
        merge_some(&mut a, &mut b, 12);
        // The replica has data and metadata of its own, which go.
        let mut replica = Engine::serving(7);
        replica.exec("SET gone 1");
        replica.follow(&mut a);
        assert_eq!((a.dump(), a.state()), (replica.dump(), replica.state()), "full, diskless {diskless}");

        write_some(&mut a, 13, 100);
        a.run("CLIENT KILL TYPE replica");
        write_some(&mut a, 14, 50);
        replica.catch_up(&mut a);
        assert_eq!((a.dump(), a.state()), (replica.dump(), replica.state()), "partial");
        let info = a.run("INFO stats").text();
        let partial = info.lines().find(|l| l.starts_with("sync_partial_ok:")).unwrap().trim();
        assert_eq!(partial, "sync_partial_ok:1");

        // And what the replica has is enough to be master.
        let before = a.state();
        replica.run("REPLICAOF NO ONE");
        replica.region = 1;
        replica.promote(2);
        replica.serve();
        assert_eq!(before[1], replica.state()[1], "positions");
        let Value::Many(cover) = replica.call(&["MAS.COVER"]) else { panic!() };
        let Value::Many(cover_before) = &before[0] else { panic!() };
        assert_eq!(cover[0], cover_before[0], "what the old incarnation had issued is covered");
        assert_eq!(replica.dump(), a.dump());
        replica.exec("SET k0 after");
    }
}

#[test]
fn a_replica_with_its_own_aof_survives_a_crash() {
    let mut a = Engine::serving(1);
    write_some(&mut a, 21, 100);
    let mut replica = Engine::start(1, SYNCED);
    replica.follow(&mut a);
    write_some(&mut a, 22, 100);
    replica.catch_up(&mut a);
    wait_for_rewrite(&mut replica);
    let before = (replica.dump(), replica.state());
    replica.crash();
    assert_eq!((before.0, before.1), (replica.dump(), replica.state()));
}

#[test]
fn data_without_the_engines_state_brings_a_blank_engine() {
    let mut plain = Engine::plain();
    plain.run("SET k v");
    let mut a = Engine::serving(1);
    write_some(&mut a, 31, 50);
    a.run(&format!("REPLICAOF 127.0.0.1 {}", plain.port));
    wait_for("the plain server's data", || (a.run("GET k") == Value::Bulk(b"v".to_vec())).then_some(()));
    assert_eq!((a.identity("epoch"), a.identity("incarnation")), ("0".into(), "0".repeat(16)));
    assert_eq!(a.stat("outbox-effects"), 0);
}

#[test]
fn an_expired_key_stays_dead_after_a_restart() {
    let mut a = Engine::serving_with(1, SYNCED);
    a.exec("HSET h old 1");
    a.exec("PEXPIRE h 40");
    a.exec("SET s v PX 40");
    a.crash();
    wait_for("the keys to expire", || (a.run("DBSIZE") == Value::Integer(0)).then_some(()));
    a.promote(2);
    a.serve();
    let again = a.exec("HSET h new 1");
    let mut b = Engine::serving(2);
    let records = a.outbox();
    b.merge(1, &records);
    assert!(!again.effect.is_empty());
    assert_eq!(a.dump(), b.dump());
    assert_eq!(b.run("HKEYS h"), Value::Many(vec![Value::Bulk(b"new".to_vec())]));
}
