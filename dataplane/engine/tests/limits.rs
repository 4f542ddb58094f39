//! Bounds and bad input: clear errors, nothing half done, the server goes on.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Engine, Value, random};
use mas_core::effect::{Change, Effect, Op};
use mas_core::record::{Body, Record};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId, Stamp};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

#[test]
fn the_outbox_is_bounded_and_gives_up_what_was_confirmed() {
    let mut a = Engine::serving_with(1, &["--", "outbox-max-bytes", "10000"]);
    let mut count = 0;
    let refused = loop {
        let done = a.exec(&format!("SET k{count} {}", "x".repeat(100)));
        if done.reply.is_error() {
            break done.reply;
        }
        count += 1;
        assert!(count < 1000);
    };
    assert_eq!(refused.code(), "OUTBOXFULL");
    assert_eq!(a.run(&format!("SET k {}", "x".repeat(100))).code(), "OUTBOXFULL", "natively as well");
    assert!(a.stat("outbox-bytes") <= 10_000);
    let inc = a.incarnation();
    assert_eq!(a.call(&["MAS.TRIM", &inc, &inc, "2", "3", "5", "5"]), Value::Integer(3));
    assert_eq!(a.call(&["MAS.TRIM", &inc, &inc, "2", "3"]), Value::Integer(0), "given up before");
    assert!(!a.exec("SET k v").reply.is_error());
    // A large write that would not fit is not begun.
    a.call(&["MAS.TRIM", &inc, &inc, "1", "100000"]);
    assert_eq!(a.exec(&format!("SET big {}", "x".repeat(20_000))).reply.code(), "OUTBOXFULL");
    assert_eq!(a.run("EXISTS big"), Value::Integer(0));
}

#[test]
fn the_outbox_says_what_waits_first() {
    let mut a = Engine::serving(1);
    assert_eq!(a.identity("outbox-first"), "");
    for n in 0..3 {
        a.exec(&format!("SET k{n} v"));
    }
    let old = a.incarnation();
    assert_eq!(a.identity("outbox-first"), format!("{old}:1"));
    a.call(&["MAS.TRIM", &old, &old, "1", "1", "3", "3"]);
    assert_eq!(a.identity("outbox-first"), format!("{old}:2"));
    a.run("MAS.FENCE");
    let new = a.promote(2);
    a.serve();
    a.exec("SET k v");
    let mut waiting = [format!("{old}:2"), format!("{new}:1")];
    waiting.sort();
    assert_eq!(a.identity("outbox-first"), waiting.join(","), "the old incarnation's stay under its name");
}

