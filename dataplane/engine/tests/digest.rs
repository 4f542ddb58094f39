//! Digests of real servers: equal where covers are, on replicas, after a restart, and whatever was forgotten; and what
//! differs is found by its name.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Engine, Value};
use mas_core::slot::slot_of;

/// The digests of all slots, of keys that do not expire and of those that do later than this.
fn digests(engine: &mut Engine, beyond: &str) -> (Vec<u8>, Vec<u8>) {
    let (mut cover, mut all) = (Vec::new(), Vec::new());
    while all.len() < 16384 * 8 {
        let from = (all.len() / 8).to_string();
        let Value::Many(reply) = engine.call(&["MAS.DIGEST", &from, "16383", beyond]) else {
            panic!("no digests")
        };
        cover = reply[0].bytes().to_vec();
        all.extend(reply[5].bytes());
    }
    (cover, all)
}

fn keys(engine: &mut Engine, slot: u16) -> BTreeMap<String, String> {
    let (slot, mut cursor, mut found) = (slot.to_string(), None::<Vec<u8>>, BTreeMap::new());
    loop {
        let mut words: Vec<&[u8]> = vec![b"MAS.KEYS", slot.as_bytes(), b"0"];
        words.extend(cursor.as_deref());
        let Value::Many(reply) = engine.client.call_bytes(&words) else { panic!("no keys") };
        found.extend(reply[3..].chunks(3).map(|key| (key[0].text(), key[1].text())));
        if reply[0].bytes().is_empty() {
            return found;
        }
        cursor = Some(reply[0].bytes().to_vec());
    }
}

fn deliver(from: &mut Engine, to: &mut Engine, region: u16) {
    let effects = from.take_outbox();
    let record = from.record(effects);
    to.merge(region, &[record]);
}

#[test]
fn equal_covers_make_equal_digests() {
    let mut a = Engine::serving_with(1, &["--appendonly", "yes", "--appendfsync", "always"]);
    let mut b = Engine::serving(2);
    let mut replica = Engine::start(1, &[]);
    replica.follow(&mut a);
    for n in 0..300 {
        a.exec(&format!("SET s{n} v"));
        b.exec(&format!("HSET h{} f{n} v", n % 20));
        a.exec(&format!("INCRBY c{} {n}", n % 20));
        b.exec(&format!("SADD m{} x{n}", n % 20));
        a.exec(&format!("ZINCRBY z{} 1 {n}", n % 20));
        b.exec(&format!("SET e{n} v PX 3600000"));
        a.exec(&format!("SET g{n} v PX 1"));
    }
    a.exec("DEL s7 s8");
    b.exec("SREM m1 x1 x21");
    assert!(digests(&mut a, "0").1 != digests(&mut b, "0").1);
    deliver(&mut a, &mut b, 1);
    deliver(&mut b, &mut a, 2);
    let now = u64::MAX.to_string();
    for beyond in ["0", "5000000000000", &now] {
        let whole = digests(&mut a, beyond);
        assert!(whole == digests(&mut b, beyond), "beyond {beyond}");
        replica.catch_up(&mut a);
        assert!(whole == digests(&mut replica, beyond), "a replica, beyond {beyond}");
    }
    let whole = digests(&mut a, "0");
    for how in ["DEBUG RELOAD", "BGREWRITEAOF"] {
        assert!(!a.run(how).is_error());
        assert!(whole == digests(&mut a, "0"), "{how}");
    }
    a.crash();
    assert!(whole == digests(&mut a, "0"), "what is loaded");
    // What differs is found, strings by their names too.
    b.exec("SET s9 other");
    b.exec("HSET h9 f new");
    for key in ["s9", "h9"] {
        let slot = slot_of(key.as_bytes());
        let (mine, theirs) = (keys(&mut a, slot), keys(&mut b, slot));
        assert!(mine.contains_key(key) && mine[key] != theirs[key], "{mine:?} {theirs:?}");
    }
    b.run("FLUSHALL");
    let steady = digests(&mut b, &now).1;
    assert!(steady.iter().all(|byte| *byte == 0), "nothing is left");
}

