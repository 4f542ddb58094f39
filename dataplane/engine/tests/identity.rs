//! Who is master, and whether it serves: fenced at every start and on every change of role, promoted under rising epochs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Engine, Value};

fn ok() -> Value {
    Value::Simple("OK".into())
}

#[test]
fn an_engine_serves_only_after_promotion() {
    let mut a = Engine::start(1, &["--", "node", "a-0", "outbox-max-bytes", "12345"]);
    let fields = a.fields(&["MAS.IDENTITY"]);
    for (field, value) in [
        ("store", ""),
        ("region", "0"),
        ("node", "a-0"),
        ("role", "master"),
        ("state", "fenced"),
        ("recovered", "0"),
        ("epoch", "0"),
        ("incarnation", "0000000000000000"),
        ("outbox-max-bytes", "12345"),
        ("empty", "1"),
    ] {
        assert_eq!(fields[field], value, "{field}");
    }
    assert_eq!(a.exec("SET k v").reply.code(), "MASFENCED");
    assert_eq!(a.run("SET k v").code(), "MASFENCED");
    assert_eq!(a.run("MAS.SERVE 0000000000000000 full 0").code(), "MASFENCED");
    assert_eq!(a.run("MAS.MERGE 0000000000000000 2 -1 0 1 1").code(), "MASFENCED");

    let first = a.promote(5);
    assert_eq!((a.identity("state"), a.identity("epoch")), ("recovering".into(), "5".into()));
    assert_eq!(a.exec("SET k v").reply.code(), "MASRECOVERING");
    assert_eq!(a.run("SET k v").code(), "MASFENCED");
    assert!(matches!(a.merge(2, &[]), Value::Many(_)), "merging goes on while recovering");
    assert_eq!(
        a.call(&["MAS.SERVE", "0000000000000001", "full", "0"]).text(),
        format!("MASINCARNATION {first}")
    );
    assert_eq!(a.call(&["MAS.SERVE", &first, "degraded", "0"]), ok());
    assert_eq!((a.identity("state"), a.identity("recovered")), ("serving".into(), "0".into()));
    assert_eq!(a.call(&["MAS.SERVE", &first, "full", "0"]), ok());
    assert_eq!(a.identity("recovered"), "1");
    assert_eq!(a.exec("SET k v").reply, ok());
    assert_eq!(a.identity("empty"), "0");

    assert_eq!(a.identity("paused-ms"), "0");
    assert_eq!(a.call(&["MAS.PAUSE", "0000000000000001", "9000"]).text(), format!("MASINCARNATION {first}"));
    assert_eq!(a.call(&["MAS.PAUSE", &first, "9000"]), ok());
    assert_ne!(a.identity("paused-ms"), "0");
    let before = a.identity("seq");
    assert_eq!(a.exec("SET k w").reply.code(), "MASPAUSED");
    assert_eq!(a.run("SET k w").code(), "MASPAUSED");
    assert_eq!(a.merge(2, &[]).code(), "MASPAUSED");
    assert_eq!(a.call(&["MAS.COLLECT", &first, "0", "100", "1", "1"]).code(), "MASPAUSED");
    assert_eq!((a.run("GET k"), a.identity("seq")), (Value::Bulk(b"v".to_vec()), before));
    assert_eq!(a.call(&["MAS.PAUSE", &first, "0"]), ok());
    assert_eq!(a.exec("SET k v").reply, ok());
    assert_eq!(a.call(&["MAS.PAUSE", &first, "1"]), ok());
    while a.exec("SET k v").reply != ok() {} // it goes on by itself

    assert_eq!(a.run("MAS.FENCE"), ok());
    assert_eq!(a.exec("SET k v").reply.code(), "MASFENCED");
    assert_eq!(a.run("MAS.PROMOTE 5 shop 1 0"), Value::Error("MASEPOCH 5".into()));
    assert_eq!(a.run("MAS.PROMOTE 6 other 1 0").code(), "ERR", "another store");
    assert_eq!(a.run("MAS.PROMOTE 6 shop 2 0").code(), "ERR", "another region");
    assert_eq!(a.run("MAS.PROMOTE 6 shop 1 1").code(), "ERR", "another shard");
    let second = a.promote(6);
    assert_ne!(first, second);
    assert_eq!((a.identity("previous"), a.identity("seq")), (first.clone(), "0".into()));
    a.serve();
    let mut header = u64::from_str_radix(&first, 16).unwrap().to_le_bytes().to_vec();
    header.extend([0; 8]);
    let stale = a.client.call_bytes(&[b"MAS.EXEC", &header, b"SET", b"k", b"v"]);
    assert_eq!(stale.text(), format!("MASINCARNATION {second}"));
    assert_eq!(a.exec("SET k v").seq, 1);
}