#[test]
fn out_of_memory_refuses_writes_early_and_merges_late() {
    let mut a = Engine::serving_with(1, &["--", "merge-headroom-bytes", "3000000"]);
    let mut b = Engine::serving(2);
    let used: u64 = {
        let info = a.run("INFO memory").text();
        info.lines().find_map(|l| l.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    a.run(&format!("CONFIG SET maxmemory {}", used + 2_000_000));
    let value = "v".repeat(50_000);
    let refused = (0..200).find_map(|n| {
        let done = a.exec(&format!("SET a{n} {value}"));
        done.reply.is_error().then_some(done.reply)
    });
    assert_eq!(refused.expect("refused").code(), "OOM");
    assert!(!a.exec("DEL a0").reply.is_error(), "what frees memory goes on");
    let mut merged = 0;
    let stopped = (0..300).find_map(|n| {
        let done = b.exec(&format!("SET b{n} {value}"));
        let record = b.record(vec![done.effect]);
        let reply = a.merge(2, &[record]);
        merged += u64::from(!reply.is_error());
        reply.is_error().then_some(reply)
    });
    assert_eq!(stopped.expect("stopped").code(), "OOM");
    assert!(merged > 20, "{merged}");
    // Still alive, and the rest goes on when there is room.
    a.run("CONFIG SET maxmemory 0");
    assert!(!a.exec("SET k v").reply.is_error());
    for record in b.outbox() {
        assert!(matches!(a.merge(2, &[record]), Value::Many(_)));
    }
    assert_eq!(a.run("EXISTS b0 b299"), b.run("EXISTS b0 b299"));
}

#[test]
fn large_writes_are_refused_before_they_run() {
    let mut a = Engine::serving_with(1, &["--", "outbox-max-bytes", "1000000000"]);
    for line in [
        "SETRANGE s 70000000 x",
        "SETBIT s 600000000 1",
        "BITFIELD s SET u8 600000000 1",
        "BITFIELD s SET u8 #70000000 1",
    ] {
        let done = a.exec(line);
        assert!(done.reply.text().contains("too large"), "{line}: {done:?}");
    }
    assert_eq!(a.run("DBSIZE"), Value::Integer(0));
    let half = vec![b'x'; 40 << 20];
    assert!(!a.exec_words(&[b"SET".to_vec(), b"s".to_vec(), half.clone()]).reply.is_error());
    let done = a.exec_words(&[b"APPEND".to_vec(), b"s".to_vec(), half]);
    assert!(done.reply.text().contains("too large"));
    assert_eq!(a.run("STRLEN s"), Value::Integer(40 << 20));
    assert_eq!(a.exec("RENAME s t").reply, Value::Simple("OK".into()));
}

fn garbage(rng: &mut StdRng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..max)];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let seed = random::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut a = Engine::serving(1);
    let mut b = Engine::serving(2);
    a.exec("SET k v");
    let done = b.exec("HSET h f v");
    let good = b.record(vec![done.effect]);
    let before = (a.dump(), a.state());
    for _ in 0..2000 {
        let mut bad = good.to_vec();
        match rng.random_range(0..3) {
            0 => bad = garbage(&mut rng, 200),
            1 => bad.truncate(rng.random_range(0..bad.len())),
            _ => {
                // Beyond the head, so that it stays an effect of that origin: damaged within, or another one.
                let at = rng.random_range(0..5);
                bad[at] ^= 1 << rng.random_range(0..8);
            }
        }
        let reply = a.merge(2, &[Bytes::from(bad), Bytes::from_static(b"and more")]);
        assert_eq!(reply.code(), "MASDECODE", "seed {seed}");
    }
    assert_eq!(before, (a.dump(), a.state()), "seed {seed}: all or nothing");
    let inc = a.incarnation();
    let names = [
        "MAS.EXEC",
        "MAS.NATIVE",
        "MAS.MERGE",
        "MAS.APPLY",
        "MAS.OUTBOX",
        "MAS.TRIM",
        "MAS.CLAIM",
        "MAS.COLLECT",
        "MAS.DIGEST",
        "MAS.KEYS",
        "MAS.PROMOTE",
        "MAS.JOIN",
        "MAS.JOINED",
        "MAS.SERVE",
        "MAS.STAMP",
        "MAS.COVER",
        "MAS.IDENTITY",
        "MAS.STATS",
        "MAS.POSITIONS",
        "MAS.REFUSED",
    ];
    for _ in 0..3000 {
        let name = names[rng.random_range(0..names.len())];
        let mut words: Vec<Vec<u8>> = vec![name.into()];
        for _ in 0..rng.random_range(0..9) {
            words.push(match rng.random_range(0..4) {
                0 => garbage(&mut rng, 20),
                1 => inc.clone().into(),
                2 => rng.random_range(-3..1_000_000_000_000i64).to_string().into(),
                _ => rng.next_u64().to_string().into(),
            });
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        a.client.call_bytes(&words);
    }
    assert_eq!(a.run("PING"), Value::Simple("PONG".into()), "seed {seed}");
    assert_eq!(a.run("GET k"), Value::Bulk(b"v".to_vec()), "seed {seed}");
}

#[test]
fn positions_are_compared_and_duplicates_counted() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    let inc = a.incarnation();
    let effects: Vec<Bytes> = (0..4).map(|n| b.exec(&format!("SET k{n} v")).effect).collect();
    let record = b.record(effects);
    let mut merge = |from: (&str, &str), to: (&str, &str)| {
        let words: [&[u8]; 8] = [
            b"MAS.MERGE",
            inc.as_bytes(),
            b"2",
            from.0.as_bytes(),
            from.1.as_bytes(),
            to.0.as_bytes(),
            to.1.as_bytes(),
            &record,
        ];
        a.client.call_bytes(&words)
    };
    let counts = |merged, duplicates| {
        Value::Many([merged, duplicates, 0, 0, 0].into_iter().map(Value::Integer).collect())
    };
    assert_eq!(merge(("3", "4"), ("5", "6")), Value::Error("MASPOSITION -1 0".into()));
    assert_eq!(merge(("-1", "0"), ("5", "6")), counts(4, 0));
    assert_eq!(merge(("-1", "0"), ("5", "6")), Value::Error("MASPOSITION 5 6".into()));
    assert_eq!(merge(("5", "6"), ("9", "7")), counts(0, 4));
    assert_eq!(a.run("MAS.POSITIONS"), Value::Many(["2", "9", "7"].map(|t| Value::Bulk(t.into())).to_vec()));
}

