//! Tombstones are forgotten when every region has them and all before them, and not earlier; on replicas and in files too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Engine, Value};

/// One step over all slots: what was dropped, and what is left.
fn collect(engine: &mut Engine) -> (u64, u64) {
    let incarnation = engine.incarnation();
    let Value::Many(done) = engine.call(&["MAS.COLLECT", &incarnation, "0", "100000", "1", "1", "2"]) else {
        panic!("no answer")
    };
    assert_eq!(done[2].text(), "0", "all slots in one step");
    (done[0].text().parse().unwrap(), done[1].text().parse().unwrap())
}

/// Both tell each other how far they are.
fn beat(a: &mut Engine, b: &mut Engine) {
    let (from_a, from_b) = (a.heartbeat(), b.heartbeat());
    b.merge(1, &[from_a]);
    a.merge(2, &[from_b]);
}

fn deliver(from: &mut Engine, to: &mut Engine, region: u16) {
    let effects = from.take_outbox();
    if !effects.is_empty() {
        let record = from.record(effects);
        to.merge(region, &[record]);
    }
}

#[test]
fn what_everybody_has_is_forgotten_and_nothing_before() {
    let (mut a, mut b) = (Engine::serving(1), Engine::serving(2));
    let mut replica = Engine::start(1, &[]);
    replica.follow(&mut a);
    for n in 0..200 {
        a.run(&format!("SET s{n} v"));
        a.run(&format!("HSET h{n} f v g w"));
        a.run(&format!("SADD m x{n}"));
        a.run(&format!("SET e{n} v PX 1"));
    }
    a.run("SET stays v");
    for n in 0..200 {
        a.run(&format!("DEL s{n}"));
        a.run(&format!("HDEL h{n} f"));
        a.run(&format!("SREM m x{n}"));
    }
    // The peer writes without having seen any of it.
    b.run("SET s7 from-b");
    b.run("HSET h3 f from-b");
    collect(&mut b);
    assert!(collect(&mut a).1 >= 400, "the peer has told nothing yet");

    beat(&mut a, &mut b);
    beat(&mut a, &mut b);
    assert!(collect(&mut a).1 >= 400, "the peer has nothing of it yet");
    deliver(&mut a, &mut b, 1);
    deliver(&mut b, &mut a, 2);
    let shown = a.dump();
    assert_eq!(shown, b.dump());
    // What each has, then that each has heard that.
    beat(&mut a, &mut b);
    beat(&mut a, &mut b);
    beat(&mut a, &mut b);
    let (dropped, held) = collect(&mut a);
    assert!(dropped >= 599, "{dropped} dropped, {held} held");
    assert_eq!(collect(&mut a), (0, 0));
    assert_eq!((a.dump(), a.stat("tombstones")), (shown.clone(), 0));
    collect(&mut b);
    assert_eq!((b.dump(), b.stat("tombstones")), (shown, 0));

    replica.catch_up(&mut a);
    assert_eq!((a.dump(), a.state()), (replica.dump(), replica.state()));
    assert_eq!(a.stat("rich-keys"), replica.stat("rich-keys"));
    // Both go on as before.
    b.run("HSET h3 f again");
    deliver(&mut b, &mut a, 2);
    a.run("DEL h3");
    deliver(&mut a, &mut b, 1);
    assert_eq!(a.dump(), b.dump());
}
