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
    ] {
        assert!(a.call(words).is_error(), "{words:?}");
    }
    assert_eq!(digests(&mut a, "0").1.len(), 16384 * 8);
    let Value::Many(none) = a.call(&["MAS.DIGEST", "5", "4", "0"]) else { panic!("no answer") };
    assert!(none[5].bytes().is_empty());
}