#[test]
fn every_start_and_every_change_of_role_fences() {
    let mut a = Engine::serving_with(1, &["--appendonly", "yes", "--appendfsync", "always"]);
    a.exec("SET k v");
    a.crash();
    assert_eq!((a.identity("state"), a.identity("epoch")), ("fenced".into(), "1".into()));
    a.promote(2);
    a.serve();

    let mut b = Engine::start(1, &[]);
    b.follow(&mut a);
    let fields = b.fields(&["MAS.IDENTITY"]);
    assert_eq!((&*fields["role"], &*fields["state"], &*fields["master-link"]), ("replica", "fenced", "up"));
    assert_eq!((fields["epoch"].clone(), fields["incarnation"].clone()), ("2".into(), a.incarnation()));
    for line in
        ["MAS.PROMOTE 3 shop 1 0", "MAS.MERGE x 2 -1 0 1 1", "MAS.TRIM x y 1 1", "MAS.OUTBOX x 1 0 1 1"]
    {
        assert_eq!(b.run(line).code(), "MASREPLICA", "{line}");
    }
    assert_eq!(b.exec("SET k w").reply.code(), "MASREPLICA");
    assert_eq!(b.run("MAS.APPLY x").code(), "READONLY");
    assert_eq!(b.run("SET k w").code(), "READONLY");

    b.run("REPLICAOF NO ONE");
    assert_eq!((b.identity("role"), b.identity("state")), ("master".into(), "fenced".into()));
    assert_eq!(b.run("SET k w").code(), "MASFENCED");
    b.promote(3);
    b.serve();
    assert_eq!(b.exec("SET k w").reply, ok());

    a.follow(&mut b);
    assert_eq!((a.identity("role"), a.identity("epoch")), ("replica".into(), "3".into()));
    assert_eq!(a.run("GET k"), Value::Bulk(b"w".to_vec()));
    assert_eq!(a.state(), b.state());
}

#[test]
fn a_replica_by_configuration_is_one_from_the_start() {
    let mut a = Engine::serving(1);
    a.exec("SET k v");
    let mut b = Engine::start(1, &["--replicaof", &format!("127.0.0.1 {}", a.port)]);
    b.catch_up(&mut a);
    assert_eq!((b.identity("role"), b.identity("state")), ("replica".into(), "fenced".into()));
    assert_eq!(b.exec("SET k w").reply.code(), "MASREPLICA");
    let mut c = Engine::start(1, &[]);
    c.run(&format!("REPLICAOF 127.0.0.1 {}", b.port));
    c.catch_up(&mut a);
    a.exec("INCR n");
    c.catch_up(&mut a);
    assert_eq!((a.dump(), a.state()), (c.dump(), c.state()), "a replica's replica");
}

#[test]
fn settings_that_lose_data_are_refused() {
    let mut a = Engine::start(1, &["--maxmemory-policy", "allkeys-lru"]);
    let refused = a.run("MAS.PROMOTE 1 shop 1 0");
    assert!(refused.text().contains("noeviction"), "{refused:?}");
    a.run("CONFIG SET maxmemory-policy noeviction");
    a.promote(1);
    a.serve();
    a.run("CONFIG SET maxmemory-policy volatile-ttl");
    assert!(a.exec("SET k v").reply.text().contains("noeviction"));
    a.run("CONFIG SET maxmemory-policy noeviction");
    a.run("CONFIG SET aof-use-rdb-preamble no");
    assert!(a.exec("SET k v").reply.text().contains("aof-use-rdb-preamble"));
    a.run("CONFIG SET aof-use-rdb-preamble yes");
    assert_eq!(a.exec("SET k v").reply, ok());
}

#[test]
fn clocks_that_are_far_ahead_are_refused_and_others_are_followed() {
    let mut a = Engine::serving(1);
    let mut at = |ahead_ms: u64| {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let seen = (now + ahead_ms) << 16;
        let mut header = a.origin().incarnation.0.to_le_bytes().to_vec();
        header.extend(seen.to_le_bytes());
        let reply = a.client.call_bytes(&[b"MAS.EXEC", &header, b"SET", b"k", b"v"]);
        (seen, reply)
    };
    assert_eq!(at(4_000_000).1.code(), "MASSKEW");
    let (seen, reply) = at(500_000);
    let Value::Many(parts) = reply else { panic!("{reply:?}") };
    let hlc = u64::from_le_bytes(parts[1].bytes()[8..16].try_into().unwrap());
    assert!(hlc > seen, "a later write has a higher stamp than what its client saw");
}

#[test]
fn duties_are_leased() {
    let mut a = Engine::serving(1);
    let inc = a.incarnation();
    let mut claim = |duty: &str, proxy: &str, ttl: &str| match a.call(&["MAS.CLAIM", &inc, duty, proxy, ttl])
    {
        Value::Many(parts) => (parts[0].clone(), parts[1].text()),
        other => panic!("{other:?}"),
    };
    assert_eq!(claim("own", "1", "60000"), (Value::Integer(1), "1".into()));
    assert_eq!(claim("own", "2", "60000"), (Value::Integer(0), "1".into()));
    assert_eq!(claim("read:2", "2", "60000"), (Value::Integer(1), "2".into()));
    assert_eq!(claim("own", "1", "0"), (Value::Integer(1), "1".into()), "given back");
    assert_eq!(claim("own", "2", "60000"), (Value::Integer(1), "2".into()));
    assert_eq!(a.run("MAS.CLAIM 0000000000000005 own 1 1").code(), "MASINCARNATION");
}
