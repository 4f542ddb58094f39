//! `masctl verify`: says that equal regions are equal, also while they are written to, and names what differs: a key that
//! one region has by no effect of anybody, and a value that is not the one that its stamp stands for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::{Store, keyspace, manifest, one_at_a_time, wait_until};
use mas_core::effect::{Kind, Value};
use mas_core::keyspace::Keyspace;
use mas_core::record::{Body, Record};
use mas_core::shard::{Identity, Shard};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use mas_core::transfer::{Cursor, PieceBounds, State, Want};
use redis::{Commands, Connection, cmd};

const LIMIT: Duration = Duration::from_mins(1);

/// One string that a forged piece of state holds.
struct One(Bytes, Bytes);

impl Keyspace for One {
    fn read(&mut self, key: &[u8], _: Kind, _: &[u8]) -> Option<Value> {
        (key == &self.0[..]).then(|| Value::Bytes(self.1.clone()))
    }
    fn exists(&mut self, key: &[u8]) -> bool {
        key == &self.0[..]
    }
    fn write(&mut self, _: &[u8], _: Kind, _: &[u8], _: &Value) {}
    fn remove(&mut self, _: &[u8], _: Kind, _: &[u8]) {}
    fn delete(&mut self, _: &[u8]) {}
    fn set_expiry(&mut self, _: &[u8], _: Option<u64>) {}
    fn keys_in_slots(&mut self, _: u16, _: u16) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn scan(&mut self, _: &[u8], _: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        (Vec::new(), vec![self.0.to_vec()])
    }
}

fn fields(engine: &mut Connection, command: &[&str]) -> BTreeMap<String, String> {
    cmd(command[0]).arg(&command[1..]).query(engine).unwrap()
}

/// Makes `engine` take over a string as state of `origin`, which that never said: no cover shows it.
fn plant(engine: &mut Connection, origin: Origin, key: &str, value: &str, hlc: Hlc) {
    let mut ks = One(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    let own = fields(engine, &["MAS.IDENTITY"]);
    let mut forger = Shard::new((1, 2));
    let to =
        Identity { region: origin.region, incarnation: origin.incarnation, epoch: 1, ..Identity::default() };
    forger.promote(to, 0);
    forger.set_members([origin.region].into());
    forger.commit_plain_set(hlc, key.as_bytes(), value.as_bytes(), 0, &mut ks, &mut Vec::new());
    forger.observe(Hlc(own["clock"].parse().unwrap()));
    let mut pieces = Vec::new();
    let mut want = Want { of: origin.region, transfer: 99, since: Hlc::ZERO, cursor: Cursor::START };
    while want.cursor != Cursor::Done {
        let (next, piece) = forger.export(&want, PieceBounds::DEFAULT, &mut ks);
        pieces.push(piece);
        want.cursor = next;
    }
    let region = RegionId(own["region"].parse().unwrap());
    let state = State::parts(region, &pieces).remove(0);
    let record = Record { id: 1, shard: ShardId(0), origin, body: Body::State(state) }.encode();
    wait_until("the position to stand still for a moment", LIMIT, || {
        let positions: Vec<String> = cmd("MAS.POSITIONS").query(engine).map_err(|e| e.to_string())?;
        let at = positions.chunks(3).find(|at| at[0] == origin.region.0.to_string()).ok_or("no position")?;
        let mut merge = cmd("MAS.MERGE");
        merge.arg(&own["incarnation"]).arg(&at[0]).arg(&at[1..]).arg(&at[1..]).arg(&record[..]);
        let done: Vec<i64> = merge.query(engine).map_err(|e| e.to_string())?;
        assert_eq!(done[4], 0, "refused: {done:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn equal_regions_are_equal_and_differences_are_named() {
    let _alone = one_at_a_time();
    let spec = "  shards: 1\n  redis: {replicas: 1, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
    let store = Store::start(&manifest("verified", &["east", "west"], spec)).unwrap();
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    for n in 0..10 {
        let () = west.set(format!("s{n}"), n).unwrap();
        let () = east.hset(format!("h{n}"), "field", n).unwrap();
        let () = west.sadd("m", n).unwrap();
        let () = east.incr("c", n).unwrap();
        let () = west.incr("c", n).unwrap();
        let () = east.set_ex(format!("e{n}"), n, if n < 5 { 1 } else { 1000 }).unwrap();
        let () = west.zincr("z", n, 1).unwrap();
    }
    let () = east.del("s9").unwrap();
    let () = west.srem("m", 3).unwrap();
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    let said = store.masctl(&["verify", "--sample", "50"]).unwrap();
    assert!(said.contains("they are equal") && said.contains("values of 50 keys"), "{said}");

    // Under writes nothing is said to differ either.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for connection in [&mut east, &mut west] {
            let stop = &stop;
            scope.spawn(move || {
                for n in 0u64.. {
                    let () = connection.set(format!("s{}", n % 8), n).unwrap();
                    let () = connection.hincr("h0", "n", 1).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let said = store.masctl(&["verify"]);
        stop.store(true, Ordering::Relaxed);
        // Two hot keys may never be seen to stand still; but nothing is taken for a difference.
        if let Err(why) = &said {
            assert!(why.to_string().contains("could not be decided"), "{why}");
        }
    });
    let () = west.set("s1", "from-west").unwrap();
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();

    let mut engine = store.connect_master("east", 0).unwrap();
    let known = fields(&mut engine, &["MAS.STAMP", "s1"]);
    let incarnation = Incarnation::parse(&known["incarnation"]).unwrap();
    let origin = Origin { region: RegionId(known["region"].parse().unwrap()), incarnation };
    let hlc: u64 = known["hlc"].parse().unwrap();
    // A value that its stamp does not stand for: digests are of stamps, so only a look at values finds it.
    plant(&mut engine, origin, "s1", "forged", Hlc(hlc));
    let () = west.set("later", 1).unwrap();
    wait_until("a later write in east", LIMIT, || match east.exists("later") {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(store.masctl(&["verify"]).unwrap().contains("they are equal"));
    let why = store.masctl(&["verify", "--sample", "600", "-o", "json"]).unwrap_err().to_string();
    assert!(why.contains("the regions differ in 1 keys"), "{why}");
    let () = west.set("s1", "again").unwrap();

    // A key that only one region has.
    plant(&mut engine, origin, "planted", "forged", Hlc(hlc + 1));
    let out = std::process::Command::new(store.masctl_path())
        .args(["verify", "-o", "json", "--state-dir"])
        .arg(store.state_dir())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let verdict: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let found = verdict["differences"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{verdict}");
    assert_eq!(found[0]["key"], "planted", "{verdict}");
    assert_eq!(found[0]["held"][1], "not there", "{verdict}");
    println!("{}", String::from_utf8_lossy(&out.stdout));
    store.finish().unwrap();
}
