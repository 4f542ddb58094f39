//! What a write changed on one engine is, merged into another, the same there; replicas have it too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Engine, Value, random};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[test]
fn every_kind_of_write_arrives() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    for line in [
        "SET s v",
        "SET s v EX 1000",
        "SET s 5 KEEPTTL",
        "APPEND s x",
        "SETRANGE s 10 end",
        "SETBIT bits 100 1",
        "BITFIELD bits INCRBY u8 0 200",
        "INCR n",
        "INCRBYFLOAT n 0.1",
        "INCRBYFLOAT n 0.2",
        "MSET m1 1 m2 2",
        "EXPIRE m1 500",
        "PERSIST m1",
        "GETEX m2 EX 70",
        "DEL m1 m2",
        "HSET h a 1 b 2",
        "HINCRBY h a 4",
        "HINCRBYFLOAT h c 1.5",
        "HDEL h b",
        "SADD set a b c d",
        "SREM set a x",
        "SPOP set",
        "SADD set b c d",
        "SMOVE set set2 b",
        "SMOVE set set2 c",
        "SMOVE set set2 d",
        "ZADD z 1 a 2 b 3 c 4 d",
        "ZADD z INCR 2.5 a",
        "ZINCRBY z -1 b",
        "ZPOPMIN z",
        "ZREM z c",
        "ZREMRANGEBYSCORE z -inf 4",
        "GEOADD g 13.361389 38.115556 p 15.087269 37.502669 c",
        "GEOSEARCHSTORE g2 g FROMLONLAT 15 37 BYRADIUS 200 km",
        "SUNIONSTORE set3 set set2",
        "ZUNIONSTORE z2 1 g WEIGHTS 2",
        "COPY h h2",
        "EXPIRE h2 900",
        "RENAME h2 h3",
        "RENAME h3 s",
    ] {
        let done = a.exec(line);
        assert!(!done.reply.is_error(), "{line}: {:?}", done.reply);
        assert!(!done.effect.is_empty(), "{line}: no effect");
        let record = a.record(vec![done.effect]);
        let merged = b.merge(1, &[record]);
        assert!(matches!(merged, Value::Many(_)), "{line}: {merged:?}");
        assert_eq!(a.dump(), b.dump(), "{line}");
    }
    let done = a.exec("FLUSHALL");
    let record = a.record(vec![done.effect]);
    b.merge(1, &[record]);
    assert!(b.dump().is_empty());
}

#[test]
fn what_changes_nothing_has_no_effect() {
    let mut a = Engine::serving(1);
    for line in ["SET k v", "SADD s a", "ZADD z 1 a", "HSET h f 1", "SET t v EX 100"] {
        a.exec(line);
    }
    for line in [
        "SET k w NX",
        "SETNX k w",
        "MSETNX k 1 q 2",
        "SADD s a",
        "SREM s x",
        "ZADD z 1 a",
        "ZADD z XX 1 q",
        "ZREM z q",
        "HDEL h q",
        "HSETNX h f 2",
        "DEL q",
        "EXPIRE q 10",
        "PERSIST k",
        "GETEX k",
        "RENAMENX k t",
        "COPY k t",
        "SMOVE s t2 x",
        "SPOP none",
        "ZPOPMIN none",
        "SUNIONSTORE d none",
        "BITFIELD k GET u8 0",
        "SETRANGE none 5 ",
        "SETRANGE none 9223372036854775807 ",
        "ZADD z NX LT INCR nan a",
        "INCR k",
        "LPUSH l 1",
    ] {
        let done = a.exec(line);
        assert!(done.effect.is_empty(), "{line}: {done:?}");
    }
    assert_eq!(a.identity("seq"), "5");
    assert_eq!(a.exec("SADD s a").seq, 5, "the last one issued");
}

#[test]
fn random_writes_arrive_and_reach_the_replica() {
    let seed = random::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    let mut replica = Engine::start(1, &[]);
    replica.follow(&mut a);
    let mut batch = Vec::new();
    // A command that fails may leave an effect all the same (the end of an old life), which only the outbox tells of.
    let (mut issued, mut left_behind) = (a.identity("seq"), false);
    for step in 0..4000 {
        let line = random::line(&mut rng);
        let done = a.exec(&line);
        if !done.effect.is_empty() {
            batch.push(done.effect);
        }
        let before = std::mem::replace(&mut issued, a.identity("seq"));
        left_behind |= done.reply.is_error() && issued != before;
        if rng.random_range(0..20) == 0 {
            let record = a.record(std::mem::take(&mut batch));
            let merged = b.merge(1, &[record]);
            assert!(matches!(merged, Value::Many(_)), "seed {seed} step {step} {line}: {merged:?}");
            if std::mem::take(&mut left_behind) {
                for record in a.outbox() {
                    b.merge(1, &[record]);
                }
            }
            assert_eq!(a.dump(), b.dump(), "seed {seed} step {step} after {line}");
        }
    }
    replica.catch_up(&mut a);
    assert_eq!(a.dump(), replica.dump(), "seed {seed}");
    assert_eq!(a.state(), replica.state(), "seed {seed}");
    // What the native commands of both sides did is what the metadata says: a fresh region that gets all agrees.
    let mut fresh = Engine::serving(3);
    for record in a.outbox() {
        fresh.merge(1, &[record]);
    }
    assert_eq!(a.dump(), fresh.dump(), "seed {seed}");
}

#[test]
fn replies_are_those_of_a_plain_server() {
    let seed = random::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut a, mut plain) = (Engine::serving(1), Engine::plain());
    for step in 0..3000 {
        let line = random::line(&mut rng);
        if line.starts_with("SPOP") {
            // Picks at random.
            continue;
        }
        let (ours, native) = (a.exec(&line).reply, plain.run(&line));
        assert_eq!(ours, native, "seed {seed} step {step}: {line}");
    }
    assert_eq!(common::roughly(a.dump()), common::roughly(plain.dump()), "seed {seed}");
}

#[test]
fn resp3_replies_are_understood() {
    let mut a = Engine::serving(1);
    a.call(&["HELLO", "3"]);
    let many =
        |items: &[&str]| Value::Many(items.iter().map(|i| Value::Bulk(i.as_bytes().to_vec())).collect());
    a.exec("SADD s a");
    let popped = a.exec("SPOP s 2");
    assert_eq!(popped.reply, many(&["a"]));
    assert!(!popped.effect.is_empty());
    a.exec("ZADD z 1 a 2 b");
    assert_eq!(a.exec("ZADD z INCR 0.5 a").reply, Value::Double("1.5".into()));
    assert_eq!(a.exec("ZINCRBY z 0.5 a").reply, Value::Double("2".into()));
    let popped = a.exec("ZPOPMIN z 2");
    let Value::Many(pairs) = &popped.reply else { panic!("{popped:?}") };
    assert_eq!(pairs.len(), 2);
    let record = {
        a.call(&["HELLO", "2"]);
        a.outbox()
    };
    let mut b = Engine::serving(2);
    b.merge(1, &record);
    assert!(b.dump().is_empty());
}