#[test]
fn effects_from_the_far_future_are_held_back() {
    let mut a = Engine::serving(1);
    let origin = Origin { region: RegionId(2), incarnation: Incarnation(5) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let merge_at = |a: &mut Engine, ahead_ms: u64, seq: u64| {
        let hlc = Hlc::from_millis(now + ahead_ms);
        let ops = vec![Op::Floor(Stamp::new(hlc, origin))];
        let effect = Effect { seq, hlc, changes: vec![Change::Key { key: Bytes::from_static(b"k"), ops }] };
        let body = Body::Effects(vec![mas_core::wire::encode_effect(&effect, origin)]);
        a.merge(2, &[Record { id: 1, shard: ShardId(0), origin, body }.encode()])
    };
    assert_eq!(merge_at(&mut a, 2 * 3_600_000, 1).code(), "MASHELD");
    assert_eq!(a.run("MAS.POSITIONS"), Value::Many(Vec::new()), "the position waits");
    assert!(
        matches!(merge_at(&mut a, 60_000, 2), Value::Many(_)),
        "within the hard limit it is merged, and counted"
    );
    assert_eq!((a.stat("held"), a.stat("skewed")), (1, 1));
    assert!(!a.exec("SET k v").reply.is_error(), "one peer with a bad clock does not stop writes");
    assert_eq!(a.run("GET k"), Value::Bulk(b"v".to_vec()), "later than what was merged");
}

#[test]
fn too_many_gaps_are_held_back_until_they_close() {
    let mut a = Engine::serving(1);
    let origin = Origin { region: RegionId(2), incarnation: Incarnation(5) };
    let record = |seqs: &mut dyn Iterator<Item = u64>| {
        let effect = |seq| Effect { seq, hlc: Hlc::from_millis(seq), changes: Vec::new() };
        let effects = seqs.map(|seq| mas_core::wire::encode_effect(&effect(seq), origin)).collect();
        Record { id: 1, shard: ShardId(0), origin, body: Body::Effects(effects) }.encode()
    };
    let runs = mas_core::cover::RUNS_MAX as u64;
    let (odd, even) = (record(&mut (0..runs).map(|n| 2 * n + 1)), record(&mut (1..runs).map(|n| 2 * n)));
    assert!(matches!(a.merge(2, &[odd]), Value::Many(_)));
    let before = (a.run("MAS.POSITIONS"), a.state());
    let beyond = record(&mut [2 * runs + 1, 2 * runs + 3].into_iter());
    assert_eq!(a.merge(2, std::slice::from_ref(&beyond)).code(), "MASGAPS");
    assert_eq!(before, (a.run("MAS.POSITIONS"), a.state()), "nothing of it was merged, the position waits");
    assert!(matches!(a.merge(2, &[even]), Value::Many(_)), "what closes gaps is merged");
    assert!(matches!(a.merge(2, &[beyond]), Value::Many(_)));
}