#[test]
fn bad_questions_are_refused() {
    let mut a = Engine::serving(1);
    for words in [
        &["MAS.DIGEST"][..],
        &["MAS.DIGEST", "0", "16384", "0"],
        &["MAS.DIGEST", "0", "1", "x"],
        &["MAS.KEYS", "0"],
        &["MAS.KEYS", "16384", "0"],
        &["MAS.KEYS", "0", "0", "nonsense"],
        &["MAS.KEYS", "0", "0", "\u{0}\u{2}xy"],
        &["MAS.KEYS", "0,16384", "0"],
        &["MAS.SAMPLE", "1", "0"],
        &["MAS.SAMPLE", "1", "0", "10", "nonsense"],
        &["MAS.ELEMENTS"],
        &["MAS.SHIP", "0000000000000001", "0", "k"],
        &["MAS.REPAIR", "0000000000000001", "nonsense"],
    ] {
        assert!(a.call(words).is_error(), "{words:?}");
    }
    assert_eq!(digests(&mut a, "0").1.len(), 16384 * 8);
    let Value::Many(none) = a.call(&["MAS.DIGEST", "5", "4", "0"]) else { panic!("no answer") };
    assert!(none[5].bytes().is_empty());
}

fn many(value: Value) -> Vec<Value> {
    let Value::Many(all) = value else { panic!("{value:?}") };
    all
}

/// Names of a key's elements, each with whether it is live, and whether it is shown as its metadata says.
fn elements(engine: &mut Engine, key: &str) -> Vec<(String, bool, bool)> {
    let all = many(engine.call(&["MAS.ELEMENTS", key]));
    let live = |digest: &Value| digest.text() != "0000000000000000";
    all[10..].chunks(8).map(|of| (of[0].text(), live(&of[1]), of[7].text() == "1")).collect()
}

/// A piece of what `from` holds of a key and `to` has merged through, taken by `to`.
fn repair(from: &mut Engine, to: &mut Engine, key: &str, more: &[&str]) -> Value {
    let until = many(to.call(&["MAS.ELEMENTS", key]))[0].text();
    let (source, live) = (from.incarnation(), to.incarnation());
    let mut words = vec!["MAS.SHIP", &source, &until, key];
    words.extend(more);
    let piece = many(from.call(&words))[0].bytes().to_vec();
    to.client.call_bytes(&[b"MAS.REPAIR", live.as_bytes(), &piece])
}

#[test]
fn a_key_is_looked_at_shipped_and_repaired() {
    let mut a = Engine::serving(1);
    let mut b = Engine::serving_with(2, &["--appendonly", "yes", "--appendfsync", "always"]);
    a.exec("HSET h milk 1 bread 2 oil 3");
    a.exec("HDEL h bread");
    a.exec("SET s v");
    let yes = |name: &str, live| (name.to_owned(), live, true);
    assert_eq!(elements(&mut a, "h"), [yes("bread", false), yes("milk", true), yes("oil", true)]);
    assert_eq!(elements(&mut a, "s"), [yes("", true)]);
    assert!(elements(&mut a, "none").is_empty());
    assert_eq!(many(a.call(&["MAS.ELEMENTS", "h", "milk"])).len(), 10 + 8);
    assert_eq!(many(a.call(&["MAS.SAMPLE", "7", "0", "100"])).len(), 3);
    assert_eq!(many(a.call(&["MAS.SAMPLE", "7", "0", "0"])).len(), 1);
    // Who has merged nothing is told nothing.
    assert!(!repair(&mut a, &mut b, "h", &[]).is_error());
    assert!(elements(&mut b, "h").is_empty());
    // As if each were alone: it has merged through its own clock.
    for (engine, region) in [(&mut a, "1"), (&mut b, "2")] {
        engine.exec("SET clock v");
        let live = engine.incarnation();
        assert!(!engine.call(&["MAS.COLLECT", &live, "0", "1000", "1", region]).is_error());
    }
    b.exec("SET clock later");
    assert!(!repair(&mut a, &mut b, "h", &["ONLY", "milk", "none"]).is_error());
    assert_eq!(elements(&mut b, "h"), [yes("milk", true)]);
    assert!(!repair(&mut a, &mut b, "h", &["AFTER", "milk"]).is_error());
    assert_eq!(elements(&mut b, "h"), [yes("milk", true), yes("oil", true)]);
    assert!(!repair(&mut a, &mut b, "s", &[]).is_error());
    assert_eq!((b.run("GET s").text(), b.run("HGET h oil").text()), ("v".to_owned(), "3".to_owned()));
    assert!(b.stat("reshipped") >= 3);
    let whole = digests(&mut b, "0");
    b.crash();
    assert!(whole == digests(&mut b, "0"), "what is loaded");
    assert_eq!(elements(&mut b, "h"), [yes("milk", true), yes("oil", true)]);
}
