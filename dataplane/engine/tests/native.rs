//! Writes that do not come through `MAS.EXEC`: captured where they can be, refused in words where not; nothing changes unseen.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Engine, Value, random};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn assert_arrives(a: &mut Engine) {
    let mut b = Engine::serving(2);
    for record in a.outbox() {
        b.merge(1, &[record]);
    }
    assert_eq!(a.dump(), b.dump());
}

#[test]
fn direct_writes_are_captured() {
    let seed = random::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut a, mut plain) = (Engine::serving(1), Engine::plain());
    for _ in 0..500 {
        let line = random::line(&mut rng);
        if !line.starts_with("SPOP") {
            assert_eq!(a.run(&line), plain.run(&line), "seed {seed}: {line}");
        }
    }
    assert_eq!(common::roughly(a.dump()), common::roughly(plain.dump()), "seed {seed}");
    assert_eq!(a.stat("captured-natively"), a.identity("seq").parse().unwrap());
    assert_arrives(&mut a);
}

#[test]
fn a_failed_write_that_ends_an_old_life_is_counted() {
    let mut a = Engine::serving(1);
    for line in ["SADD k m", "EXPIRE k 1000", "SREM k m"] {
        assert_eq!(a.run(line), Value::Integer(1));
    }
    assert!(a.run("HINCRBY k f notanumber").is_error());
    assert_eq!((a.identity("seq").as_str(), a.stat("captured-natively")), ("4", 4));
    assert_arrives(&mut a);
}

#[test]
fn transactions_and_scripts_are_captured() {
    let mut a = Engine::serving(1);
    let mut replica = Engine::start(1, &[]);
    replica.follow(&mut a);
    a.run("MULTI");
    for line in ["SET k 1", "INCR k", "HSET h f v", "GET k"] {
        assert_eq!(a.run(line), Value::Simple("QUEUED".into()));
    }
    let Value::Many(replies) = a.run("EXEC") else { panic!("no replies") };
    assert_eq!(replies[1..], [Value::Integer(2), Value::Integer(1), Value::Bulk(b"2".to_vec())]);
    let script = "redis.call('SADD', KEYS[1], 'a', 'b'); redis.call('SET', 'lua', '1', 'EX', 100); \
                  return redis.call('INCRBY', 'lua', 41)";
    assert_eq!(a.call(&["EVAL", script, "1", "s"]), Value::Integer(42));
    let refused = a.call(&["EVAL", "return redis.pcall('LPUSH', 'l', '1')", "0"]);
    assert!(refused.text().contains("not supported"), "{refused:?}");
    assert_eq!(a.identity("seq"), "6");
    assert_arrives(&mut a);
    replica.catch_up(&mut a);
    assert_eq!((a.dump(), a.state()), (replica.dump(), replica.state()));
    assert_eq!(a.run("FLUSHALL"), ok());
    replica.catch_up(&mut a);
    assert!(a.dump().is_empty() && replica.dump().is_empty());
    assert_eq!(a.state(), replica.state());
    assert_arrives(&mut a);
}

#[test]
fn what_cannot_be_captured_is_refused() {
    let mut a = Engine::serving(1);
    a.exec("SET k v");
    for line in [
        "LPUSH l 1",
        "RPUSH l 1",
        "XADD x * a b",
        "PFADD p a",
        "SORT k STORE d",
        "SWAPDB 0 1",
        "MOVE k 1",
        "MIGRATE 127.0.0.1 1 k 0 10",
        "DEBUG POPULATE 10",
        "COPY k k2 DB 1",
        "FUNCTION FLUSH",
    ] {
        let refused = a.run(line);
        assert!(refused.is_error() && refused.text().contains("not supported"), "{line}: {refused:?}");
    }
    a.run("MULTI");
    a.run("LPUSH l 1");
    let Value::Many(replies) = a.run("EXEC") else { panic!("no replies") };
    assert!(replies[0].is_error());
    a.run("SELECT 1");
    let refused = a.run("SET k v");
    assert!(refused.text().contains("one database"), "{refused:?}");
    assert!(a.run("FLUSHALL").is_error());
    a.run("SELECT 0");
    assert_eq!((a.run("DBSIZE"), a.identity("seq").as_str()), (Value::Integer(1), "1"));
    for line in ["GET k", "PING", "SORT k", "CONFIG GET save", "NOSUCHCOMMAND"] {
        let reply = a.run(line);
        assert!(!reply.is_error() || !reply.text().contains("not supported"), "{line}: {reply:?}");
    }
}

