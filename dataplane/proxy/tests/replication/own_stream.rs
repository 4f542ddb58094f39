//! One region without a peer: what the broker confirmed and the surviving copy of Redis has not is read back from the
//! region's own stream.

use mas_core::config::AckLevel;
use mas_proxy::link::Acknowledged;

use super::region::{Proxy, config, promote, wait_serving};
use super::servers::{Broker, Engine, wait_for};

const REGION: u16 = 1;

fn write(proxy: &Proxy, engine: &Engine, name: &str) {
    for n in 0..30 {
        assert_eq!(
            proxy.set(engine, &format!("{name}{n}"), name, Some(AckLevel::Queued)),
            Some(Acknowledged::Yes)
        );
        let counted = proxy.write(engine, &[b"INCR", b"counter"], Some(AckLevel::Queued));
        assert_eq!(counted, Some(Acknowledged::Yes));
    }
}

fn all_there(engine: &Engine, names: &[&str]) {
    for name in names {
        for n in 0..30 {
            assert_eq!(engine.get(&format!("{name}{n}")).as_deref(), Some(*name), "{name}{n}");
        }
    }
    assert_eq!(engine.get("counter"), Some((names.len() * 30).to_string()));
}

/// Where the region's own stream was read to, as it is stored beside the data.
fn own_offset(engine: &Engine) -> Option<u64> {
    let positions: Vec<String> = engine.call(&["MAS.POSITIONS"]).unwrap();
    positions.chunks(3).find(|position| position[0] == REGION.to_string())?[1].parse().ok()
}

fn stat(engine: &Engine, name: &str) -> u64 {
    let stats: Vec<String> = engine.call(&["MAS.STATS"]).unwrap();
    stats.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_and_lost_is_read_back_without_a_peer() {
    let broker = Broker::start();
    let mut engine = Engine::start();
    promote(&engine, 1, REGION);
    let proxy = Proxy::start(config(REGION, &engine, &broker, &[]));
    wait_serving(&engine, true);

    // It is read all the time; the live incarnation's own effects are passed over.
    write(&proxy, &engine, "early");
    let at = wait_for("a position in the own stream", 10, || own_offset(&engine));
    write(&proxy, &engine, "saved");
    let saved_at = wait_for("it to move on", 10, || own_offset(&engine).filter(|now| *now > at));
    assert_eq!(stat(&engine, "merged"), 0);

    // An older copy: it goes on where it had read to, and gets what it lacks.
    let copy = engine.copy_files();
    write(&proxy, &engine, "later");
    engine.restart_with(Some(&copy));
    assert!(own_offset(&engine) >= Some(saved_at), "the position came back with the data");
    assert_eq!(engine.get("later29"), None);
    promote(&engine, 2, REGION);
    wait_serving(&engine, true);
    all_there(&engine, &["early", "saved", "later"]);

    // Nothing at all is left: everything is read back, whichever incarnation wrote it.
    wait_for("the new master", 10, || proxy.set(&engine, "a", "b", Some(AckLevel::Queued)));
    write(&proxy, &engine, "last");
    engine.restart_with(None);
    assert_eq!((engine.identity("empty").as_str(), own_offset(&engine)), ("1", None));
    promote(&engine, 3, REGION);
    wait_serving(&engine, true);
    all_there(&engine, &["early", "saved", "later", "last"]);
}