#[test]
fn restored_values_arrive_and_unmerged_types_are_refused() {
    let (mut a, mut plain) = (Engine::serving(1), Engine::plain());
    for line in ["SET s text", "SET n 7", "HSET h f v g w", "SADD i 1 2 3", "SADD t a b", "ZADD z 1.5 a 2 b"]
    {
        a.exec(line);
        plain.run(line);
    }
    plain.run("RPUSH l 1 2");
    for key in ["s", "n", "h", "i", "t", "z"] {
        let payload = plain.run(&format!("DUMP {key}"));
        let words: Vec<Vec<u8>> = vec![
            b"RESTORE".to_vec(),
            format!("{key}2").into_bytes(),
            b"5000000".to_vec(),
            payload.bytes().to_vec(),
        ];
        let done = a.exec_words(&words);
        assert_eq!(done.reply, ok(), "{key}");
        assert_eq!(a.exec_words(&words).reply.code(), "BUSYKEY");
    }
    let payload = plain.run("DUMP l");
    let words = vec![b"RESTORE".to_vec(), b"l".to_vec(), b"0".to_vec(), payload.bytes().to_vec()];
    assert!(a.exec_words(&words).reply.text().contains("not supported"));
    assert_arrives(&mut a);
}

#[test]
fn keys_that_expire_natively_need_no_capture() {
    let mut a = Engine::serving(1);
    let mut replica = Engine::start(1, &[]);
    replica.follow(&mut a);
    a.exec("SET s v PX 20");
    a.exec("SADD t m");
    a.exec("PEXPIRE t 20");
    common::wait_for("expiry", || (a.run("DBSIZE") == Value::Integer(0)).then_some(()));
    assert_eq!(a.identity("seq"), "3");
    a.exec("SADD t n");
    replica.catch_up(&mut a);
    assert_eq!((a.dump(), a.state()), (replica.dump(), replica.state()));
    assert_eq!(a.run("SMEMBERS t"), Value::Many(vec![Value::Bulk(b"n".to_vec())]));
    assert_arrives(&mut a);
}

#[test]
fn users_may_write_captured_what_they_may_write_natively() {
    let mut a = Engine::serving(1);
    a.run("ACL SETUSER some on nopass ~app:* +@all -del");
    let mut user = common::Client::connect(a.port).expect("connected");
    assert_eq!(user.call(&["AUTH", "some", "x"]), ok());
    assert_eq!(user.call(&["SET", "app:1", "v"]), ok());
    assert_eq!(user.call(&["INCR", "app:n"]), Value::Integer(1));
    let script = "return redis.call('SET', KEYS[1], 'v')";
    assert_eq!(user.call(&["EVAL", script, "1", "app:2"]), ok());
    for words in [
        &["SET", "other", "v"][..],
        &["DEL", "app:1"],
        &["MSET", "app:1", "w", "other", "v"],
        &["RENAME", "app:1", "x"],
    ] {
        let refused = user.call(words);
        assert!(
            refused.is_error() && (refused.text().contains("acl") || refused.code() == "NOPERM"),
            "{words:?}: {refused:?}"
        );
    }
    assert!(user.call(&["EVAL", "return redis.call('SET', 'other', 'v')", "0"]).is_error());
    assert_eq!(a.run("DBSIZE"), Value::Integer(3));
    assert_eq!(a.identity("seq"), "3");
    assert_arrives(&mut a);
}
